//! A pod that failed cools down for every worker, longer each time, and serves again as soon as it is known
//! to be healthy.

use std::time::{Duration, Instant};

use warmpath_tests::{Answer, Ending, Envoy, Load, Request, TestPod, Traffic, until};

const SECOND: Duration = Duration::from_secs(1);

fn model() -> Answer {
    Answer::tokens(Duration::from_millis(60), Duration::from_millis(10), 5)
}

fn unavailable() -> Answer {
    Answer::Whole(503, Vec::new(), "draining".into())
}

/// Four workers, and three pods that always look healthy in scrapes.
async fn fleet(strategy: &str) -> (Envoy, Vec<TestPod>) {
    let pods = TestPod::several(3).await;
    pods.iter().for_each(|pod| pod.answer_all(model));
    let envoy = Envoy::of(&pods)
        .flag("--scrape-ms", "100")
        .flag("--strategy", strategy)
        .concurrency(4)
        .log_level("warn")
        .start()
        .await;
    envoy.sees_ready(3).await;
    (envoy, pods)
}

/// Seconds from `since` to each request that reached the pod after it.
fn arrivals(pod: &TestPod, since: Instant) -> Vec<f64> {
    let after = |received: warmpath_tests::Received| received.at.checked_duration_since(since);
    pod.received().into_iter().filter_map(after).map(|time| time.as_secs_f64()).collect()
}

/// Waits until a pod that is healthy since `since` gets its share of requests again.
async fn served_again(pod: &TestPod, well: Instant) -> Vec<f64> {
    let share = until("the pod served again", async || {
        let since = arrivals(pod, well);
        (since.len() > 30).then_some(since)
    })
    .await;
    println!("well again: probed after {:.2} s, 30 requests after {:.2} s", share[0], share[30]);
    share
}

