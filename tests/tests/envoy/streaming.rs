//! Tokens reach the client as the pod sends them, both sides see the end of a stream, and streams teach what
//! pods hold and how fast they are.

use std::time::Duration;

use serde_json::json;
use warmpath_tests::{Answer, Envoy, Protocol, Random, Request, Stream, TestPod, until};

#[tokio::test]
async fn each_chunk_reaches_the_client_before_the_next_is_made() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (stream, answer) = Stream::new();
        pods[0].answer_next(answer);
        let event = |n: u32| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{n}\"}}}}]}}\n\n");
        // The headers come with the first token.
        stream.chunk(event(0));
        let mut reply = Request::chat("count to twenty").over(protocol).open(envoy.routed).await;
        assert_eq!(reply.status, 200);
        for n in 0..20 {
            let event = event(n);
            if n > 0 {
                stream.chunk(event.clone());
            }
            // The next piece is sent only after this one has arrived. If Envoy held it back, this would time
            // out.
            let mut seen = Vec::new();
            while seen.len() < event.len() {
                seen.extend(reply.chunk().await.unwrap().expect("the stream ended early"));
            }
            assert_eq!(String::from_utf8(seen).unwrap(), event, "{protocol:?}");
        }
        drop(stream);
        assert_eq!(
            reply.chunk().await.unwrap(),
            None,
            "the end of the pod's answer is the end of the client's"
        );
    }
}

#[tokio::test]
async fn a_streamed_answer_is_unchanged_to_the_last_byte() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let (stream, answer) = Stream::new();
    pods[0].answer_next(answer);
    let reply = tokio::spawn(Request::chat("a long story").send(envoy.routed));
    let mut sent = Vec::new();
    // Pieces that end in the middle of events, lines and characters.
    let story =
        "data: {\"choices\":[{\"delta\":{\"content\":\"über \u{1f525}\"}}]}\n\n".repeat(5000).into_bytes();
    for piece in story.chunks(1013) {
        stream.chunk(piece.to_vec());
        sent.extend_from_slice(piece);
    }
    let last = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"total_tokens\":12}}\n\ndata: [DONE]\n\n";
    stream.chunk(last);
    sent.extend_from_slice(last.as_bytes());
    drop(stream);
    let reply = reply.await.unwrap();
    assert_eq!(reply.body.len(), sent.len());
    assert!(reply.body == sent, "the stream was changed");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_pods_work() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (stream, answer) = Stream::new();
        pods[0].answer_next(answer);
        stream.chunk("data: {}\n\n");
        let mut reply = Request::chat("never mind").over(protocol).open(envoy.routed).await;
        assert!(reply.chunk().await.unwrap().is_some());
        drop(reply);
        until("the pod noticed that the client went away", async || {
            stream.chunk("data: {}\n\n");
            stream.is_cut().then_some(())
        })
        .await;
    }
    assert_eq!(Request::chat("hello again").send(envoy.routed).await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_leaves_nothing_in_the_ledger() {
    const EACH: usize = 4;
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).concurrency(2).start().await;
    envoy.sees(&pods).await;
    let counted = async || envoy.stat("wasmcustom.warmpath_in_flight.pool=default;").await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (mut streams, mut replies) = (Vec::new(), Vec::new());
        for n in 0..EACH {
            // Either pod may get it, so both have an answer ready.
            for pod in &pods {
                let (stream, answer) = Stream::new();
                stream.chunk("data: {}\n\n");
                pod.answer_next(answer);
                streams.push(stream);
            }
            let mut reply = Request::chat(&format!("story {n}")).over(protocol).open(envoy.routed).await;
            assert!(reply.chunk().await.unwrap().is_some());
            replies.push(reply);
            pods.iter().for_each(TestPod::forget_answers);
        }
        until("all are counted", async || (counted().await == EACH as i64).then_some(())).await;
        drop(replies);
        // The pods would continue, but the client is gone.
        envoy.accounts_for_nothing().await;
        drop(streams);
    }
    assert_eq!(Request::chat("hello again").send(envoy.routed).await.status, 200);
    let leaked = envoy.stat("wasmcustom.warmpath_leaked_requests_total.pool=default;").await;
    assert_eq!(leaked, 0, "the ledger was reconciled, and would have been wrong without that");
}

