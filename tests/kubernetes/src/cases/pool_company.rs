//! What stands beside InferencePools: a user's own policies, models, other controllers, other namespaces.

use serde_json::{Value, json};
use warmpath_tests::{Answer, Load, Reply, Request};

use super::{brisk, named_by_warmpath, whole};
use crate::api::{HTTP_ROUTE, MODEL, NAMESPACE, OBJECTIVE, POD, POOL};
use crate::pools::{conditions, pod_object, route};
use crate::wait::until;
use crate::world::{World, at, input, routed};

/// A chat with the key of `own-policies.yaml`.
async fn with_key(more: &[(&str, &str)]) -> Reply {
    let chat = Request::chat("Who are you?").header("x-key", "k");
    more.iter().fold(chat, |chat, (name, value)| chat.header(name, *value)).send(routed()).await
}

pub async fn a_users_own_policies_keep_their_effect(world: &mut World) {
    let cluster = world.cluster().clone();
    cluster.pipe(&["apply"], &input("own-policies.yaml")).await;
    until("no key is no answer", async || {
        (Request::chat("Who?").send(routed()).await.status == 403).then_some(())
    })
    .await;
    until("the connection's policy is in force", async || {
        let reply = with_key(&[]).await;
        let pod = world.pod_of(&reply)?;
        pod.received().last()?.headers.contains_key("x-front").then_some(())
    })
    .await;
    // A client names no pod, whatever its header says.
    for number in [11, 12, 13] {
        let reply =
            with_key(&[("x-warmpath-destination", "10.244.0.99:8000"), ("x-number", &number.to_string())])
                .await;
        assert!(reply.status == 200 && named_by_warmpath(world, &reply), "{}", reply.text());
    }
    let mut limited = Vec::new();
    for _ in 0..8 {
        limited.push(with_key(&[("x-tenant", "small")]).await.status.as_u16());
    }
    assert_eq!(limited, [200, 200, 200, 200, 200, 429, 429, 429]);
    // Their timeout, which Warmpath would set to none.
    world.pods.values().for_each(|pod| pod.answer_all(|| Answer::Silence));
    assert_eq!(with_key(&[]).await.status, 504);
    let all = conditions(&cluster, POOL, "pool").await;
    assert!(all.len() == 5 && all.values().all(|(good, ..)| *good), "{all:?}");
    // The next case begins with listeners that do not change any more.
    world.pods.values().for_each(|pod| pod.answer_all(|| Answer::Completion));
    cluster.pipe(&["delete"], &input("own-policies.yaml")).await;
    until("the policies are gone", async || {
        let reply = Request::chat("Who?").send(routed()).await;
        let pod = world.pod_of(&reply)?;
        (!pod.received().last()?.headers.contains_key("x-front")).then_some(())
    })
    .await;
    world.start_envoy().await;
}

pub async fn a_model_is_renamed_and_its_change_is_hot(world: &mut World) {
    let cluster = world.cluster().clone();
    let model = |target: &str| {
        json!({
            "metadata": {"name": "chat", "namespace": "default"},
            "spec": {"modelName": "chat", "criticality": "Standard", "poolRef": {"name": "pool", "group": POOL.0},
                     "targetModels": [{"name": target, "weight": 100}]},
        })
    };
    let before = world.envoy().listener_changes().await;
    let traffic = brisk();
    traffic.more(20).await;
    for target in ["first", "second"] {
        cluster.apply(MODEL, &model(target)).await;
        until(&format!("pods are asked for {target}"), async || {
            let body = json!({"model": "chat", "messages": [{"role": "user", "content": "Who are you?"}]});
            let reply = Request::post("/v1/chat/completions", &body).send(routed()).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let pod = world.pod_of(&reply)?;
            let asked: Vec<Value> = pod
                .received()
                .iter()
                .rev()
                .take(20)
                .filter_map(|r| serde_json::from_slice(&r.body).ok())
                .collect();
            asked.iter().any(|body| body["model"] == target).then_some(())
        })
        .await;
    }
    until("the model says that it is accepted", async || {
        let object = cluster.get(MODEL, "default", "chat").await?;
        (object["status"]["conditions"][0]["status"] == "True").then_some(())
    })
    .await;
    // A younger model of the same name is refused, and says why.
    let mut twin = model("third");
    twin["metadata"]["name"] = json!("twin");
    cluster.apply(MODEL, &twin).await;
    until("the younger twin is refused", async || {
        let object = cluster.get(MODEL, "default", "twin").await?;
        let condition = &object["status"]["conditions"][0];
        (condition["status"] == "False" && condition["message"].as_str()?.contains("chat")).then_some(())
    })
    .await;
    whole(&traffic.stop().await);
    assert_eq!(world.envoy().listener_changes().await, before, "changes of listeners");
}