/// Groups of arrivals that are close together: the time of the first, and how many.
fn waves(arrivals: &[f64]) -> Vec<(f64, usize)> {
    let mut waves: Vec<(f64, usize)> = Vec::new();
    for &arrival in arrivals {
        match waves.last_mut() {
            Some((first, count)) if arrival - *first < 0.4 => *count += 1,
            _ => waves.push((arrival, 1)),
        }
    }
    waves
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cool_down_doubles_and_one_request_at_a_time_probes() {
    let (envoy, pods) = fleet("PREFIX_CACHE").await;
    let load = Traffic::start(envoy.routed, 64);
    load.more(200).await;
    pods[1].answer_all(unavailable);
    let failing = Instant::now();
    // First the requests that were in flight fail, then a probe after 1, 2 and 4 s.
    let probes = until("three probes came", async || {
        let waves = waves(&arrivals(&pods[1], failing));
        (waves.len() >= 4).then_some(waves)
    })
    .await;
    println!("requests at the failing pod, in seconds: {probes:?}");
    let workers = envoy.stats("worker_.*downstream_cx_total").await;
    assert!(workers.values().filter(|&&count| count > 5).count() >= 3, "{workers:?}");
    let gaps: Vec<f64> = probes.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    for (gap, pause) in gaps.iter().zip([1.0, 2.0, 4.0]) {
        // A busy machine makes probes late, never early.
        assert!((pause - 0.05..pause + 1.0).contains(gap), "pauses of {gaps:?} s instead of 1, 2, 4");
    }
    assert!(probes[1..].iter().all(|&(_, count)| count == 1), "one at a time: {probes:?}");

    // The pod is healthy again. The next probe shows it, and then the pod gets its share.
    pods[1].answer_all(model);
    let well = Instant::now();
    let share = served_again(&pods[1], well).await;
    assert!(share[0] < 8.5, "the last pause was 8 s: {share:?}");
    let account = load.stop().await;
    account.print("a pod that answers 503 for seven seconds", &envoy).await;
    assert_eq!((account.lost().len(), account.errors().len(), account.broken()), (0, 0, 0), "{account}");
    assert_eq!(account.resent(), 0, "{account}");
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_answers_500_at_once_gets_only_probes() {
    let (envoy, pods) = fleet("PREFIX_CACHE").await;
    let load = Traffic::start(envoy.routed, 64);
    load.more(200).await;
    // It is never busy, so by load alone it would always be the best pod.
    pods[1].answer_all(|| Answer::Whole(500, Vec::new(), "broken".into()));
    let broken = Instant::now();
    let before: usize = pods.iter().map(TestPod::begun).sum();
    tokio::time::sleep(SECOND * 6).await;
    let waves = waves(&arrivals(&pods[1], broken));
    let all = pods.iter().map(TestPod::begun).sum::<usize>() - before;
    println!("requests at the broken pod, in seconds: {waves:?}, of {all}");
    // First the requests that were in flight when three failed, then a probe after 1, 2 and 4 s.
    let (first, probes) = waves.split_first().unwrap();
    assert!(first.1 < 64, "{waves:?}");
    assert!((1..=3).contains(&probes.len()) && probes.iter().all(|&(_, count)| count == 1), "{waves:?}");

    pods[1].answer_all(model);
    let well = Instant::now();
    served_again(&pods[1], well).await;
    let account = load.stop().await;
    account.print("a pod that answers 500 for six seconds", &envoy).await;
    assert_eq!((account.lost().len(), account.broken(), account.resent()), (0, 0, 0), "{account}");
    // Each error went to its client, once and unchanged, and is counted.
    let erred = waves.iter().map(|wave| wave.1).sum::<usize>();
    assert_eq!(account.errors().len(), erred);
    assert_eq!(envoy.stat("wasmcustom.warmpath_upstream_errors_total.pool=default;").await, erred as i64);
    assert!(account.errors().iter().all(|sent| sent.ending == Ending::Error(500)), "{:?}", account.errors());
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_cools_the_pod_down_for_every_worker() {
    let (envoy, pods) = fleet("PREFIX_CACHE").await;
    pods.iter().for_each(|pod| pod.answer_all(|| Answer::Completion));
    // Sequential requests, a new connection each: any worker may get any of them.
    pods[1].answer_next(unavailable());
    until("the pod failed a request", async || {
        let reply = Request::get("/v1/models").send(envoy.routed).await;
        assert_eq!(reply.status, 200);
        (pods[1].begun() > 0).then_some(())
    })
    .await;
    let failed = Instant::now();
    let seen = pods[1].begun();
    let mut sent = 0;
    while failed.elapsed() < SECOND * 8 / 10 {
        assert_eq!(Request::post("/v1/score", &1.into()).send(envoy.routed).await.status, 200);
        sent += 1;
    }
    let workers = envoy.stats("worker_.*downstream_cx_total").await;
    assert!(sent > 20 && workers.values().filter(|&&count| count > 2).count() >= 3, "{sent}: {workers:?}");
    assert_eq!(pods[1].begun(), seen, "of {sent} requests on four workers, some went to a pod in its pause");
}

/// A fleet under load whose pod 1 has failed three times in a row and has just begun a cool-down of four
/// seconds, and the time when it began. The strategy is by load alone, where an idle pod always wins: so only
/// the cool-down keeps requests away. With prefixes, the prompts would have become warm on other pods.
async fn paused() -> (Envoy, Vec<TestPod>, Traffic, Instant) {
    let (envoy, pods) = fleet("LOAD_ONLY").await;
    let load = Traffic::start(envoy.routed, 64);
    load.more(200).await;
    let failing = Instant::now();
    pods[1].answer_all(unavailable);
    // First the requests in flight, then a probe after 1 s and one after 2 s more.
    let waves = until("two probes came", async || {
        let waves = waves(&arrivals(&pods[1], failing));
        (waves.len() >= 3).then_some(waves)
    })
    .await;
    // The cool-down of four seconds begins when the answer to the probe has arrived.
    tokio::time::sleep(SECOND / 5).await;
    pods[1].answer_all(model);
    let since = failing + Duration::from_secs_f64(waves[2].0);
    assert_eq!(arrivals(&pods[1], since + SECOND / 100), [0.0; 0], "the pod is not in a pause: {waves:?}");
    assert!(since.elapsed() < SECOND, "the machine is too slow to tell: {:?}", since.elapsed());
    (envoy, pods, load, since)
}

/// Waits until the pod serves again, which must be well before four seconds after `since`.
async fn serves_before_the_pause_is_over(pod: &TestPod, since: Instant, back: Instant) {
    let times = until("the pod served again", async || {
        let times = arrivals(pod, back);
        (times.len() > 20).then_some(times)
    })
    .await;
    let into = back.duration_since(since).as_secs_f64();
    println!(
        "back {into:.2} s into the pause: first request {:.2} s later, 20 after {:.2} s",
        times[0], times[20]
    );
    assert!(into + times[0] < 3.0, "it waited for its pause to end, or nearly: {into} s + {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_that_shows_a_restart_ends_the_cool_down() {
    let (envoy, pods, load, since) = paused().await;
    // The process is gone for less than a scrape interval, so only its start time shows the restart.
    let restarted = Instant::now();
    pods[1].set_load(Load { started: Load::default().started + 60.0, ..Load::default() });
    serves_before_the_pause_is_over(&pods[1], since, restarted).await;
    let account = load.stop().await;
    account.print("a pod that answers 503 and is restarted", &envoy).await;
    assert_eq!((account.lost().len(), account.errors().len(), account.resent()), (0, 0, 0), "{account}");
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_that_succeeds_again_ends_the_cool_down() {
    let (envoy, mut pods, load, since) = paused().await;
    pods[1].kill().await;
    // The same process, cut off until a scrape has failed.
    envoy.sees_ready(2).await;
    let back = Instant::now();
    pods[1].revive().await;
    serves_before_the_pause_is_over(&pods[1], since, back).await;
    let account = load.stop().await;
    account.print("a pod that answers 503 and is then gone for a moment", &envoy).await;
    assert_eq!((account.lost().len(), account.errors().len(), account.resent()), (0, 0, 0), "{account}");
    envoy.accounts_for_nothing().await;
}
