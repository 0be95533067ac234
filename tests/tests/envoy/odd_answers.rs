//! Answers and requests that are right and look otherwise than usual: compressed, with other line ends, cut
//! anywhere, in the spelling of other engines and clients.

use std::time::Duration;

use serde_json::{Value, json};
use warmpath_tests::{Answer, Envoy, Protocol, Request, Stream, TestPod, raw};

use crate::hostile::gzip;

const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Yes\"}}]}\n\ndata: [DONE]\n\n";
const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const FULL: &str = "data: {\"error\": {\"message\": \"The engine is currently busy\", \"type\": \"Service Unavailable\", \"param\": null, \"code\": 503}}\n\ndata: [DONE]\n\n";

fn chat(n: usize) -> Request {
    Request::streamed_chat(&format!("{n}: {}", "what now? ".repeat(20)))
}

fn events(body: impl Into<bytes::Bytes>, kind: &str, encoding: Option<&str>) -> Answer {
    let encoding = encoding.map(|encoding| ("content-encoding", encoding.to_owned()));
    let headers = [("content-type", kind.to_owned())].into_iter().chain(encoding).collect();
    Answer::Whole(200, headers, body.into())
}

/// A stream of these pieces, each of which travels by itself.
fn cut(pieces: &[&str]) -> Answer {
    let (stream, answer) = Stream::new();
    let pieces: Vec<String> = pieces.iter().map(|&piece| piece.to_owned()).collect();
    tokio::spawn(async move {
        for piece in pieces {
            stream.chunk(piece);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    answer
}

#[tokio::test]
async fn a_refusal_is_one_however_it_is_written() {
    type Form = (&'static str, fn() -> Answer);
    let forms: [Form; 9] = [
        ("carriage returns", || events(FULL.replace('\n', "\r\n"), "text/event-stream", None)),
        ("old line ends", || events(FULL.replace('\n', "\r"), "text/event-stream", None)),
        ("no space", || events(FULL.replace("data: ", "data:"), "text/event-stream", None)),
        ("a byte order mark", || events(format!("\u{feff}{FULL}"), "text/event-stream", None)),
        ("a kind in capitals", || events(FULL, "Text/Event-Stream; charset=UTF-8", None)),
        ("fields around it", || {
            events(format!("retry: 500\nid: 1\nevent: error\n{FULL}"), "text/event-stream", None)
        }),
        ("two events in one piece", || events([ROLE, FULL].concat(), "text/event-stream", None)),
        ("one event in four pieces", || cut(&[&FULL[..3], &FULL[3..40], &FULL[40..120], &FULL[120..]])),
        ("another engine's words", || {
            events(
                "data:{\"error\":\"Model is overloaded\",\"error_type\":\"overloaded\"}\n\n",
                "text/event-stream",
                None,
            )
        }),
    ];
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    pods[1..].iter().for_each(|pod| pod.answer_all(|| events(TOKEN, "text/event-stream", None)));
    let mut n = 0;
    for (name, refusal) in forms {
        pods[0].answer_all(refusal);
        let (met, asked) = (pods[0].received().len(), n);
        // Equal pods are drawn, so it takes a while until the one that refuses is met. The client must not
        // notice.
        while pods[0].received().len() == met {
            n += 1;
            assert!(n < asked + 200, "{name}: the pod that refuses is never met, so that nothing is shown");
            let reply = chat(n).send(envoy.routed).await;
            assert_eq!((reply.status.as_u16(), reply.text()), (200, TOKEN.to_owned()), "{name}");
        }
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn a_compressed_stream_passes_as_it_is_and_at_once() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let packed = gzip(TOKEN.as_bytes());
    for (encoding, body) in
        [("gzip", packed.clone()), ("br", b"(not for us".to_vec()), ("zstd", b"(\xb5/\xfd".to_vec())]
    {
        pods[0].answer_next(events(body.clone(), "text/event-stream", Some(encoding)));
        let reply = chat(0).header("accept-encoding", encoding).send(envoy.routed).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-encoding")), (200, Some(encoding)));
        assert_eq!(reply.body, body, "{encoding}");
    }
    // Its beginning is not held until its end.
    let (stream, answer) = Stream::new();
    pods[0].answer_next(answer);
    stream.chunk(packed[..10].to_vec());
    let mut reply = chat(1).open(envoy.routed).await;
    assert_eq!(reply.chunk().await.unwrap().unwrap(), &packed[..10]);
    stream.chunk(packed[10..].to_vec());
    drop(stream);
    assert_eq!(reply.finish().await.unwrap().body, &packed[10..]);
    envoy.accounts_for_nothing().await;
}

/// The same prompt in other spellings finds the pod that has computed it.
#[tokio::test]
async fn a_prompt_is_the_same_in_every_spelling_that_json_has() {
    let pods = TestPod::several(4).await;
    let envoy = Envoy::ready(&pods).await;
    let mut homes = std::collections::BTreeSet::new();
    for topic in 0..6 {
        let words: String = (0..400).map(|n| format!("{topic:>6} {n:<5} ")).collect();
        let text = Value::from(words.clone());
        let other = Value::from(words.replace(' ', "_"));
        let user = |text: &Value| format!("[{{\"role\":\"user\",\"content\":{text}}}]");
        let message = user(&text);
        let escaped: String = words.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
        let spellings = [
            format!("{{\"model\":\"/model/qwen\",\"messages\":{message}}}"),
            // Of two values of one key the last one counts.
            format!(
                "{{\"model\":\"x\",\"messages\":{},\"model\":\"/model/qwen\",\"messages\":{message}}}",
                user(&other)
            ),
            format!("{{\"m\\u006fdel\":\"\\/model\\/qwen\",\"messa\\u0067es\":{message}}}"),
            format!("\r\n\t {{\"messages\"\n:\t{message} ,\"model\" :\"/model/qwen\"\r\n}}\n"),
            format!(
                "{{\"model\":\"/model/qwen\",\"messages\":[{{\"content\":\"{escaped}\",\"role\":\"us\\u0065r\"}}]}}"
            ),
            format!(
                "{{\"model\":\"/model/qwen\",\"messages\":[{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":{text}}}]}}]}}"
            ),
        ];
        let mut home = None;
        for (nth, body) in spellings.into_iter().enumerate() {
            let request = Request::new("POST", "/v1/chat/completions").body(body.clone());
            let reply = request.send(envoy.routed).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let home = home.get_or_insert_with(|| reply.pod().to_owned());
            assert_eq!(reply.pod(), home, "topic {topic}, spelling {nth}");
            let pod = pods.iter().find(|pod| pod.address() == reply.pod()).unwrap();
            assert!(pod.received().pop().unwrap().body == body, "topic {topic}, spelling {nth}");
        }
        homes.extend(home);
    }
    assert!(homes.len() > 1, "all prompts are on one pod, so that nothing is shown");
}

