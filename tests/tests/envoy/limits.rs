//! Every limit refuses what exceeds it: in OpenAI's form, at once, and only as long as it is exceeded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use warmpath_tests::{
    Answer, Envoy, Load, Protocol, Reply, Request, TestPod, command, falls_back, form, target, until,
};

use crate::hostile::{empty, exchange};

/// Checks that this is a refusal in OpenAI's form, with `Retry-After` if it is temporary.
fn assert_refusal(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"), "{}", reply.text());
    let error = &reply.json()["error"];
    assert_eq!(error["code"], status, "{error}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 5), "{error}");
    assert!(error["type"].as_str().is_some_and(|kind| kind.ends_with("Error")), "{error}");
    assert!(error.as_object().unwrap().contains_key("param"), "{error}");
    let again = reply.header("retry-after").map(|value| value.parse::<u32>().unwrap());
    assert_eq!(again.is_some(), status == 503, "retry-after: {again:?}");
}

/// The prompts of different clients.
fn chat(n: usize) -> Request {
    Request::chat(&format!("client {n} says ").repeat(30))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_get_503_and_none_hangs() {
    const CLIENTS: usize = 100;
    const EACH: usize = 8;
    let pods = TestPod::several(3).await;
    for pod in &pods {
        pod.answer_all(|| Answer::After(Duration::from_millis(100), Box::new(Answer::Completion)));
    }
    let envoy = Envoy::of(&pods).flag("--max-requests", "8").concurrency(2).start().await;
    envoy.sees(&pods).await;
    let (routed, before) = (envoy.routed, envoy.memory());

    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(async move {
            let mut counts = BTreeMap::<u16, usize>::new();
            for n in 0..EACH {
                let protocol = if n % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 };
                let reply = chat(client * EACH + n).over(protocol).send(routed).await;
                *counts.entry(reply.status.as_u16()).or_default() += 1;
                if reply.status != 200 {
                    assert_refusal(&reply, 503);
                    // What Envoy calls it is for the operator, in the access log, and not for the client.
                    let message = &reply.json()["error"]["message"];
                    assert_eq!(
                        message,
                        "no pod answered, or the gateway is overloaded; try again in a second"
                    );
                }
            }
            counts
        });
    }
    let mut counts = BTreeMap::<u16, usize>::new();
    for (status, count) in clients.join_all().await.into_iter().flatten() {
        *counts.entry(status).or_default() += count;
    }
    println!("{CLIENTS} clients at once, 8 allowed: {counts:?} in {:?}", began.elapsed());
    assert_eq!(counts.values().sum::<usize>(), CLIENTS * EACH);
    assert!(counts[&200] > 8 && counts[&503] > CLIENTS, "{counts:?}");
    until("the access log said why", async || envoy.access_log().contains("overflow").then_some(())).await;
    // A refusal by Envoy says nothing about the pods, so none of them cools down.
    let failed = envoy.stats("warmpath_upstream_failures_total").await;
    assert!(failed.values().all(|&count| count == 0), "{failed:?}");
    for n in 0..30 {
        assert_eq!(chat(n).send(routed).await.status, 200);
    }
    for gauge in ["in_flight", "waiting", "outstanding_tokens"] {
        empty(&envoy, gauge).await;
    }
    let grown = envoy.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "Envoy has grown by {} MiB", grown >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heap_full_of_bodies_refuses_new_requests_until_it_has_room() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).flag("--max-heap-mib", "160").start().await;
    envoy.sees(&pods).await;
    assert_eq!(chat(0).send(envoy.routed).await.status, 200);

    // Bodies that never end.
    let start = [
        &b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: 33000000\r\n\r\n{\"model\": \""[..],
        &vec![b'x'; 30 << 20],
    ]
    .concat();
    let mut held = Vec::new();
    let refusal = until("Envoy refused a request", async || {
        if held.len() < 12 {
            let mut socket = tokio::net::TcpStream::connect(envoy.routed).await.unwrap();
            // Envoy may refuse this one and close.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, &start).await;
            held.push(socket);
        }
        let reply = chat(1).send(envoy.routed).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_refusal(&refusal, 503);
    println!("{} bodies of 30 MiB held, Envoy has {} MiB", held.len(), envoy.memory() >> 20);
    assert!(envoy.memory() < 700 << 20, "{}", envoy.memory());
    drop(held);
    until("Envoy took requests again", async || {
        (chat(2).send(envoy.routed).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn envoys_own_refusals_have_openais_form() {
    let mut pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods)
        .flag("--max-body-mib", "1")
        .flag("--upload-timeout", "1s")
        .flag("--pod-silence-timeout", "500ms")
        .start()
        .await;
    envoy.sees(&pods).await;

    let large = Request::chat(&"large ".repeat(300_000)).over(Protocol::Http2).send(envoy.routed).await;
    assert_refusal(&large, 413);
    // Malformed HTTP, and a client that is too slow.
    for (request, status) in [
        ("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nbad name: 1\r\n\r\n", 400),
        ("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"model\":", 408),
    ] {
        let answer = exchange(envoy.routed, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let error: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(error["error"]["code"], status, "{answer}");
    }
    // The module's refusals are not rewritten.
    let own = Request::post("/v1/chat/completions", &json!({"model": 3})).send(envoy.routed).await;
    assert_refusal(&own, 400);
    assert_eq!(own.json()["error"]["param"], "model");
    // Neither are a pod's.
    let words = r#"{"error": "as the pod says"}"#;
    pods.iter().for_each(|pod| pod.answer_next(Answer::Whole(429, Vec::new(), words.into())));
    let busy = chat(0).send(envoy.routed).await;
    assert_eq!((busy.status.as_u16(), busy.text().as_str()), (429, words));

    for pod in &mut pods {
        pod.forget_answers();
        pod.kill().await;
    }
    assert_refusal(&chat(0).send(envoy.routed).await, 503);
}

#[tokio::test]
async fn a_request_to_a_silent_pod_ends_in_504() {
    let pods = TestPod::several(1).await;
    pods[0].answer_all(|| Answer::Silence);
    let envoy = Envoy::of(&pods).flag("--pod-silence-timeout", "300ms").start().await;
    envoy.sees(&pods).await;
    // Without a fallback, the last attempt finds no pod.
    let status = if falls_back() { 504 } else { 503 };
    assert_refusal(&chat(0).send(envoy.routed).await, status);
}

#[tokio::test]
async fn an_endless_metrics_page_is_not_read() {
    let pods = [TestPod::start().await, TestPod::with(Load { padding: 5 << 20, ..Load::default() }).await];
    let envoy = Envoy::of(&pods).start().await;
    pods[1].scraped(3).await;
    until("the page was taken for unreadable", async || {
        let counted = |line: &str| line.contains("result=\"unreadable\"") && !line.ends_with(" 0");
        envoy.prometheus().await.lines().any(counted).then_some(())
    })
    .await;
    let before = envoy.memory();
    pods[1].scraped(10).await;
    let grown = envoy.memory().saturating_sub(before);
    assert!(grown < 40 << 20, "Envoy has grown by {} MiB", grown >> 20);
    // The pod still serves once the other one is gone.
    assert_eq!(chat(0).send(envoy.routed).await.status, 200);
}

/// Envoy's exit code and output for a configuration.
fn validate(configuration: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("envoy.yaml");
    std::fs::write(&path, configuration).unwrap();
    let path = path.to_str().unwrap();
    let checked = command("scripts/envoy", &["--mode", "validate", "-l", "error", "-c", path], &[]);
    (checked.code, checked.err + &checked.out)
}

#[test]
fn a_setting_out_of_range_stops_envoy_and_is_named() {
    let wasm = format!("--wasm={}", target().join("warmpath.wasm").display());
    let printed = command("scripts/envoy-config", &["--pods=127.0.0.1:8000", &wasm, &form()], &[]);
    assert_eq!(validate(&printed.out).0, 0);
    let many: Vec<String> = (0..1025).map(|n| format!("\"10.0.{}.{}:8000\"", n / 256, n % 256)).collect();
    let long = "p".repeat(65);
    for (setting, value, complaint) in [
        (
            "\"pods\": [\"127.0.0.1:8000\"]",
            format!("\"pods\": [{}]", many.join(", ")),
            "a pool has at most 1024",
        ),
        (
            "\"pods\": [\"127.0.0.1:8000\"]",
            "\"pods\": [\"vllm-0:8000\"]".to_owned(),
            "names are not resolved",
        ),
        ("\"pool\": \"default\"", format!("\"pool\": \"{long}\""), "use 1 to 64"),
        ("\"pool\": \"default\"", "\"pool\": \"a;.b=c\"".to_owned(), "use 1 to 64"),
        ("\"max_mib\": 48", "\"max_mib\": 4096".to_owned(), "use 1 to 1024"),
        ("\"interval_ms\": 100", "\"interval_ms\": 0".to_owned(), "use 10 to 60000"),
        (
            "\"fail_open\": true",
            "\"fail_open\": true, \"more\": 1".to_owned(),
            "`more` is no setting; there are",
        ),
    ] {
        let configuration = printed.out.replace(setting, &value);
        assert_ne!(configuration, printed.out, "{setting}");
        let (code, said) = validate(&configuration);
        assert_ne!(code, 0, "{value}");
        assert!(said.contains(complaint), "{value}: {said}");
    }
    let pods = format!("--pods={}", many.join(",").replace('"', ""));
    let refused = command("scripts/envoy-config", &[&pods], &[]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("1024"), "{}", refused.err);
}

#[test]
fn a_collector_without_pods_stops_envoy_and_says_so() {
    let wasm = format!("--wasm={}", target().join("warmpath.wasm").display());
    let ports = ["--port=0", "--plain-port=0", "--admin-port=0"];
    let form = form();
    let flags = [&ports[..], &["--pods=127.0.0.1:8000", &wasm, &form]].concat();
    let printed = command("scripts/envoy-config", &flags, &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("envoy.yaml");
    for (list, complaint) in [("\"pods\": [],", "`pods` is empty"), ("", "`pods` is missing")] {
        let configuration = printed.out.replace("\"pods\": [\"127.0.0.1:8000\"],", list);
        assert_ne!(configuration, printed.out);
        std::fs::write(&path, configuration).unwrap();
        // `--mode validate` does not run bootstrap extensions, so Envoy is started. The time limit ends one
        // that starts by mistake.
        let start = [
            "timeout",
            "20",
            "scripts/envoy",
            "-l",
            "error",
            "--disable-hot-restart",
            "-c",
            path.to_str().unwrap(),
        ];
        let started = command("/usr/bin/env", &start, &[]);
        assert_eq!(started.code, 1, "{list}: {}", started.err);
        assert!(started.err.contains(complaint), "{list}: {}", started.err);
        assert!(started.err.contains("list the pods' addresses"), "{list}: {}", started.err);
    }
}

#[tokio::test]
async fn a_pool_of_1024_pods_finds_the_one_that_lives() {
    let pod = TestPod::start().await;
    // These loopback addresses refuse connections at once.
    let mut pods: Vec<String> = (0..1023).map(|n| format!("127.9.{}.{}:9", n / 250, 1 + n % 250)).collect();
    pods.insert(500, pod.address());
    let envoy = Envoy::at(pods).start().await;
    until("the one pod that lives was found among 1024", async || {
        let reply = chat(0).send(envoy.routed).await;
        (reply.status == 200).then_some(())
    })
    .await;
    // It is still found for further requests.
    for n in 0..20 {
        assert_eq!(chat(n).send(envoy.routed).await.pod(), pod.address());
    }
}

#[tokio::test]
async fn a_fleet_of_dead_pods_is_one_line_of_the_log() {
    let alive = TestPod::start().await;
    // Nothing listens on ports that need a privilege.
    let mut pods: Vec<String> = (1..=60).map(|port| format!("127.0.0.1:{port}")).collect();
    pods.push(alive.address());
    let envoy = Envoy::at(pods).start().await;
    envoy.logs(&["[warning]", "of 61 pods cannot be scraped, others are preferred; the first is"]).await;
    envoy.sees_ready(1).await;
    let lines = envoy.log().matches("cannot be scraped").count();
    assert!(lines <= 5, "{lines} lines for 60 pods");
    assert_eq!(chat(0).send(envoy.routed).await.status, 200);
}
