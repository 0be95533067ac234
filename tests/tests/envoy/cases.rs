//! Failures that users of vLLM and of gateways have reported, with the inputs of `tests/fixtures/cases`.
//!
//! Cases that are tested elsewhere: B06, B07, B09 and half a surrogate pair of B31 in `bodies`, B11 in
//! `refusals`, B17, B32 and B33 in `answer`, killed pods of B31 in `faults_under_load`.

mod first_tokens;
mod held;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;
use warmpath_tests::{Answer, Envoy, Load, Random, Request, SimPod, Stream, TestPod, raw, repository, until};

use crate::SIMULATOR;

/// An input of a case.
fn input(name: &str) -> Vec<u8> {
    let path = repository().join("tests/fixtures/cases").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A metrics page of a case that says so many requests are running.
fn page(name: &str, running: u32) -> String {
    let page = String::from_utf8(input(name)).unwrap();
    let lines = page.lines().map(|line| match line.split_once("} ") {
        Some((name, _)) if name.starts_with("vllm:num_requests_running{") => {
            format!("{name}}} {running}.0\n")
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}

fn busy(running: u32) -> Load {
    Load { running, ..Load::default() }
}

fn post(path: &str, body: impl Into<bytes::Bytes>) -> Request {
    Request::new("POST", path).header("content-type", "application/json").body(body)
}

/// A chat of about `kilobytes` thousand bytes whose first words no other topic has.
fn chat(topic: &str, kilobytes: usize) -> Request {
    let words: String = (0..kilobytes * 50).map(|n| format!("{topic:>10} {n:<8} ")).collect();
    Request::chat(&words)
}

/// The position of the pod that answers the request.
async fn chosen(envoy: &Envoy, pods: &[TestPod], request: Request) -> usize {
    let reply = request.send(envoy.routed).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    pods.iter().position(|pod| pod.address() == reply.pod()).unwrap()
}

/// Lets the first pod compute these requests, as all others are busy for that time; then all are idle.
async fn first_computes(envoy: &Envoy, pods: &[TestPod], requests: Vec<Request>) {
    pods[1..].iter().for_each(|pod| pod.set_load(busy(600)));
    believes(envoy, pods).await;
    for request in requests {
        assert_eq!(chosen(envoy, pods, request).await, 0);
    }
    pods[1..].iter().for_each(|pod| pod.set_load(Load::default()));
    believes(envoy, pods).await;
}

/// A whole answer to a prompt of 7,500 tokens.
fn answer_of_7500_tokens() -> Answer {
    let usage = json!({"prompt_tokens": 7500, "completion_tokens": 1, "total_tokens": 7501});
    let body = json!({"choices": [{"index": 0, "message": {"content": "Yes."}}], "usage": usage});
    Answer::json(200, body.to_string())
}

/// The same after the time that an engine needs for it. Pods that answer at once would have learned rates
/// that differ by chance, and by more than any load.
fn computed_answer() -> Answer {
    Answer::After(Duration::from_millis(80), Box::new(answer_of_7500_tokens()))
}

/// Waits until the pods' present pages are believed. Load that is new counts when two pages say it.
async fn believes(envoy: &Envoy, pods: &[TestPod]) {
    envoy.sees(pods).await;
    envoy.sees(pods).await;
}

/// B08.
#[tokio::test]
async fn http_1_0_is_served_with_and_without_a_host() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    for port in [envoy.routed, envoy.plain] {
        for request in [input("B08/request.txt"), b"GET /v1/models HTTP/1.0\r\n\r\n".to_vec()] {
            let answer = String::from_utf8(raw(port, &request).await).unwrap();
            let status = answer.lines().next().unwrap();
            assert_eq!(status.split(' ').nth(1), Some("200"), "{answer}");
            assert!(answer.contains(&format!("x-test-pod: {}", pods[0].address())), "{answer}");
        }
    }
    assert_eq!(pods[0].begun(), 4);
}

/// 200 and the headers of a stream, and nothing else, ever.
fn headers_only() -> Answer {
    let (stream, answer) = Stream::new();
    // Dropped, it would end the answer.
    std::mem::forget(stream);
    answer
}

/// B16.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_leaves_an_engine_that_hangs_within_four_tries() {
    const PATIENCE: Duration = Duration::from_secs(4);
    let pods = TestPod::several(3).await;
    // A page with another start time would be that of another process.
    pods[0].set_page(page("B16/page.txt", 2));
    let envoy = Envoy::ready(&pods).await;
    let conversation = || {
        let words: String = (0..6000).map(|n| format!("a long talk, {n:<7}")).collect();
        let messages = json!([{"role": "user", "content": words}]);
        Request::post(
            "/v1/chat/completions",
            &json!({"model": "/model/qwen", "stream": true, "messages": messages}),
        )
    };
    pods.iter().for_each(|pod| {
        pod.answer_all(|| Answer::tokens(Duration::from_millis(20), Duration::ZERO, 2));
    });
    first_computes(&envoy, &pods, vec![conversation()]).await;
    pods[0].answer_all(headers_only);
    let to = envoy.routed;
    let others = tokio::spawn(async move {
        let mut sent = tokio::task::JoinSet::new();
        for n in 0.. {
            sent.spawn(tokio::time::timeout(PATIENCE, chat(&format!("{n}. new"), 2).try_open(to)));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut tries = 0;
    let reply = loop {
        tries += 1;
        assert!(tries <= 4, "four tries of {PATIENCE:?} ended without an answer");
        if let Ok(reply) = tokio::time::timeout(PATIENCE, conversation().send(to)).await {
            break reply;
        }
    };
    others.abort();
    println!("answered at try {tries}");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_ne!(reply.pod(), pods[0].address());
    assert!(tries > 1, "the pod was not asked, so this test proves nothing");
}

/// B16, of an engine that had nothing to do when it hung: its page shows no requests, whatever is sent there.
#[tokio::test]
async fn an_engine_that_was_idle_when_it_hung_is_left_too() {
    const PATIENCE: Duration = Duration::from_secs(4);
    let pods = TestPod::several(2).await;
    let idle = "vllm:prompt_tokens_total{engine=\"0\"} 1234\nvllm:generation_tokens_total{engine=\"0\"} 99\n";
    pods[0].set_page(format!("{}{idle}", Load::default().page()));
    let envoy = Envoy::ready(&pods).await;
    let conversation = || chat("a talk", 20);
    first_computes(&envoy, &pods, vec![conversation()]).await;
    pods[0].answer_all(headers_only);
    let mut tries = 0;
    let reply = loop {
        tries += 1;
        assert!(tries <= 5, "five tries of {PATIENCE:?} ended without an answer");
        if let Ok(reply) = tokio::time::timeout(PATIENCE, conversation().send(envoy.routed)).await {
            break reply;
        }
    };
    println!("answered at try {tries}");
    assert_eq!((reply.status.as_u16(), reply.pod()), (200, &*pods[1].address()), "{}", reply.text());
    assert!(tries > 1, "the pod was not asked, so this test proves nothing");
}

/// B20.
#[tokio::test]
async fn after_a_burst_nobody_is_refused_and_requests_are_routed_as_before() {
    const PLACES: usize = 16;
    let pods = TestPod::several(3).await;
    for pod in &pods {
        let places = Arc::new(Semaphore::new(PLACES));
        pod.answer_by(move |_| match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    drop(place);
                });
                Answer::tokens(Duration::from_millis(250), Duration::from_millis(100), 2)
            }
            Err(_) => Answer::json(503, input("B20/answer-503.json")),
        });
    }
    let envoy = Envoy::of(&pods).concurrency(2).start().await;
    envoy.sees_ready(3).await;
    let ask = |n: usize| {
        let words = format!("{:>4} ", n % 9).repeat(500);
        let messages = json!([{"role": "user", "content": words}]);
        let body = json!({"model": "/model/qwen", "stream": n.is_multiple_of(2), "messages": messages});
        Request::post("/v1/chat/completions", &body).send(envoy.routed)
    };
    let burst: Vec<u16> = futures::future::join_all((0..6 * PLACES).map(ask))
        .await
        .iter()
        .map(|reply| reply.status.as_u16())
        .collect();
    assert!(burst.iter().all(|status| [200, 503].contains(status)) && burst.contains(&503), "{burst:?}");
    until("all places are free", async || pods.iter().all(|pod| pod.working() == 0).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = envoy.stats("warmpath_(unrouted|upstream_failures|broken)_total").await;
    // Half of what the pods take: a busy machine must not make it more than all.
    for round in 0..6 {
        let replies = futures::future::join_all((0..PLACES * 3 / 2).map(|n| ask(round * 100 + n))).await;
        assert!(replies.iter().all(|reply| reply.status == 200), "refused after the burst, in round {round}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(envoy.stats("warmpath_(unrouted|upstream_failures|broken)_total").await, before);
    envoy.accounts_for_nothing().await;
}

/// B31, its first part.
#[tokio::test]
async fn an_upgrade_to_h2c_is_ignored() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let request = String::from_utf8(input("B31/h2c-request.txt")).unwrap();
    let request =
        request.replace("Connection: Upgrade, HTTP2-Settings", "Connection: Upgrade, HTTP2-Settings, close");
    let answer = String::from_utf8(raw(envoy.routed, request.as_bytes()).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(pods[0].received()[0].body, request.split("\r\n\r\n").nth(1).unwrap());
}

/// B31, its second part: requests come about when their pod closes the connection that waits for them.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_close_idle_connections_first_lose_no_request() {
    const CLIENTS: u64 = 8;
    const IDLE: u64 = 200;
    let idle = (IDLE as f64 / 1000.0).to_string();
    let flags = ["--profile", "h100", "--speed-up", "20", "--keep-alive-seconds", &idle];
    let pods: Vec<SimPod> = (0..3).map(|_| SimPod::start(SIMULATOR, &flags)).collect();
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect()).concurrency(2).start().await;
    envoy.sees_ready(3).await;
    let to = envoy.routed;
    let clients = (0..CLIENTS).map(|client| {
        tokio::spawn(async move {
            let mut random = Random::new(client);
            for n in 0..30 {
                let words = Random::text(client, 100);
                let body =
                    json!({"model": "/model/qwen", "stream": n % 2 == 0, "max_tokens": 2, "prompt": words});
                let reply = Request::post("/v1/completions", &body).send(to).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert!(
                    reply.body.ends_with(if n % 2 == 0 { b"[DONE]\n\n" } else { b"}" }),
                    "{}",
                    reply.text()
                );
                tokio::time::sleep(Duration::from_millis(random.within(IDLE - 6, IDLE + 6))).await;
            }
        })
    });
    for client in futures::future::join_all(clients).await {
        client.unwrap();
    }
    let closed: i64 =
        envoy.stats("cluster.warmpath-choice-.*upstream_cx_destroy_remote$").await.values().sum();
    println!("pods have closed {closed} connections");
    assert!(closed > 20, "pods have closed {closed} connections, so that nothing is shown");
    envoy.accounts_for_nothing().await;
}
