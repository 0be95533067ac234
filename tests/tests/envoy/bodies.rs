//! A body reaches the pod byte for byte, or is refused before it reaches any pod.

use serde_json::json;
use warmpath_tests::{Envoy, Protocol, Reply, Request, TestPod, raw};

const PATHS: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages"];

/// A chat body of about `size` bytes, with characters that JSON escapes or UTF-8 encodes.
fn chat(size: usize) -> String {
    let text = "Wärme, \"quoted\" \\ and \u{1f525}\n".repeat(size / 32);
    json!({"model": "/model/qwen", "messages": [{"role": "user", "content": text}]}).to_string()
}

fn post(body: impl Into<bytes::Bytes>) -> Request {
    Request::new("POST", "/v1/chat/completions").header("content-type", "application/json").body(body)
}

fn assert_received(pods: &[TestPod], reply: &Reply, body: &str) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let pod = pods.iter().find(|pod| pod.address() == reply.pod()).unwrap();
    let received = pod.received().pop().unwrap();
    assert_eq!(received.body.len(), body.len());
    assert!(received.body == body, "{} bytes arrived, but not the same", body.len());
}

#[tokio::test]
async fn bodies_arrive_complete_whatever_their_size_framing_and_protocol() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    for size in [200, 3_000, 70_000, 3 << 20] {
        let body = chat(size);
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let reply = post(body.clone()).over(protocol).send(envoy.routed).await;
            assert_received(&pods, &reply, &body);
            let reply =
                post(body.clone()).chunked(997.max(size / 50)).over(protocol).send(envoy.routed).await;
            assert_received(&pods, &reply, &body);
        }
    }
}

#[tokio::test]
async fn a_prompt_with_trailers_is_routed_by_prefix() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let body = chat(5000);
    let first = post(body.clone()).send(envoy.routed).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let id = format!("trailers-{protocol:?}");
        let request = post(body.clone()).chunked(1000).trailer("x-checksum", "abc").over(protocol);
        let reply = request.header("x-request-id", &id).send(envoy.routed).await;
        assert_received(&pods, &reply, &body);
        assert_eq!(reply.pod(), first.pod());
        // The pod is not the same by luck: the decision saw the body.
        envoy.logs(&["Do prefix-aware routing!", &id]).await;
    }
}

#[tokio::test]
async fn a_body_above_the_limit_gets_413_and_reaches_no_pod() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).flag("--max-body-mib", "1").start().await;
    envoy.sees(&pods).await;
    let below = chat((1 << 20) - 60_000);
    assert_received(&pods, &post(below.clone()).send(envoy.routed).await, &below);
    let reply = post(chat((1 << 20) + 100_000)).over(Protocol::Http2).send(envoy.routed).await;
    assert_eq!(reply.status, 413);
    assert_eq!(pods[0].received().len(), 1);
}

#[tokio::test]
async fn a_body_that_no_vllm_takes_gets_an_openai_error_and_reaches_no_pod() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    let bad: [(&str, &str); 6] = [
        ("{\"model\": \"/model/qwen\", \"messages\": [", "JSON"),
        ("not json at all", "JSON"),
        ("{\"model\": \"/model/qwen\"} trailing", "JSON"),
        ("[1, 2, 3]", "object"),
        ("\"text\"", "object"),
        ("{\"model\": 5, \"messages\": []}", "model"),
    ];
    for path in PATHS {
        for (body, names) in bad {
            let request = || Request::new("POST", path).header("content-type", "application/json").body(body);
            for reply in [request().send(envoy.routed).await, request().chunked(5).send(envoy.routed).await] {
                assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
                assert_eq!(reply.header("content-type"), Some("application/json"));
                let error = &reply.json()["error"];
                assert!(error["message"].as_str().unwrap().contains(names), "{path} {body}: {error}");
                assert!(error["type"].is_string(), "{error}");
                assert_eq!(error["code"], 400, "{error}");
                assert!(error.get("param").is_some(), "{error}");
            }
        }
    }
    assert_eq!(pods.iter().map(|pod| pod.received().len()).sum::<usize>(), 0, "something reached a pod");
    // After so many refusals the worker still serves.
    assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
    assert!(envoy.stats("vm_reload").await.values().all(|&count| count == 0));
}

