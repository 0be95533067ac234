//! A stored response is found where it is, whichever worker is asked (B04).

use serde_json::{Value, json};
use warmpath_tests::{Envoy, Reply, Request, SimPod, repository, until};

use crate::SIMULATOR;

const CONVERSATIONS: usize = 12;

fn case(name: &str) -> Value {
    let path = repository().join("tests/fixtures/cases/B04").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The id that an answer gives, whole or streamed.
fn id(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let text = reply.text();
    let (_, id) = text.split_once("\"resp_").expect("no id");
    format!("resp_{}", id.split('"').next().unwrap())
}

#[tokio::test]
async fn follow_ups_looks_and_cancels_go_to_the_pod_that_answered() {
    let flags = ["--profile", "h100", "--responses-store"];
    let pods: Vec<SimPod> = (0..3).map(|_| SimPod::start(SIMULATOR, &flags)).collect();
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect()).concurrency(4).start().await;
    envoy.sees_ready(3).await;
    // Each request has a connection of its own, so any worker may get it.
    let post = |body: &Value| Request::post("/v1/responses", body).send(envoy.routed);
    let mut ids = Vec::new();
    for n in 0..CONVERSATIONS {
        let mut first = case("first.json");
        first["instructions"] = format!("{n}. Answer in one line.").into();
        first["stream"] = (n % 2 == 1).into();
        first["max_output_tokens"] = 4.into();
        ids.push(id(&post(&first).await));
    }
    for round in 0..3 {
        for (n, known) in ids.iter_mut().enumerate() {
            let look = Request::get(&format!("/v1/responses/{known}")).send(envoy.routed).await;
            assert_eq!((look.status.as_u16(), id(&look)), (200, known.clone()), "round {round}, {n}");
            let mut second = case("second.json");
            second["previous_response_id"] = known.as_str().into();
            second["stream"] = ((n + round) % 2 == 1).into();
            second["max_output_tokens"] = 4.into();
            *known = id(&post(&second).await);
        }
    }
    for n in 0..CONVERSATIONS {
        let mut long = case("first.json");
        long["background"] = true.into();
        long["max_output_tokens"] = 10_000.into();
        long["instructions"] = format!("{n}. Take your time.").into();
        let known = id(&post(&long).await);
        let path = format!("/v1/responses/{known}/cancel");
        let cancel = Request::new("POST", &path).send(envoy.routed).await;
        assert_eq!(cancel.status, 200, "{}", cancel.text());
        until("it is cancelled", async || {
            let look = Request::get(&format!("/v1/responses/{known}")).send(envoy.routed).await;
            (look.json()["status"] == "cancelled").then_some(())
        })
        .await;
    }
    // No pod was asked that does not know the response, also not before another one was.
    let declined = envoy.stats("warmpath_early_errors_total.reason=declined;").await;
    assert_eq!(declined.values().sum::<i64>(), 0, "{declined:?}");
    // What nobody knows is nobody's.
    let unknown =
        post(&json!({"model": "/model/qwen", "previous_response_id": "resp_0", "input": "x"})).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
}

/// No other pod has the response, and would say that nobody has: which ends a dialogue that could go on a
/// moment later.
#[tokio::test]
async fn where_the_pod_that_has_the_response_is_full_the_client_is_told_so() {
    let flags = ["--profile", "h100", "--responses-store", "--max-num-queued-reqs", "1"];
    let pods: Vec<SimPod> = (0..3).map(|_| SimPod::start(SIMULATOR, &flags)).collect();
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect()).switch("--receipt").start().await;
    envoy.sees_ready(3).await;
    let mut first = case("first.json");
    first["max_output_tokens"] = 4.into();
    let reply = Request::post("/v1/responses", &first).send(envoy.routed).await;
    let (known, holder) = (id(&reply), reply.header("x-warmpath-pod").unwrap().parse().unwrap());
    let follow_up = |stream: bool| {
        let mut second = case("second.json");
        second["previous_response_id"] = known.as_str().into();
        (second["stream"], second["max_output_tokens"]) = (stream.into(), 4.into());
        Request::post("/v1/responses", &second)
    };
    let long = json!({"model": "/model/qwen", "prompt": "on and on", "stream": true, "max_tokens": 10_000});
    let busy = Request::post("/v1/completions", &long).open(holder).await;
    for n in 0..6 {
        let reply = follow_up(n % 2 == 0).send(envoy.routed).await;
        assert_eq!(reply.status, 503, "{}", reply.text());
        assert!(reply.header("retry-after").is_some());
        assert_eq!(reply.json()["error"]["code"], 503);
    }
    // What needs no engine is there all the time, and other requests go elsewhere.
    assert_eq!(Request::get(&format!("/v1/responses/{known}")).send(envoy.routed).await.status, 200);
    assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
    drop(busy);
    until("the pod has room", async || {
        let reply = follow_up(false).send(envoy.routed).await;
        assert!([200, 503].contains(&reply.status.as_u16()), "{}", reply.text());
        (reply.status == 200).then_some(())
    })
    .await;
    envoy.accounts_for_nothing().await;
}
