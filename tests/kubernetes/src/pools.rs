//! The ground of the cases with InferencePools: Warmpath's controller, Envoy Gateway with the values of the
//! controller's manifests, a pool `pool` of three pods, and a route to it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use warmpath_tests::repository;

use crate::api::{
    BACKEND_POLICY, CLIENT_POLICY, Cluster, EXTENSION_POLICY, GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, Kind,
    MODEL, OBJECTIVE, OLD_POOL, PATCH_POLICY, POD, POOL, ROUTED_POOL,
};
use crate::controller::{Controller, FIRST, count, prepare};
use crate::sandbox::address;
use crate::wait::until;
use crate::world::{World, at};

/// Envoy's name of the cluster behind the first rule of the route `pooled`.
pub const CLUSTER: &str = "httproute/default/pooled/rule/0";

/// What cases leave behind, and what of it stays from case to case.
const KINDS: [(Kind, &[&str]); 12] = [
    (POOL, &["pool"]),
    (OLD_POOL, &[]),
    (MODEL, &[]),
    (OBJECTIVE, &[]),
    (POD, &["pod-11", "pod-12", "pod-13"]),
    (PATCH_POLICY, &[]),
    (EXTENSION_POLICY, &[]),
    (BACKEND_POLICY, &[]),
    (CLIENT_POLICY, &[]),
    (HTTP_ROUTE, &["plain", "pooled"]),
    (GATEWAY, &["eg"]),
    (GATEWAY_CLASS, &["eg"]),
];

/// What `manifests/install` adds to Envoy Gateway's configuration.
pub fn envoy_gateway_values() -> Value {
    values("envoy-gateway-values.yaml")
}

/// What it adds for the metrics page and the console.
pub fn pages_values() -> Value {
    values("envoy-gateway-pages-values.yaml")
}

/// Envoy Gateway's configuration in a file of values for its chart.
fn values(file: &str) -> Value {
    let file = repository().join("manifests/install").join(file);
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    values["config"]["envoyGateway"].clone()
}

/// Back to the beginning of each case.
pub async fn reset(world: &mut World) {
    world.renew_pods().await;
    if world.was_spoilt()
        && let Some(controller) = world.controller.take()
    {
        controller.kill();
    }
    let first = world.controller.is_none();
    if first {
        install(world).await;
    }
    world.gateway_lives(envoy_gateway_values()).await;
    // One that was killed may have left its lease behind, which lasts for six seconds.
    until("the controller leads", async || (count(FIRST, "leader").await == 1.0).then_some(())).await;
    world.cluster().keep_only(&KINDS).await;
    for number in [11, 12, 13] {
        pod(world.cluster(), number, "vllm", "True").await;
    }
    world.cluster().apply(POOL, &pool("pool", "vllm", json!({}))).await;
    world.cluster().patch(POOL, "default", "pool", json!({"metadata": {"annotations": null}})).await;
    world.cluster().apply(HTTP_ROUTE, &route("pooled", &[("/", &[("pool", 1)])])).await;
    if first {
        world.cluster().delete(HTTP_ROUTE, "default", "routed").await;
        world.start_envoy().await;
    }
    world.envoy().knows(CLUSTER, &[11, 12, 13].map(|number| (at(number), "HEALTHY"))).await;
    world.is_routed().await;
    // Until then a pod may be taken for the process that the case before had at its address, and what it is
    // given is forgotten.
    world.is_seen().await;
}

/// Definitions, rights, certificates, the controller and then Envoy Gateway: the order of docs/kubernetes.md.
async fn install(world: &mut World) {
    world.stop_gateway().await;
    if let Some(envoy) = world.envoy.take() {
        envoy.end();
    }
    for version in ["v1", "v1alpha2", "objectives"] {
        let folder = world.ground.tools.join("crds-inference").join(version);
        for file in std::fs::read_dir(folder).unwrap() {
            world.cluster().apply_all(&std::fs::read_to_string(file.unwrap().path()).unwrap()).await;
        }
    }
    prepare(&world.ground).await;
    world.controller = Some(Controller::start(&world.ground, &world.module, "replica-a", &[]).await);
    world.start_gateway(envoy_gateway_values()).await;
    world.restore().await;
}