/// Bodies that Python's reader takes, and vLLM serves, though they are not what the standard of JSON or
/// OpenAI's API says.
#[tokio::test]
async fn a_body_that_vllm_takes_reaches_a_pod_as_it_is() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let text = r#"{"model": "/model/qwen", "messages": [{"role": "user", "content": "grüß dich"}]}"#;
    let utf16 = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let utf32: Vec<u8> = text.chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
    let nested = format!("{{\"messages\":[],\"x\":{}{}}}", "[".repeat(300), "]".repeat(300));
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("no model", br#"{"messages": []}"#.to_vec()),
        ("a null model", br#"{"model": null, "messages": []}"#.to_vec()),
        ("an empty model", br#"{"model": "", "messages": []}"#.to_vec()),
        ("NaN", br#"{"model": "/model/qwen", "messages": [], "metadata": {"score": NaN}}"#.to_vec()),
        ("-Infinity", br#"{"prompt": "hi", "logit_bias": {"50256": -Infinity}}"#.to_vec()),
        ("a stream as text", br#"{"messages": [], "stream": "no"}"#.to_vec()),
        ("a stream as a number", br#"{"messages": [], "stream": 0}"#.to_vec()),
        ("embeddings", br#"{"prompt_embeds": "QUJDRA=="}"#.to_vec()),
        ("a byte order mark", [b"\xEF\xBB\xBF", text.as_bytes()].concat()),
        ("UTF-16", utf16(u16::to_le_bytes)),
        ("UTF-16 with a mark", [b"\xFE\xFF".to_vec(), utf16(u16::to_be_bytes)].concat()),
        ("UTF-32", utf32),
        ("UTF-16 cut in the middle", b"{\0\"\0x".to_vec()),
        (
            "half of a surrogate pair",
            br#"{"messages": [{"role": "user", "content": "cut \ud83d"}]}"#.to_vec(),
        ),
        ("deep nesting", nested.into_bytes()),
    ];
    for (nth, (what, body)) in bodies.iter().enumerate() {
        let path = if what.contains("Infinity") || *what == "embeddings" {
            "/v1/completions"
        } else {
            "/v1/chat/completions"
        };
        let reply = Request::new("POST", path).body(body.clone()).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        assert_eq!(pods[0].received().len(), nth + 1, "{what}");
        assert!(pods[0].received().pop().is_some_and(|received| received.body == *body), "{what}");
    }
    assert!(envoy.stats("vm_reload").await.values().all(|&count| count == 0));
}

#[tokio::test]
async fn an_inference_request_without_a_body_goes_to_a_pod() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let reply = Request::new("POST", "/v1/chat/completions").send(envoy.routed).await;
    assert_eq!(reply.pod(), pods[0].address());
}

#[tokio::test]
async fn a_body_that_is_not_utf8_gets_400_and_traps_nothing() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let body = b"{\"model\": \"/model/qwen\", \"prompt\": \"\xff\xfe\"}";
    let reply = Request::new("POST", "/v1/completions").body(&body[..]).send(envoy.routed).await;
    assert_eq!(reply.status, 400, "JSON is UTF-8, and this is not");
    let body = r#"{"model": "/model/qwen", "prompt": "x"}"#;
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-odd: \u{0}caf\u{e9}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // Latin-1 in a header value is passed on. Envoy refuses NUL.
    let odd: Vec<u8> = request.replace('\u{0}', "").chars().map(|c| c as u8).collect();
    let answer = raw(envoy.routed, &odd).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let nul: Vec<u8> = request.chars().map(|c| c as u8).collect();
    let answer = raw(envoy.routed, &nul).await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert!(envoy.stats("vm_reload").await.values().all(|&count| count == 0));
}