#[tokio::test]
async fn large_and_deep_bodies_and_other_methods_reach_a_pod_as_they_are() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    let got =
        |body: &[u8]| pods.iter().any(|pod| pod.received().last().is_some_and(|last| last.body == body));
    let tool = |n: usize| {
        let about = format!("tool {n}: {}", "what it does ".repeat(40));
        json!({"type": "function", "function": {"name": format!("t{n}"), "description": about, "parameters": {"type": "object"}}})
    };
    let tools: Vec<Value> = (0..1700).map(tool).collect();
    let messages = json!([{"role": "user", "content": "hello"}]);
    let tools = json!({"model": "/model/qwen", "tools": tools, "messages": messages}).to_string();
    assert!(tools.len() > 1 << 20, "{} bytes", tools.len());
    let deep = |n: usize| format!("{{\"messages\":{messages},\"x\":{}1{}}}", "[".repeat(n), "]".repeat(n));
    let trailing = |request: Request| request.chunked(4096).trailer("x-checksum", "abc");
    for body in [tools, deep(100), deep(900)] {
        let request = || Request::new("POST", "/v1/chat/completions").body(body.clone());
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for request in [request(), trailing(request())] {
                let reply = request.over(protocol).send(envoy.routed).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert!(got(body.as_bytes()), "{} bytes over {protocol:?}", body.len());
            }
        }
    }
    for method in ["HEAD", "OPTIONS", "GET", "DELETE"] {
        let reply = Request::new(method, "/v1/chat/completions").send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{method}");
        assert!(pods.iter().any(|pod| pod.received().last().is_some_and(|last| last.method == method)));
    }
    // As curl sends a large body: it waits for leave.
    let body = json!({"model": "/model/qwen", "messages": messages}).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = String::from_utf8(raw(envoy.routed, (head + &body).as_bytes()).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), "{answer}");
    envoy.accounts_for_nothing().await;
    assert!(envoy.stats("vm_reload").await.values().all(|&count| count == 0));
}

/// Two requests with one id are two requests, at the same time and one after the other.
#[tokio::test]
async fn two_requests_with_one_id_are_both_answered_and_accounted_for() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).concurrency(2).start().await;
    envoy.sees(&pods).await;
    pods.iter().for_each(|pod| {
        pod.answer_all(|| Answer::tokens(Duration::from_millis(200), Duration::from_millis(20), 3));
    });
    for _ in 0..2 {
        let all = (0..6).map(|n| tokio::spawn(chat(n).header("x-request-id", "twice").send(envoy.routed)));
        for reply in futures::future::join_all(all).await {
            let reply = reply.unwrap();
            assert_eq!((reply.status.as_u16(), reply.header("x-request-id")), (200, Some("twice")));
            assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
        }
        envoy.accounts_for_nothing().await;
    }
    assert_eq!(pods.iter().map(|pod| pod.received().len()).sum::<usize>(), 12);
}
