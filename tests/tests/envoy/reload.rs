//! Envoy's configuration is reloaded while requests run: other pods, another strategy, and no client notices.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::json;
use warmpath_tests::{Answer, Envoy, Load, Random, Request, TestPod, Traffic, until};

fn model() -> Answer {
    Answer::tokens(Duration::from_millis(60), Duration::from_millis(10), 6)
}

/// Reloads every second under load, with another list of pods and another strategy each time.
async fn reloads(drain: u32) {
    let pods = TestPod::several(4).await;
    pods.iter().for_each(|pod| pod.answer_all(model));
    let list = |out: usize| -> Vec<String> {
        pods.iter().enumerate().filter(|&(n, _)| n != out).map(|(_, pod)| pod.address()).collect()
    };
    let mut envoy = Envoy::of(&pods)
        .flag("--scrape-ms", "100")
        .concurrency(2)
        .log_level("warn")
        .reloadable(drain)
        .start()
        .await;
    envoy.sees_ready(4).await;
    let load = Traffic::start(envoy.routed, 64);
    load.more(100).await;
    // Clients that come and go, too: each has a connection of its own.
    let routed = envoy.routed;
    let strangers = tokio::spawn(async move {
        loop {
            assert_eq!(Request::get("/v1/models").send(routed).await.status, 200);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut applied = Vec::new();
    for round in 0..6 {
        let reloaded = Instant::now();
        // Pod 0 and pod 3 alternate, so that a new pod may get the slot of one that left.
        let (out, back) = if round % 2 == 0 { (0, 3) } else { (3, 0) };
        let strategy = if round % 2 == 0 { "LOAD_ONLY" } else { "PREFIX_CACHE" };
        let pods_now = list(out);
        envoy
            .reload(|settings| {
                (settings["pods"], settings["strategy"]) = (json!(pods_now), json!(strategy));
                // Each list comes back while its listener still drains, so only its revision says that it is
                // newer.
                settings["revision"] = json!(round + 1);
            })
            .await;
        let before = pods[back].begun();
        until("the pod that came was sent to", async || (pods[back].begun() > before).then_some(())).await;
        applied.push(reloaded.elapsed());
        // Requests that were decided before may arrive for a moment.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let gone = pods[out].begun();
        tokio::time::sleep(Duration::from_secs(1).saturating_sub(reloaded.elapsed())).await;
        assert_eq!(pods[out].begun(), gone, "the pod that was removed in round {round} was sent to");
    }
    assert!(!strangers.is_finished(), "a client that came and went was refused");
    strangers.abort();
    let account = load.stop().await;
    account.print(&format!("six reloads, drained for {drain} s"), &envoy).await;
    println!("each in force after {applied:?}");
    assert_eq!((account.lost().len(), account.errors().len(), account.broken()), (0, 0, 0), "{account}");
    // Envoy may close a draining connection just as its client sends. Nothing else may cause a second try.
    assert!(drain < 60 || account.resent() == 0, "{account}");
    let pods_known = envoy.stat("wasmcustom.warmpath_pods.pool=default;").await;
    assert_eq!(pods_known, 3);
    let traps = envoy.stats("vm_reload").await;
    assert!(traps.values().all(|&count| count == 0), "{traps:?}");
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_every_second_loses_no_request_while_connections_stay() {
    reloads(600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_every_second_loses_no_request_while_connections_drain() {
    // While it drains, Envoy answers with `connection: close`. After the drain time it cuts the rest.
    reloads(4).await;
}

#[tokio::test]
async fn a_reload_forgets_no_prefix() {
    let pods = TestPod::several(5).await;
    let mut envoy = Envoy::of(&pods).concurrency(2).reloadable(600).start().await;
    envoy.sees_ready(5).await;
    let chat = |n: usize| {
        let words: String = (0..300).map(|word| format!("{:x} ", (n + 1) * 7919 * (word + 3))).collect();
        Request::chat(&words)
    };
    let mut homes = Vec::new();
    for n in 0..20 {
        homes.push(chat(n).send(envoy.routed).await.pod().to_owned());
    }
    envoy.reload(|settings| settings["fail_open"] = json!(false)).await;
    for (n, home) in homes.iter().enumerate() {
        assert_eq!(chat(n).send(envoy.routed).await.pod(), home, "prompt {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_router_has_read_the_whole_log_before_its_first_request() {
    const PROMPTS: u64 = 2400;
    let pods = TestPod::several(4).await;
    // The pods have room for all prompts.
    pods.iter().for_each(|pod| pod.set_load(Load { blocks: 2_000_000, ..Load::default() }));
    let mut envoy = Envoy::of(&pods).log_level("warn").reloadable(600).start().await;
    envoy.sees(&pods).await;
    let chat = |n: u64| Request::chat(&Random::text(n, 3300));
    let homes: Vec<String> = futures::stream::iter(0..PROMPTS)
        .map(|n| chat(n).send(envoy.routed))
        .buffered(16)
        .map(|reply| reply.pod().to_owned())
        .collect()
        .await;
    // A record has 120 hashes, so there are more segments than a tick and a few decisions would read.
    envoy.reload(|settings| settings["fail_open"] = json!(false)).await;
    let before = envoy.prefix_hits().await;
    let asked = [PROMPTS - 1, 0, PROMPTS / 2];
    for n in asked {
        assert_eq!(chat(n).send(envoy.routed).await.pod(), homes[n as usize], "prompt {n}");
    }
    assert_eq!(envoy.prefix_hits().await - before, asked.len() as i64);
}

#[tokio::test]
async fn a_configuration_that_is_refused_changes_nothing() {
    let pods = TestPod::several(2).await;
    let mut envoy = Envoy::of(&pods).reloadable(600).start().await;
    envoy.sees_ready(2).await;
    let one = pods[0].address();
    // One key is wrong, so the list of pods in the same configuration must not apply either.
    envoy
        .reload_refused(|settings| {
            (settings["pods"], settings["strategy"]) = (json!([one]), json!("FASTEST"))
        })
        .await;
    pods[0].scraped(3).await;
    pods[1].scraped(3).await;
    assert_eq!(envoy.stat("wasmcustom.warmpath_pods.pool=default;").await, 2);
    for _ in 0..10 {
        assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
    }
}
