//! Full is not broken: a pod that takes no more requests at the moment is passed over until its next page,
//! and nothing is held against it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use warmpath_tests::{Answer, Envoy, Load, Reply, Request, SimPod, TestPod};

use crate::SIMULATOR;

/// A request at a time and two that wait: what a client sends beyond nine to three such pods is refused.
const NARROW: [&str; 8] =
    ["--profile", "h100", "--step-ms", "40", "--max-num-seqs", "1", "--max-num-queued-reqs", "2"];
const PODS: usize = 3;

/// vLLM 0.32's refusal of an answer that is not streamed.
fn refusal() -> Answer {
    let body = json!({"error": {"message": "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.", "type": "Service Unavailable", "param": null, "code": 503}});
    Answer::json(503, body.to_string())
}

fn request(n: u64, stream: bool) -> Request {
    let words: String = (0..100).map(|word| format!("{n}.{word} ")).collect();
    Request::post(
        "/v1/chat/completions",
        &json!({"model": "/model/qwen", "stream": stream, "max_tokens": 8, "ignore_eos": true,
            "messages": [{"role": "user", "content": words}]}),
    )
}

/// Whether a request was served; a refusal must have OpenAI's form, whatever was asked for.
fn served(reply: &Reply) -> bool {
    if reply.status == 200 {
        assert!(!reply.text().contains("\"error\""), "{}", reply.text());
        return true;
    }
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"), "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], 503);
    let seconds: u64 = reply.header("retry-after").expect("no Retry-After").parse().unwrap();
    assert!((1..=60).contains(&seconds));
    false
}

async fn count(envoy: &Envoy, name: &str) -> i64 {
    // Envoy 1.37 puts the name of the cluster before those of the answer filter.
    envoy.stats(&format!("warmpath_{name}.pool=default;")).await.values().sum()
}

#[tokio::test]
async fn a_refusal_with_status_503_moves_on_and_cools_no_pod_down() {
    let pods = TestPod::several(PODS).await;
    let envoy = Envoy::ready(&pods).await;
    for n in 0..12 {
        let full = n % PODS;
        pods[full].answer_next(refusal());
        let reply = request(n as u64, false).send(envoy.routed).await;
        assert_eq!(reply.status, 200);
        pods.iter().for_each(TestPod::forget_answers);
        envoy.sees(&pods).await;
    }
    let full = count(&envoy, "early_errors_total.reason=full;").await;
    assert!(full > 0, "no request met a full pod");
    assert_eq!(count(&envoy, "failovers_total").await, full);
    // Nobody cools down: each gets its share of requests that go round, at once. Pods that are equal are
    // drawn at random: fewer than 8 of 90 happen once in thirty million runs.
    for n in 0..12 {
        pods[n % PODS].answer_next(refusal());
    }
    let before: Vec<usize> = pods.iter().map(|pod| pod.received().len()).collect();
    for _ in 0..90 {
        pods.iter().for_each(TestPod::forget_answers);
        assert_eq!(Request::get("/v1/models").send(envoy.routed).await.status, 200);
    }
    for (pod, before) in pods.iter().zip(before) {
        assert!(pod.received().len() >= before + 8, "{} is left alone", pod.address());
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn without_the_answer_filter_a_503_that_says_full_cools_no_pod_down() {
    let pods = TestPod::several(PODS).await;
    let envoy = Envoy::of(&pods).switch("--no-answer-filter").start().await;
    envoy.sees_ready(PODS).await;
    for round in 0..5 {
        pods.iter().for_each(|pod| pod.answer_all(refusal));
        assert_eq!(request(round, false).send(envoy.routed).await.status, 503);
        pods.iter().for_each(|pod| pod.answer_all(|| Answer::Completion));
        assert_eq!(request(100 + round, false).send(envoy.routed).await.status, 200);
    }
    let unrouted = envoy.stats("warmpath_unrouted_total").await;
    assert!(unrouted.values().all(|&count| count == 0), "{unrouted:?}");
    envoy.accounts_for_nothing().await;
}

/// What Envoy passes over it does not show: the page tells that the pod which was passed over was full.
#[tokio::test]
async fn without_the_answer_filter_the_page_tells_that_a_pod_was_full_and_not_broken() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).switch("--no-answer-filter").flag("--metrics-port", "0").start().await;
    envoy.sees_ready(2).await;
    let says = |rejections: u32| {
        let line = format!(
            "vllm:admission_rejections_total{{model_name=\"m\",reason=\"max_num_queued_reqs\"}} {rejections}.0\n"
        );
        pods.iter().for_each(|pod| pod.set_page(format!("{}{line}", Load::default().page())));
    };
    says(0);
    envoy.sees(&pods).await;
    let metrics = envoy.listener("metrics").await;
    for round in 0..24 {
        pods[0].answer_next(refusal());
        assert_eq!(request(round, false).send(envoy.routed).await.status, 200);
        pods[0].forget_answers();
        says(round as u32 + 1);
        envoy.sees(&pods).await;
        // Long before the cool-down of a failure would end.
        let page = Request::get("/metrics").send(metrics).await.text();
        assert!(page.contains("status=\"ready\",pool=\"default\"} 1"), "{page}");
        assert!(!page.contains("status=\"cooling_down\",pool=\"default\"} 1"), "round {round}: {page}");
    }
    // Of two equal pods a request meets the first one: never in 24 rounds is once in 17 million runs.
    assert!(count(&envoy, "failovers_total").await > 0, "no request met the full pod");
}

