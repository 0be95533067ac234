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
