//! A client can steer nothing, and no secret reaches a log.

mod roles;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use warmpath_tests::{Answer, Envoy, Protocol, Request, TestPod};

use crate::hostile::exchange;

/// The body of a chat whose prompt a pod holds after the first request with it.
fn body(extra: &str) -> String {
    let words = (0..400).map(|n| format!("word {n} ")).collect::<String>();
    let head = r#"{"model": "/model/qwen", "messages": [{"role": "user", "content": "#;
    format!("{head}\"{words}\"}}]{extra}}}")
}

/// Two pods with an Envoy, a third pod that must stay untouched, and the address of the pod that holds
/// [`body`].
struct Scene {
    pods: Vec<TestPod>,
    stranger: TestPod,
    envoy: Envoy,
    home: String,
}

impl Scene {
    async fn set() -> Self {
        let pods = TestPod::several(2).await;
        let stranger = TestPod::start().await;
        let envoy = Envoy::ready(&pods).await;
        let chat = || Request::new("POST", "/v1/chat/completions").body(body(""));
        let home = chat().send(envoy.routed).await.pod().to_owned();
        assert_eq!(chat().send(envoy.routed).await.pod(), home);
        Self { pods, stranger, envoy, home }
    }

    /// Every spelling of the third pod's address.
    fn spellings(&self) -> Vec<String> {
        let there = self.stranger.address();
        let port = there.rsplit_once(':').unwrap().1;
        vec![
            format!("http://{there}"),
            format!("http://{there}/v1/chat/completions"),
            format!("//{there}"),
            format!("{there},{}", self.home),
            format!("{},{there}", self.home),
            format!("{there} "),
            format!("x@{there}"),
            format!("localhost:{port}"),
            format!("[::1]:{port}"),
            format!("[::ffff:127.0.0.1]:{port}"),
            format!("0x7f000001:{port}"),
            format!("2130706433:{port}"),
            format!("127.1:{port}"),
            there,
        ]
    }

    /// Checks that the third pod saw nothing, and that Envoy tried no address but those of its pods.
    async fn stranger_is_untouched(&self) {
        assert_eq!(self.stranger.begun() + self.stranger.scrapes(), 0, "a client chose its destination");
        let clusters = self.envoy.admin_json("/clusters?format=json").await;
        let known: BTreeSet<u16> = self.pods.iter().map(|pod| port(&pod.address())).collect();
        let mut hosts = 0;
        for cluster in clusters["cluster_statuses"].as_array().unwrap() {
            for host in cluster["host_statuses"].as_array().into_iter().flatten() {
                let address = &host["address"]["socket_address"];
                assert_eq!(address["address"], "127.0.0.1", "{cluster}");
                assert!(known.contains(&(address["port_value"].as_u64().unwrap() as u16)), "{cluster}");
                hosts += 1;
            }
        }
        assert!(hosts >= 4, "{clusters}");
    }
}

fn port(address: &str) -> u16 {
    address.parse::<SocketAddr>().unwrap().port()
}

/// The status of a raw answer and the pod that gave it, if one did.
fn told(answer: &[u8]) -> (u16, Option<String>) {
    let text = String::from_utf8_lossy(answer);
    let status = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let pod = text.lines().find_map(|line| line.strip_prefix("x-test-pod: ")).map(str::to_owned);
    (status, pod)
}

