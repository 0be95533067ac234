//! `scripts/kubernetes-install`: it installs, it stops where it must, and it removes.

use serde_json::{Value, json};
use warmpath_tests::Finished;

use crate::api::{CONFIG_MAP, CRD, DEPLOYMENT, ENVOY_PROXY, Kind, MODEL, NAMESPACE, POOL, SECRET};
use crate::objects::envoy_proxy;
use crate::pools::pages_values;
use crate::wait::until;
use crate::world::World;

const SYSTEM: &str = "envoy-gateway-system";
const OURS: &str = "warmpath-system";
const CONFIGURATION: &str = "envoy-gateway-config";
/// What the values of the pages mount.
const MODULE: &str = "warmpath-module";
const ROLE: Kind = Kind("rbac.authorization.k8s.io", "v1", "Role", "roles");
const JOB: Kind = Kind("batch", "v1", "Job", "jobs");
const IMAGE: &str = "registry.example.com/warmpath-controller:1.2.3";
/// The image that the manifests name by themselves: it is in the nodes already, as on kind.
const LOCAL_IMAGE: &str = concat!("warmpath-controller:", env!("CARGO_PKG_VERSION"));

/// Runs the script against this cluster.
async fn script(world: &World, arguments: &[&str]) -> Finished {
    world.script("scripts/kubernetes-install", arguments).await
}

/// What Envoy Gateway's chart makes of its values: its configuration in a ConfigMap.
async fn configure(world: &World, configuration: &str) {
    configure_in(SYSTEM, world, configuration).await;
}

/// The same where Envoy Gateway is in this namespace.
async fn configure_in(namespace: &str, world: &World, configuration: &str) {
    let object = json!({
        "metadata": {"name": CONFIGURATION, "namespace": namespace},
        "data": {"envoy-gateway.yaml": configuration},
    });
    world.cluster().apply(CONFIG_MAP, &object).await;
}

/// Envoy Gateway's configuration with what the manifests add to it.
fn asking(more: Value) -> Value {
    let mut asks = json!({"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"});
    crate::objects::merge(&mut asks, crate::pools::envoy_gateway_values());
    crate::objects::merge(&mut asks, more);
    asks
}

