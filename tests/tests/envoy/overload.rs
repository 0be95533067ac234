//! Three times the load that the pods can serve: Envoy does not grow, no client starves, and refusals have
//! `Retry-After`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use warmpath_tests::{Envoy, Random, Reply, Request, SimPod};

use crate::SIMULATOR;

/// Four requests at a time with about 12 steps each: some eight requests per second.
const SMALL: [&str; 8] = ["--profile", "h100", "--step-ms", "40", "--max-num-seqs", "4", "--blocks", "4000"];
const CLIENTS: usize = 20;
/// Longest time between two requests of a client in milliseconds, whether they end or not: five per second on
/// average.
const APART: u64 = 400;
const LASTS: Duration = Duration::from_secs(20);

/// Results of one client.
#[derive(Debug, Default)]
struct Got {
    served: usize,
    refused: usize,
    took: Vec<Duration>,
}

fn request(client: u64, n: u64, tokens: u64) -> Request {
    let words: String = (0..200).map(|word| format!("{client}.{word} ")).collect();
    Request::post(
        "/v1/chat/completions",
        &json!({"model": "/model/qwen", "stream": n.is_multiple_of(2), "max_tokens": tokens, "ignore_eos": true,
            "messages": [{"role": "system", "content": words}, {"role": "user", "content": n.to_string()}]}),
    )
}

/// Whether it was served; checks that a refusal has OpenAI's form.
fn served(reply: &Reply) -> bool {
    if reply.status == 200 {
        assert!(reply.body.ends_with(b"}") || reply.body.ends_with(b"data: [DONE]\n\n"), "{}", reply.text());
        return true;
    }
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"), "{}", reply.text());
    let error = &reply.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!(503), &json!("ServiceUnavailableError")), "{error}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains("overloaded")), "{error}");
    assert!(reply.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|s| s >= 1)));
    false
}

/// Sends requests at random times, and follows each to its end.
async fn client(to: SocketAddr, client: u64) -> Got {
    let mut random = Random::new(client);
    let start = Instant::now();
    let mut sent = JoinSet::new();
    let mut n = 0;
    while start.elapsed() < LASTS {
        let request = request(client, n, 8 + random.below(9));
        sent.spawn(async move {
            let began = Instant::now();
            (served(&request.send(to).await), began.elapsed())
        });
        n += 1;
        tokio::time::sleep(Duration::from_millis(random.below(APART))).await;
    }
    let mut got = Got::default();
    for (served, took) in sent.join_all().await {
        if served {
            got.served += 1;
            got.took.push(took);
        } else {
            got.refused += 1;
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn three_times_what_the_pods_can_serve_starves_nobody_and_stays_in_bounds() {
    let pods: Vec<SimPod> = (0..3).map(|_| SimPod::start(SIMULATOR, &SMALL)).collect();
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect())
        .flag("--scrape-ms", "100")
        // Twice what the pods run at a time, so as many requests wait as run.
        .flag("--max-requests", "24")
        .concurrency(2)
        .log_level("warn")
        .start()
        .await;
    envoy.sees_ready(3).await;
    for n in 0..12 {
        assert!(served(&request(n, 0, 12).send(envoy.routed).await));
    }
    let before = envoy.memory();
    let mut clients: JoinSet<Got> = (0..CLIENTS as u64).map(|number| client(envoy.routed, number)).collect();
    let (mut got, mut most) = (Vec::new(), before);
    while !clients.is_empty() {
        match tokio::time::timeout(Duration::from_millis(500), clients.join_next()).await {
            Ok(Some(ended)) => got.push(ended.unwrap()),
            Ok(None) => break,
            Err(_) => most = most.max(envoy.memory()),
        }
    }

    let served: Vec<usize> = got.iter().map(|got| got.served).collect();
    let (all, refused) = (served.iter().sum::<usize>(), got.iter().map(|got| got.refused).sum::<usize>());
    let mut took: Vec<Duration> = got.iter().flat_map(|got| got.took.clone()).collect();
    took.sort();
    let (middle, late, slowest) = (took[all / 2], took[all * 99 / 100], took[all - 1]);
    let (mean, least) = (all as f64 / CLIENTS as f64, served.iter().min().copied().unwrap_or(0));
    let grown = most.saturating_sub(before) >> 20;
    println!(
        "{} requests in {LASTS:?}: {all} served (half in {middle:.2?}, 99 % in {late:.2?}, all in {slowest:.2?}), {refused} refused; a client got {mean:.1} on \
         average and {least} at least: {served:?}; Envoy grew by {grown} MiB from {}",
        all + refused,
        before >> 20
    );
    assert!(all + refused > all * 5 / 2, "not an overload: {all} of {} were served", all + refused);
    assert!(least as f64 * 3.0 >= mean, "somebody starves: {served:?}");
    // An accepted request waits for the requests that its pod already has, about two seconds of them, and for
    // nothing else.
    assert!(slowest < Duration::from_secs(6), "what was let in hangs: {slowest:?}");
    assert!(grown < 24, "Envoy has grown by {grown} MiB");
    // A refusal by Envoy says nothing about the pods.
    let counts = envoy.stats("warmpath_(upstream_failures|unrouted)_total|vm_reload").await;
    let bad: BTreeMap<_, _> = counts.into_iter().filter(|(_, count)| *count != 0).collect();
    assert!(bad.is_empty(), "{bad:?}");
    envoy.accounts_for_nothing().await;
}
