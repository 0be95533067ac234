//! The ground of the cases with InferencePools: Warmpath's controller with the rights of its own manifests, Envoy Gateway with
//! the values that they give it, a pool `pool` of three pods, and a route to it.

use std::collections::BTreeMap;
use std::process::Command;

use hyper::StatusCode;
use serde_json::{Value, json};
use warmpath_tests::{Reply, Request, repository, target, until};

use crate::api::{
    BACKEND_POLICY, CLIENT_POLICY, CONTROLLER_TOKEN, Cluster, EXTENSION_POLICY, GATEWAY, GATEWAY_CLASS,
    HTTP_ROUTE, Kind, MODEL, OLD_POOL, PATCH_POLICY, POD, POOL, ROUTED_POOL,
};
use crate::process::Process;
use crate::sandbox::address;
use crate::world::{World, at};

/// Envoy's name of the cluster behind the first rule of the route `pooled`.
pub const CLUSTER: &str = "httproute/default/pooled/rule/0";

/// A running controller.
pub struct Controller {
    process: Process,
}

impl Controller {
    /// Starts one with this name, and waits until it answers Envoy Gateway.
    pub async fn start(world: &World, replica: &str) -> Controller {
        let ground = &world.ground;
        let module = ground.folder.join("controller.wasm");
        std::fs::write(&module, &world.module).unwrap();
        // The module's own defaults: it lets Envoy choose while it knows no pods.
        let configuration = ground.folder.join("plugin.json");
        std::fs::write(&configuration, "{}").unwrap();
        let mut command = Command::new(target().join("debug/warmpath-controller"));
        command
            .arg("serve")
            .arg(format!("--module={}", module.display()))
            .arg(format!("--plugin-config={}", configuration.display()))
            .arg(format!("--listen={}:9443", address::EXTENSION))
            .arg(format!("--pages={}:8088", address::EXTENSION))
            .arg(format!("--replica={replica}"))
            .env("KUBECONFIG", ground.cluster.kubeconfig_of(CONTROLLER_TOKEN));
        let mut process = Process::start("warmpath-controller", &ground.logs(), &mut command);
        until("the controller's caches are full", async || {
            process.lives();
            (page("/readyz").await?.status == StatusCode::OK).then_some(())
        })
        .await;
        Controller { process }
    }

    /// Ends it as when its node goes away.
    pub fn kill(self) {
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args(["-s", "KILL", &id]).status();
        self.process.end();
    }
}

/// A page of the controller, nothing while it cannot be reached.
async fn page(path: &str) -> Option<Reply> {
    let to = format!("{}:8088", address::EXTENSION).parse().unwrap();
    tokio::net::TcpStream::connect(to).await.ok()?;
    Request::get(path).try_open(to).await.ok()?.finish().await.ok()
}

/// The sum of a counter of the controller over its labels.
pub async fn count(name: &str) -> f64 {
    let text = page("/metrics").await.expect("the controller's metrics").text();
    let of_name = |line: &&str| line.starts_with(&format!("warmpath_controller_{name}"));
    text.lines().filter(of_name).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Back to the beginning of each case.
pub async fn reset(world: &mut World) {
    world.end_pods().await;
    world.start_pods(&[11, 12, 13]).await;
    let first = world.controller.is_none();
    if first {
        install(world).await;
    }
    for (kind, stay) in [
        (POOL, &["pool"][..]),
        (OLD_POOL, &[]),
        (MODEL, &[]),
        (POD, &["pod-11", "pod-12", "pod-13"]),
        (PATCH_POLICY, &[]),
        (EXTENSION_POLICY, &[]),
        (BACKEND_POLICY, &[]),
        (CLIENT_POLICY, &[]),
        (HTTP_ROUTE, &["plain", "pooled"]),
        (GATEWAY, &["eg"]),
        (GATEWAY_CLASS, &["eg"]),
    ] {
        let namespace = if kind == GATEWAY_CLASS { "" } else { "default" };
        for each in world.cluster().list(kind, namespace, "").await {
            let name = each["metadata"]["name"].as_str().unwrap();
            if !stay.contains(&name) {
                world.cluster().delete(kind, namespace, name).await;
            }
        }
    }
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
}

/// Definitions, rights, certificates, the controller and then Envoy Gateway: the order of docs/kubernetes.md.
async fn install(world: &mut World) {
    world.stop_gateway();
    if let Some(envoy) = world.envoy.take() {
        envoy.end();
    }
    let install = repository().join("manifests/install");
    for version in ["v1", "v1alpha2"] {
        apply(world, &world.ground.tools.join("crds-inference").join(version));
    }
    for file in ["crds/routedpools.yaml", "namespace.yaml", "rbac.yaml", "rbac-envoy-gateway.yaml"] {
        apply(world, &install.join(file));
    }
    world.controller = Some(Controller::start(world, "replica-a").await);
    let values = std::fs::read_to_string(install.join("envoy-gateway-values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    world.start_gateway(values["config"]["envoyGateway"].clone()).await;
    world.restore().await;
}

fn apply(world: &World, path: &std::path::Path) {
    let done =
        world.cluster().kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()]).output().unwrap();
    assert!(done.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&done.stderr));
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

/// A pod's object with its label, and its status as the kubelet writes it.
pub async fn pod(cluster: &Cluster, number: u8, app: &str, ready: &str) {
    let name = format!("pod-{number}");
    let object = json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "vllm", "image": "none"}]},
    });
    cluster.apply(POD, &object).await;
    let ip = address::pod(number);
    let status = json!({
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}],
    });
    cluster.patch_status(POD, "default", &name, status).await;
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
