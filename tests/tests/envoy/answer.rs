//! The answer filter: a stream whose pod dies or fails before the first token is answered by another pod, or
//! by the status of its error. The client sees one whole stream, or one error.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use warmpath_tests::{Answer, Envoy, Protocol, Reply, Request, Stream, TestPod, until};

/// A first token of each API, and the rest of a stream.
const TOKEN: &str = "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Yes\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
/// The first chunk of a chat, which vLLM sends with the first token, and others before they have computed
/// anything.
const ROLE: &str = "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
/// What vLLM 0.32 says when its queue is full.
const FULL: &str = "data: {\"error\": {\"message\": \"The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.\", \"type\": \"Service Unavailable\", \"param\": null, \"code\": 503}}\n\ndata: [DONE]\n\n";

/// A streamed chat.
fn chat(prompt: &str) -> Request {
    stream_of("/v1/chat/completions", json!({"messages": [{"role": "user", "content": prompt}]}))
}

fn stream_of(path: &str, mut body: Value) -> Request {
    body["model"] = "/model/qwen".into();
    body["stream"] = true.into();
    Request::post(path, &body)
}

/// Sends the request in a task, for answers whose headers come only when the test lets them.
fn sent(request: Request, envoy: &Envoy) -> JoinHandle<Reply> {
    tokio::spawn(request.send(envoy.routed))
}

/// Gives each pod a stream to answer its next request with, and returns the test's ends.
fn streams(pods: &[TestPod]) -> Vec<Option<Stream>> {
    pods.iter()
        .map(|pod| {
            let (stream, answer) = Stream::new();
            pod.answer_next(answer);
            Some(stream)
        })
        .collect()
}

/// Waits until a pod has got the request after the first `before` ones, all pods together, and returns which.
async fn asked(pods: &[TestPod], before: usize) -> usize {
    until("a pod was asked", async || {
        let all =
            pods.iter().enumerate().flat_map(|(n, pod)| pod.received().into_iter().map(move |r| (r.at, n)));
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        all.get(before).map(|&(_, n)| n)
    })
    .await
}

/// The early errors so far with this reason.
async fn early_errors(envoy: &Envoy, reason: &str) -> i64 {
    // Envoy 1.37 puts the name of the cluster before them.
    envoy.stats(&format!("warmpath_early_errors_total.reason={reason};")).await.values().sum()
}

#[tokio::test]
async fn pods_that_die_before_the_first_token_lose_no_stream() {
    const STREAMS: usize = 20;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut pods = TestPod::several(3).await;
        let envoy = Envoy::ready(&pods).await;
        pods.iter().for_each(|pod| {
            pod.answer_all(|| Answer::tokens(Duration::from_secs(2), Duration::ZERO, 3));
        });
        let replies: Vec<_> =
            (0..STREAMS).map(|n| sent(chat(&format!("{n} bottles")).over(protocol), &envoy)).collect();
        until("all streams wait for their first token", async || {
            (pods.iter().map(TestPod::working).sum::<usize>() == STREAMS).then_some(())
        })
        .await;
        let dies = (0..pods.len()).max_by_key(|&n| pods[n].working()).unwrap();
        let waiting = pods[dies].working();
        assert!(waiting >= STREAMS / 3);
        pods[dies].kill().await;
        for reply in replies {
            let reply = reply.await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(reply.text().matches("data: ").count(), 4, "{}", reply.text());
            assert!(reply.text().ends_with(DONE));
            assert_ne!(reply.pod(), pods[dies].address());
        }
        assert_eq!(early_errors(&envoy, "broken").await, waiting as i64);
        envoy.accounts_for_nothing().await;
    }
}

