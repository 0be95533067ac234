//! A request that has no byte of an answer yet survives the failure of its pod.

use std::time::{Duration, Instant};

use serde_json::json;
use warmpath_tests::{Answer, Envoy, EnvoyBuilder, PageEnd, Request, TestPod, until};

/// A prompt that a pod holds after the first request with it.
fn long_chat(last: &str) -> Request {
    let words = (0..400).map(|n| format!("word {n} ")).collect::<String>();
    Request::post(
        "/v1/chat/completions",
        &json!({"model": "/model/qwen", "messages": [
            {"role": "system", "content": words}, {"role": "user", "content": last}
        ]}),
    )
}

/// The index of the pod that holds the prompt of [`long_chat`] from now on.
async fn warm(envoy: &Envoy, pods: &[TestPod]) -> usize {
    let reply = long_chat("one").send(envoy.routed).await;
    let warm = pods.iter().position(|pod| pod.address() == reply.pod()).unwrap();
    assert_eq!(long_chat("two").send(envoy.routed).await.pod(), pods[warm].address());
    warm
}

#[tokio::test]
async fn a_runner_up_answers_for_a_dead_pod() {
    let mut pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let warm = warm(&envoy, &pods).await;
    pods[warm].kill().await;

    // The warm pod is dead, and Warmpath does not know it yet. Envoy finds out and tries the next pod.
    let reply = long_chat("three").header("x-request-id", "moved").send(envoy.routed).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_ne!(reply.pod(), pods[warm].address());
    for n in 0..20 {
        assert_eq!(long_chat(&n.to_string()).send(envoy.routed).await.status, 200);
    }
}

#[tokio::test]
async fn a_retry_on_the_plain_port_never_goes_to_the_pod_that_failed() {
    const REQUESTS: usize = 40;
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    pods[0].answer_all(|| Answer::Whole(503, Vec::new(), "draining".into()));
    for n in 0..REQUESTS {
        let request = Request::chat(&format!("hello {n}")).header("x-request-id", format!("plain-{n}"));
        assert_eq!(
            request.send(envoy.plain).await.status,
            200,
            "request {n}: no retry reached the healthy pod"
        );
    }
    let mut met: Vec<Vec<u8>> = pods[0]
        .received()
        .iter()
        .map(|received| received.headers["x-request-id"].as_bytes().to_vec())
        .collect();
    let all = met.len();
    // Least request picks at random between idle pods, so about half of the requests try the failing pod
    // first.
    assert!(all >= REQUESTS / 8, "only {all} of {REQUESTS} requests met the pod that fails");
    met.sort();
    met.dedup();
    assert_eq!(met.len(), all, "a request went to the failing pod twice");
}

#[tokio::test]
async fn a_retry_sends_a_large_body_in_full() {
    let mut pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let warm = warm(&envoy, &pods).await;
    for fault in [|| Answer::Reset, || Answer::Whole(503, Vec::new(), "draining".into())] {
        pods[warm].answer_next(fault());
        let request = long_chat(&"and so on ".repeat(300_000)).header("x-request-id", "large");
        let reply = request.send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let last = pods.iter().find(|pod| pod.address() == reply.pod()).unwrap().received().pop().unwrap();
        assert!(last.body.len() > 3_000_000);
        let sent: serde_json::Value = serde_json::from_slice(&last.body).unwrap();
        assert_eq!(sent["messages"][1]["content"].as_str().unwrap().len(), 3_000_000);
    }
    pods[warm].kill().await;
    assert_eq!(long_chat(&"and so on ".repeat(300_000)).send(envoy.routed).await.status, 200);
}

#[tokio::test]
async fn a_reset_or_a_503_before_any_byte_goes_to_a_runner_up() {
    for fault in [|| Answer::Reset, || Answer::Whole(503, Vec::new(), "not ready".into())] {
        let pods = TestPod::several(3).await;
        let envoy = Envoy::ready(&pods).await;
        let warm = warm(&envoy, &pods).await;
        pods[warm].answer_next(fault());
        let reply = long_chat("three").header("x-request-id", "again").send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_ne!(reply.pod(), pods[warm].address());
        let line = envoy.access("again").await;
        assert_eq!(line["attempts"], 2, "{line}");
        assert_eq!(line["pod"], reply.pod(), "{line}");
    }
}

