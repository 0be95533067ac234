//! Failures that users of vLLM and of gateways have reported, with the inputs of `tests/fixtures/cases`.
//!
//! Cases that are tested elsewhere: B06, B07, B09 and half a surrogate pair of B31 in `bodies`, B11 in
//! `refusals`, B17, B32 and B33 in `answer`, killed pods of B31 in `faults_under_load`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use warmpath_tests::{Answer, Envoy, Load, Request, Stream, TestPod, raw, repository, until};

use crate::discovery::{Endpoints, attached};

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

/// B01.
#[tokio::test]
async fn conversations_stay_where_they_are_while_a_hybrid_models_cache_holds_them() {
    for (name, conversations) in [("B01/page-a.txt", 60), ("B01/page-b.txt", 30)] {
        let pods = TestPod::several(3).await;
        pods.iter().for_each(|pod| {
            pod.set_page(page(name, 0));
            pod.answer_all(answer_of_7500_tokens);
        });
        let envoy = Envoy::ready(&pods).await;
        let conversation = |n: usize| chat(&format!("{n}. talk"), 30);
        let mut homes = Vec::new();
        for n in 0..conversations {
            homes.push(chosen(&envoy, &pods, conversation(n)).await);
        }
        for n in 0..pods.len() {
            let share = homes.iter().filter(|&&home| home == n).count();
            assert!(share >= conversations / 6, "{name}: pod {n} got {share} of {conversations}");
        }
        for idle in 0..pods.len() {
            for (n, pod) in pods.iter().enumerate() {
                pod.set_page(page(name, if n == idle { 0 } else { 2 }));
            }
            believes(&envoy, &pods).await;
            for (n, &home) in homes.iter().enumerate() {
                let now = chosen(&envoy, &pods, conversation(n)).await;
                assert_eq!(now, home, "{name}: conversation {n} while pod {idle} is less busy");
            }
        }
    }
}

/// B03.
#[tokio::test]
async fn a_line_that_vllm_leaves_out_changes_no_prefix() {
    let pods = TestPod::several(3).await;
    pods.iter().for_each(|pod| {
        pod.answer_all(|| Answer::tokens(Duration::from_millis(80), Duration::ZERO, 2));
    });
    let envoy = Envoy::ready(&pods).await;
    let turn = |name: &str| post("/v1/messages", input(&format!("B03/{name}.json")));
    first_computes(&envoy, &pods, vec![turn("turn1")]).await;
    pods[0].set_load(busy(6));
    believes(&envoy, &pods).await;
    assert_ne!(chosen(&envoy, &pods, chat("other", 9)).await, 0, "load decides for a new prompt");
    for name in ["turn2", "turn2-same-line"] {
        assert_eq!(chosen(&envoy, &pods, turn(name)).await, 0, "{name}");
    }
}

