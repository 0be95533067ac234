//! Which pod gets a request: the one that holds its prefix, or the least loaded one.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use warmpath_tests::{Envoy, Load, Request, Stream, TestPod, raw, until};

/// A prompt of `size` bytes that shares no block with one of another `topic`.
fn prompt(topic: &str, size: usize) -> String {
    (0..)
        .map(|line| format!("{topic}, line {line}. "))
        .scan(0, |length, line| {
            *length += line.len();
            Some((*length, line))
        })
        .take_while(|&(length, _)| length < size + 40)
        .map(|(_, line)| line)
        .collect()
}

/// A conversation that grows by an answer and a question each round.
struct Conversation(Vec<Value>);

impl Conversation {
    fn about(topic: &str) -> Self {
        Self::with_system_prompt(topic, 3000)
    }

    fn with_system_prompt(topic: &str, size: usize) -> Self {
        Self(vec![
            json!({"role": "system", "content": prompt(topic, size)}),
            json!({"role": "user", "content": "Go on."}),
        ])
    }

    fn next_round(&mut self) {
        self.0.push(json!({"role": "assistant", "content": "Yes."}));
        self.0.push(json!({"role": "user", "content": "And then? Tell me more."}));
    }

    fn request(&self) -> Request {
        self.request_of("/model/qwen")
    }

    /// `model` comes after `messages` in the body.
    fn request_of(&self, model: &str) -> Request {
        Request::post("/v1/chat/completions", &json!({"messages": self.0, "model": model}))
    }
}

#[tokio::test]
async fn a_pod_that_restarts_is_believed_to_be_empty() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::of(&pods).start().await;
    envoy.sees(&pods).await;

    let conversation = Conversation::about("volcanoes");
    let pod = conversation.request().send(envoy.routed).await.pod().to_owned();
    assert_eq!(
        (conversation.request().send(envoy.routed).await.pod(), envoy.prefix_hits().await),
        (&*pod, 1)
    );
    let restarted = pods.iter().find(|other| other.address() == pod).unwrap();
    restarted.set_load(Load { started: Load::default().started + 1000.0, ..Load::default() });
    restarted.scraped(3).await;
    conversation.request().send(envoy.routed).await;
    assert_eq!(envoy.prefix_hits().await, 1, "no pod holds the prompt any more");
    conversation.request().send(envoy.routed).await;
    assert_eq!(envoy.prefix_hits().await, 2, "and then one does again");
}

#[tokio::test]
async fn a_conversation_stays_on_the_pod_of_its_first_round_on_every_worker() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::of(&pods).concurrency(4).start().await;
    envoy.sees(&pods).await;

    let mut used = BTreeSet::new();
    for topic in ["whales", "steam engines", "the law of contracts", "chess openings", "tea", "glaciers"] {
        let mut conversation = Conversation::about(topic);
        let first = conversation.request().send(envoy.routed).await;
        assert_eq!(first.status, 200, "{}", first.text());
        used.insert(first.pod().to_owned());
        // Each request is a new connection, so the rounds reach different workers.
        for round in 2..=5 {
            conversation.next_round();
            let reply = conversation.request().send(envoy.routed).await;
            assert_eq!(reply.pod(), first.pod(), "round {round} about {topic}");
        }
    }
    assert!(used.len() > 1, "six conversations all went to {used:?}");
}

#[tokio::test]
async fn the_parse_cache_changes_no_decision() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;

    let mut conversation = Conversation::with_system_prompt("canals", 20_000);
    let first = conversation.request().send(envoy.routed).await;
    for round in 1..=3 {
        conversation.next_round();
        assert_eq!(conversation.request().send(envoy.routed).await.pod(), first.pod());
        assert_eq!(envoy.prefix_hits().await, round);
    }
    // The bytes up to the last message are in the parse cache, and yet it is another prompt.
    for round in 0..2 {
        let reply = conversation.request_of("another").send(envoy.routed).await;
        assert_eq!((reply.status.as_u16(), envoy.prefix_hits().await), (200, 3 + round));
    }
    let cut = json!({"messages": conversation.0, "model": "m"}).to_string();
    let reply = conversation.request().body(cut.trim_end_matches('}').to_owned()).send(envoy.routed).await;
    assert_eq!(reply.status, 400, "what is not JSON behind it is seen");
}