#[tokio::test]
async fn a_request_that_two_pods_fail_is_answered_by_the_third() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let warm = warm(&envoy, &pods).await;
    let good = (warm + 1) % 3;
    for n in [warm, (warm + 2) % 3] {
        for _ in 0..4 {
            pods[n].answer_next(Answer::Reset);
        }
    }
    let reply = long_chat("three").send(envoy.routed).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.pod(), pods[good].address());
}

#[tokio::test]
async fn a_4xx_or_500_of_all_pods_reaches_the_client_as_it_is() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    // Whether another pod would serve what one refuses with the latter statuses, only that pod can tell.
    for (status, attempts) in [(400, 1), (422, 1), (500, 1), (401, 3), (404, 3), (429, 3)] {
        let error = json!({"error": {"message": "as the pod says", "type": "x", "code": status}}).to_string();
        for pod in &pods {
            pod.answer_next(Answer::json(status, error.clone()));
        }
        let before: usize = pods.iter().map(|pod| pod.received().len()).sum();
        let reply = Request::chat("hello").send(envoy.routed).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.json()["error"]["message"], "as the pod says");
        let after: usize = pods.iter().map(|pod| pod.received().len()).sum();
        assert_eq!(after, before + attempts, "{status}");
        pods.iter().for_each(TestPod::forget_answers);
    }
}

#[tokio::test]
async fn a_pod_that_comes_back_is_used_again() {
    let mut pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    let warm = warm(&envoy, &pods).await;
    pods[warm].kill().await;
    assert_eq!(long_chat("three").send(envoy.routed).await.status, 200);
    pods[warm].revive().await;
    pods[1 - warm].kill().await;
    until("the pod that came back answers", async || {
        let reply = long_chat("four").send(envoy.routed).await;
        (reply.status == 200).then(|| assert_eq!(reply.pod(), pods[warm].address()))
    })
    .await;
}

#[tokio::test]
async fn a_pod_whose_metrics_fail_still_serves() {
    let pods = TestPod::several(1).await;
    pods[0].set_metrics_status(500);
    let envoy = Envoy::of(&pods).fail_closed().start().await;
    pods[0].scraped(2).await;
    assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
}

#[tokio::test]
async fn a_metrics_page_that_breaks_off_does_not_stop_the_collector() {
    for (end, flag) in [(PageEnd::CutAfter(200), "cut"), (PageEnd::StallsAfter(200), "stalled")] {
        let pods = TestPod::several(3).await;
        let envoy = Envoy::of(&pods).edit(|configuration| {
            let short = configuration.replace("\"timeout_ms\": 1000", "\"timeout_ms\": 200");
            assert_ne!(short, configuration);
            short
        });
        let envoy = envoy.start().await;
        envoy.sees_ready(3).await;
        pods[0].set_page_end(end);
        envoy.logs(&["[warning]", &pods[0].address(), "cannot be scraped", "GET /metrics"]).await;
        // The pod is still scraped, and so are the others.
        for pod in &pods {
            pod.scraped(5).await;
        }
        envoy.sees_ready(2).await;
        for n in 0..5 {
            assert_eq!(Request::chat(&format!("hello {n}")).send(envoy.routed).await.status, 200, "{flag}");
        }
        // The pod is ready again after the first whole page.
        pods[0].set_page_end(PageEnd::Whole);
        envoy.sees_ready(3).await;
        envoy.logs(&["[info]", &pods[0].address(), "tells its load again"]).await;
        // Longer than a router waits before it considers the collector dead.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        let log = envoy.log();
        assert!(!log.contains("panicked") && !log.contains("RuntimeError"), "{flag}");
        assert_eq!(log.matches("cannot be scraped").count(), 1, "{flag}: once, not with every scrape");
        let reloads = envoy.stats("vm_reload_").await;
        assert!(reloads.values().all(|&count| count == 0), "{flag}: {reloads:?}");
        assert_eq!(
            envoy.stat("wasmcustom.warmpath_collector_takeovers_total.pool=default;").await,
            0,
            "{flag}"
        );
    }
}

