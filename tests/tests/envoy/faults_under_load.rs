//! Every fault of a pod while 64 connections send streamed and whole requests. Each request is accounted for.
//!
//! With every fault: a request without a byte of an answer is answered by another pod. A request whose answer
//! had begun ends with its pod, once. When the load has stopped, nothing is left in the ledger.

use std::time::Duration;

use serde_json::json;
use warmpath_tests::{
    Account, Answer, Ending, Envoy, Load, Random, Request, Sent, SimPod, TestPod, Traffic, until,
};

use crate::SIMULATOR;

const CONNECTIONS: usize = 64;
/// A simulated pod that answers in about 150 ms. Longer answers are the effect of the fault.
const SWIFT: [&str; 6] = ["--profile", "h100", "--speed-up", "2", "--step-ms", "30"];

/// Answers in about 170 ms: long enough that each pod has requests at any moment, short enough for some
/// hundred requests per second.
fn model() -> Answer {
    Answer::tokens(Duration::from_millis(90), Duration::from_millis(10), 8)
}

async fn pods(count: usize) -> Vec<TestPod> {
    let pods = TestPod::several(count).await;
    pods.iter().for_each(|pod| pod.answer_all(model));
    pods
}

/// An Envoy as in production, except for its log: two workers, and scrapes every 100 ms.
async fn envoy(pods: &[TestPod]) -> Envoy {
    at(pods.iter().map(TestPod::address).collect()).await
}

async fn at(pods: Vec<String>) -> Envoy {
    let count = pods.len();
    let envoy = Envoy::at(pods).flag("--scrape-ms", "100").concurrency(2).log_level("warn").start().await;
    envoy.sees_ready(count).await;
    envoy
}

/// No request was lost without a byte, none was refused, and none was sent twice.
fn nothing_lost(account: &Account) {
    assert_eq!(account.resent(), 0, "{account}");
    assert_eq!(account.lost().len(), 0, "{:?}", account.lost());
    assert_eq!(account.errors().len(), 0, "{:?}", account.errors());
}

/// Only streams broke off. A whole answer has no byte before its last token, so its request can go to another
/// pod.
fn only_streams_broke_off(account: &Account) {
    for sent in account.sent.iter().filter(|sent| sent.ending != Ending::Whole) {
        assert!(sent.streamed && matches!(sent.ending, Ending::Broken | Ending::BrokenAtHeaders), "{sent:?}");
    }
}