/// A pool that selects `app: APP`; `more` is added to its spec.
pub fn pool(name: &str, app: &str, more: Value) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": app}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "none", "port": {"number": 9002}},
    });
    crate::objects::merge(&mut spec, more);
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// A route at the listener `routed`; each rule is a path's beginning and pools with their weights.
pub fn route(name: &str, rules: &[(&str, &[(&str, u32)])]) -> Value {
    let backend = |(name, weight): &(&str, u32)| json!({"group": POOL.0, "kind": "InferencePool", "name": name, "weight": weight});
    let rule = |(path, pools): &(&str, &[(&str, u32)])| {
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": pools.iter().map(backend).collect::<Vec<_>>(),
        })
    };
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": "eg", "sectionName": "routed"}],
            "rules": rules.iter().map(rule).collect::<Vec<_>>(),
        },
    })
}

/// The object of a pod of the pool's namespace, with its label.
pub async fn pod(cluster: &Cluster, number: u8, app: &str, ready: &str) {
    let name = format!("pod-{number}");
    pod_object(cluster, ("default", &name), json!({"app": app}), &address::pod(number), ready).await;
}

/// A pod's object, of a namespace and name, and its status as the kubelet writes it. `ready`: `True` or
/// `False`.
pub async fn pod_object(
    cluster: &Cluster,
    (namespace, name): (&str, &str),
    labels: Value,
    ip: &str,
    ready: &str,
) {
    let object = json!({
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "node-1", "containers": [{"name": "vllm", "image": "none"}]},
    });
    cluster.apply(POD, &object).await;
    pod_status(cluster, (namespace, name), ip, ready).await;
}

/// Its status alone.
pub async fn pod_status(cluster: &Cluster, (namespace, name): (&str, &str), ip: &str, ready: &str) {
    let status = json!({
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}],
    });
    cluster.patch_status(POD, namespace, name, status).await;
}

/// Where a pod is that is an object alone.
pub fn distant_address(number: u32) -> String {
    format!("10.245.{}.{}", number / 250, number % 250 + 1)
}

/// The object of a ready pod that no process serves, with this label.
pub async fn distant_pod(cluster: &Cluster, number: u32, app: &str) {
    let (name, labels) = (format!("distant-{number}"), json!({"app": app, "role": "distant"}));
    pod_object(cluster, ("default", &name), labels, &distant_address(number), "True").await;
}

/// Takes a pod's object away at once.
pub async fn remove_pod(cluster: &Cluster, number: u8) {
    cluster.delete(POD, "default", &format!("pod-{number}")).await;
}

/// Our own object of a pool.
pub async fn routed_pool(cluster: &Cluster, pool: &str) -> Option<Value> {
    let all = cluster.list(ROUTED_POOL, "default", "").await;
    all.into_iter().find(|object| object["spec"]["pool"]["name"] == pool).map(|object| object["spec"].clone())
}

/// The places of a pool that refuse connections, as our object names them.
pub async fn refusing(cluster: &Cluster, pool: &str) -> Option<String> {
    let all = cluster.list(ROUTED_POOL, "default", "").await;
    let object = all.into_iter().find(|object| object["spec"]["pool"]["name"] == pool)?;
    object["metadata"]["annotations"]["warmpath.dev/refusing"].as_str().map(str::to_owned)
}

/// What events of this reason say, each with its version: one that is told again has another.
pub async fn events(cluster: &Cluster, reason: &str) -> Vec<String> {
    let told = cluster.events(reason).await;
    told.iter().map(|each| format!("{} {}", each["message"], each["metadata"]["resourceVersion"])).collect()
}

/// The conditions of a pool at its one Gateway: type, and whether it is True, with reason and message.
pub async fn conditions(
    cluster: &Cluster,
    kind: Kind,
    name: &str,
) -> BTreeMap<String, (bool, String, String)> {
    let Some(pool) = cluster.get(kind, "default", name).await else { return BTreeMap::new() };
    let parents = if kind == POOL { &pool["status"]["parents"] } else { &pool["status"]["parent"] };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let conditions = parents[0]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .map(|c| (text(&c["type"]), (c["status"] == "True", text(&c["reason"]), text(&c["message"]))))
        .collect()
}