#[tokio::test]
async fn a_match_above_half_is_logged_with_request_ratio_and_pod() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;

    let mut conversation = Conversation::about("lighthouses");
    conversation.request().header("x-request-id", "round-1").send(envoy.routed).await;
    conversation.next_round();
    let second = conversation.request().header("x-request-id", "round-2").send(envoy.routed).await;

    let line = envoy.logs(&["Do prefix-aware routing!", "round-2"]).await;
    let fields: Value =
        serde_json::from_str(&line[line.find('{').unwrap()..=line.rfind('}').unwrap()]).unwrap();
    assert_eq!(fields["request"], "round-2");
    assert_eq!(fields["pod"], second.pod());
    let (ratio, threshold) = fields["matching ratio"].as_str().unwrap().split_once(" > ").unwrap();
    assert_eq!(threshold, "0.50");
    let ratio: f64 = ratio.parse().unwrap();
    assert!((0.9..=1.0).contains(&ratio), "the second round shares all but its last lines: {line}");

    let log = envoy.log();
    assert!(!log.lines().any(|line| line.contains("Do prefix-aware") && line.contains("round-1")));
    assert!(!log.contains("lighthouses, line"), "a prompt is in the log");
}

#[tokio::test]
async fn log_lines_of_a_burst_are_printed_together_and_none_is_lost() {
    const BURST: usize = 200;
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let conversation = Conversation::about("tides");
    conversation.request().send(envoy.routed).await;

    let mut burst = tokio::task::JoinSet::new();
    for nth in 0..BURST {
        let (request, routed) = (conversation.request(), envoy.routed);
        burst.spawn(async move { request.header("x-request-id", format!("burst-{nth}")).send(routed).await });
    }
    assert!(burst.join_all().await.iter().all(|reply| reply.status == 200));

    // A burst sends some requests to pods without the prompt, and these have no line.
    let matched = envoy.prefix_hits().await as usize;
    assert!(matched > BURST / 2, "{matched}");
    // Lines that wait are printed with the router's next tick, at most a second later.
    let (first, others) = until("each match had its line", async || {
        let log = envoy.log();
        let lines =
            log.lines().filter(|line| line.contains("Do prefix-aware routing! {\"request\": \"burst-"));
        let (first, others): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('['));
        (first.len() + others.len() >= matched).then_some((first.len(), others.len()))
    })
    .await;
    assert_eq!(first + others, matched, "one line a match");
    assert!(first <= matched / 2, "{first} prints of {matched} lines");
}

#[tokio::test]
async fn the_example_conversation_of_the_demo_stays_on_its_pod() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let example = |name: &str| {
        let body = std::fs::read(warmpath_tests::repository().join("examples").join(name)).unwrap();
        Request::new("POST", "/v1/chat/completions").header("content-type", "application/json").body(body)
    };
    let first = example("round1.json").send(envoy.routed).await;
    let second = example("round2.json").send(envoy.routed).await;
    assert_eq!(first.pod(), second.pod());
    envoy.logs(&["Do prefix-aware routing!", &format!("\"pod\": \"{}\"", first.pod())]).await;
}

