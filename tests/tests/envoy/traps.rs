//! What a trap in the module costs, with a build that traps on request.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use warmpath_tests::{
    Answer, Ending, Envoy, EnvoyBuilder, Load, Protocol, Request, Sent, Stream, TestPod, Traffic, command,
    target, until,
};

use crate::hostile::empty;

/// An Envoy whose module traps on purpose.
fn trapping(pods: &[TestPod]) -> EnvoyBuilder {
    let built = command("scripts/build", &["--trap"], &[]);
    assert_eq!(built.code, 0, "{}", built.err);
    let module = target().join("warmpath-trap.wasm");
    Envoy::of(pods).flag("--wasm", &module.display().to_string())
}

/// Round `round` of a conversation that shares nothing with the others.
fn chat(conversation: usize, round: usize) -> Request {
    let words = |of: usize| (0..300).map(|n| format!("{of}.{conversation}.{n} ")).collect::<String>();
    let messages: Vec<Value> = (0..=round).map(|r| json!({"role": "user", "content": words(r)})).collect();
    Request::post("/v1/chat/completions", &json!({"model": "/model/qwen", "messages": messages}))
}

/// The value of a metric that has the pool as its only label.
async fn metric(envoy: &Envoy, name: &str) -> u64 {
    let start = format!("{name}{{pool=\"default\"}} ");
    let page = envoy.prometheus().await;
    page.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn the_shipped_module_ignores_the_trap_header() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    assert_eq!(chat(0, 0).header("x-trap", "1").send(envoy.routed).await.status, 200);
    pods[0].set_metrics_status(418);
    pods[0].scraped(3).await;
    assert!(!envoy.log().contains("Uncaught RuntimeError"));
}

#[tokio::test]
async fn a_router_takes_over_from_a_collector_that_trapped() {
    let pods = TestPod::several(2).await;
    let envoy = trapping(&pods).concurrency(2).start().await;
    envoy.sees(&pods).await;
    let home = chat(0, 0).send(envoy.routed).await.pod().to_owned();

    pods[0].set_metrics_status(418);
    envoy.logs(&["Uncaught RuntimeError"]).await;
    pods[0].set_metrics_status(200);
    let generation = metric(&envoy, "warmpath_pod_table_generation").await;
    assert!(generation > 0);
    // Nobody collects now, and requests are still answered.
    for n in 0..10 {
        assert_eq!(chat(n, 1).send(envoy.routed).await.status, 200);
    }
    envoy.logs(&["gives no sign of life, this VM collects"]).await;
    until("the table moved again", async || {
        (metric(&envoy, "warmpath_pod_table_generation").await > generation).then_some(())
    })
    .await;
    assert_eq!(metric(&envoy, "warmpath_collector_takeovers_total").await, 1);

    // Everything works as before: load is seen, conversations stay, and no other router collects.
    assert_eq!(chat(0, 2).send(envoy.routed).await.pod(), home);
    let busy = pods.iter().position(|pod| pod.address() == home).unwrap();
    pods[busy].set_load(Load { running: 50, waiting: 200, ..Load::default() });
    until("a cold prompt avoids the pod that says it is busy", async || {
        let reply = Request::get("/v1/models").send(envoy.routed).await;
        (reply.pod() != home).then_some(())
    })
    .await;
    envoy.sees(&pods).await;
    for n in 20..40 {
        assert_ne!(chat(n, 0).send(envoy.routed).await.pod(), home);
    }
    for _ in 0..3 {
        let before = metric(&envoy, "warmpath_pod_table_generation").await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(metric(&envoy, "warmpath_pod_table_generation").await > before);
    }
    assert_eq!(metric(&envoy, "warmpath_collector_takeovers_total").await, 1);
}

#[tokio::test]
async fn a_router_that_trapped_comes_back_and_knows_every_conversation() {
    const CONVERSATIONS: usize = 40;
    let pods = TestPod::several(4).await;
    let envoy = trapping(&pods).start().await;
    envoy.sees(&pods).await;
    let mut homes = Vec::new();
    for n in 0..CONVERSATIONS {
        homes.push(chat(n, 0).send(envoy.routed).await.pod().to_owned());
    }
    for round in 1..4 {
        let trap = chat(0, round).header("x-trap", "1");
        let reply =
            trap.over(if round == 2 { Protocol::Http2 } else { Protocol::Http1 }).send(envoy.routed).await;
        assert_eq!(reply.status, 503, "{}", reply.text());
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(reply.json()["error"]["type"], "ServiceUnavailableError");
        // The worker gets a new VM with the next request, unless the last VM is too young (`reload_config`).
        // The new VM learns from the shared log.
        until("the worker has a new VM", async || {
            (Request::get("/v1/models").send(envoy.routed).await.status == 200).then_some(())
        })
        .await;
        let mut stayed = 0;
        for (n, home) in homes.iter().enumerate() {
            let reply = chat(n, round).send(envoy.routed).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            stayed += usize::from(reply.pod() == *home);
        }
        assert_eq!(stayed, CONVERSATIONS, "round {round}");
    }
    assert_eq!(envoy.stat("wasm.warmpath-router.vm_reload_success").await, 3);
    assert_eq!(envoy.stat("wasm.warmpath-router.vm_reload_failure").await, 0);
}