/// Of requests of two objectives, those below 0 are refused when all pods are full; and a changed priority is
/// in force at once.
pub async fn an_objective_says_who_is_refused_when_pods_are_full(world: &mut World) {
    let cluster = world.cluster().clone();
    let objective = |name: &str, priority: i32, pool: &str| {
        json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"priority": priority, "poolRef": {"name": pool, "group": POOL.0}},
        })
    };
    for (name, priority, pool) in [("urgent", 10, "pool"), ("some-day", -1, "pool"), ("lost", 0, "nothere")] {
        cluster.apply(OBJECTIVE, &objective(name, priority, pool)).await;
    }
    let verdict = async |name: &str| {
        let object = cluster.get(OBJECTIVE, "default", name).await?;
        let accepted =
            object["status"]["conditions"].as_array()?.iter().find(|each| each["type"] == "Accepted")?;
        Some((accepted["status"] == "True", accepted["reason"].as_str()?.to_owned()))
    };
    until("each says whether it is accepted", async || {
        let told = [verdict("urgent").await?, verdict("some-day").await?, verdict("lost").await?];
        let good = (true, "Accepted".to_owned());
        (told == [good.clone(), good, (false, "PoolNotFound".to_owned())]).then_some(())
    })
    .await;
    for pod in world.pods.values() {
        pod.set_load(Load { running: 64, waiting: 500, ..Load::default() });
    }
    let before = world.envoy().listener_changes().await;
    let ask = async |objective: &str| {
        let chat = Request::chat("Hello?").header("x-gateway-inference-objective", objective);
        chat.send(routed()).await.status.as_u16()
    };
    until("the pool is full for who can wait", async || (ask("some-day").await == 429).then_some(())).await;
    for _ in 0..20 {
        assert_eq!((ask("urgent").await, ask("some-day").await), (200, 429));
    }
    cluster.apply(OBJECTIVE, &objective("some-day", 1, "pool")).await;
    until("the changed priority is in force", async || (ask("some-day").await == 200).then_some(())).await;
    assert_eq!(world.envoy().listener_changes().await, before, "changes of listeners");
}

pub async fn what_another_controller_wrote_stays(world: &mut World) {
    let cluster = world.cluster().clone();
    let parents = async || cluster.get(POOL, "default", "pool").await.unwrap()["status"]["parents"].clone();
    let ours = |parents: &Value| {
        let parents = parents.as_array().cloned().unwrap_or_default();
        parents.iter().filter(|parent| parent["controllerName"] == "warmpath.dev/controller").count()
    };
    until("the pool has our entry", async || (ours(&parents().await) == 1).then_some(())).await;
    let theirs = json!({
        "controllerName": "example.com/other", "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "other"},
        "conditions": [{"type": "Accepted", "status": "Unknown", "reason": "Later", "message": "  as  it stands ",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    let mut all = parents().await;
    all.as_array_mut().unwrap().insert(0, theirs.clone());
    cluster.patch_status(POOL, "default", "pool", json!({"parents": all})).await;
    // Our entry changes beside it, and goes with the last route.
    let nonsense =
        json!({"metadata": {"annotations": {"inference.networking.x-k8s.io/routing-strategy": "NONSENSE"}}});
    cluster.patch(POOL, "default", "pool", nonsense).await;
    until("our entry tells of the nonsense", async || {
        parents().await.to_string().contains("NONSENSE").then_some(())
    })
    .await;
    assert!(parents().await.as_array().unwrap().contains(&theirs));
    cluster.delete(HTTP_ROUTE, "default", "pooled").await;
    until("our entry is gone", async || (ours(&parents().await) == 0).then_some(())).await;
    assert_eq!(parents().await, json!([theirs]));
    cluster.patch_status(POOL, "default", "pool", json!({"parents": []})).await;
}

pub async fn a_pool_of_another_namespace_needs_a_grant(world: &mut World) {
    let cluster = world.cluster().clone();
    world.start_pods(&[21]).await;
    cluster.apply(NAMESPACE, &json!({"metadata": {"name": "models"}})).await;
    let ip = crate::sandbox::address::pod(21);
    pod_object(&cluster, ("models", "pod-21"), json!({"app": "far"}), &ip, "True").await;
    let file = input("far-pool.yaml");
    let (pool, grant) = file.split_once("---\n").unwrap();
    cluster.pipe(&["apply"], pool).await;
    let mut far = route("far", &[("/far", &[("far", 1)])]);
    far["spec"]["rules"][0]["backendRefs"][0]["namespace"] = json!("models");
    cluster.apply(HTTP_ROUTE, &far).await;
    let ask = async || {
        let body = json!({"model": "/model/qwen", "messages": [{"role": "user", "content": "Who are you?"}]});
        let reply = Request::post("/far/v1/chat/completions", &body).send(routed()).await;
        (reply.status.as_u16(), reply.header("x-test-pod").unwrap_or_default().to_owned())
    };
    until("the route is refused", async || (ask().await.0 == 500).then_some(())).await;
    assert!(world.pods[&21].received().is_empty());
    cluster.pipe(&["apply"], grant).await;
    until("the far pool answers", async || (ask().await == (200, at(21))).then_some(())).await;
    let views = cluster.list(crate::api::ROUTED_POOL, "default", "").await;
    let of_far = |view: &&Value| view["spec"]["pool"]["namespace"] == "models";
    assert_eq!(views.iter().filter(of_far).count(), 1, "the object is where the route is");
    cluster.pipe(&["delete"], grant).await;
    until("without the grant it is refused again", async || (ask().await.0 == 500).then_some(())).await;
    cluster.pipe(&["delete"], pool).await;
    cluster.delete(POD, "models", "pod-21").await;
}