#[tokio::test]
async fn completions_with_the_same_prefix_share_a_pod_whatever_the_shape_of_the_prompt() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let tokens = |last: u32| (0..2000).chain([last]).collect::<Vec<u32>>();
    let shapes: [(&str, &str, Value, Value); 5] = [
        (
            "text",
            "/v1/completions",
            json!({"prompt": prompt("rivers", 3000) + "A"}),
            json!({"prompt": prompt("rivers", 3000) + "B"}),
        ),
        ("token ids", "/v1/completions", json!({"prompt": tokens(7)}), json!({"prompt": tokens(8)})),
        (
            "responses",
            "/v1/responses",
            json!({"input": prompt("moons", 3000) + "A"}),
            json!({"input": prompt("moons", 3000) + "B"}),
        ),
        (
            "messages",
            "/v1/messages",
            json!({"max_tokens": 5, "system": prompt("bees", 3000), "messages": [{"role": "user", "content": "A"}]}),
            json!({"max_tokens": 5, "system": prompt("bees", 3000), "messages": [{"role": "user", "content": "B"}]}),
        ),
        (
            "content parts",
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": prompt("sand", 3000)}, {"type": "text", "text": "A"}]}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": prompt("sand", 3000)}, {"type": "text", "text": "B"}]}]}),
        ),
    ];
    for (shape, path, mut one, mut other) in shapes {
        (one["model"], other["model"]) = (json!("/model/qwen"), json!("/model/qwen"));
        let id = format!("second-of-{}", shape.replace(' ', "-"));
        let first = Request::post(path, &one).send(envoy.routed).await;
        let second = Request::post(path, &other).header("x-request-id", &id).send(envoy.routed).await;
        assert_eq!(first.pod(), second.pod(), "{shape}");
        envoy.logs(&["Do prefix-aware routing!", &id]).await;
    }
}

#[tokio::test]
async fn the_strategy_load_only_ignores_prefixes_under_both_its_names() {
    for name in ["LOAD_ONLY", "DEFAULT"] {
        let pods = TestPod::several(2).await;
        let busy = Load { running: 60, waiting: 40, cache_used: 0.95, ..Load::default() };
        pods[0].set_load(busy.clone());
        let envoy = Envoy::of(&pods).flag("--strategy", name).start().await;
        envoy.sees(&pods).await;

        let request = || Request::chat(&prompt("volcanoes", 3000));
        for _ in 0..5 {
            assert_eq!(request().send(envoy.routed).await.pod(), pods[1].address(), "{name}");
        }
        // The pod that has seen this prompt five times becomes the busy one.
        pods[0].set_load(Load::default());
        pods[1].set_load(busy);
        envoy.sees(&pods).await;
        for _ in 0..5 {
            assert_eq!(request().send(envoy.routed).await.pod(), pods[0].address(), "{name}");
        }
        assert!(!envoy.log().contains("Do prefix-aware routing!"), "{name}");
    }
}

#[tokio::test]
async fn requests_in_flight_count_before_any_scrape_shows_them() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    // The pods' metrics stay at idle. Only the ledger knows about the open requests.
    let (mut streams, mut replies) = (Vec::new(), Vec::new());
    for n in 0..8 {
        for pod in &pods {
            let (stream, answer) = Stream::new();
            // A keep-alive brings the headers. No token has come.
            stream.chunk(": computing\n\n");
            pod.answer_next(answer);
            streams.push(stream);
        }
        // Not awaited: headers come with the first token, and there is none.
        let (request, to) = (Request::chat(&prompt(&format!("topic {n}"), 500)), envoy.routed);
        replies.push(tokio::spawn(async move { request.open(to).await }));
        until("the request was at a pod", async || {
            let received: usize = pods.iter().map(|pod| pod.received().len()).sum();
            (received > n).then_some(())
        })
        .await;
    }
    let counts: Vec<usize> = pods.iter().map(|pod| pod.received().len()).collect();
    assert!(counts.iter().all(|&count| (2..=6).contains(&count)), "8 equal requests at once went {counts:?}");
}

#[tokio::test]
async fn a_busy_pod_gets_no_new_conversation() {
    let pods = TestPod::several(3).await;
    pods[0].set_load(Load { running: 100, waiting: 50, cache_used: 0.99, ..Load::default() });
    let envoy = Envoy::ready(&pods).await;
    for topic in 0..8 {
        let reply = Request::chat(&prompt(&format!("subject {topic}"), 800)).send(envoy.routed).await;
        assert_ne!(reply.pod(), pods[0].address());
    }
}