#[tokio::test]
async fn counts_of_a_trapped_router_are_reconciled_after_ten_seconds() {
    const STREAMS: usize = 5;
    let pods = TestPod::several(2).await;
    let envoy = trapping(&pods).start().await;
    envoy.sees(&pods).await;
    let mut streams = Vec::new();
    let mut answers = Vec::new();
    for n in 0..STREAMS {
        // Either pod may get it, so both have an answer ready that the test holds on to.
        for pod in &pods {
            let (stream, answer) = Stream::new();
            stream.chunk("data: {}\n\n");
            pod.answer_next(answer);
            streams.push(stream);
        }
        let mut answer = chat(n, 0).open(envoy.routed).await;
        assert_eq!(answer.chunk().await.unwrap().unwrap(), "data: {}\n\n");
        answers.push(answer);
        pods.iter().for_each(TestPod::forget_answers);
    }
    until("all are counted", async || {
        (metric(&envoy, "warmpath_in_flight").await == STREAMS as u64).then_some(())
    })
    .await;

    assert_eq!(chat(0, 0).header("x-trap", "1").send(envoy.routed).await.status, 503);
    // The streams end, but the VM that had their tickets is gone.
    drop(answers);
    drop(streams);
    let began = Instant::now();
    until("the worker has a new VM", async || {
        (chat(99, 0).send(envoy.routed).await.status == 200).then_some(())
    })
    .await;
    let leaked = metric(&envoy, "warmpath_in_flight").await;
    assert!(leaked >= STREAMS as u64, "nothing leaked ({leaked}), so this test proves nothing");
    // The pods report nothing in flight. After ten seconds the collector believes them.
    empty(&envoy, "in_flight").await;
    empty(&envoy, "waiting").await;
    empty(&envoy, "outstanding_tokens").await;
    let took = began.elapsed();
    println!("healed after {took:?}");
    assert!(
        (9..16).contains(&took.as_secs()),
        "{took:?}: sooner would heal what is only late, later would mislead"
    );
}

/// Three pods that answer like models, and an Envoy with two workers that traps on request.
async fn under_load() -> (Envoy, Vec<TestPod>, Traffic) {
    let pods = TestPod::several(3).await;
    for pod in &pods {
        pod.answer_all(|| Answer::tokens(Duration::from_millis(90), Duration::from_millis(10), 8));
    }
    let envoy = trapping(&pods).flag("--scrape-ms", "100").concurrency(2).log_level("warn").start().await;
    envoy.sees_ready(3).await;
    let load = Traffic::start(envoy.routed, 64);
    load.more(200).await;
    (envoy, pods, load)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_trap_under_load_loses_no_request() {
    let (envoy, pods, load) = under_load().await;
    pods[0].set_metrics_status(418);
    envoy.logs(&["Uncaught RuntimeError"]).await;
    pods[0].set_metrics_status(200);
    let trapped = Instant::now();
    until("a router collects", async || {
        (metric(&envoy, "warmpath_collector_takeovers_total").await == 1).then_some(())
    })
    .await;
    println!("a router collects {:.2?} after the trap", trapped.elapsed());
    let before: Vec<usize> = pods.iter().map(TestPod::begun).collect();
    load.more(300).await;
    let share: Vec<usize> = pods.iter().zip(before).map(|(pod, before)| pod.begun() - before).collect();
    let account = load.stop().await;
    let met = account.print("a collector that trapped", &envoy).await;
    assert_eq!((met.fault, account.resent()), (0, 0), "{account}");
    assert!(share.iter().all(|&count| count > 30), "of 300 requests after that: {share:?}");
    assert_eq!(metric(&envoy, "warmpath_collector_takeovers_total").await, 1);
    assert_eq!(envoy.stat("wasm.warmpath-router.vm_reload_success").await, 0);
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_trap_under_load_costs_at_most_what_its_worker_had_in_flight() {
    let (envoy, _pods, load) = under_load().await;
    let workers = envoy.stats(r"^listener\..*worker_\d+\.downstream_cx_active$").await;
    // Counts the connections of the load; the request that traps has one more.
    let most = workers.iter().filter(|(name, _)| !name.contains("admin")).map(|(_, &count)| count).max();
    let trapped = load.now();
    let reply = chat(0, 0).header("x-trap", "1").send(envoy.routed).await;
    let answered = load.now();
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, Some("1")), "{}", reply.text());
    assert_eq!(reply.json()["error"]["type"], "ServiceUnavailableError");
    load.more(600).await;
    let account = load.stop().await;
    account.print("a router that trapped", &envoy).await;
    let harmed: Vec<&Sent> = account.sent.iter().filter(|sent| sent.ending != Ending::Whole).collect();
    let (during, after): (Vec<&Sent>, Vec<&Sent>) = harmed.iter().partition(|sent| sent.at < answered);
    let under_way =
        account.sent.iter().filter(|sent| sent.at < answered && sent.at + sent.took > trapped).count();
    let reloads = envoy.stats("vm_reload").await;
    println!(
        "connections of the workers {workers:?}; {under_way} requests were under way; the trap cost {} of them and {} \
         that came later, the last of them {:.0?} after it; {reloads:?}",
        during.len(),
        after.len(),
        after.iter().map(|sent| sent.at).max().unwrap_or(answered).saturating_sub(answered)
    );
    harmed.iter().for_each(|sent| println!("  {sent:?}"));
    // Requests of the other worker, and those after the new VM was there, are not harmed.
    assert!(during.len() as i64 <= most.unwrap_or(0), "{} were harmed, {most:?} could be", during.len());
    assert!(after.is_empty(), "{after:?}");
    assert_eq!(envoy.stat("wasm.warmpath-router.vm_reload_success").await, 1);
    // The requests of the dead VM are reconciled.
    for gauge in ["in_flight", "waiting", "outstanding_tokens"] {
        empty(&envoy, gauge).await;
    }
}