#[tokio::test]
async fn events_without_a_token_are_held_and_a_retry_repeats_none_of_them() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"status\":\"in_progress\"}}\n\nevent: response.in_progress\ndata: {\"type\":\"response.in_progress\",\"response\":{\"id\":\"resp_1\"}}\n\n";
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Yes\"}\n\n";
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let apis = [
        (chat("role first"), ROLE, TOKEN),
        (stream_of("/v1/responses", json!({"input": "hello"})), created, delta),
    ];
    for (nth, (request, before, token)) in apis.into_iter().enumerate() {
        let mut streams = streams(&pods);
        let reply = sent(request, &envoy);
        let first = asked(&pods, 2 * nth).await;
        let stream = streams[first].take().unwrap();
        // In pieces, so that each is buffered by itself.
        for piece in before.as_bytes().chunks(40) {
            stream.chunk(piece.to_vec());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!reply.is_finished());
        stream.break_off();
        let second = asked(&pods, 2 * nth + 1).await;
        let stream = streams[second].take().unwrap();
        let whole = [before, token, DONE].concat();
        stream.chunk(whole.clone());
        drop(stream);
        let reply = reply.await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.text()), (200, whole));
        assert_eq!(reply.pod(), pods[second].address());
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
        pods.iter().for_each(TestPod::forget_answers);
    }
    assert_eq!(pods.iter().map(|pod| pod.received().len()).sum::<usize>(), 4);
    envoy.accounts_for_nothing().await;
}

/// An answer of these events, which are there at once.
fn events(text: &str) -> Answer {
    Answer::Whole(
        200,
        vec![("content-type", "text/event-stream; charset=utf-8".to_owned())],
        text.to_owned().into(),
    )
}