/// All that the manifests may make or change: names and versions.
fn state(world: &World) -> String {
    let kinds = "deployments,services,networkpolicies,jobs,poddisruptionbudgets,roles,rolebindings,serviceaccounts,configmaps";
    let list = |arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.push(
            "-o=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}",
        );
        let done = world.cluster().kubectl(&arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    [
        list(&["get", kinds, "--namespace", OURS]),
        list(&["get", kinds, "--namespace", SYSTEM]),
        list(&["get", "clusterroles,clusterrolebindings,namespaces"]),
    ]
    .concat()
}

pub async fn the_install_stops_where_another_server_is_asked(world: &mut World) {
    configure(world, &crate::world::input("another-server.yaml")).await;
    let before = state(world);
    let done = script(world, &["--image", IMAGE]).await;
    assert_eq!(done.code, 1, "{}", done.out);
    assert_eq!(done.err.lines().count(), 1, "one sentence: {}", done.err);
    assert!(
        done.err.contains("gateway-extension.other-system.svc.cluster.local:1063")
            && done.err.contains("nothing was changed"),
        "{}",
        done.err
    );
    assert_eq!(state(world), before, "it has changed something");
    assert_eq!(script(world, &["--check"]).await.code, 1);
    world.cluster().delete(CONFIG_MAP, SYSTEM, CONFIGURATION).await;
}

pub async fn it_is_installed_by_the_script_and_removed_again(world: &mut World) {
    let cluster = world.cluster().clone();
    configure(world, "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\n").await;
    // The second time is an upgrade.
    for image in [LOCAL_IMAGE, IMAGE] {
        let done = script(world, &["--image", image, "--no-wait"]).await;
        assert_eq!(done.code, 0, "{}{}", done.out, done.err);
        assert!(
            done.err.contains("helm upgrade") && done.err.contains("envoy-gateway-values.yaml"),
            "{}",
            done.err
        );
        let deployment =
            cluster.get(DEPLOYMENT, OURS, "warmpath-controller").await.expect("the controller's Deployment");
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], image);
    }
    // No kubelet starts them, and Envoy Gateway is not to ask them yet.
    let lacks = script(world, &["--check"]).await;
    assert!(lacks.code == 1 && lacks.err.contains("no replica"), "{}", lacks.err);
    assert!(lacks.err.contains("asks no extension server"), "{}", lacks.err);
    // Envoy Gateway asks it, and all is well.
    let mut asks = asking(json!({}));
    configure(world, &asks.to_string()).await;
    let ready = json!({"replicas": 2, "readyReplicas": 2});
    cluster.patch_status(DEPLOYMENT, OURS, "warmpath-controller", ready).await;
    let good = script(world, &["--check"]).await;
    assert_eq!(good.code, 0, "{}", good.err);
    // A hook that lacks is named.
    asks["extensionManager"]["hooks"]["xdsTranslator"]["post"] = json!(["Route", "Cluster", "HTTPListener"]);
    configure(world, &asks.to_string()).await;
    let lacks = script(world, &["--check"]).await;
    assert!(lacks.code == 1 && lacks.err.contains("the hook Endpoints"), "{}", lacks.err);
    // While Envoy Gateway asks it, nothing is removed.
    let before = state(world);
    let refused = script(world, &["--remove"]).await;
    assert!(refused.code == 1 && refused.err.contains("nothing was removed"), "{}", refused.err);
    assert_eq!(state(world), before);
    let model = json!({
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"modelName": "chat", "criticality": "Standard", "poolRef": {"name": "pool", "group": POOL.0}},
    });
    cluster.apply(MODEL, &model).await;
    cluster.delete(CONFIG_MAP, SYSTEM, CONFIGURATION).await;
    world.controller.take().unwrap().kill();
    let removed = script(world, &["--remove"]).await;
    assert_eq!(removed.code, 0, "{}{}", removed.out, removed.err);
    assert!(cluster.get(DEPLOYMENT, OURS, "warmpath-controller").await.is_none());
    // The API server takes a definition away when the objects of it are gone.
    until("the definition of RoutedPool is gone", async || {
        cluster.get(CRD, "", "routedpools.warmpath.dev").await.is_none().then_some(())
    })
    .await;
    // Nobody's pool or model goes with it.
    assert!(cluster.get(POOL, "default", "pool").await.is_some());
    assert!(cluster.get(MODEL, "default", "chat").await.is_some());
    finish(world, OURS).await;
    world.spoilt();
}

