//! Four workers decide as one, because they share what they learned. Gateways share nothing, and still agree
//! where they can.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use warmpath_tests::{Answer, Envoy, Opened, Random, Request, TestPod, until};

fn chat(messages: &[Value]) -> Request {
    Request::post("/v1/chat/completions", &json!({"model": "/model/qwen", "messages": messages}))
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_find_their_pod_again_from_every_worker() {
    const CONVERSATIONS: u64 = 64;
    const ROUNDS: u64 = 6;
    let pods = TestPod::several(8).await;
    let envoy = Envoy::of(&pods).concurrency(4).start().await;
    envoy.sees(&pods).await;
    let routed = envoy.routed;

    // Sixteen at a time keep all workers busy, and are too few for load to move a conversation.
    let turns = Arc::new(Semaphore::new(16));
    let mut talks = tokio::task::JoinSet::new();
    for conversation in 0..CONVERSATIONS {
        let turns = Arc::clone(&turns);
        talks.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let mut messages = vec![json!({"role": "user", "content": Random::text(conversation, 400)})];
            let (mut home, mut stayed) = (String::new(), 0);
            for round in 0..ROUNDS {
                // A fresh connection each time: any worker may get it.
                let reply = chat(&messages).send(routed).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                stayed += u64::from(round > 0 && reply.pod() == home);
                home = reply.pod().to_owned();
                messages.push(
                    json!({"role": "assistant", "content": Random::text(conversation * 100 + round, 60)}),
                );
                messages.push(
                    json!({"role": "user", "content": Random::text(conversation * 100 + round + 50, 20)}),
                );
            }
            stayed
        });
    }
    let stayed: u64 = talks.join_all().await.into_iter().sum();
    let all = CONVERSATIONS * (ROUNDS - 1);
    println!("{stayed} of {all} rounds landed where the round before was computed");
    assert!(stayed * 100 >= all * 99, "only {stayed} of {all}");
    let workers = envoy.stats("worker_.*downstream_cx_total").await;
    let busy = workers.iter().filter(|(name, count)| name.contains("worker_") && **count > 20).count();
    assert!(busy >= 2, "the test means nothing unless several workers took part: {workers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_cold_requests_over_four_workers_is_spread_evenly() {
    const REQUESTS: u64 = 400;
    let pods = TestPod::several(8).await;
    for pod in &pods {
        // Nothing ends while the burst arrives.
        pod.answer_all(|| Answer::After(Duration::from_secs(4), Box::new(Answer::Completion)));
    }
    let envoy = Envoy::of(&pods).concurrency(4).start().await;
    envoy.sees(&pods).await;
    let routed = envoy.routed;

    let mut burst = tokio::task::JoinSet::new();
    for n in 0..REQUESTS {
        burst.spawn(async move {
            let reply =
                chat(&[json!({"role": "user", "content": Random::text(n + 10_000, 300)})]).send(routed).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        });
    }
    burst.join_all().await;
    let counts: Vec<usize> =
        pods.iter().map(|pod| pod.received().iter().filter(|r| r.method == "POST").count()).collect();
    println!("{REQUESTS} cold requests at once over 8 pods: {counts:?}");
    assert_eq!(counts.iter().sum::<usize>() as u64, REQUESTS);
    let mean = REQUESTS as f64 / 8.0;
    assert!(counts.iter().all(|&count| count as f64 <= 1.15 * mean), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_that_share_nothing_send_a_cold_prompt_to_the_same_pod() {
    let pods = TestPod::several(5).await;
    let (one, two) = (Envoy::ready(&pods).await, Envoy::ready(&pods).await);
    let mut used = BTreeMap::<String, u32>::new();
    for n in 0..40 {
        let messages = [json!({"role": "user", "content": Random::text(n + 20_000, 300)})];
        let first = chat(&messages).send(one.routed).await;
        let second = chat(&messages).send(two.routed).await;
        assert_eq!(first.pod(), second.pod(), "prompt {n}");
        *used.entry(first.pod().to_owned()).or_default() += 1;
    }
    assert_eq!(used.len(), 5, "cold prompts are spread: {used:?}");
}

/// Generates until its client goes away.
fn endless() -> Answer {
    Answer::tokens(Duration::from_millis(20), Duration::from_millis(250), 10_000)
}

/// Opens a stream with a new prompt, and waits for its first token, after which it counts as running.
async fn running(envoy: &Envoy, seed: u64) -> Opened {
    let messages = [json!({"role": "user", "content": Random::text(seed, 300)})];
    let body = json!({"model": "/model/qwen", "stream": true, "messages": messages});
    let mut reply = Request::post("/v1/chat/completions", &body).open(envoy.routed).await;
    assert!(reply.chunk().await.unwrap().is_some());
    reply
}

fn working(pods: &[TestPod]) -> Vec<usize> {
    pods.iter().map(TestPod::working).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_that_share_nothing_see_each_others_load_and_do_not_herd() {
    let pods = TestPod::several(4).await;
    pods.iter().for_each(|pod| pod.answer_all(endless));
    let (one, two) = (Envoy::ready(&pods).await, Envoy::ready(&pods).await);

    // Two of the pods are busy, and only one gateway knows it from its ledger.
    let mut held = Vec::new();
    for seed in 0..40 {
        held.push(running(&one, 30_000 + seed).await);
    }
    println!("40 streams of one gateway: {:?}", working(&pods));
    held.retain(|reply| {
        let pod = &reply.headers["x-test-pod"];
        [&pods[0], &pods[1]].iter().any(|busy| *pod == *busy.address())
    });
    until("the others are idle", async || (working(&pods)[2..] == [0, 0]).then_some(())).await;
    let busy = working(&pods);
    assert!(busy[..2].iter().all(|&count| count >= 8), "{busy:?}");

    // The other gateway knows it from scrapes.
    two.sees(&pods).await;
    for seed in 0..12 {
        held.push(running(&two, 40_000 + seed).await);
    }
    let both = working(&pods);
    println!("12 cold streams of another gateway, one after the other: {busy:?} became {both:?}");
    assert_eq!(both[..2], busy[..2], "it sent to busy pods while others were idle");

    // Both send at once, each by its last scrapes and its own ledger.
    one.sees(&pods).await;
    two.sees(&pods).await;
    let bursts = (0..100).map(|n| running(if n % 2 == 0 { &one } else { &two }, 50_000 + n));
    held.extend(futures::future::join_all(bursts).await);
    let after = working(&pods);
    println!("bursts of 50 from each at once: {both:?} became {after:?}");
    let mean = held.len() as f64 / 4.0;
    assert_eq!(after.iter().sum::<usize>(), held.len());
    assert!(after.iter().all(|&count| count as f64 <= 1.15 * mean), "{after:?}, mean {mean}");
}
