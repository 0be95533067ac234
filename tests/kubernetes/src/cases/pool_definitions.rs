//! Definitions of kinds (CRDs) go and come back, while pools of the other API are served.

use std::time::Duration;

use serde_json::{Value, json};
use warmpath_tests::{Request, Stopwatch, Traffic};

use super::whole;
use crate::api::{CRD, HTTP_ROUTE, Kind, MODEL, OBJECTIVE, OLD_POOL, POOL};
use crate::controller::Controller;
use crate::pools::{envoy_gateway_values, pod, pool, route};
use crate::wait::until;
use crate::world::{World, at, routed};

/// What the controller's first answers and a returned pool may take.
const SOON: Duration = Duration::from_secs(10);
/// The beginning of paths to the older pool; all others go to the pool of every case.
const OLD: &str = "/old";

/// Kinds whose definitions go together, as log lines name them, with the kind of each.
type Kinds<'a> = &'a [(&'a str, Kind)];

pub async fn the_older_definitions_go_and_come_back(world: &mut World) {
    let kinds = [
        ("InferencePool.inference.networking.x-k8s.io", OLD_POOL),
        ("InferenceModel", MODEL),
        ("InferenceObjective", OBJECTIVE),
    ];
    let model = json!({
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"modelName": "chat", "criticality": "Standard", "poolRef": {"name": "pool", "group": POOL.0}},
    });
    let objective = json!({
        "metadata": {"name": "urgent", "namespace": "default"},
        "spec": {"priority": 10, "poolRef": {"name": "pool", "group": POOL.0}},
    });
    let objects = [(OLD_POOL, older_pool()), (MODEL, model), (OBJECTIVE, objective)];
    two_apis(world).await;
    go_and_come_back(world, &kinds, &["v1alpha2", "objectives"], &objects, [OLD, ""]).await;
    for (kind, name) in [(MODEL, "chat"), (OBJECTIVE, "urgent")] {
        until(&format!("{name} is accepted"), async || {
            let object = world.cluster().get(kind, "default", name).await?;
            let all = object["status"]["conditions"].as_array()?.clone();
            all.iter().any(|each| each["type"] == "Accepted" && each["status"] == "True").then_some(())
        })
        .await;
    }
}

pub async fn the_stable_definition_goes_and_comes_back(world: &mut World) {
    two_apis(world).await;
    let kinds = [("InferencePool.inference.networking.k8s.io", POOL)];
    let objects = [(POOL, pool("pool", "vllm", json!({})))];
    go_and_come_back(world, &kinds, &["v1"], &objects, ["", OLD]).await;
}

fn older_pool() -> Value {
    json!({
        "metadata": {"name": "old", "namespace": "default"},
        "spec": {"targetPortNumber": 8000, "selector": {"app": "old"}, "extensionRef": {"name": "none"}},
    })
}

/// An older pool of pod 21 beside the pool of every case.
async fn two_apis(world: &mut World) {
    world.start_pods(&[21]).await;
    let cluster = world.cluster();
    pod(cluster, 21, "old", "True").await;
    let mut to_old = route("old", &[(OLD, &[("old", 1)])]);
    to_old["spec"]["rules"][0]["backendRefs"][0]["group"] = json!(OLD_POOL.0);
    cluster.apply(OLD_POOL, &older_pool()).await;
    cluster.apply(HTTP_ROUTE, &to_old).await;
    is_served(OLD).await;
}

/// The status of a chat on a path, and the pod that answered.
async fn ask(path: &str) -> (u16, String) {
    let body = json!({"model": "/model/qwen", "messages": [{"role": "user", "content": "Who are you?"}]});
    let reply = Request::post(&format!("{path}/v1/chat/completions"), &body).send(routed()).await;
    (reply.status.into(), reply.header("x-test-pod").unwrap_or_default().to_owned())
}

/// Waits until a path is answered by a pod of its own pool.
async fn is_served(path: &str) {
    until(&format!("{path}/ is served by its pool"), async || {
        let (status, pod) = ask(path).await;
        (status == 200 && (pod == at(21)) == (path == OLD)).then_some(())
    })
    .await;
}

/// The definitions go and come back, and with them the objects. `gone` and `stays` are the beginnings of
/// paths to the two pools.
async fn go_and_come_back(
    world: &mut World,
    kinds: Kinds<'_>,
    folders: &[&str],
    objects: &[(Kind, Value)],
    [gone, stays]: [&str; 2],
) {
    let cluster = world.cluster().clone();
    for (kind, object) in objects {
        cluster.apply(*kind, object).await;
    }
    let log = world.ground.logs().join("warmpath-controller.log");
    // How often each kind was said to be missing.
    let told = || {
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> =
            text.lines().filter(|line| line.contains("the kind is not installed")).collect();
        kinds
            .iter()
            .map(|(label, _)| lines.iter().filter(|line| line.contains(label)).count())
            .collect::<Vec<_>>()
    };
    let before = told();
    let more = |lines: usize| before.iter().map(|count| count + lines).collect::<Vec<_>>();
    let traffic = Traffic::paced_below(routed(), stays, 4, 100);
    traffic.more(20).await;
    for (_, Kind(group, _, _, plural)) in kinds {
        cluster.delete(CRD, "", &format!("{plural}.{group}")).await;
    }
    until("the pool is gone", async || (ask(gone).await.0 == 500).then_some(())).await;
    until("a line tells of each kind", async || (told() == more(1)).then_some(())).await;
    // Longer than the controller takes until it looks again.
    traffic.lasts(Duration::from_secs(6)).await;
    whole(&traffic.stop().await);
    assert_eq!(told(), more(1), "one line for each kind says that it is gone");
    // A controller that starts without them is ready, and the other pool is served.
    world.controller.take().unwrap().kill();
    let watch = Stopwatch::start();
    let later = Controller::start(&world.ground, &world.module, "replica-without", &[]).await;
    watch.within(SOON, "the start of a controller without the definitions");
    world.controller = Some(later);
    changes_are_followed(world, stays).await;
    assert_eq!(told(), more(2), "one line for each kind, of the new one");
    for folder in folders {
        cluster.apply_file(&world.ground.tools.join("crds-inference").join(folder)).await;
    }
    for (_, Kind(group, _, _, plural)) in kinds {
        until(&format!("{plural}.{group} are listed"), async || {
            let listed = cluster.kubectl(&["get", &format!("{plural}.{group}")]).output().ok()?;
            listed.status.success().then_some(())
        })
        .await;
    }
    for (kind, object) in objects {
        cluster.apply(*kind, object).await;
    }
    // Envoy Gateway watches no definition that came after its start.
    world.start_gateway(envoy_gateway_values()).await;
    let watch = Stopwatch::start();
    is_served(gone).await;
    watch.within(SOON, "the first answer of a pool whose definition is back");
    changes_are_followed(world, gone).await;
}

/// A pod of the pool behind these paths turns not ready and ready again, and Envoy hears of it.
async fn changes_are_followed(world: &World, path: &str) {
    let (rule, number, app) = if path == OLD { ("old", 21, "old") } else { ("pooled", 13, "vllm") };
    let name = format!("httproute/default/{rule}/rule/0");
    for (ready, health) in [("False", "DRAINING"), ("True", "HEALTHY")] {
        pod(world.cluster(), number, app, ready).await;
        until(&format!("Envoy knows that pod {number} is {health}"), async || {
            (world.envoy().hosts(&name).await.get(&at(number))? == health).then_some(())
        })
        .await;
    }
}
