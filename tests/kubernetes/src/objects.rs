//! The objects that every case begins with: a Gateway `eg` with the listeners `plain` (8080) and `routed`
//! (8081), a route each, and a Service `vllm` whose endpoints the test writes.

use serde_json::{Value, json};
use warmpath_tests::repository;

use crate::sandbox::address;

/// How a pod stands in an EndpointSlice, as its controller would write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// In service.
    Ready,
    /// Still loading, or not well.
    NotReady,
    /// On its way out, and still serving.
    Terminating,
}

/// The class of the Gateways.
pub fn gateway_class() -> Value {
    json!({
        "metadata": {"name": "eg"},
        "spec": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
    })
}

/// Two workers, and what the printed EnvoyProxy asks for; `more` is added to the spec.
pub fn envoy_proxy(more: Value) -> Value {
    let file = repository().join("manifests/attach/reference.yaml");
    let printed = std::fs::read_to_string(file).unwrap();
    let printed = printed.split("---\n").find(|object| object.contains("kind: EnvoyProxy\n")).unwrap();
    let printed: Value = serde_saphyr::from_str(printed).unwrap();
    let mut spec = json!({"concurrency": 2});
    merge(&mut spec, printed["spec"].clone());
    merge(&mut spec, more);
    json!({"metadata": {"name": "eg", "namespace": "default"}, "spec": spec})
}

/// The Gateway with both listeners.
pub fn gateway() -> Value {
    json!({
        "metadata": {"name": "eg", "namespace": "default"},
        "spec": {
            "gatewayClassName": "eg",
            "infrastructure": {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "eg"}},
            "listeners": [
                {"name": "plain", "port": 8080, "protocol": "HTTP"},
                {"name": "routed", "port": 8081, "protocol": "HTTP"},
            ],
        },
    })
}

/// A route on a listener of the Gateway; each rule is a path's beginning and the Service it goes to.
pub fn route(name: &str, listener: &str, rules: &[(&str, &str)]) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|(path, service)| {
            json!({
                "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                "backendRefs": [{"name": service, "port": 8000}],
            })
        })
        .collect();
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"pool": "vllm"}},
        "spec": {"parentRefs": [{"name": "eg", "sectionName": listener}], "rules": rules},
    })
}

/// A Service without a selector: nobody but the test writes its endpoints.
pub fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 8000, "targetPort": 8000}]},
    })
}

/// The endpoints of a Service: numbers of pods, and how each is.
pub fn endpoints(service: &str, pods: &[(u8, Is)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|&(number, is)| {
            json!({
                "addresses": [address::pod(number)],
                "conditions": {
                    "ready": is == Is::Ready,
                    "serving": is != Is::NotReady,
                    "terminating": is == Is::Terminating,
                },
            })
        })
        .collect();
    json!({
        "metadata": {
            "name": format!("{service}-1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// Puts `more` into `into`, deep.
pub fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
