//! A pod that fails fast attracts nobody, and costs no client anything that another pod can serve (B11).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use warmpath_tests::{Answer, Envoy, Load, Received, Reply, Request, TestPod, repository, until};

const CLIENTS: usize = 4;
const REQUESTS: usize = 60;
/// Requests that a pod may get to see whether it still refuses: one after 1, 2, 4 and 8 seconds, and those
/// that were under way with each.
const PROBES: usize = 12;

fn events(text: &'static str) -> Answer {
    Answer::Whole(200, vec![("content-type", "text/event-stream".to_owned())], text.into())
}

fn served() -> Answer {
    Answer::tokens(Duration::from_millis(300), Duration::ZERO, 2)
}

fn case(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/fixtures/cases/B11").join(name)).unwrap()
}

/// A question about the handbook of the case, from the start another one for each number.
fn question(model: &str, n: usize, stream: bool) -> Request {
    let mut body: Value = serde_json::from_slice(&case("body.json")).unwrap();
    body["model"] = model.into();
    body["stream"] = stream.into();
    let question = format!("question {n}: {}", "which shelf? ".repeat(8));
    body["messages"].as_array_mut().unwrap().insert(0, json!({"role": "system", "content": question}));
    Request::post("/v1/chat/completions", &body)
}

/// What four clients get who send sixty questions, one after the other each.
async fn ask(envoy: &Envoy, model: &'static str, stream: bool) -> Vec<Reply> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let to = envoy.routed;
        clients.spawn(async move {
            let mut replies = Vec::new();
            for n in 0..REQUESTS / CLIENTS {
                replies.push(question(model, client * 1000 + n, stream).send(to).await);
            }
            replies
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_pod_that_refuses_what_others_serve_gets_no_more_than_probes_and_no_client_notices() {
    type Refusal = fn(&Received) -> Answer;
    let refusals: [(&str, Refusal); 6] = [
        ("401", |_| Answer::json(401, r#"{"error":"Unauthorized"}"#)),
        ("404", |_| Answer::json(404, case("answer-404.json"))),
        ("429", |_| Answer::json(429, r#"{"error":{"message":"slow down","code":429}}"#)),
        ("502", |_| Answer::json(502, "upstream connect error")),
        ("an error event", |_| {
            events("data: {\"error\":{\"message\":\"no such key\",\"code\":401}}\n\ndata: [DONE]\n\n")
        }),
        ("nothing", |_| events("data: [DONE]\n\n")),
    ];
    for (name, refusal) in refusals {
        let pods = TestPod::several(3).await;
        let envoy = Envoy::of(&pods).concurrency(2).start().await;
        envoy.sees_ready(3).await;
        pods[0].answer_by(refusal);
        pods[1..].iter().for_each(|pod| pod.answer_all(served));
        let replies = ask(&envoy, "adapter-blue", true).await;
        let refused = pods[0].begun();
        println!("{name}: the pod got {refused} of {REQUESTS}");
        for reply in replies {
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
            assert!(reply.text().contains("delta"), "{name}: {}", reply.text());
            assert_eq!(reply.header("x-warmpath-ask-another"), None);
        }
        assert!((1..=PROBES).contains(&refused), "{name}: the pod got {refused} of {REQUESTS}");
        assert_eq!(envoy.stats("warmpath_upstream_failures_total").await.values().sum::<i64>(), 0, "{name}");
        envoy.accounts_for_nothing().await;
    }
}

#[tokio::test]
async fn an_adapter_that_one_pod_has_is_found_there_and_others_get_the_rest() {
    let pods = TestPod::several(5).await;
    let envoy = Envoy::ready(&pods).await;
    for (n, pod) in pods.iter().enumerate() {
        pod.answer_by(move |received| {
            let body: Value = serde_json::from_slice(&received.body).unwrap();
            if body["model"] == "adapter-blue" && n != 4 {
                return Answer::json(404, case("answer-404.json"));
            }
            served()
        });
    }
    // Three pods are asked for a request, and those that lack the adapter are known then.
    let mut tries = 0;
    while pods.iter().any(|pod| pod.begun() == 0) {
        let reply = question("adapter-blue", 100 + tries, false).send(envoy.routed).await;
        assert!([200, 404].contains(&reply.status.as_u16()));
        tries += 1;
        assert!(tries <= 20, "a pod is not asked");
    }
    let replies = ask(&envoy, "adapter-blue", false).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let wasted: usize = pods[..4].iter().map(TestPod::begun).sum();
    assert!(wasted <= 4 * PROBES, "{wasted} requests went to pods without the adapter");
    // They take everything else.
    let before = pods[4].begun();
    let replies = ask(&envoy, "/model/qwen", false).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(pods[4].begun() - before <= REQUESTS / 2, "{} of {REQUESTS}", pods[4].begun() - before);
}

/// A chat of many words about a topic.
fn chat(topic: &str, model: &str) -> Request {
    let words: String = (0..1500).map(|n| format!("{topic:>10} {n:<8} ")).collect();
    Request::post(
        "/v1/chat/completions",
        &json!({"model": model, "messages": [{"role": "user", "content": words}]}),
    )
}

#[tokio::test]
async fn a_prompt_that_no_pod_serves_costs_no_pod_its_place() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    for pod in &pods {
        pod.answer_by(|received| {
            let text = String::from_utf8_lossy(&received.body);
            match [401, 404, 500, 502].iter().find(|status| text.contains(&format!("gets {status}"))) {
                Some(&status) => Answer::json(status, r#"{"error":{"message":"no"}}"#),
                None => Answer::After(Duration::from_millis(80), Box::new(Answer::Completion)),
            }
        });
    }
    let conversation = |n: usize| chat(&format!("talk {n}"), "/model/qwen");
    let mut homes = Vec::new();
    for n in 0..9 {
        homes.push(conversation(n).send(envoy.routed).await.pod().to_owned());
    }
    for status in [401, 404, 500, 502] {
        for round in 0..6 {
            let bad = chat(&format!("gets {status}"), "/model/qwen").send(envoy.routed).await;
            assert_eq!(bad.status, status, "{}", bad.text());
            for (n, home) in homes.iter().enumerate() {
                let now = conversation(n).send(envoy.routed).await;
                assert_eq!(
                    (now.status.as_u16(), now.pod()),
                    (200, home.as_str()),
                    "{status}, round {round}: {n}"
                );
            }
        }
    }
    assert_eq!(envoy.stats("warmpath_unrouted_total").await.values().sum::<i64>(), 0);
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn what_a_pod_says_of_a_path_that_is_not_inference_reaches_the_client() {
    const NOT_FOUND: &str = r#"{"detail":"Not Found"}"#;
    let mut pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    pods.iter().for_each(|pod| pod.answer_all(|| Answer::json(404, NOT_FOUND)));
    // Were it asked after the others, the client would see its failure instead of their answer.
    pods[2].kill().await;
    for n in 0..30 {
        let reply = Request::get(&format!("/unknown/{n}")).send(envoy.routed).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (404, NOT_FOUND.to_owned()));
    }
    let attempts: usize = pods[..2].iter().map(TestPod::begun).sum();
    assert_eq!(attempts, 30);
}

#[tokio::test]
async fn requests_that_all_pods_refuse_are_not_sent_three_times_for_long() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    pods.iter().for_each(|pod| pod.answer_all(|| Answer::json(401, r#"{"error":"Unauthorized"}"#)));
    for n in 0..100 {
        let reply = question("/model/qwen", n, false).send(envoy.routed).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (401, r#"{"error":"Unauthorized"}"#.to_owned()));
    }
    let attempts: usize = pods.iter().map(TestPod::begun).sum();
    // Twenty at first, then one a second.
    assert!((140..=200).contains(&attempts), "{attempts} attempts");
}

#[tokio::test]
async fn without_the_answer_filter_a_pod_that_refuses_gets_no_more_than_its_share() {
    for status in [401, 404, 429] {
        let pods = TestPod::several(3).await;
        let envoy = Envoy::of(&pods).switch("--no-answer-filter").start().await;
        envoy.sees_ready(3).await;
        pods[0].answer_by(move |_| Answer::json(status, r#"{"error":{"message":"no"}}"#));
        pods[1..].iter().for_each(|pod| pod.answer_all(served));
        ask(&envoy, "adapter-blue", false).await;
        let refused = pods[0].begun();
        println!("{status}: {refused} of {REQUESTS} were refused");
        assert!((1..=REQUESTS / 3).contains(&refused), "{status}: {refused} of {REQUESTS} were refused");
    }
}

/// A list of pods changes while one of them refuses: it leaves, it comes back, and others leave while
/// requests are on their way to them.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_meets_a_refusal_while_the_list_of_pods_changes() {
    const CHANGES: usize = 40;
    let pods = TestPod::several(4).await;
    pods[0].answer_by(|_| Answer::json(429, r#"{"error":{"message":"slow down","code":429}}"#));
    let mut envoy = Envoy::of(&pods).concurrency(2).log_level("warn").reloadable(20).start().await;
    envoy.sees_ready(4).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (to, done) = (envoy.routed, Arc::clone(&done));
        clients.spawn(async move {
            let mut refused = Vec::new();
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                // Each request is of a kind of its own, so that what is known of earlier ones keeps none
                // away.
                let model: &'static str = format!("model-{client}-{sent}").leak();
                let reply = question(model, client * 100_000 + sent, sent % 2 == 0).send(to).await;
                if reply.status != 200 {
                    refused.push(format!("{}: {}", reply.status, reply.text()));
                }
                sent += 1;
            }
            (sent, refused)
        });
    }
    for change in 0..CHANGES {
        // The one that refuses is there in every other list.
        let gone = [1 + change % 3, if change % 2 == 0 { 0 } else { 1 + change % 3 }];
        let list: Vec<String> =
            (0..4).filter(|pod| !gone.contains(pod)).map(|pod| pods[pod].address()).collect();
        envoy.reload(|now| (now["pods"], now["revision"]) = (json!(list), json!(change + 1))).await;
    }
    done.store(true, Ordering::Relaxed);
    let (mut sent, mut refused) = (0, Vec::new());
    for (of_client, complaints) in clients.join_all().await {
        sent += of_client;
        refused.extend(complaints);
    }
    println!("{sent} requests, {} met the pod that refuses", pods[0].begun());
    assert!(pods[0].begun() > 20, "too few requests met the pod that refuses");
    assert!(refused.is_empty(), "{} of {sent} were refused: {refused:?}", refused.len());
}

fn slow_down() -> Answer {
    Answer::json(429, r#"{"error":{"message":"slow down","code":429}}"#)
}

/// Pods with so many requests of others each, as Envoy's collector has seen them.
async fn with_loads(envoy: &Envoy, pods: &[TestPod], running: &[u32]) {
    for (pod, &running) in pods.iter().zip(running) {
        pod.set_load(Load { running, ..Load::default() });
    }
    // What others send counts from the second page on.
    for _ in 0..3 {
        envoy.sees(pods).await;
    }
}

/// Two pods break the connection off and the third refuses: then Envoy asks one that it finds by itself,
/// unless the refusal is one that every pod may give. It may find one of those that were asked, so what it
/// answers is left to chance.
#[tokio::test]
async fn after_two_pods_that_fail_a_refusal_of_the_third_that_passes_is_not_the_last_word() {
    for (status, attempts) in [(429, 4), (502, 4), (401, 3)] {
        let pods = TestPod::several(4).await;
        let envoy = Envoy::ready(&pods).await;
        with_loads(&envoy, &pods, &[0, 40, 80, 400]).await;
        pods[..2].iter().for_each(|pod| pod.answer_all(|| Answer::Reset));
        pods[2].answer_by(move |_| Answer::json(status, r#"{"error":{"message":"slow down"}}"#));
        let reply = question("m", 0, false).header("x-request-id", "fourth").send(envoy.routed).await;
        let line = envoy.access("fourth").await;
        assert_eq!(line["chosen"], pods[0].address());
        assert_eq!(line["attempts"], attempts, "{status}: {}", reply.text());
        assert!(pods[..3].iter().all(|pod| !pod.received().is_empty()), "{status}");
    }
}

/// A pod that was asked first has left the list since, so that fewer pods are known than were named.
#[tokio::test]
async fn a_pod_that_has_left_since_is_not_taken_for_one_of_those_that_are_left_to_ask() {
    let pods = TestPod::several(3).await;
    let mut envoy = Envoy::of(&pods).log_level("info").reloadable(20).start().await;
    envoy.sees_ready(3).await;
    with_loads(&envoy, &pods, &[0, 40, 80]).await;
    pods[0].answer_all(|| Answer::After(Duration::from_secs(2), Box::new(Answer::Reset)));
    pods[1].answer_all(slow_down);
    let reply = tokio::spawn(question("m", 0, false).header("x-request-id", "left").send(envoy.routed));
    until("the first pod was asked", async || (pods[0].begun() > 0).then_some(())).await;
    let rest: Vec<String> = pods[1..].iter().map(TestPod::address).collect();
    envoy.reload(|settings| (settings["pods"], settings["revision"]) = (json!(rest), json!(1))).await;
    let known = "wasmcustom.warmpath_pods.pool=default;";
    until("two pods are known", async || (envoy.stat(known).await == 2).then_some(())).await;
    assert_eq!(pods[1].begun(), 0, "the first pod has answered too soon, so that nothing is shown");
    let reply = reply.await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.pod(), pods[2].address());
    assert_eq!(envoy.access("left").await["attempts"], 3);
}

/// All of a burst meet a pod that refuses: each asks another one, however many do at once.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_refusals_at_once_none_reaches_a_client() {
    const BURST: usize = 200;
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).concurrency(4).start().await;
    envoy.sees_ready(2).await;
    with_loads(&envoy, &pods, &[0, 300]).await;
    // Nobody is refused before all are under way.
    pods[0].answer_all(|| Answer::After(Duration::from_millis(500), Box::new(slow_down())));
    let burst = (0..BURST).map(|n| question("m", n, n % 2 == 0).send(envoy.routed));
    let replies = futures::future::join_all(burst).await;
    let refused: Vec<String> =
        replies.iter().filter(|reply| reply.status != 200).map(|reply| reply.text()).collect();
    assert!(refused.is_empty(), "{} of {BURST}: {refused:?}", refused.len());
    let met = pods[0].received().len();
    println!("{met} of {BURST} met the pod that refuses");
    assert!(met > 50, "{met} requests met the pod that refuses, so that nothing is shown");
}

/// Requests with a wrong key, which all pods refuse, are no reason to believe a pod that refuses others for
/// another reason.
#[tokio::test]
async fn a_client_with_a_wrong_key_costs_no_other_client_a_second_try() {
    const WRONG: usize = 60;
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    for (nth, pod) in pods.iter().enumerate() {
        pod.answer_by(move |received| match received.headers.contains_key("authorization") {
            true => Answer::json(401, r#"{"error":"Unauthorized"}"#),
            false if nth == 0 => slow_down(),
            false => Answer::Completion,
        });
    }
    for n in 0..WRONG {
        let request = question("m", n, false).header("authorization", "Bearer wrong");
        assert_eq!(request.send(envoy.routed).await.status, 401);
    }
    let attempts: usize = pods.iter().map(TestPod::begun).sum();
    assert!(attempts < 3 * WRONG, "the first refusal is not believed yet, so that nothing is shown");
    let before = pods[0].begun();
    // Each request is of a kind of its own, so that what is known of earlier ones keeps none away.
    for n in 0..60 {
        let model: &'static str = format!("model-{n}").leak();
        let reply = question(model, n, n % 2 == 0).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "request {n}: {}", reply.text());
    }
    assert!(pods[0].begun() > before, "no request met the pod that refuses, so that nothing is shown");
}

/// All pods cool down, so that none is named, and Envoy finds one by itself.
#[tokio::test]
async fn a_refusal_that_a_request_meets_for_which_no_pod_is_named_is_not_the_last_word() {
    let pods = TestPod::several(3).await;
    // While pages fail no pod comes back before its time.
    let envoy = Envoy::ready(&pods).await;
    pods.iter().for_each(|pod| pod.set_metrics_status(503));
    let unrouted = async || envoy.stats("warmpath_unrouted_total").await.values().sum::<i64>();
    let mut met = 0;
    for n in 0..40 {
        pods.iter().for_each(|pod| pod.answer_all(|| Answer::Reset));
        let before = unrouted().await;
        for again in 0..6 {
            question("m", 1000 * n + again, false).send(envoy.routed).await;
        }
        pods[0].answer_all(slow_down);
        pods[1..].iter().for_each(|pod| pod.answer_all(|| Answer::Completion));
        let (refused, known) = (pods[0].begun(), unrouted().await);
        let reply = question("m", 1000 * n + 10, n % 2 == 0).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "round {n}: {}", reply.text());
        if known > before && unrouted().await > known && pods[0].begun() > refused {
            met += 1;
        }
        if met == 3 {
            return;
        }
    }
    panic!("{met} requests without a named pod met the one that refuses: too few");
}