/// Envoy Gateway in a namespace of its own name, and Envoys beside it or each with its Gateway: the script
/// finds both.
pub async fn rights_and_pages_are_where_envoy_gateway_and_its_envoys_are(world: &mut World) {
    const ELSEWHERE: &str = "gateways";
    let cluster = world.cluster().clone();
    let module = world.publish(&world.module).1;
    let has_module = async |namespace: &str| cluster.get(CONFIG_MAP, namespace, MODULE).await.is_some();
    cluster.apply(NAMESPACE, &json!({"metadata": {"name": ELSEWHERE}})).await;
    configure_in(ELSEWHERE, world, &asking(json!({})).to_string()).await;
    // The rights are there, and so are the certificates that the Job makes.
    let done = script(world, &["--image", IMAGE, "--no-wait"]).await;
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(cluster.get(ROLE, ELSEWHERE, "warmpath-certgen").await.is_some());
    let job = cluster.get(JOB, OURS, "warmpath-certgen").await.expect("the Job of the certificates");
    assert_eq!(
        job["spec"]["template"]["spec"]["containers"][0]["args"],
        json!(["certgen", "--envoy-gateway-namespace=gateways"])
    );
    let ready = json!({"replicas": 2, "readyReplicas": 2});
    cluster.patch_status(DEPLOYMENT, OURS, "warmpath-controller", ready).await;
    // Cases before this one may have left it where their Envoys ran.
    for namespace in [SYSTEM, "default"] {
        cluster.delete(CONFIG_MAP, namespace, MODULE).await;
    }
    // The pages first and their file later: no new Envoy would start.
    let pages = json!({"envoyProxy": pages_values()["envoyProxy"]});
    let with_gateways =
        json!({"provider": {"type": "Kubernetes", "kubernetes": {"deploy": {"type": "GatewayNamespace"}}}});
    for (mode, envoys) in [(json!({}), ELSEWHERE), (with_gateways, "default")] {
        let mut values = asking(pages.clone());
        crate::objects::merge(&mut values, mode);
        configure_in(ELSEWHERE, world, &values.to_string()).await;
        let lacks = script(world, &["--check"]).await;
        assert!(
            lacks.code == 1 && lacks.err.contains(&format!("new Envoys in {envoys} do not start")),
            "{}",
            lacks.err
        );
        assert!(!has_module(envoys).await);
        let made = script(world, &["--pages", module.to_str().unwrap()]).await;
        assert!(
            made.code == 0 && made.err.contains(&format!("--namespace {envoys} rollout restart")),
            "{}",
            made.err
        );
        assert!(has_module(envoys).await);
        let good = script(world, &["--check"]).await;
        assert_eq!(good.code, 0, "{}", good.err);
    }
    assert!(!has_module(SYSTEM).await, "where no Envoy runs");
    // What Envoys mount is not removed, whoever has them mount it.
    let mut values = asking(pages.clone());
    values.as_object_mut().unwrap().remove("extensionManager");
    configure_in(ELSEWHERE, world, &values.to_string()).await;
    let refused = script(world, &["--remove"]).await;
    assert!(
        refused.code == 1 && refused.err.contains("out of Envoy Gateway's values first"),
        "{}",
        refused.err
    );
    values.as_object_mut().unwrap().remove("envoyProxy");
    configure_in(ELSEWHERE, world, &values.to_string()).await;
    let usual =
        world.cluster().get(ENVOY_PROXY, "default", "eg").await.expect("the EnvoyProxy of every case");
    cluster.replace(ENVOY_PROXY, &envoy_proxy(pages["envoyProxy"].clone())).await;
    let refused = script(world, &["--remove"]).await;
    assert!(
        refused.code == 1 && refused.err.contains("out of EnvoyProxy default/eg first"),
        "{}",
        refused.err
    );
    assert!(has_module(ELSEWHERE).await && has_module("default").await);
    cluster.replace(ENVOY_PROXY, &usual).await;
    // And then it is, with all the rest.
    world.controller.take().unwrap().kill();
    let removed = script(world, &["--remove"]).await;
    assert_eq!(removed.code, 0, "{}{}", removed.out, removed.err);
    assert!(!has_module(ELSEWHERE).await);
    assert!(cluster.get(ROLE, ELSEWHERE, "warmpath-certgen").await.is_none());
    assert!(cluster.get(DEPLOYMENT, OURS, "warmpath-controller").await.is_none());
    // Another Envoy Gateway is named, as both would be possible.
    configure(world, &values.to_string()).await;
    let refused = script(world, &["--check"]).await;
    assert!(refused.code == 1 && refused.err.contains("--envoy-gateway-namespace"), "{}", refused.err);
    let removed = script(world, &["--remove", "--envoy-gateway-namespace", SYSTEM]).await;
    assert_eq!(removed.code, 0, "{}{}", removed.out, removed.err);
    assert!(cluster.get(SECRET, SYSTEM, "warmpath-controller-ca").await.is_none());
    for (namespace, name) in [(SYSTEM, CONFIGURATION), (ELSEWHERE, CONFIGURATION), ("default", MODULE)] {
        cluster.delete(CONFIG_MAP, namespace, name).await;
    }
    finish(world, OURS).await;
    world.spoilt();
}

/// Ends a namespace that is being deleted, as the namespace controller would: what was in it is gone.
async fn finish(world: &World, name: &str) {
    let Some(mut namespace) = world.cluster().get(NAMESPACE, "", name).await else { return };
    namespace["spec"]["finalizers"] = json!([]);
    let path = format!("/api/v1/namespaces/{name}/finalize");
    world.cluster().pipe(&["replace", "--raw", &path], &namespace.to_string()).await;
}