#[tokio::test]
async fn a_full_pod_is_not_asked_again_before_its_next_page() {
    let pods = TestPod::several(PODS).await;
    // Between two scrapes is time for all requests of this test.
    let envoy = Envoy::of(&pods).flag("--scrape-ms", "5000").start().await;
    envoy.sees_ready(PODS).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    pods[0].answer_all(refusal);
    let start = Instant::now();
    // That none of them goes to this pod first happens once in eleven million runs.
    for n in 0..40 {
        assert_eq!(request(n, false).send(envoy.routed).await.status, 200);
    }
    // Without a page a refusal counts for a second.
    let most = 1 + start.elapsed().as_secs() as usize;
    assert!((1..=most).contains(&pods[0].received().len()), "{} requests", pods[0].received().len());
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn when_all_are_full_the_client_learns_when_the_shortest_queue_ends() {
    let pods = TestPod::several(PODS).await;
    pods.iter().for_each(|pod| pod.answer_all(refusal));
    let envoy = Envoy::ready(&pods).await;
    let after = async |n| {
        let reply = request(n, n % 2 == 0).send(envoy.routed).await;
        assert!(!served(&reply));
        reply.header("retry-after").unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(after(0).await, 1, "nothing waits");
    // Mean work is that of the requests so far, some 200 tokens, at 5,500 a second.
    pods.iter().for_each(|pod| pod.set_load(Load { waiting: 400, ..Load::default() }));
    envoy.sees(&pods).await;
    let seconds = after(1).await;
    assert!((5..=40).contains(&seconds), "{seconds} s");
    // Refusals are no failures: as soon as there is room, requests are served by a pod that is named.
    pods.iter().for_each(|pod| pod.answer_all(|| Answer::Completion));
    for n in 10..16 {
        assert_eq!(request(n, false).send(envoy.routed).await.status, 200);
    }
    assert!(envoy.stats("warmpath_unrouted_total").await.values().all(|&count| count == 0));
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn a_burst_beyond_all_queues_is_refused_in_form_and_leaves_nothing_behind() {
    let pods: Vec<SimPod> = (0..PODS).map(|_| SimPod::start(SIMULATOR, &NARROW)).collect();
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect()).concurrency(2).start().await;
    envoy.sees_ready(PODS).await;
    let mut burst = JoinSet::new();
    for n in 0..40 {
        burst.spawn(request(n, n % 2 == 0).send(envoy.routed));
    }
    let replies = burst.join_all().await;
    let answered = replies.iter().filter(|reply| served(reply)).count();
    println!("{answered} of 40 at once were served");
    assert!((2 * PODS..40).contains(&answered), "{answered} of 40 at once were served");
    for n in 100..130 {
        let reply = request(n, n % 2 == 0).send(envoy.routed).await;
        assert!(served(&reply), "refused after the burst");
    }
    let bad = envoy.stats("warmpath_(unrouted|early_errors)_total").await;
    assert!(bad.iter().all(|(name, count)| *count == 0 || name.contains("reason=full")), "{bad:?}");
    envoy.accounts_for_nothing().await;
}
