//! No client chooses a destination.

use warmpath_tests::{Envoy, Protocol, Request, TestPod, raw};

#[tokio::test]
async fn headers_that_a_client_sends_choose_no_destination() {
    let pods = TestPod::several(2).await;
    let stranger = TestPod::start().await;
    let envoy = Envoy::ready(&pods).await;
    let there = stranger.address();
    let names = [
        "x-warmpath-destination-0",
        "x-warmpath-destination-1",
        "x-warmpath-destination-2",
        "x-warmpath-destination-3",
        "x-warmpath-scrape",
        "x-warmpath-anything",
        "x-envoy-original-dst-host",
        "x-gateway-destination-endpoint",
        "x-forwarded-host",
    ];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for name in names {
            for request in
                [Request::chat("hello"), Request::get("/v1/models"), Request::post("/v1/score", &[1].into())]
            {
                let reply =
                    request.header(name, &there).header(name, &there).over(protocol).send(envoy.routed).await;
                assert_eq!(reply.status, 200, "{name}");
                assert_ne!(reply.pod(), there, "{name}");
            }
        }
    }
    let body = r#"{"model": "/model/qwen", "messages": []}"#;
    // Capitals do not matter in a header name, and a space is an error.
    for (name, status) in [
        ("X-WARMPATH-DESTINATION-0", "200"),
        ("X-Warmpath-Destination-1", "200"),
        ("x-warmpath-destination-0 ", "400"),
    ] {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {there}\r\n{name}: {there}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = raw(envoy.routed, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {answer}");
    }
    assert_eq!(stranger.received().len() + stranger.scrapes(), 0, "a client chose its destination");
}

#[tokio::test]
async fn control_headers_of_a_client_do_not_reach_the_pod() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    Request::chat("hello")
        .header("x-warmpath-anything", "1")
        .header("x-warmpath-scrape", pods[0].address())
        .header("x-envoy-max-retries", "99")
        .header("x-envoy-upstream-rq-timeout-ms", "1")
        .header("x-mine", "kept")
        .send(envoy.routed)
        .await;
    let received = pods.iter().flat_map(TestPod::received).next().unwrap();
    for name in
        ["x-warmpath-anything", "x-warmpath-scrape", "x-envoy-max-retries", "x-envoy-upstream-rq-timeout-ms"]
    {
        assert!(!received.headers.contains_key(name), "{name} reached the pod");
    }
    assert_eq!(received.headers["x-mine"], "kept");
}

#[tokio::test]
async fn a_clients_request_id_is_in_the_answer_the_log_and_the_pod() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let reply = Request::chat("hello").header("x-request-id", "mine-1").send(envoy.routed).await;
    assert_eq!(reply.header("x-request-id"), Some("mine-1"));
    assert_eq!(pods[0].received()[0].headers["x-request-id"], "mine-1");
    let line = envoy.access("mine-1").await;
    assert_eq!(line["pod"], pods[0].address());
    assert_eq!(line["status"], 200);
    let reply = Request::chat("hello").send(envoy.routed).await;
    assert!(reply.header("x-request-id").is_some(), "Envoy makes one");
}
