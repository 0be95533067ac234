//! The files of the two documents that Warmpath takes after, as they stand: pool, model, Gateway, both
//! routes, policy.

use std::collections::BTreeSet;

use serde_json::json;
use warmpath_tests::{Load, Reply, Request, repository};

use crate::access_log::ask;
use crate::api::{ENDPOINT_SLICE, GATEWAY, HTTP_ROUTE, MODEL, OLD_POOL, POD, SERVICE};
use crate::gateway::Envoy;
use crate::pools::{conditions, routed_pool};
use crate::wait::until;
use crate::world::{World, at, plain, ready, routed};

/// Envoy's name of the cluster behind port 8081.
const CLUSTER: &str = "httproute/default/qwen-backend/rule/0";

/// Applies a file of the examples.
async fn apply(world: &World, file: &str) {
    let path = repository().join("manifests/examples").join(file);
    world.cluster().pipe(&["apply"], &std::fs::read_to_string(path).unwrap()).await;
}

/// Pods, Service and Gateway of a document, and the Envoy of the Gateway. Two Gateways cannot have one
/// Envoy's ports here, so this one takes the place of the usual one, and the next case begins anew.
async fn deploy(world: &mut World, pool: &str) {
    let cluster = world.cluster().clone();
    for number in [11, 12, 13] {
        let labels = json!({"metadata": {"labels": {"app": "qwen"}}});
        cluster.patch(POD, "default", &format!("pod-{number}"), labels).await;
    }
    cluster.apply(SERVICE, &crate::objects::service("qwen")).await;
    cluster.apply(ENDPOINT_SLICE, &crate::objects::endpoints("qwen", &ready(&[11, 12, 13]))).await;
    for route in ["plain", "pooled"] {
        cluster.delete(HTTP_ROUTE, "default", route).await;
    }
    cluster.delete(GATEWAY, "default", "eg").await;
    apply(world, pool).await;
    apply(world, "inference-gateway.yaml").await;
    world.envoy.take().unwrap().end();
    let label = "gateway.envoyproxy.io/owning-gateway-name=qwen-inference-gateway";
    world.envoy = Some(Envoy::start(&world.ground, label, "envoy-gateway-system").await);
    world.envoy().knows(CLUSTER, &[11, 12, 13].map(|number| (at(number), "HEALTHY"))).await;
    world.is_routed().await;
    world.is_seen().await;
    world.spoilt();
}

/// Sends a round of the documents' conversation.
async fn round(file: &str, to: std::net::SocketAddr) -> Reply {
    let body = std::fs::read(repository().join("examples").join(file)).unwrap();
    let request = Request::new("POST", "/v1/chat/completions").header("content-type", "application/json");
    let reply = request.body(body).send(to).await;
    assert_eq!(reply.status, 200, "{file} to {to}: {}", reply.text());
    reply
}

/// Pool and model say in their status that they work.
async fn all_is_accepted(world: &World, strategy: &str) {
    let cluster = world.cluster();
    until("the pool and its model are accepted", async || {
        let pool = conditions(cluster, OLD_POOL, "vllm-qwen-pool").await;
        let model = cluster.get(MODEL, "default", "inferencemodel-qwen").await?;
        let good = pool.len() == 5 && pool.values().all(|(good, ..)| *good);
        (good && model["status"]["conditions"][0]["status"] == "True").then_some(())
    })
    .await;
    assert_eq!(routed_pool(cluster, "vllm-qwen-pool").await.unwrap()["strategy"], strategy);
}

/// The listener has Warmpath on 8081 and nothing of it on 8080: a plain request reaches its pod without our
/// header.
async fn only_8081_is_routed(world: &World) {
    for file in ["round1.json", "round2.json"] {
        assert!(super::named_by_warmpath(world, &round(file, routed()).await), "8081 is routed by Warmpath");
        assert!(!super::named_by_warmpath(world, &round(file, plain()).await), "8080 is not");
    }
}

pub async fn the_first_documents_files_are_served_as_they_stand(world: &mut World) {
    deploy(world, "inference-pool.yaml").await;
    all_is_accepted(world, "PREFIX_CACHE").await;
    only_8081_is_routed(world).await;
    the_model_is_critical_and_keeps_its_name(world).await;
}

pub async fn the_second_documents_conversation_stays_at_its_pod(world: &mut World) {
    deploy(world, "inference-pool-prefix-cache.yaml").await;
    all_is_accepted(world, "PREFIX_CACHE").await;
    only_8081_is_routed(world).await;
    let lines = || world.envoy().said().matches("Do prefix-aware routing!").count();
    // Ten times: by chance a second round would meet the pod of the first once in three.
    for user in 0..10 {
        let before = lines();
        let named = async |file: &str| {
            let text = std::fs::read_to_string(repository().join("examples").join(file)).unwrap();
            let other = text.replace("user 3", &format!("user {}", 100 + user));
            assert_ne!(text, other, "the documents' conversation is of user 3");
            let request =
                Request::new("POST", "/v1/chat/completions").header("content-type", "application/json");
            let (reply, line) = ask(world.envoy(), request.body(other.into_bytes())).await;
            (reply.pod().to_owned(), line)
        };
        let (first, _) = named("round1.json").await;
        let (second, line) = named("round2.json").await;
        assert_eq!(second, first, "user {user}");
        // The documents' Gateway names no EnvoyProxy, so its access log is that of the controller's install.
        assert!(line.is_warm() && line.decision("reason") == Some("prefix"), "user {user}: {line:?}");
        assert_eq!(line.chosen().first(), Some(&second.as_str()), "user {user}: {line:?}");
        until("the log has the documents' line", async || (lines() > before).then_some(())).await;
    }
    the_model_is_critical_and_keeps_its_name(world).await;
}

/// The model `/model/qwen` has one target of its own name, so bodies reach the pods as they were; and being
/// critical it is served when all pods are saturated, where a model that may be shed gets 429.
async fn the_model_is_critical_and_keeps_its_name(world: &World) {
    let body = std::fs::read(repository().join("examples/round1.json")).unwrap();
    let reply = round("round1.json", routed()).await;
    let pod = world.pod_of(&reply).unwrap();
    assert_eq!(pod.received().last().unwrap().body, body, "another body than the client's");
    let batch = json!({
        "metadata": {"name": "batch", "namespace": "default"},
        "spec": {"modelName": "batch", "criticality": "Sheddable", "poolRef": {"name": "vllm-qwen-pool"}},
    });
    world.cluster().apply(MODEL, &batch).await;
    let ask = async |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "Hello?"}]});
        Request::post("/v1/chat/completions", &body).send(routed()).await.status.as_u16()
    };
    assert_eq!(ask("batch").await, 200, "there is room");
    // Others have filled all pods.
    for pod in world.pods.values() {
        pod.set_load(Load { running: 64, waiting: 500, ..Load::default() });
    }
    until("the pool is saturated", async || (ask("batch").await == 429).then_some(())).await;
    let mut statuses = BTreeSet::new();
    for _ in 0..30 {
        statuses.insert((ask("/model/qwen").await, ask("batch").await));
    }
    assert_eq!(statuses, BTreeSet::from([(200, 429)]), "critical and sheddable");
}