#[tokio::test]
async fn requests_without_a_prompt_go_to_the_least_loaded_pod_unchanged() {
    let pods = TestPod::several(2).await;
    pods[0].set_load(Load { running: 60, waiting: 40, cache_used: 0.95, ..Load::default() });
    let envoy = Envoy::ready(&pods).await;

    for path in ["/v1/models", "/health", "/version", "/no/such?query=1"] {
        let reply = Request::get(path).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.pod(), pods[1].address(), "{path}");
        assert_eq!(pods[1].received().last().unwrap().path, path);
    }
    // An upload is not JSON, and only the pod reads it.
    let upload: Vec<u8> = (0..200_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let reply = Request::new("POST", "/v1/audio/transcriptions")
        .header("content-type", "multipart/form-data; boundary=x")
        .body(upload.clone())
        .send(envoy.routed)
        .await;
    assert_eq!(reply.pod(), pods[1].address());
    assert!(pods[1].received().last().unwrap().body == upload, "the upload is not the same");
    // A GET on an inference path has no body to read either.
    assert_eq!(Request::get("/v1/chat/completions").send(envoy.routed).await.pod(), pods[1].address());
}

#[tokio::test]
async fn a_prompt_is_held_until_it_is_whole_and_other_uploads_stream() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let body = r#"{"model": "/model/qwen", "messages": []}"#;
    let head = |path: &str| {
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
    };

    let mut prompt = tokio::net::TcpStream::connect(envoy.routed).await.unwrap();
    prompt.write_all((head("/v1/chat/completions") + &body[..10]).as_bytes()).await.unwrap();
    let mut upload = tokio::net::TcpStream::connect(envoy.routed).await.unwrap();
    upload.write_all((head("/v1/audio/transcriptions") + &body[..10]).as_bytes()).await.unwrap();

    // The prompt was sent first, and still only the upload reaches the pod.
    until("the pod saw the upload begin", async || (pods[0].begun() == 1).then_some(())).await;
    assert!(pods[0].received().is_empty(), "no body is whole yet");
    prompt.write_all(&body.as_bytes()[10..]).await.unwrap();
    until("the pod had the prompt", async || (pods[0].received().len() == 1).then_some(())).await;
    assert_eq!(pods[0].received()[0].path, "/v1/chat/completions");
    upload.write_all(&body.as_bytes()[10..]).await.unwrap();
    until("the pod had the upload", async || (pods[0].received().len() == 2).then_some(())).await;
}

#[tokio::test]
async fn a_websocket_reaches_a_pod() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    // The second path takes prompts too, by POST.
    for (nth, path) in ["/v1/realtime?model=x", "/v1/responses"].into_iter().enumerate() {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        // The scripted pod declines the upgrade, which ends the connection.
        let answer = raw(envoy.routed, request.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        let received = pods[0].received();
        assert_eq!(received[nth].path, path);
        assert_eq!(received[nth].headers["upgrade"], "websocket");
    }
}

#[tokio::test]
async fn the_plain_port_balances_without_the_module() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::of(&pods).start().await;
    let mut used = BTreeSet::new();
    for _ in 0..40 {
        let reply = Request::chat(&prompt("the same for all", 3000)).send(envoy.plain).await;
        assert_eq!(reply.status, 200);
        used.insert(reply.pod().to_owned());
    }
    assert_eq!(used.len(), 3, "40 requests one after the other reach all pods");
    assert!(!envoy.log().contains("Do prefix-aware routing!"));
}

#[tokio::test]
async fn prometheus_sees_warmpaths_metrics_with_labels() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).flag("--pool", "qwen").start().await;
    envoy.sees(&pods).await;
    for path in ["/v1/models", "/health"] {
        Request::get(path).send(envoy.routed).await;
    }
    Request::chat("hello").send(envoy.routed).await;
    let page = envoy.told().await.prometheus().await;
    for line in [
        r#"warmpath_requests_total{pool="qwen",by="prefix"} 1"#,
        r#"warmpath_requests_total{pool="qwen",by="load"} 2"#,
        r#"warmpath_pods{pool="qwen"} 2"#,
        r#"warmpath_ready_pods{pool="qwen"} 2"#,
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in:\n{}", warmpath_lines(&page));
    }
    assert!(page.lines().any(|l| l.starts_with(r#"warmpath_scrapes_total{pool="qwen",result="ok"}"#)));
}

fn warmpath_lines(page: &str) -> String {
    page.lines().filter(|line| line.starts_with("warmpath_")).collect::<Vec<_>>().join("\n")
}