/// B05.
#[tokio::test]
async fn a_pod_that_sleeps_gets_nothing_and_wakes_up_empty() {
    const CONVERSATIONS: usize = 6;
    let pods = TestPod::several(3).await;
    pods.iter().for_each(|pod| pod.answer_all(computed_answer));
    let envoy = Envoy::ready(&pods).await;
    let conversation = |n: usize| chat(&format!("{n}. talk"), 30);
    pods[0].set_page(page("B05/page-awake.txt", 0));
    first_computes(&envoy, &pods, (0..CONVERSATIONS).map(conversation).collect()).await;
    pods[0].set_page(page("B05/page-awake.txt", 16));
    believes(&envoy, &pods).await;
    for n in 0..CONVERSATIONS / 2 {
        assert_eq!(chosen(&envoy, &pods, conversation(n)).await, 0, "held, though it is a little busier");
    }

    pods[0].set_page(page("B05/page-asleep.txt", 0));
    pods[1..].iter().for_each(|pod| pod.set_page(page("B05/page-awake.txt", 2)));
    believes(&envoy, &pods).await;
    let before = pods[0].begun();
    for n in 0..30 {
        chosen(&envoy, &pods, chat(&format!("{n}. new"), 1)).await;
        chosen(&envoy, &pods, Request::get("/v1/models")).await;
    }
    chosen(&envoy, &pods, conversation(0)).await;
    assert_eq!(pods[0].begun(), before, "a pod that sleeps got a request");

    pods[0].set_page(page("B05/page-awake.txt", 16));
    believes(&envoy, &pods).await;
    for n in 1..CONVERSATIONS {
        assert_ne!(chosen(&envoy, &pods, conversation(n)).await, 0, "conversation {n}: its cache is empty");
    }
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

/// B14.
#[tokio::test]
async fn a_restart_shows_without_a_start_time() {
    const CONVERSATIONS: usize = 6;
    let pods = TestPod::several(3).await;
    pods.iter().for_each(|pod| pod.answer_all(computed_answer));
    let envoy = Envoy::ready(&pods).await;
    let conversation = |n: usize| chat(&format!("{n}. talk"), 30);
    pods[0].set_page(page("B14/page-before.txt", 16));
    first_computes(&envoy, &pods, (0..CONVERSATIONS).map(conversation).collect()).await;
    for n in 0..CONVERSATIONS / 2 {
        assert_eq!(chosen(&envoy, &pods, conversation(n)).await, 0, "held, though it is a little busier");
    }
    pods[0].set_page(page("B14/page-after-restart.txt", 16));
    believes(&envoy, &pods).await;
    for n in 0..CONVERSATIONS {
        assert_ne!(chosen(&envoy, &pods, conversation(n)).await, 0, "conversation {n}: its cache is empty");
    }
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

/// Gives the first two of the pods six prompts each: those of the first have only `said` as an answer, and
/// those of the second have a token. Then new prompts must go to the second.
async fn waiting_prompts_repel(
    envoy: &Envoy,
    pods: &[TestPod],
    path: &str,
    prompt: impl Fn(usize) -> Value,
    said: &'static str,
    token: &'static str,
) {
    let mut held = Vec::new();
    for (full, other) in [(0, 1), (1, 0)] {
        pods[other].set_load(busy(2000));
        pods[full].set_load(Load::default());
        believes(envoy, pods).await;
        for n in 0..6 {
            let (stream, answer) = Stream::new();
            pods[full].answer_next(answer);
            let request = Request::post(path, &prompt(full * 100 + n));
            let before = pods[full].begun();
            let reply = tokio::spawn(request.send(envoy.routed));
            until("the pod has the prompt", async || (pods[full].begun() > before).then_some(())).await;
            stream.chunk(said);
            if full == 1 {
                stream.chunk(token);
            }
            held.push((stream, reply));
        }
    }
    pods.iter().for_each(|pod| pod.set_load(Load::default()));
    believes(envoy, pods).await;
    for n in 0..12 {
        assert_eq!(
            chosen(envoy, pods, chat(&format!("{n}. new"), 4)).await,
            1,
            "prompts wait on the other pod"
        );
    }
}

/// What a pod says before it has computed anything, and the first tokens of two APIs.
const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r1\"}}\n\n\
    event: response.in_progress\ndata: {\"type\":\"response.in_progress\",\"response\":{\"id\":\"r1\"}}\n\n";
const DELTA: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Yes\"}\n\n";
const TOKEN: &str = "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Yes\"}}]}\n\n";

/// B02, its first half.
#[tokio::test]
async fn a_response_that_is_created_has_no_first_token_yet() {
    let prompt = |n| {
        let mut body: Value = serde_json::from_slice(&input("B02/body.json")).unwrap();
        body["instructions"] = format!("{n}. {}", body["instructions"].as_str().unwrap()).into();
        body
    };
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    waiting_prompts_repel(&envoy, &pods, "/v1/responses", prompt, CREATED, DELTA).await;
}

/// B02, its second half.
#[tokio::test]
async fn a_pod_that_answers_responses_is_not_taken_for_a_faster_one() {
    const COMPUTES: Duration = Duration::from_millis(300);
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    let prompt = |n: usize| format!("{n:>6} ").repeat(2300);
    let chat = |n: usize| {
        let messages = json!([{"role": "user", "content": prompt(n)}]);
        Request::post("/v1/chat/completions", &json!({"model": "m", "stream": true, "messages": messages}))
    };
    let response =
        |n: usize| Request::post("/v1/responses", &json!({"model": "m", "stream": true, "input": prompt(n)}));
    for n in 0..8 {
        for (pod, other) in [(0, 1), (1, 0)] {
            pods[other].set_load(busy(2000));
            pods[pod].set_load(Load::default());
            believes(&envoy, &pods).await;
            let (stream, answer) = Stream::new();
            pods[pod].answer_next(answer);
            let request = if pod == 0 { response(n) } else { chat(100 + n) };
            let before = pods[pod].begun();
            let reply = tokio::spawn(request.send(envoy.routed));
            until("the pod has the prompt", async || (pods[pod].begun() > before).then_some(())).await;
            if pod == 0 {
                stream.chunk(CREATED);
            }
            tokio::time::sleep(COMPUTES).await;
            stream.chunk(if pod == 0 { DELTA } else { TOKEN });
            drop(stream);
            assert_eq!(reply.await.unwrap().status, 200);
        }
    }
    pods.iter().for_each(|pod| {
        pod.set_load(Load::default());
        pod.answer_all(computed_answer);
    });
    believes(&envoy, &pods).await;
    let mut share = [0, 0];
    for n in 0..40 {
        share[chosen(&envoy, &pods, chat(200 + n)).await] += 1;
    }
    println!("{share:?} of 40 prompts");
    assert!(share.iter().all(|&count| count >= 8), "one is taken for faster: {share:?}");
}

/// B18, with both ways to name pods: by headers with the answer filter, and in a list without it.
#[tokio::test]
async fn a_keep_alive_is_no_first_token() {
    let said = String::from_utf8(input("B18/answer.sse")).unwrap();
    let comments: String = said.split_inclusive("\n\n").take(2).collect();
    assert!(comments.starts_with(": keep-alive"));
    let prompt = |n| {
        let words: String = (0..3000).map(|word| format!("{n:>4} {word:<7}")).collect();
        json!({"model": "/model/qwen", "stream": true, "messages": [{"role": "user", "content": words}]})
    };
    for said in [comments.leak(), "event: ping\ndata: {\"type\": \"ping\"}\n\n"] {
        let pods = TestPod::several(2).await;
        let envoy = Envoy::ready(&pods).await;
        waiting_prompts_repel(&envoy, &pods, "/v1/chat/completions", prompt, said, TOKEN).await;

        let pods = TestPod::several(2).await;
        let endpoints = Endpoints::of(&[(&pods[0], "HEALTHY"), (&pods[1], "HEALTHY")]);
        let envoy = attached(&pods, &endpoints, true).await;
        let known = "the pods are discovered once requests go to their cluster";
        until(known, async || {
            assert_eq!(Request::get("/v1/models").send(envoy.routed).await.status, 200);
            (pods.iter().all(|pod| pod.scrapes() > 2)).then_some(())
        })
        .await;
        waiting_prompts_repel(&envoy, &pods, "/v1/chat/completions", prompt, said, TOKEN).await;
    }
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

/// A metrics page of vLLM with these values.
fn page_of(running: u32, kv_usage: f64, queries: u64, hits: u64) -> String {
    let values = [
        ("vllm:num_requests_running{", f64::from(running)),
        ("vllm:kv_cache_usage_perc{", kv_usage),
        ("vllm:prefix_cache_queries_total{", queries as f64),
        ("vllm:prefix_cache_hits_total{", hits as f64),
    ];
    let path = repository().join("tests/fixtures/vllm-0.32/metrics-idle.txt");
    let page = std::fs::read_to_string(path).unwrap();
    let lines = page.lines().map(|line| {
        let value = values.iter().find(|(name, _)| line.starts_with(name));
        match (value, line.split_once("} ")) {
            (Some((_, value)), Some((name, _))) => format!("{name}}} {value:?}\n"),
            _ => format!("{line}\n"),
        }
    });
    lines.collect()
}

/// B13.
#[tokio::test]
async fn a_cache_that_is_emptied_while_the_process_lives_is_noticed() {
    const CONVERSATIONS: usize = 18;
    const TOKENS: u64 = 4000;
    fn answer(details: Value) -> Answer {
        let usage = json!({"prompt_tokens": TOKENS, "completion_tokens": 1, "total_tokens": TOKENS + 1, "prompt_tokens_details": details});
        let body = json!({"choices": [{"index": 0, "message": {"content": "Yes."}}], "usage": usage});
        Answer::After(Duration::from_millis(160), Box::new(Answer::json(200, body.to_string())))
    }
    for reports_cached in [false, true] {
        let pods = TestPod::several(3).await;
        pods.iter().for_each(|pod| {
            pod.set_page(page_of(0, 0.0, 0, 0));
            pod.answer_all(|| answer(Value::Null));
        });
        let envoy = Envoy::ready(&pods).await;
        let conversation = |n: usize| chat(&format!("{n}. talk"), 16);
        for pod in &pods[1..] {
            pod.set_page(page_of(600, 0.0, 0, 0));
        }
        believes(&envoy, &pods).await;
        let mut queries = 0;
        for n in 0..CONVERSATIONS {
            assert_eq!(chosen(&envoy, &pods, conversation(n)).await, 0);
            queries += TOKENS;
            pods[0].set_page(page_of(0, 0.0, queries, 0));
        }
        // The cache is emptied: whatever goes on, finds nothing.
        if reports_cached {
            pods[0].answer_all(|| answer(json!({"cached_tokens": 0})));
        }
        pods[0].set_page(page_of(8, 0.2, queries, 0));
        pods[1..].iter().for_each(|pod| pod.set_page(page_of(0, 0.0, 0, 0)));
        believes(&envoy, &pods).await;
        let mut went = Vec::new();
        for n in (0..CONVERSATIONS).map(|n| n * 7 % CONVERSATIONS) {
            let pod = chosen(&envoy, &pods, conversation(n)).await;
            if pod == 0 {
                queries += TOKENS;
                pods[0].set_page(page_of(8, 0.2, queries, 0));
            }
            went.push(pod);
        }
        println!("cached tokens reported: {reports_cached}; pods {went:?}");
        assert_eq!(went[0], 0, "it was believed to hold its conversations");
        assert!(went[CONVERSATIONS / 2..].iter().all(|&pod| pod != 0), "{reports_cached}: {went:?}");
        assert!(envoy.stat("wasmcustom.warmpath_emptied_caches_total.pool=default;").await <= 1);
        if !reports_cached {
            assert_eq!(envoy.stat("wasmcustom.warmpath_emptied_caches_total.pool=default;").await, 1);
        }
    }
}

/// B26.
#[tokio::test]
async fn the_same_tools_in_another_spelling_are_the_same_prefix() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let spelt = |name: &str| post("/v1/chat/completions", input(&format!("B26/{name}.json")));
    first_computes(&envoy, &pods, vec![spelt("tools-compact")]).await;
    pods[0].set_load(busy(6));
    believes(&envoy, &pods).await;
    assert_ne!(chosen(&envoy, &pods, chat("other", 8)).await, 0, "load decides for a new prompt");
    assert_eq!(chosen(&envoy, &pods, spelt("tools-spaced-and-reordered")).await, 0);
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