#[tokio::test]
async fn a_missing_scrape_cluster_is_named_in_the_log() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).edit(|configuration| {
        let other = configuration.replace("\"cluster\": \"warmpath-scrape\"", "\"cluster\": \"scraper\"");
        assert_ne!(other, configuration);
        other
    });
    let envoy = envoy.start().await;
    envoy.logs(&["[warning]", "`scrape.cluster` is \"scraper\""]).await;
    assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
}

#[tokio::test]
async fn with_all_pods_dead_a_request_gets_503_at_once() {
    let mut pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    for pod in &mut pods {
        pod.kill().await;
    }
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 503);
        // Four attempts are refused at once. The limit is for a busy machine.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn with_all_pods_dead_and_fail_open_off_503_has_retry_after() {
    let mut pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).fail_closed().start().await;
    envoy.sees(&pods).await;
    for pod in &mut pods {
        pod.kill().await;
    }
    // The first requests find out that the pods are dead. Then Warmpath refuses by itself, with Retry-After.
    until("a refusal says when to come again", async || {
        let reply = Request::chat("hello").send(envoy.routed).await;
        assert_eq!(reply.status, 503);
        reply.header("retry-after").map(|_| assert_eq!(reply.json()["error"]["code"], 503))
    })
    .await;
}

/// An Envoy whose router has no pod table, because nobody collects for its pool. Envoy's own clusters have
/// pods.
fn without_table(pods: &[TestPod]) -> EnvoyBuilder {
    Envoy::of(pods).edit(move |configuration| {
        let settings = "configuration: *warmpath";
        // The router's, and those of the answer filter.
        assert_eq!(configuration.matches(settings).count(), 2);
        let fail_open = !configuration.contains("\"fail_open\": false");
        let alone = format!(
            "configuration: {{ \"@type\": type.googleapis.com/google.protobuf.StringValue, \
             value: '{{\"pool\": \"alone\", \"fail_open\": {fail_open}}}' }}"
        );
        configuration.replace(settings, &alone)
    })
}

#[tokio::test]
async fn without_a_pod_table_the_fallback_answers() {
    let pods = TestPod::several(2).await;
    let envoy = without_table(&pods).start().await;
    for request in [Request::chat("hello"), Request::get("/v1/models")] {
        let reply = request.send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(pods.iter().any(|pod| pod.address() == reply.pod()));
    }
    // One warning covers ten seconds. At the level debug each request has a line.
    envoy
        .logs(&["[warning]", "requests without a pod", "left to the fallback cluster: no pod is known yet"])
        .await;
    assert_eq!(envoy.log().matches("requests without a pod").count(), 1);
    assert_eq!(envoy.log().matches("chose no pod for").count(), 2);
}

#[tokio::test]
async fn without_a_pod_table_and_fail_open_off_503_has_retry_after() {
    let pods = TestPod::several(2).await;
    let envoy = without_table(&pods).fail_closed().start().await;
    for request in [Request::chat("hello"), Request::get("/v1/models")] {
        let reply = request.send(envoy.routed).await;
        assert_eq!(reply.status, 503);
        assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
        assert!(reply.json()["error"]["message"].is_string());
        assert_eq!(reply.json()["error"]["code"], 503);
    }
    assert_eq!(pods.iter().map(|pod| pod.received().len()).sum::<usize>(), 0);
}

#[tokio::test]
async fn requests_before_the_first_scrape_go_to_pods_of_the_configured_list() {
    let pods = TestPod::several(2).await;
    // No metrics page ever ends, so nothing is known of any pod but its address.
    pods.iter().for_each(|pod| pod.set_page_end(PageEnd::StallsAfter(0)));
    // Without the fallback: a request without a named pod would get 503.
    let envoy = Envoy::of(&pods).fail_closed().start().await;
    for n in 0..10 {
        let reply = Request::chat(&format!("hello {n}")).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "request {n}: {}", reply.text());
        assert!(pods.iter().any(|pod| pod.address() == reply.pod()));
    }
    let scraped = envoy.stat("wasmcustom.warmpath_scrapes_total.result=ok;.pool=default;").await;
    assert_eq!(scraped, 0, "a scrape brought a load, so this test proves nothing");
}