#[tokio::test]
async fn a_broken_answer_breaks_at_the_client_and_is_not_retried() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let mut streams = Vec::new();
    for pod in &pods {
        let (stream, answer) = Stream::new();
        stream.chunk("data: first\n\n");
        pod.answer_next(answer);
        streams.push(stream);
    }
    let mut reply = Request::chat("tell me").open(envoy.routed).await;
    assert_eq!(reply.chunk().await.unwrap().unwrap(), "data: first\n\n");
    streams.into_iter().for_each(Stream::break_off);
    assert!(reply.finish().await.is_err(), "the client takes half an answer for a whole one");
    assert_eq!(pods.iter().map(|pod| pod.received().len()).sum::<usize>(), 1);
}

/// A chat about `topic` of some 8,000 bytes, streamed with its usage or not.
fn long_chat(topic: &str, stream: bool) -> Request {
    let words: String = (0..500).map(|n| format!("{topic} {n} {} ", n * 7919)).collect();
    let mut body =
        json!({"model": "/model/qwen", "messages": [{"role": "user", "content": words}], "stream": stream});
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    Request::post("/v1/chat/completions", &body)
}

/// Sends a chat that the pod answers with this usage, whole or as events in small pieces.
async fn answered(envoy: &Envoy, pod: &TestPod, topic: &str, stream: bool, cached: u32) {
    let usage = json!({"prompt_tokens": 2000, "total_tokens": 2001, "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": cached}});
    if !stream {
        let body = json!({"choices": [{"message": {"content": "Yes."}}], "usage": usage});
        pod.answer_next(Answer::json(200, body.to_string()));
        assert_eq!(long_chat(topic, stream).send(envoy.routed).await.status, 200);
        return;
    }
    let (pieces, answer) = Stream::new();
    pod.answer_next(answer);
    let token = "data: {\"choices\":[{\"delta\":{\"content\":\"Yes.\"}}]}\n\n";
    // The headers come with the first token.
    pieces.chunk(token);
    let mut reply = long_chat(topic, stream).open(envoy.routed).await;
    let last = format!("data: {}\n\n", json!({"choices": [], "usage": usage}));
    // Pieces of five bytes cut the key, the colon and the numbers.
    for (nth, piece) in std::iter::once(token.as_bytes()).chain(last.as_bytes().chunks(5)).enumerate() {
        if nth > 0 {
            pieces.chunk(piece.to_vec());
        }
        // The next piece is sent only after this one has arrived, so that no two are joined.
        let mut seen = 0;
        while seen < piece.len() {
            seen += reply.chunk().await.unwrap().expect("the stream ended early").len();
        }
    }
    pieces.chunk("data: [DONE]\n\n");
    drop(pieces);
    reply.finish().await.unwrap();
}

#[tokio::test]
async fn cached_tokens_in_an_answer_correct_the_index() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    for stream in [true, false] {
        for (cached, believed) in [(1984, 1), (0, 0)] {
            let [old, prompt] = ["old", "new"].map(|age| format!("{age}-{stream}-{cached}"));
            for topic in [&old, &prompt] {
                answered(&envoy, &pods[0], topic, stream, 0).await;
            }
            // Either the pod still holds the prompt, or it has evicted it and everything that it used
            // earlier.
            answered(&envoy, &pods[0], &prompt, stream, cached).await;
            let before = envoy.prefix_hits().await;
            answered(&envoy, &pods[0], &old, stream, 1984).await;
            assert_eq!(
                envoy.prefix_hits().await - before,
                believed,
                "{cached} tokens cached, streamed: {stream}"
            );
        }
    }
}

#[tokio::test]
async fn prompts_of_a_few_hundred_tokens_teach_which_pod_is_slow() {
    let pods = TestPod::several(2).await;
    pods[0].answer_all(|| Answer::tokens(Duration::from_millis(20), Duration::ZERO, 2));
    pods[1].answer_all(|| Answer::tokens(Duration::from_millis(400), Duration::ZERO, 2));
    let envoy = Envoy::ready(&pods).await;
    let mut in_a_row = 0;
    for n in 0..200 {
        let reply = Request::streamed_chat(&Random::text(n, 300)).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        in_a_row = if reply.pod() == pods[0].address() { in_a_row + 1 } else { 0 };
        if in_a_row == 24 {
            return;
        }
    }
    panic!("the slow pod gets its share to the end");
}
