//! Criticality: when all pods are busy, requests that may be shed are refused, and those that may not find a
//! free pod.

use serde_json::{Value, json};
use warmpath_tests::{Envoy, Flood, Random, Received, Request, TestPod, until};

fn classes() -> Value {
    json!({
        "models": [{"name": "vital", "criticality": "Critical"}, {"name": "batch", "criticality": "Sheddable"}],
        "objectives": [{"name": "nightly", "priority": -7}, {"name": "paying", "priority": 5}],
        "set_priority": true,
    })
}

fn stream(model: &str, seed: u64) -> Request {
    let prompt = Random::text(seed, 700);
    let body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": prompt}]});
    Request::post("/v1/chat/completions", &body)
}

const SHED: &str = "wasmcustom.warmpath_rejected_total.reason=saturated;.pool=default;";

#[tokio::test(flavor = "multi_thread")]
async fn the_critical_find_a_free_pod_while_what_may_be_shed_overloads_the_pool() {
    const CRITICAL: u64 = 12;
    let pods = TestPod::several(4).await;
    pods.iter().for_each(|pod| pod.answer_all(Flood::answer));
    let envoy = Envoy::of(&pods).settings(&classes()).concurrency(4).log_level("warn").start().await;
    envoy.sees_ready(4).await;
    Flood::prepare(&envoy, pods.len(), |n| stream("other", n)).await;

    // Forty clients of which the pods can serve some eight at a time.
    let flood = Flood::start(envoy.routed, 40, "rejected-saturated", |n| stream("batch", n)).await;
    for n in 0..CRITICAL {
        let reply = stream("vital", 50_000 + n).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "a critical request was refused: {}", reply.text());
    }
    let (served, shed) = flood.stop().await;
    let is = |request: &Received, model: &str| {
        serde_json::from_slice::<Value>(&request.body).is_ok_and(|body| body["model"] == model)
    };
    let crowded = Flood::met(&pods, |request| is(request, "vital"), |request| is(request, "batch"));
    let kept = pods.iter().filter(|pod| !pod.received().iter().any(|request| is(request, "batch"))).count();
    println!(
        "{served} of what may be shed were served and {shed} shed; {crowded} waited where one of {CRITICAL} critical came"
    );
    assert!(served > 0, "what may be shed is served as far as there is room");
    assert_eq!(crowded, 0, "a critical request had to wait behind others");
    assert_eq!(kept, 1, "pods without a request that may be shed, in all of that time");
    assert_eq!(envoy.stat(SHED).await, shed as i64);
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_numbers_shed_nothing_and_only_sheddable_requests_are_shed() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).settings(&classes()).start().await;
    envoy.sees_ready(2).await;
    // Pods that say nothing any more, whatever they said last.
    pods.iter().for_each(|pod| pod.set_metrics_status(500));
    for n in 0..6 {
        assert_eq!(stream("batch", n).send(envoy.routed).await.status, 200);
    }
    // Busy pods.
    pods.iter().for_each(|pod| pod.answer_all(Flood::answer));
    Flood::prepare(&envoy, pods.len(), |n| stream("other", n)).await;
    let routed = envoy.routed;
    let mut held = tokio::task::JoinSet::new();
    for n in 0..8 {
        held.spawn(async move { stream("other", 7000 + n).send(routed).await.status });
    }
    until("the pods were busy", async || {
        (pods.iter().map(TestPod::working).sum::<usize>() == 8).then_some(())
    })
    .await;
    let with = |name: &str, objective: &str| stream("other", 8000).header(name, objective).send(routed);
    assert_eq!(with("x-gateway-inference-objective", "nightly").await.status, 429);
    assert_eq!(with("x-gateway-inference-objective", "paying").await.status, 200);
    assert_eq!(with("x-gateway-inference-objective", "unheard-of").await.status, 200);
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(envoy.stat(SHED).await, 1);
}

#[tokio::test]
async fn vllm_gets_a_priority_where_the_client_names_none() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).settings(&classes()).start().await;
    envoy.sees_ready(1).await;
    let post = |body: Value| Request::post("/v1/chat/completions", &body);
    let chat = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
    let mut own = chat("vital");
    own["priority"] = json!(3);
    for (request, priority) in [
        (post(chat("vital")), json!(-1)),
        (post(chat("batch")), json!(1)),
        (post(chat("other")), Value::Null),
        (post(own), json!(3)),
        (post(chat("other")).header("x-gateway-inference-objective", "paying"), json!(-5)),
        (post(chat("vital")).header("x-gateway-inference-objective", "nightly"), json!(7)),
    ] {
        assert_eq!(request.send(envoy.routed).await.status, 200);
        let body: Value = serde_json::from_slice(&pods[0].received().pop().unwrap().body).unwrap();
        assert_eq!(body["priority"], priority, "{body}");
        assert_eq!(body["messages"][0]["content"], "hello");
    }
}
