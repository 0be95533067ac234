//! The ways in which a pod fails on purpose.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use warmpath_sim::pod::PodConfig;

use super::LONG;
use super::form::{chunks, json as parse};
use super::harness::{CHAT, TestPod, answer, case, chat, gauges, open, streamed, stuck};

#[tokio::test]
async fn a_hung_engine_gives_headers_and_a_page_that_does_not_move() {
    let pod = TestPod::with(open()).await;
    answer(&pod, CHAT, &chat("before", 2)).await;
    pod.fault(json!({"hang": true})).await;
    let before = pod.metrics().await.0;
    let mut stream = pod.post(CHAT, &streamed("now", 2)).await;
    assert_eq!(stream.status(), 200);
    assert!(tokio::time::timeout(Duration::from_millis(100), stream.chunk()).await.is_err());
    assert_eq!(pod.metrics().await.0, before);
    pod.fault(json!({})).await;
    assert!(stream.text().await.unwrap().contains("[DONE]"), "it goes on where it stood");
    assert_ne!(pod.metrics().await.0, before);
}

#[tokio::test]
async fn generation_can_fail_before_its_first_token_in_every_form() {
    let pod = TestPod::with(open()).await;
    pod.fault(json!({"error_event": 2, "status": 500, "done_only": 1})).await;
    let text = pod.post(CHAT, &streamed("a", 5)).await.text().await.unwrap();
    let recorded = String::from_utf8(case("B17/answer.sse")).unwrap();
    let (ours, theirs) = (parse(chunks(&text)[0]), parse(chunks(&recorded)[0]));
    for field in ["type", "param", "code"] {
        assert_eq!(ours["error"][field], theirs["error"][field], "{field}");
    }
    assert_eq!(chunks(&text)[1..], ["[DONE]"]);
    assert_eq!(pod.post(CHAT, &chat("a", 5)).await.status(), 500);
    assert_eq!(pod.post(CHAT, &streamed("a", 5)).await.text().await.unwrap(), "data: [DONE]\n\n");
    assert_eq!(chunks(&pod.post(CHAT, &streamed("a", 5)).await.text().await.unwrap()).len(), 7);
}

#[tokio::test]
async fn a_pod_can_refuse_everything_at_once_with_any_status() {
    let pod = TestPod::with(open()).await;
    for (status, kind) in [(401, "AuthenticationError"), (404, "NotFoundError"), (429, "RateLimitError")] {
        pod.fault(json!({"fail": 1, "status": status})).await;
        let refused = pod.post(CHAT, &streamed("a", 5)).await;
        assert_eq!(refused.status(), status);
        assert_eq!(parse(&refused.text().await.unwrap())["error"]["type"], kind);
    }
    let locked = TestPod::with(PodConfig { api_key: Some("secret".to_owned()), ..TestPod::config() }).await;
    let body = || chat("a", 2).to_string().into_bytes();
    assert_eq!(locked.post_bytes(CHAT, body(), ("authorization", "Bearer no")).await.status(), 401);
    assert_eq!(locked.post_bytes(CHAT, body(), ("authorization", "Bearer secret")).await.status(), 200);
    assert_eq!(locked.get("/metrics").await.status(), 200, "only /v1 wants the key");
}

#[tokio::test]
async fn comments_come_while_a_request_waits() {
    let pod = TestPod::with(stuck(1)).await;
    pod.fault(json!({"keep_alive_ms": 20})).await;
    let mut stream = pod.post(CHAT, &streamed("a", 5)).await;
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let chunk = tokio::time::timeout(Duration::from_secs(5), stream.chunk()).await.unwrap();
        seen.extend_from_slice(&chunk.unwrap().unwrap());
    }
    assert!(seen.starts_with(b": keep-alive\n\n: keep-alive\n\n"), "{}", String::from_utf8_lossy(&seen));
}

