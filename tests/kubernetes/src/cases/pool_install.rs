//! `scripts/kubernetes-install`: it installs, it stops where it must, and it removes.

use serde_json::{Value, json};
use warmpath_tests::{Finished, repository};

use crate::api::{CONFIG_MAP, CRD, DEPLOYMENT, MODEL, NAMESPACE, POOL};
use crate::wait::until;
use crate::world::World;

const SYSTEM: &str = "envoy-gateway-system";
const OURS: &str = "warmpath-system";
const IMAGE: &str = "registry.example.com/warmpath-controller:1.2.3";
/// The image that the manifests name by themselves: it is in the nodes already, as on kind.
const LOCAL_IMAGE: &str = concat!("warmpath-controller:", env!("CARGO_PKG_VERSION"));

/// Runs the script against this cluster.
async fn script(world: &World, arguments: &[&str]) -> Finished {
    world.script("scripts/kubernetes-install", arguments).await
}

/// What Envoy Gateway's chart makes of its values: its configuration in a ConfigMap.
async fn configure(world: &World, configuration: &str) {
    let object = json!({
        "metadata": {"name": "envoy-gateway-config", "namespace": SYSTEM},
        "data": {"envoy-gateway.yaml": configuration},
    });
    world.cluster().apply(CONFIG_MAP, &object).await;
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
    world.cluster().delete(CONFIG_MAP, SYSTEM, "envoy-gateway-config").await;
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
    let values = repository().join("manifests/install/envoy-gateway-values.yaml");
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(values).unwrap()).unwrap();
    let mut asks = json!({"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"});
    crate::objects::merge(&mut asks, values["config"]["envoyGateway"].clone());
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
    cluster.delete(CONFIG_MAP, SYSTEM, "envoy-gateway-config").await;
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

/// Ends a namespace that is being deleted, as the namespace controller would: what was in it is gone.
async fn finish(world: &World, name: &str) {
    let Some(mut namespace) = world.cluster().get(NAMESPACE, "", name).await else { return };
    namespace["spec"]["finalizers"] = json!([]);
    let path = format!("/api/v1/namespaces/{name}/finalize");
    world.cluster().pipe(&["replace", "--raw", &path], &namespace.to_string()).await;
}
