//! A small cluster for the tests of this folder: one pool of two pods, one route to it, one Gateway of two
//! listeners.

use std::net::IpAddr;

use serde_json::{Value as Json, json};

use super::facts::{Facts, Gateway, PodFact, Pool, Route};
use super::names::{ObjectKey, PoolGroup, PoolKey};

/// The pool of that name in the stable group.
pub fn pool(name: &str) -> PoolKey {
    PoolKey { group: PoolGroup::Stable, namespace: "default".into(), name: name.into() }
}

/// What Envoy Gateway calls itself in statuses.
pub const CONTROLLER: &str = "gateway.envoyproxy.io/gatewayclass-controller";

/// An InferencePool that selects `app: vllm`.
pub fn pool_object() -> Json {
    json!({
        "metadata": {"name": "pool", "namespace": "default", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}]},
    })
}

/// An HTTPRoute to `pool` at listener `routed`, accepted by Envoy Gateway.
pub fn route_object() -> Json {
    let parent = json!({"name": "eg", "sectionName": "routed"});
    json!({
        "spec": {"parentRefs": [parent], "rules": [{"backendRefs": [
            {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "pool"}]}]},
        "status": {"parents": [{"parentRef": parent, "controllerName": CONTROLLER, "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted"},
            {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs"}]}]},
    })
}

/// The whole.
pub fn facts() -> Facts {
    let mut facts = Facts::default();
    facts.pools.insert(pool("pool"), Pool::parse(&pool_object()));
    for last in [11, 12] {
        let pod = PodFact {
            labels: [("app".to_owned(), "vllm".to_owned())].into(),
            created: 0,
            address: Some(IpAddr::from([10, 244, 0, last])),
            ready: true,
        };
        facts.pods.insert(ObjectKey::new("default", format!("pod-{last}")), pod);
    }
    facts
        .routes
        .insert(ObjectKey::new("default", "pooled"), Route::parse("default", &route_object()).unwrap());
    let listeners = vec![("plain".to_owned(), 8080), ("routed".to_owned(), 8081)];
    facts.gateways.insert(ObjectKey::new("default", "eg"), Gateway { class: "eg".into(), listeners });
    facts.classes.insert("eg".into(), CONTROLLER.into());
    facts
}

/// Annotates a pool.
pub fn annotate(facts: &mut Facts, name: &str, key: &str, value: &str) {
    if let Some(Ok(pool)) = facts.pools.get_mut(&pool(name)) {
        pool.annotations.insert(key.into(), value.into());
    }
}