#[tokio::test]
async fn no_header_names_a_host() {
    let scene = Scene::set().await;
    let mut names: Vec<String> = (0..10).map(|n| format!("x-warmpath-destination-{n}")).collect();
    names.extend(
        [
            "X-WARMPATH-DESTINATION-0",
            "x-Warmpath-Destination-1",
            "x-warmpath-scrape",
            "X-Warmpath-Scrape",
            "x-warmpath-",
            "x-envoy-original-dst-host",
            "X-Envoy-Original-Dst-Host",
            "x-envoy-original-path",
            "x-envoy-original-url",
            "x-envoy-decorator-operation",
            "x-gateway-destination-endpoint",
            "x-forwarded-host",
            "x-forwarded-for",
            "x-forwarded-port",
            "x-original-url",
            "x-rewrite-url",
            "x-real-ip",
            "x-host",
            "forwarded",
            "proxy-connection",
            "via",
            "location",
            "referer",
            "origin",
            "destination",
        ]
        .map(str::to_owned),
    );
    let body = body("");
    for name in &names {
        for value in scene.spellings() {
            // Once and twice: the second value of a header must be removed too.
            for header in [format!("{name}: {value}\r\n"), format!("{name}: {value}\r\n").repeat(2)] {
                let request = format!(
                    "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n{header}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let (status, pod) = told(&exchange(scene.envoy.routed, request.as_bytes()).await);
                assert_eq!((status, pod.as_ref()), (200, Some(&scene.home)), "{name}: {value}");
            }
        }
    }
    for name in ["x-warmpath-destination-0", "x-warmpath-scrape", "x-envoy-original-dst-host"] {
        for value in scene.spellings() {
            let request =
                Request::new("POST", "/v1/chat/completions").header(name, &value).body(body.clone());
            let reply = request.over(Protocol::Http2).send(scene.envoy.routed).await;
            assert_eq!(reply.pod(), scene.home, "{name}: {value}");
            let request = Request::get("/v1/models").header(name, &value);
            assert_eq!(request.send(scene.envoy.plain).await.status, 200);
        }
    }
    scene.stranger_is_untouched().await;
}

#[tokio::test]
async fn no_request_target_or_authority_names_a_host() {
    let scene = Scene::set().await;
    let there = scene.stranger.address();
    let body = body("");
    let mut lines = Vec::new();
    for value in scene.spellings() {
        lines.push(format!("POST http://{value}/v1/chat/completions HTTP/1.1\r\nhost: gateway"));
        lines.push(format!("POST //{value}/v1/chat/completions HTTP/1.1\r\nhost: {value}"));
        lines.push(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {value}"));
        lines.push(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nhost: {value}"));
        lines.push(format!(
            "POST /v1/chat/completions?x-warmpath-destination-0={value} HTTP/1.1\r\nhost: gateway"
        ));
        lines.push(format!("POST /{value}/v1/chat/completions HTTP/1.1\r\nhost: gateway"));
        lines.push(format!("POST {value} HTTP/1.1\r\nhost: {value}"));
        lines.push(format!("GET http://{value}/metrics HTTP/1.1\r\nhost: {value}"));
        lines.push(format!("CONNECT {value} HTTP/1.1\r\nhost: {value}"));
        lines.push(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nupgrade: h2c\r\nhttp2-settings: {value}"
        ));
    }
    let mut served = 0;
    for line in &lines {
        let request = format!("{line}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (status, pod) = told(&exchange(scene.envoy.routed, request.as_bytes()).await);
        // Envoy refuses what is malformed, and a CONNECT has no route here.
        assert!([200, 400, 403, 404, 426].contains(&status), "{status}: {line}");
        if let Some(pod) = pod {
            assert!(scene.pods.iter().any(|known| known.address() == pod), "{pod}: {line}");
            served += 1;
        }
    }
    assert!(served * 2 > lines.len(), "only {served} of {} were served at all", lines.len());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let request = Request::new("POST", "/v1/chat/completions").authority(&there).body(body.clone());
        assert_eq!(request.over(protocol).send(scene.envoy.routed).await.pod(), scene.home);
    }
    scene.stranger_is_untouched().await;
}

#[tokio::test]
async fn no_body_and_no_trailer_names_a_host() {
    let scene = Scene::set().await;
    for value in scene.spellings() {
        for extra in [
            format!(r#","x-warmpath-destination-0":"{value}""#),
            format!(
                r#","metadata":{{"x-warmpath-destination-0":"{value}","x-envoy-original-dst-host":"{value}"}}"#
            ),
            format!(r#","base_url":"http://{value}","host":"{value}","pod":"{value}","pods":["{value}"]"#),
            format!(
                r#","scrape":{{"cluster":"warmpath-scrape","path":"http://{value}/"}},"fail_open":false"#
            ),
        ] {
            let request = Request::new("POST", "/v1/chat/completions").body(body(&extra));
            assert_eq!(request.send(scene.envoy.routed).await.pod(), scene.home, "{extra}");
        }
        // A model with the name of an address is just a model.
        let document = json!({"model": value, "messages": [{"role": "user", "content": value}]});
        let reply = Request::post("/v1/chat/completions", &document).send(scene.envoy.routed).await;
        assert!(scene.pods.iter().any(|pod| pod.address() == reply.pod()));
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let request = Request::new("POST", "/v1/chat/completions").body(body("")).chunked(500);
            let request =
                request.trailer("x-warmpath-destination-0", &value).trailer("x-warmpath-scrape", &value);
            assert_eq!(request.over(protocol).send(scene.envoy.routed).await.pod(), scene.home, "{value}");
        }
    }
    scene.stranger_is_untouched().await;
}

#[tokio::test]
async fn no_client_steers_retries_timeouts_or_statistics() {
    let scene = Scene::set().await;
    let home = scene.pods.iter().find(|pod| pod.address() == scene.home).unwrap();
    let controls = [
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-upstream-rq-timeout-alt-response", "1"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-max-retries", "0"),
        ("x-envoy-retry-on", "5xx,retriable-4xx"),
        ("x-envoy-retriable-status-codes", "500,200"),
        ("x-envoy-retriable-header-names", "x-test-pod"),
        ("x-envoy-upstream-alt-stat-name", "canary-stat"),
        ("x-envoy-upstream-stream-duration-ms", "1"),
        ("x-envoy-ip-tags", "canary"),
        ("x-envoy-internal", "true"),
        ("x-envoy-force-trace", "true"),
        ("grpc-timeout", "1m"),
        ("x-forwarded-for", "127.0.0.1"),
    ];
    let request = || {
        let request = Request::new("POST", "/v1/chat/completions").body(body(""));
        controls.iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    // Neither the timeouts nor the number of retries changes ...
    home.answer_next(Answer::After(Duration::from_millis(300), Box::new(Answer::Completion)));
    assert_eq!(request().send(scene.envoy.routed).await.pod(), scene.home);
    home.answer_next(Answer::Reset);
    let reply = request().send(scene.envoy.routed).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_ne!(reply.pod(), scene.home);
    // ... and an error is not retried.
    let before: usize = scene.pods.iter().map(|pod| pod.received().len()).sum();
    scene.pods.iter().for_each(|pod| pod.answer_next(Answer::Whole(500, Vec::new(), "broken".into())));
    assert_eq!(request().send(scene.envoy.routed).await.status, 500);
    assert_eq!(scene.pods.iter().map(|pod| pod.received().len()).sum::<usize>(), before + 1);
    scene.pods.iter().for_each(TestPod::forget_answers);
    assert!(scene.envoy.stats("canary").await.is_empty());
    for pod in &scene.pods {
        for received in pod.received() {
            // Envoy adds x-envoy-* of its own; what the client wrote is gone.
            for (name, value) in controls.iter().filter(|(name, _)| name.starts_with("x-envoy-")) {
                let there = received.headers.get(*name).map(|v| v.as_bytes());
                assert_ne!(there, Some(value.as_bytes()), "{name} reached the pod");
            }
        }
    }
    // A client cannot steer the plain port either.
    let names = ["x-warmpath-destination-0", "X-Warmpath-Scrape", "x-warmpath-anything"];
    let plain = names.iter().fold(request(), |request, name| request.header(name, scene.stranger.address()));
    let reply = plain.header("x-request-id", "plain").header("x-mine", "kept").send(scene.envoy.plain).await;
    assert_eq!(reply.status, 200);
    let received: Vec<_> = scene.pods.iter().flat_map(TestPod::received).collect();
    let received = received.iter().find(|received| received.headers["x-request-id"] == "plain").unwrap();
    assert_eq!(received.headers["x-mine"], "kept");
    for (name, value) in controls.iter().filter(|(name, _)| name.starts_with("x-envoy-")) {
        let there = received.headers.get(*name).map(|v| v.as_bytes());
        assert_ne!(there, Some(value.as_bytes()), "{name} reached the pod through the plain port");
    }
    for name in names {
        assert!(!received.headers.contains_key(name), "{name} reached the pod through the plain port");
    }
    scene.stranger_is_untouched().await;
}

#[tokio::test]
async fn no_prompt_and_no_key_reaches_a_log_or_a_statistic() {
    const CANARY: &str = "canary7f3a";
    let mut pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).log_level("trace").start().await;
    envoy.sees(&pods).await;
    let secret = |request: Request| {
        request
            .header("authorization", format!("Bearer {CANARY}"))
            .header("x-api-key", CANARY)
            .header("api-key", CANARY)
            .header("cookie", format!("session={CANARY}"))
    };
    let prompt = format!("{CANARY} ").repeat(300);
    let bodies = [
        (
            "/v1/chat/completions",
            json!({"model": "m", "messages": [{"role": "user", "content": prompt}], "tools": [{"name": prompt}]}),
        ),
        ("/v1/completions", json!({"model": "m", "prompt": prompt, "cache_salt": CANARY})),
        ("/v1/responses", json!({"model": "m", "input": prompt, "instructions": prompt})),
        ("/v1/embeddings", json!({"model": "m", "input": [prompt]})),
        ("/v1/messages", json!({"model": "m", "system": prompt, "messages": []})),
        // The parser refuses this and names the place.
        ("/v1/chat/completions", json!({"messages": prompt})),
        ("/v1/chat/completions", json!([prompt])),
    ];
    for round in 0..2 {
        for (path, document) in &bodies {
            secret(Request::post(&format!("{path}?key={CANARY}"), document)).send(envoy.routed).await;
        }
        let torn = format!("{{\"model\": \"m\", \"prompt\": \"{CANARY}\" {CANARY}");
        let reply = secret(Request::new("POST", "/v1/completions").body(torn)).send(envoy.routed).await;
        assert_eq!(reply.status, 400);
        assert!(!reply.text().contains(CANARY), "{}", reply.text());
        // The second time no pod answers, because failures have log lines too.
        if round == 0 {
            pods[0].kill().await;
            pods[1].kill().await;
        }
    }
    let last = secret(Request::chat(CANARY)).header("x-request-id", "the-last").send(envoy.routed).await;
    assert_eq!(last.status, 503);
    envoy.access("the-last").await;

    let log = envoy.log();
    assert!(log.contains("warmpath: chose"), "the module has said nothing, so this test saw too little");
    for (what, text) in [
        ("Envoy's log", log),
        ("the access log", envoy.access_log()),
        ("/stats/prometheus", envoy.prometheus().await),
        ("/stats", format!("{:?}", envoy.stats(".*").await)),
        ("/config_dump", envoy.admin_json("/config_dump").await.to_string()),
    ] {
        let line = text.lines().find(|line| line.contains(CANARY));
        assert!(line.is_none(), "{what}: {line:?}");
    }
}