/// What was sent after `since`.
fn later(account: &Account, since: Duration) -> Vec<&Sent> {
    account.sent.iter().filter(|sent| sent.at > since).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_killed_and_revived_loses_no_request_and_serves_again() {
    let mut pods = pods(3).await;
    let envoy = envoy(&pods).await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(200).await;
    pods[1].kill().await;
    let killed = load.now();
    load.more(300).await;
    let before = pods[1].begun();
    pods[1].revive().await;
    until("the pod that came back has its share", async || (pods[1].begun() > before + 30).then_some(()))
        .await;
    load.more(100).await;
    let account = load.stop().await;
    let met = account.print("a pod gone for a while", &envoy).await;
    nothing_lost(&account);
    only_streams_broke_off(&account);
    assert!(met.fault > 0, "the test means nothing unless requests met the fault");
    assert!(
        later(&account, killed).iter().all(|sent| sent.ending == Ending::Whole),
        "only answers that had begun may break off"
    );
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_loses_no_request_and_serves_again() {
    let mut pods: Vec<SimPod> = (0..3).map(|_| SimPod::start(SIMULATOR, &SWIFT)).collect();
    let addresses = pods.iter().map(SimPod::address).collect();
    let envoy =
        Envoy::at(addresses).flag("--scrape-ms", "100").concurrency(2).log_level("warn").start().await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(200).await;
    let mut killed = Vec::new();
    for pod in &mut pods {
        pod.kill();
        killed.push(load.now());
        load.more(100).await;
        pod.revive();
        load.more(150).await;
    }
    for pod in &pods {
        serves_again(&envoy, async || pod.answered().await > 0).await;
    }
    load.more(300).await;
    let account = load.stop().await;
    let met = account.print("each process killed once", &envoy).await;
    nothing_lost(&account);
    only_streams_broke_off(&account);
    assert!(met.fault > 0, "the test means nothing unless requests met the fault");
    for sent in account.sent.iter().filter(|sent| sent.ending != Ending::Whole) {
        let cut = killed.iter().any(|&killed| sent.at < killed && killed < sent.at + sent.took + SECOND);
        assert!(cut, "broken off though no pod was killed meanwhile: {sent:?}");
    }
    envoy.accounts_for_nothing().await;
}

const SECOND: Duration = Duration::from_secs(1);

/// Begins conversations until a pod has been sent a request, as `served` tells. While its cache is empty, it
/// gets none that is warm elsewhere; and a new one goes to the pod with the least load, which need not be
/// this one.
async fn serves_again(envoy: &Envoy, served: impl AsyncFn() -> bool) {
    let mut nth = 0;
    until("the pod that came back had a request", async || {
        nth += 1;
        assert_eq!(Request::chat(&Random::text(nth, 300)).send(envoy.routed).await.status, 200);
        served().await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_process_gets_no_new_request_and_its_own_resume() {
    let pods: Vec<SimPod> = (0..3).map(|_| SimPod::start(SIMULATOR, &SWIFT)).collect();
    let addresses = pods.iter().map(SimPod::address).collect();
    let envoy =
        Envoy::at(addresses).flag("--scrape-ms", "100").concurrency(2).log_level("warn").start().await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(200).await;
    pods[0].pause();
    let paused = load.now();
    load.lasts(3 * SECOND).await;
    let resumed = load.now();
    pods[0].resume();
    load.more(200).await;
    let account = load.stop().await;
    account.print("a process paused for three seconds", &envoy).await;
    nothing_lost(&account);
    // The default silence timeout is 15 minutes, so the requests of the paused pod wait for it and end whole.
    assert_eq!(account.broken(), 0);
    let hung: Vec<&Sent> = account.sent.iter().filter(|sent| sent.took > SECOND).collect();
    let last = hung.iter().map(|sent| sent.at.saturating_sub(paused)).max().unwrap_or_default();
    println!("{} requests hung; the last of them was sent {last:?} after the pause began", hung.len());
    assert!(!hung.is_empty(), "the test means nothing unless requests met the fault");
    assert!(last < 2 * SECOND, "scrapes that time out must keep requests off a paused pod");
    assert!(later(&account, resumed).iter().all(|sent| sent.took < 2 * SECOND));
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_paused_process_fail_over_after_the_silence_timeout() {
    let pods: Vec<SimPod> = (0..3).map(|_| SimPod::start(SIMULATOR, &SWIFT)).collect();
    let addresses = pods.iter().map(SimPod::address).collect();
    let envoy = Envoy::at(addresses)
        .flag("--scrape-ms", "100")
        .flag("--pod-silence-timeout", "1500ms")
        .concurrency(2)
        .log_level("warn")
        .start()
        .await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(200).await;
    pods[0].pause();
    let paused = load.now();
    load.lasts(5 * SECOND).await;
    pods[0].resume();
    load.more(200).await;
    let account = load.stop().await;
    let met = account.print("a process paused for longer than the silence timeout", &envoy).await;
    nothing_lost(&account);
    assert!(met.moved > 0, "the test means nothing unless requests met the fault");
    assert!(account.slowest() < 4 * SECOND, "{:?}", account.slowest());
    // A stream whose headers have arrived cannot be retried, because the client may have seen a part of it.
    for sent in account.sent.iter().filter(|sent| sent.ending != Ending::Whole) {
        assert!(sent.streamed && sent.at < paused + 2 * SECOND, "{sent:?}");
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_refuses_connections_loses_no_request() {
    let mut pods = pods(3).await;
    let envoy = envoy(&pods).await;
    let load = Traffic::start(envoy.routed, CONNECTIONS / 2);
    load.more(100).await;
    // Open connections stay, so scrapes go on. Requests that need a new connection must go to another pod.
    pods[1].refuse().await;
    let more = Traffic::start(envoy.routed, CONNECTIONS / 2);
    more.more(300).await;
    pods[1].revive().await;
    more.more(100).await;
    let mut met = 0;
    for (name, load) in [("a pod that refuses, old connections", load), ("new ones", more)] {
        let account = load.stop().await;
        met += account.print(name, &envoy).await.moved;
        nothing_lost(&account);
        assert_eq!(account.broken(), 0, "what is connected stays, and what is not can go on: {account}");
    }
    assert!(met > 0, "the test means nothing unless requests met the fault");
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_503_fails_over_and_a_500_reaches_the_client() {
    let pods = pods(3).await;
    let envoy = envoy(&pods).await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(100).await;
    let unavailable = pods[1].begun();
    pods[1].answer_all(|| Answer::Whole(503, Vec::new(), "draining".into()));
    load.more(300).await;
    let unavailable = pods[1].begun() - unavailable;
    pods[1].answer_all(model);
    let healthy = load.now();
    pods[2].answer_all(|| Answer::Whole(500, Vec::new(), "broken".into()));
    load.more(300).await;
    pods[2].answer_all(model);
    load.more(100).await;
    let account = load.stop().await;
    let met = account.print("a pod that answers 503, then one that answers 500", &envoy).await;
    assert_eq!((account.lost().len(), account.broken(), account.resent()), (0, 0, 0), "{account}");
    assert!(
        met.moved > 0 && unavailable < 100,
        "{unavailable} of 300 requests were sent to a pod that says 503"
    );
    // The next pod would probably answer the same error. So the client sees it, and there is no retry.
    assert!(!account.errors().is_empty());
    for sent in account.errors() {
        assert_eq!((&sent.ending, sent.pod.as_deref()), (&Ending::Error(500), Some(&*pods[2].address())));
        assert!(sent.at + sent.took > healthy, "{sent:?}");
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_becomes_slow_gets_fewer_requests() {
    let pods = pods(3).await;
    let envoy = envoy(&pods).await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(200).await;
    pods[1].answer_all(|| Answer::tokens(Duration::from_millis(1500), Duration::from_millis(10), 8));
    load.more(200).await;
    let before: Vec<usize> = pods.iter().map(TestPod::begun).collect();
    load.more(400).await;
    let share: Vec<usize> = pods.iter().zip(before).map(|(pod, before)| pod.begun() - before).collect();
    pods[1].answer_all(model);
    load.more(100).await;
    let account = load.stop().await;
    account.print("a pod ten times as slow", &envoy).await;
    println!("of 400 requests meanwhile: {share:?}");
    nothing_lost(&account);
    assert_eq!(account.broken(), 0);
    assert!(share[1] * 2 < share[0].min(share[2]), "{share:?}");
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_breaks_streams_off_loses_no_whole_answer() {
    let pods = pods(3).await;
    let envoy = envoy(&pods).await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(100).await;
    let mut began = Vec::new();
    let cuts: [fn() -> Answer; 2] = [
        // Once in the middle of the body, and once after the headers.
        || Answer::Tokens { first: Duration::from_millis(20), each: Duration::ZERO, tokens: 8, cut: Some(4) },
        || Answer::Tokens { first: Duration::from_millis(20), each: Duration::ZERO, tokens: 8, cut: Some(0) },
    ];
    // Several rounds: one failure keeps all other requests away, and it is chance whether a stream or a whole
    // answer meets it.
    for cut in cuts.into_iter().cycle().take(4) {
        began.push(load.now());
        pods[1].answer_all(cut);
        load.more(150).await;
        pods[1].answer_all(model);
        load.more(50).await;
    }
    let account = load.stop().await;
    let met = account.print("a pod that breaks off", &envoy).await;
    nothing_lost(&account);
    // Some streams broke off. Whether a whole answer met the fault too is chance.
    assert!(account.broken() > 0 && met.fault > 0, "the test means nothing unless requests met the fault");
    // A whole answer that broke off had no byte yet, so its request went to another pod.
    for sent in account.sent.iter().filter(|sent| sent.ending != Ending::Whole) {
        assert!(sent.streamed, "{sent:?}");
        assert_eq!(sent.pod.as_deref(), Some(&*pods[1].address()), "{sent:?}");
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_restarts_at_once_costs_no_request_and_serves_again() {
    let mut pods = pods(3).await;
    let envoy = envoy(&pods).await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(300).await;
    pods[1].kill().await;
    pods[1].set_load(Load { started: Load::default().started + 1000.0, ..Load::default() });
    let before = pods[1].begun();
    let restarted = load.now();
    pods[1].revive().await;
    load.more(300).await;
    serves_again(&envoy, async || pods[1].begun() > before).await;
    let account = load.stop().await;
    account.print("a pod that restarts at once", &envoy).await;
    nothing_lost(&account);
    only_streams_broke_off(&account);
    assert!(later(&account, restarted).iter().all(|sent| sent.ending == Ending::Whole));
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pods_killed_and_revived_serve_again() {
    for closed in [false, true] {
        let mut pods = pods(3).await;
        let builder = Envoy::of(&pods).flag("--scrape-ms", "100").concurrency(2).log_level("warn");
        let envoy = if closed { builder.fail_closed() } else { builder }.start().await;
        envoy.sees_ready(3).await;
        let load = Traffic::start(envoy.routed, CONNECTIONS);
        load.more(100).await;
        let gone = load.now();
        for pod in &mut pods {
            pod.kill().await;
        }
        // By then the requests in flight have ended and some met no pod. Waiting for one second would not be
        // enough: the machine may stand still for that long.
        load.more(4 * CONNECTIONS as u64).await;
        load.lasts(SECOND).await;
        for pod in &mut pods {
            pod.revive().await;
        }
        let back = load.now();
        load.lasts(SECOND).await;
        load.more(200).await;
        let account = load.stop().await;
        let name = if closed { "all pods gone, fail_open off" } else { "all pods gone, fail_open on" };
        account.print(name, &envoy).await;
        assert_eq!(account.resent(), 0, "{account}");
        // Every request has an answer, and the pods answer as soon as they are back.
        assert_eq!(account.lost().len(), 0, "{:?}", account.lost());
        assert!(!account.errors().is_empty());
        let last = account.errors().iter().map(|sent| sent.at).max().unwrap_or_default();
        println!(
            "the last error was {:.2} s after the pods were back",
            last.saturating_sub(back).as_secs_f64()
        );
        assert!(last < back + SECOND, "refused {:?} after the pods were back", last.saturating_sub(back));
        for sent in account.errors() {
            assert_eq!(sent.ending, Ending::Error(503));
            assert!(sent.at + sent.took > gone, "{sent:?}");
        }
        envoy.accounts_for_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_scrapes_lose_no_request() {
    let pods = pods(3).await;
    let envoy = envoy(&pods).await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(100).await;
    let mut shares = Vec::new();
    // First one pod's page fails, then every pod's, then every scrape looks as if no pod were there.
    for (failing, status) in [(1, 500), (3, 500), (3, 503)] {
        for (n, pod) in pods.iter().enumerate() {
            pod.set_metrics_status(if n < failing { status } else { 200 });
        }
        envoy.sees(&pods).await;
        let before: Vec<usize> = pods.iter().map(TestPod::begun).collect();
        load.more(200).await;
        shares.push(pods.iter().zip(before).map(|(pod, before)| pod.begun() - before).collect::<Vec<_>>());
    }
    let account = load.stop().await;
    account.print("scrapes that fail", &envoy).await;
    println!("of 200 requests each: {shares:?}");
    nothing_lost(&account);
    assert_eq!(account.broken(), 0);
    for share in shares {
        assert!(share.iter().all(|&count| count > 30), "{share:?}");
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_faults_of_every_kind_lose_no_request() {
    let pods: Vec<SimPod> = (0..3).map(|_| SimPod::start(SIMULATOR, &SWIFT)).collect();
    let addresses = pods.iter().map(SimPod::address).collect();
    let envoy =
        Envoy::at(addresses).flag("--scrape-ms", "100").concurrency(2).log_level("warn").start().await;
    let load = Traffic::start(envoy.routed, CONNECTIONS);
    load.more(100).await;
    for fault in [
        json!({"reset": 20}),
        json!({"fail": 20, "status": 503}),
        json!({"cut": 20, "cut_after": 3}),
        json!({"slow_down": 8}),
        json!({"refuse_metrics": true}),
        json!({"restart": true}),
    ] {
        pods[1].fault(&fault).await;
        load.more(100).await;
        pods[1].fault(&json!({})).await;
    }
    let account = load.stop().await;
    let met = account.print("resets, 503s, cuts, slowness, no metrics, a restart", &envoy).await;
    nothing_lost(&account);
    only_streams_broke_off(&account);
    assert!(met.moved > 0, "the test means nothing unless requests met the fault");
    envoy.accounts_for_nothing().await;
}