#[tokio::test]
async fn a_full_pod_is_passed_over_whatever_the_api_and_the_form_of_its_refusal() {
    let apis = [
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "x"}]}), FULL.to_owned()),
        ("/v1/completions", json!({"prompt": "x"}), FULL.to_owned()),
        (
            "/v1/responses",
            json!({"input": "x"}),
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{}}\n\nevent: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":503,\"message\":\"busy\"}}}\n\n".to_owned(),
        ),
        (
            "/v1/messages",
            json!({"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n".to_owned(),
        ),
        (
            "/v1/messages",
            json!({"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
            include_str!("../../fixtures/first-events/messages-full.sse").to_owned(),
        ),
    ];
    for (path, body, refusal) in apis {
        let pods = TestPod::several(3).await;
        let envoy = Envoy::ready(&pods).await;
        let mut refused = 0;
        for n in 0..6 {
            let full = n % pods.len();
            pods.iter().for_each(TestPod::forget_answers);
            pods[full].answer_next(events(&refusal));
            let reply = stream_of(path, body.clone()).send(envoy.routed).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            assert_ne!(reply.pod(), pods[full].address());
            refused = early_errors(&envoy, "full").await;
            if refused > 0 {
                break;
            }
        }
        assert_eq!(refused, 1, "{path}: no request met the full pod");
    }
}

#[tokio::test]
async fn when_all_pods_refuse_the_client_gets_the_error_and_not_a_stream() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    pods.iter().for_each(|pod| pod.answer_all(|| events(FULL)));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let reply = chat("is there room?").over(protocol).send(envoy.routed).await;
        assert_eq!(reply.status, 503, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert!(reply.header("retry-after").is_some());
        assert_eq!(reply.json()["error"]["code"], 503);
        assert_eq!(reply.json()["error"]["type"], "Service Unavailable");
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn an_error_event_becomes_its_status_and_a_failing_pod_is_left_alone() {
    const STREAMS: usize = 100;
    const FAULT: &str = "data: {\"error\":{\"message\":\"engine failed\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\ndata: [DONE]\n\n";
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    pods[0].answer_all(|| events(FAULT));
    pods[1..].iter().for_each(|pod| {
        pod.answer_all(|| Answer::tokens(Duration::from_millis(30), Duration::ZERO, 2));
    });
    let mut failed = 0;
    for four in 0..STREAMS / 4 {
        let replies: Vec<_> = (0..4).map(|n| sent(chat(&format!("question {four}.{n}")), &envoy)).collect();
        for reply in replies {
            let reply = reply.await.unwrap();
            if reply.status == 200 {
                assert!(reply.text().ends_with(DONE) && !reply.text().contains("error"));
            } else {
                assert_eq!(reply.status, 500);
                assert_eq!(reply.header("content-type"), Some("application/json"));
                assert_eq!(reply.json()["error"]["message"], "engine failed");
                failed += 1;
            }
        }
    }
    println!("{failed} of {STREAMS} streams failed");
    assert!((1..=STREAMS / 4).contains(&failed), "{failed} of {STREAMS} streams failed");
    assert_eq!(early_errors(&envoy, "fault").await, failed as i64);
    let errors = envoy.stat("wasmcustom.warmpath_upstream_errors_total.pool=default;").await;
    assert_eq!(errors, failed as i64);
    envoy.accounts_for_nothing().await;
}

/// What vLLM 0.32 answers once its engine has died, and what its Messages API makes of it in a stream.
const DEAD: &str = "{\"error\": {\"message\": \"EngineCore encountered an issue. See stack trace (above) for the root cause.\", \"type\": \"InternalServerError\", \"param\": null, \"code\": 500}}";
const DEAD_MESSAGES: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"internal_error\",\"message\":\"2 validation errors for ChatCompletionStreamResponse\\nmodel\\n  Field required [type=missing, input_value={'error': {'message': 'En...am': None, 'code': 500}}, input_type=dict]\"}}\n\n";

#[tokio::test]
async fn where_an_engine_has_died_another_pod_answers_and_a_request_that_kills_engines_kills_no_third_one() {
    let dead_stream = || events(&format!("data: {DEAD}\n\ndata: [DONE]\n\n"));
    let dead_whole = || Answer::json(500, DEAD);
    type Form = (&'static str, Value, fn() -> Answer);
    let forms: [Form; 5] = [
        ("/v1/chat/completions", json!({"stream": true}), dead_stream),
        ("/v1/completions", json!({"prompt": "x", "stream": true}), dead_stream),
        ("/v1/messages", json!({"stream": true, "max_tokens": 2}), || events(DEAD_MESSAGES)),
        ("/v1/chat/completions", json!({}), dead_whole),
        ("/v1/embeddings", json!({"input": "x"}), dead_whole),
    ];
    for (path, mut body, dead) in forms {
        body["model"] = "/model/qwen".into();
        let streams = body["stream"] == true;
        let pods = TestPod::several(3).await;
        let envoy = Envoy::ready(&pods).await;
        // Another prompt each time, as the same one would stay where it was.
        let mut ask = |n: usize| {
            let content = format!("{n}: {}", "what now? ".repeat(20));
            let field = if path == "/v1/completions" { "prompt" } else { "messages" };
            body[field] = if field == "prompt" {
                json!(content)
            } else {
                json!([{"role": "user", "content": content}])
            };
            body["input"] = json!(content);
            Request::post(path, &body).send(envoy.routed)
        };
        pods[0].answer_all(dead);
        let answer = if streams { || events(TOKEN) } else { || Answer::Completion };
        pods[1..].iter().for_each(|pod| pod.answer_all(answer));
        // Equal pods are drawn, so it takes a while until the first one is met.
        let mut met = 0;
        for n in 0..200 {
            let reply = ask(n).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            met = pods[0].received().len();
            if met > 0 {
                break;
            }
        }
        assert_eq!(met, 1, "{path}: the pod was not asked, so that nothing is shown");
        assert_eq!(envoy.stat("wasmcustom.warmpath_failovers_total.pool=default;").await, 1, "{path}");
        pods.iter().for_each(|pod| pod.answer_all(dead));
        let before: usize = pods.iter().map(|pod| pod.received().len()).sum();
        let reply = ask(1000).await;
        assert_eq!(reply.status, 500, "{path}: {}", reply.text());
        let asked = pods.iter().map(|pod| pod.received().len()).sum::<usize>() - before;
        assert_eq!(asked, 2, "{path}");
    }
}

#[tokio::test]
async fn a_pod_that_was_full_takes_no_try_from_a_request_that_meets_a_dead_engine() {
    let full = || events(FULL);
    let dead = || events(&format!("data: {DEAD}\n\ndata: [DONE]\n\n"));
    let served = || events(TOKEN);
    type Attempts = [fn() -> Answer; 3];
    let cases: [(Attempts, u16); 2] = [([full, dead, served], 200), ([dead, dead, served], 500)];
    for (attempts, status) in cases {
        let pods = TestPod::several(3).await;
        let envoy = Envoy::ready(&pods).await;
        let asked = Arc::new(AtomicUsize::new(0));
        for pod in &pods {
            let asked = asked.clone();
            pod.answer_by(move |_| attempts[asked.fetch_add(1, Relaxed).min(2)]());
        }
        let reply = chat("what now?").send(envoy.routed).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(asked.load(Relaxed), if status == 200 { 3 } else { 2 });
    }
}

#[tokio::test]
async fn a_keep_alive_releases_the_headers_and_what_follows_is_the_clients() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    for keep_alive in [": still computing\n\n", "event: ping\ndata: {\"type\": \"ping\"}\n\n"] {
        let (stream, answer) = Stream::new();
        pods[0].answer_next(answer);
        stream.chunk(keep_alive);
        let mut reply = chat("take your time").open(envoy.routed).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.chunk().await.unwrap().unwrap(), keep_alive);
        // Too late for a status.
        stream.chunk(FULL);
        drop(stream);
        assert_eq!(reply.finish().await.unwrap().text(), FULL);
    }
    assert_eq!(early_errors(&envoy, "full").await, 0);
}

#[tokio::test]
async fn what_is_held_is_bounded() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let (stream, answer) = Stream::new();
    pods[0].answer_next(answer);
    let reply = tokio::spawn(stream_of("/v1/responses", json!({"input": "x"})).open(envoy.routed));
    let created = format!(
        "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"instructions\":\"{}\"}}}}\n\n",
        "word ".repeat(5000)
    );
    for piece in created.as_bytes().chunks(2000) {
        stream.chunk(piece.to_vec());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // No token has come, and the headers have.
    let reply = reply.await.unwrap();
    assert_eq!(reply.status, 200);
    stream.chunk(DONE);
    drop(stream);
    assert_eq!(reply.finish().await.unwrap().text(), created + DONE);
}

#[tokio::test]
async fn a_stream_that_ends_without_a_token_is_an_error() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    for (nth, nothing) in [DONE, "", "data: {\"choices\":[]}\n\n"].into_iter().enumerate() {
        let (stream, answer) = Stream::new();
        pods[0].answer_next(answer);
        if !nothing.is_empty() {
            stream.chunk(nothing);
        }
        drop(stream);
        let reply = chat("say nothing").send(envoy.routed).await;
        assert_eq!(reply.status, 502, "{nothing:?}");
        assert_eq!(reply.json()["error"]["code"], 502);
        assert_eq!(early_errors(&envoy, "empty").await, nth as i64 + 1);
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn answers_pass_unchanged_however_they_are_cut() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let text = [ROLE, TOKEN, TOKEN, FULL].concat();
    for size in [1, 7, 100, text.len()] {
        let (stream, answer) = Stream::new();
        pods[0].answer_next(answer);
        let reply = sent(chat("hello"), &envoy);
        for piece in text.as_bytes().chunks(size) {
            stream.chunk(piece.to_vec());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(stream);
        assert_eq!(reply.await.unwrap().text(), text, "in pieces of {size} bytes");
    }
    // An answer that is no stream is not looked at, whatever it says.
    let long = format!("{}{}", FULL, "x".repeat(300_000));
    pods[0].answer_next(Answer::json(200, long.clone()));
    let reply = Request::chat("hello").send(envoy.routed).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, long.len()));
}

#[tokio::test]
async fn a_client_that_leaves_while_its_headers_are_held_ends_the_pods_work() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    let mut streams = streams(&pods);
    let reply = sent(chat("never mind"), &envoy);
    let first = asked(&pods, 0).await;
    let stream = streams[first].take().unwrap();
    stream.chunk(ROLE);
    tokio::time::sleep(Duration::from_millis(50)).await;
    reply.abort();
    until("the pod noticed", async || {
        stream.chunk(ROLE);
        stream.is_cut().then_some(())
    })
    .await;
    envoy.accounts_for_nothing().await;
    assert_eq!(pods.iter().map(|pod| pod.received().len()).sum::<usize>(), 1, "nobody else is asked");
}

#[tokio::test]
async fn without_the_filter_headers_pass_at_once_and_no_vm_is_there_for_it() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).switch("--no-answer-filter").start().await;
    envoy.sees(&pods).await;
    let (stream, answer) = Stream::new();
    pods[0].answer_next(answer);
    let reply = chat("hello").open(envoy.routed).await;
    assert_eq!(reply.status, 200);
    stream.chunk(FULL);
    drop(stream);
    assert_eq!(reply.finish().await.unwrap().text(), FULL);
    assert!(envoy.stats("warmpath_early_errors").await.is_empty());
    assert!(!envoy.log().contains(": answer, pool default"));
}