#[tokio::test]
async fn gauges_can_stay_up_after_all_clients_have_left() {
    let pod = TestPod::with(stuck(8)).await;
    let held = pod.post(CHAT, &streamed("a", 5)).await;
    assert_eq!(gauges(&pod.metrics().await), (1.0, 0.0));
    pod.fault(json!({"stale_gauges": true, "deferred": 2})).await;
    drop(held);
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if pod.get("/load").await.text().await.unwrap() == "{\"server_load\":0}" {
            break;
        }
    }
    assert_eq!(gauges(&pod.metrics().await), (1.0, 2.0));
    pod.fault(json!({})).await;
    assert_eq!(gauges(&pod.metrics().await), (0.0, 0.0));
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed() {
    let pod = TestPod::with(PodConfig { idle_seconds: 0.2, ..TestPod::config() }).await;
    let mut stream = TcpStream::connect(pod.address()).await.unwrap();
    let began = Instant::now();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 16])).await;
    assert_eq!(read.unwrap().unwrap(), 0);
    assert!(began.elapsed() > Duration::from_millis(150));
}

#[tokio::test]
async fn a_metrics_page_can_be_late_and_can_hold_the_tokens_up() {
    let pod = TestPod::with(open()).await;
    for faults in [json!({"metrics_delay_ms": 150}), json!({"metrics_busy_ms": 150})] {
        pod.fault(faults).await;
        let began = Instant::now();
        pod.metrics().await;
        assert!(began.elapsed() >= Duration::from_millis(150));
    }
}

#[tokio::test]
async fn faults_happen_as_often_as_asked() {
    let pod = TestPod::with(PodConfig { faults_endpoint: true, ..TestPod::config() }).await;
    let set = async |faults: serde_json::Value| {
        assert_eq!(pod.post("/sim/faults", &faults).await.status(), 200, "{faults}");
    };
    let ask = async || pod.try_post("/v1/chat/completions", &chat("hi", 3)).await;
    set(json!({"fail": 1, "status": 500})).await;
    assert_eq!(ask().await.unwrap().status(), 500);
    assert_eq!(ask().await.unwrap().status(), 200);
    set(json!({"reset": 2})).await;
    assert!(ask().await.is_err() && ask().await.is_err());
    assert_eq!(ask().await.unwrap().status(), 200);
    set(json!({"cut": 1, "cut_after": 2})).await;
    let mut body = chat("hi", 50);
    body["stream"] = json!(true);
    let mut cut = pod.post("/v1/chat/completions", &body).await;
    let mut seen = String::new();
    let error = loop {
        match cut.chunk().await {
            Ok(Some(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(None) => panic!("the stream ended in order"),
            Err(error) => break error,
        }
    };
    assert!(error.is_body() || error.is_decode() || error.is_request(), "{error:?}");
    assert!(chunks(&seen).len() <= 3 && !seen.contains("[DONE]"), "{seen}");
    set(json!({"refuse_metrics": true})).await;
    assert_eq!(pod.get("/metrics").await.status(), 503);
    assert_eq!(ask().await.unwrap().status(), 200);
    assert_eq!(pod.post("/sim/faults", &json!({"fial": 1})).await.status(), 400);
    set(json!({})).await;
    assert_eq!(pod.get("/metrics").await.status(), 200);
}

#[tokio::test]
async fn a_restart_empties_the_cache_and_moves_the_start_time() {
    let pod = TestPod::with(PodConfig { faults_endpoint: true, ..TestPod::config() }).await;
    let ask = async || {
        let answer = pod.post("/v1/chat/completions", &chat(&LONG.repeat(20), 2)).await.text().await.unwrap();
        parse(&answer)["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(ask().await, 0);
    assert!(ask().await > 0);
    let before = pod.metrics().await.value("process_start_time_seconds");
    pod.post("/sim/faults", &json!({"restart": true})).await;
    let page = pod.metrics().await;
    assert!(page.value("process_start_time_seconds") > before);
    assert_eq!(page.value("vllm:prompt_tokens_total"), 0.0);
    assert_eq!(ask().await, 0);
}

#[tokio::test]
async fn without_the_flag_nobody_can_set_faults() {
    let pod = TestPod::start().await;
    assert_eq!(pod.post("/sim/faults", &json!({})).await.status(), 404);
}
