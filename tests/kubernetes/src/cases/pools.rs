//! InferencePools, by the controller.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use warmpath_tests::{Load, Request, Stopwatch};

use super::{brisk, is_used, whole};
use crate::access_log;
use crate::api::{HTTP_ROUTE, MODEL, OLD_POOL, POD, POOL};
use crate::controller::{Controller, FIRST, count};
use crate::pools::{CLUSTER, conditions, pod, pool, remove_pod, route, routed_pool};
use crate::wait::until;
use crate::world::{World, at, routed};

/// What a change may take until Envoy has it.
const SECOND: Duration = Duration::from_secs(1);

/// Waits until Envoy knows these hosts of the pool, and panics when it took more than a second.
async fn within_a_second(world: &World, hosts: &[(u8, &str)]) {
    let watch = Stopwatch::start();
    let hosts: Vec<_> = hosts.iter().map(|(number, health)| (at(*number), *health)).collect();
    world.envoy().knows(CLUSTER, &hosts).await;
    watch.within(SECOND, &format!("the way of {hosts:?} to Envoy"));
}

/// The status of an answer, and the pod that gave it.
async fn ask(path: &str) -> (u16, String) {
    let body = json!({"model": "/model/qwen", "messages": [{"role": "user", "content": "Who are you?"}]});
    let reply = Request::post(path, &body).send(routed()).await;
    (reply.status.into(), reply.header("x-test-pod").unwrap_or_default().to_owned())
}

/// Waits until a path is answered with this status.
async fn answers(path: &str, status: u16) {
    until(&format!("{path} is answered with {status}"), async || (ask(path).await.0 == status).then_some(()))
        .await;
}

pub async fn the_pools_pods_are_served_and_every_status_says_so(world: &mut World) {
    let traffic = brisk();
    traffic.more(60).await;
    whole(&traffic.stop().await);
    for number in [11, 12, 13] {
        is_used(number).await;
    }
    until("every condition of the pool is True", async || {
        let all = conditions(world.cluster(), POOL, "pool").await;
        (all.len() == 5 && all.values().all(|(good, ..)| *good)).then_some(())
    })
    .await;
    let view = routed_pool(world.cluster(), "pool").await.expect("a RoutedPool");
    assert_eq!(
        (&view["pods"], &view["ready"], &view["strategy"]),
        (&json!(3), &json!(3), &json!("PREFIX_CACHE"))
    );
    // The module stands in the listener with the route to the pool, and in no other.
    let dump = world.envoy().admin("/config_dump?resource=dynamic_listeners").await.unwrap().json();
    let with_module: Vec<_> = dump["configs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|listener| listener.to_string().contains("envoy.wasm.runtime.v8"))
        .map(|listener| listener["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(with_module, ["default/eg/routed"]);
}

pub async fn pods_come_load_leave_and_fail_within_a_second(world: &mut World) {
    let cluster = world.cluster().clone();
    let before = world.envoy().listener_changes().await;
    let traffic = brisk();
    traffic.more(20).await;
    // One turns not ready: it drains, so that nobody new goes there and Envoy does not panic.
    pod(&cluster, 13, "vllm", "False").await;
    within_a_second(world, &[(11, "HEALTHY"), (12, "HEALTHY"), (13, "DRAINING")]).await;
    assert_eq!(routed_pool(&cluster, "pool").await.unwrap()["ready"], 2);
    pod(&cluster, 13, "vllm", "True").await;
    within_a_second(world, &[(11, "HEALTHY"), (12, "HEALTHY"), (13, "HEALTHY")]).await;
    // One is evicted and keeps its address, and Ready: it may be another's in a moment. Another time its
    // address goes with it.
    let keeps = json!({"phase": "Failed", "reason": "Evicted"});
    let loses = json!({"phase": "Failed", "reason": "Evicted", "podIP": null, "podIPs": null});
    for evicted in [keeps, loses] {
        cluster.patch_status(POD, "default", "pod-13", evicted).await;
        within_a_second(world, &[(11, "HEALTHY"), (12, "HEALTHY")]).await;
        remove_pod(&cluster, 13).await;
        pod(&cluster, 13, "vllm", "True").await;
        within_a_second(world, &[(11, "HEALTHY"), (12, "HEALTHY"), (13, "HEALTHY")]).await;
    }
    // One more.
    world.start_pods(&[14]).await;
    pod(&cluster, 14, "vllm", "True").await;
    within_a_second(world, &[11, 12, 13, 14].map(|number| (number, "HEALTHY"))).await;
    is_used(14).await;
    whole(&traffic.stop().await);
    // Envoy has cut no connection for any of it, and no listener was touched.
    assert_eq!(world.envoy().listener_changes().await, before, "changes of listeners");
}

pub async fn a_selector_and_a_label_are_followed(world: &mut World) {
    let cluster = world.cluster().clone();
    cluster.patch(POD, "default", "pod-11", json!({"metadata": {"labels": {"app": "drained"}}})).await;
    within_a_second(world, &[(12, "HEALTHY"), (13, "HEALTHY")]).await;
    cluster.patch(POD, "default", "pod-11", json!({"metadata": {"labels": {"app": "vllm"}}})).await;
    within_a_second(world, &[11, 12, 13].map(|number| (number, "HEALTHY"))).await;
    let role = |value| json!({"spec": {"selector": {"matchLabels": {"role": value}}}});
    cluster.patch(POOL, "default", "pool", role(json!("stable"))).await;
    within_a_second(world, &[]).await;
    assert_eq!(ask("/v1/chat/completions").await.0, 503);
    cluster.patch(POOL, "default", "pool", role(json!(null))).await;
    within_a_second(world, &[11, 12, 13].map(|number| (number, "HEALTHY"))).await;
}

pub async fn the_strategy_is_hot(world: &mut World) {
    const STRATEGY: &str = "inference.networking.x-k8s.io/routing-strategy";
    let cluster = world.cluster().clone();
    let set = async |value: &str| {
        cluster.patch(POOL, "default", "pool", json!({"metadata": {"annotations": {STRATEGY: value}}})).await;
    };
    let in_force = async |strategy: &str| {
        let watch = Stopwatch::start();
        until(&format!("the route says {strategy}"), async || {
            let dump = world.envoy().admin("/config_dump?resource=dynamic_route_configs").await?.text();
            dump.contains(&format!(r#""strategy": "{strategy}""#)).then_some(())
        })
        .await;
        watch.within(Duration::from_secs(2), &format!("the way of {strategy} to Envoy"));
    };
    let before = world.envoy().listener_changes().await;
    let traffic = brisk();
    in_force("PREFIX_CACHE").await;
    set("DEFAULT").await;
    in_force("LOAD_ONLY").await;
    // A value that is none leaves the last good one, and is said.
    set("NONSENSE").await;
    until("the pool says what is wrong", async || {
        let all = conditions(&cluster, POOL, "pool").await;
        let (good, _, message) = all.get("warmpath.dev/SettingsValid")?;
        (!good && message.contains("NONSENSE") && message.contains("PREFIX_CACHE")).then_some(())
    })
    .await;
    assert_eq!(routed_pool(&cluster, "pool").await.unwrap()["strategy"], "LOAD_ONLY");
    assert!(!cluster.events("Invalid").await.is_empty(), "no event says it");
    set("PREFIX_CACHE").await;
    in_force("PREFIX_CACHE").await;
    whole(&traffic.stop().await);
    assert_eq!(world.envoy().listener_changes().await, before, "changes of listeners");
}

pub async fn two_pools_of_one_name_are_two_pools(world: &mut World) {
    let cluster = world.cluster().clone();
    world.start_pods(&[21, 22]).await;
    pod(&cluster, 21, "new", "True").await;
    pod(&cluster, 22, "old", "True").await;
    cluster.apply(POOL, &pool("twin", "new", json!({}))).await;
    let old = json!({
        "metadata": {"name": "twin", "namespace": "default", "annotations": {"inference.networking.x-k8s.io/routing-strategy": "DEFAULT"}},
        "spec": {"targetPortNumber": 8000, "selector": {"app": "old"}, "extensionRef": {"name": "none"}},
    });
    cluster.apply(OLD_POOL, &old).await;
    let mut both = route("twins", &[("/new", &[("twin", 1)]), ("/old", &[("twin", 1)])]);
    both["spec"]["rules"][1]["backendRefs"][0]["group"] = json!(OLD_POOL.0);
    cluster.apply(HTTP_ROUTE, &both).await;
    let model = json!({
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"modelName": "chat", "criticality": "Critical", "poolRef": {"name": "twin"}, "targetModels": [{"name": "base", "weight": 100}]},
    });
    cluster.apply(MODEL, &model).await;
    // Until this route is there, the one of every case answers.
    for (path, number) in [("/new", 21), ("/old", 22)] {
        until(&format!("{path} meets pod {number}"), async || {
            (ask(path).await.1 == at(number)).then_some(())
        })
        .await;
    }
    let met = async |path: &str| {
        let mut met = BTreeSet::new();
        for _ in 0..60 {
            met.insert(ask(path).await);
        }
        met
    };
    assert_eq!(met("/new").await, BTreeSet::from([(200, at(21))]));
    assert_eq!(met("/old").await, BTreeSet::from([(200, at(22))]));
    // Without a group, a model belongs to the older API's pool.
    until("the model is accepted", async || {
        let object = cluster.get(MODEL, "default", "chat").await?;
        (object["status"]["conditions"][0]["status"] == "True").then_some(())
    })
    .await;
    until("both pools are accepted", async || {
        let stable = conditions(&cluster, POOL, "twin").await;
        let old = conditions(&cluster, OLD_POOL, "twin").await;
        (stable.get("Accepted")?.0 && old.get("Accepted")?.0).then_some(())
    })
    .await;
    cluster.delete(OLD_POOL, "default", "twin").await;
    assert_eq!(met("/new").await, BTreeSet::from([(200, at(21))]));
    answers("/old", 500).await;
}

pub async fn a_pool_keeps_its_share_beside_one_that_is_not_there(world: &mut World) {
    let cluster = world.cluster().clone();
    let rules: [(&str, &[(&str, u32)]); 3] = [
        ("/gone", &[("nothere", 1), ("pool", 1)]),
        ("/zero", &[("pool", 1), ("nothere", 0)]),
        ("/", &[("pool", 1)]),
    ];
    cluster.apply(HTTP_ROUTE, &route("pooled", &rules)).await;
    answers("/gone", 500).await;
    let mut served = 0;
    for _ in 0..100 {
        let (status, _) = ask("/gone").await;
        assert!(status == 200 || status == 500, "{status}");
        served += usize::from(status == 200);
    }
    // 50 is expected; 5.4 standard deviations are 27.
    assert!((23..=77).contains(&served), "{served} of 100 were served");
    for path in ["/zero", "/other"] {
        assert_eq!(ask(path).await.0, 200, "{path}");
    }
}

pub async fn a_route_that_comes_before_its_pool_is_served_when_the_pool_comes(world: &mut World) {
    let cluster = world.cluster().clone();
    cluster.apply(HTTP_ROUTE, &route("early", &[("/early", &[("late", 1)])])).await;
    answers("/early", 500).await;
    until("the route says that its backend is not there", async || {
        let object = cluster.get(HTTP_ROUTE, "default", "early").await?;
        let told = object["status"]["parents"][0]["conditions"].as_array()?.clone();
        let refs = told.iter().find(|each| each["type"] == "ResolvedRefs")?;
        (refs["status"] == "False").then_some(())
    })
    .await;
    cluster.apply(POOL, &pool("late", "late", json!({}))).await;
    answers("/early", 503).await;
    let watch = Stopwatch::start();
    assert_eq!(ask("/early").await.0, 503);
    watch.within(SECOND / 10, "a 503 of a pool without pods");
    until("the pool is accepted, and its object says that it has no pods", async || {
        let accepted = conditions(&cluster, POOL, "late").await.get("Accepted")?.0;
        (accepted && routed_pool(&cluster, "late").await?["pods"] == 0).then_some(())
    })
    .await;
    let story = "There was a pod that nobody remembered. ".repeat(200);
    let is_warm = async |world: &World| {
        let body = json!({"model": "/model/qwen", "messages": [{"role": "user", "content": story}]});
        let request = Request::post("/early/v1/chat/completions", &body);
        let (reply, line) = access_log::ask(world.envoy(), request).await;
        assert_eq!(reply.status, 200);
        line.is_warm()
    };
    for turn in 1..=3 {
        // Each time another process at the same address, which in reality takes longer to start.
        world.start_pods(&[21]).await;
        world.pods[&21].set_load(Load { started: 1.79e9 + 1000.0 * f64::from(turn), ..Load::default() });
        pod(&cluster, 21, "late", "True").await;
        let watch = Stopwatch::start();
        answers("/early", 200).await;
        watch.within(SECOND, "the first answer after the pod was ready");
        // The first page of a new process counts when a second one tells the same.
        world.pods[&21].scraped(3).await;
        world.envoy().has_ready(4).await;
        assert!(!is_warm(world).await, "what the pod before it held is believed of its successor");
        assert!(is_warm(world).await, "the story is told again at once");
        remove_pod(&cluster, 21).await;
        let watch = Stopwatch::start();
        answers("/early", 503).await;
        watch.within(SECOND, "the first 503 after the pod was gone");
    }
}

/// Two pools and twenty pods, of which three are served. Twice a minute passes in which nothing changes that
/// anybody has to know.
pub async fn nothing_is_written_when_nothing_changes(world: &mut World) {
    const MINUTE: u32 = 60;
    let cluster = world.cluster().clone();
    let distant = |number: u32| if number < 7 { ("vllm", number) } else { ("other", number) };
    for (app, number) in (0..17).map(distant) {
        crate::pools::distant_pod(&cluster, number, app).await;
    }
    cluster.apply(POOL, &pool("other", "other", json!({}))).await;
    cluster.apply(HTTP_ROUTE, &route("other", &[("/other", &[("other", 1)])])).await;
    until("both pools are known", async || {
        let has = async |name: &str, pods: u32| {
            routed_pool(&cluster, name).await.is_some_and(|view| view["pods"] == pods)
        };
        (has("pool", 10).await && has("other", 10).await).then_some(())
    })
    .await;
    let so_far = async || (world.ground.writes_of_the_controller(), count(FIRST, "hooks_total").await);
    // What follows from all that is on its way.
    let mut before = so_far().await;
    until("all is quiet for three seconds", async || {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = so_far().await;
        (std::mem::replace(&mut before, now.clone()) == now).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(MINUTE.into())).await;
    assert_eq!(so_far().await, before, "writes and calls of hooks while nothing happened");
    let names = [11, 12, 13].map(|number| format!("pod-{number}")).into_iter();
    let names: Vec<String> = names.chain((0..17).map(|number| format!("distant-{number}"))).collect();
    let start = tokio::time::Instant::now();
    for second in 0..MINUTE {
        let note = json!({"metadata": {"annotations": {"note": second.to_string()}}});
        let other = if second % 2 == 0 { "True" } else { "False" };
        let conditions = json!([{"type": "Ready", "status": "True"}, {"type": "Other", "status": other}]);
        let written = names.iter().map(async |name| {
            cluster.patch(POD, "default", name, note.clone()).await;
            cluster.patch_status(POD, "default", name, json!({"conditions": conditions})).await;
        });
        futures::future::join_all(written).await;
        cluster.patch(POOL, "default", "pool", note.clone()).await;
        tokio::time::sleep_until(start + Duration::from_secs((second + 1).into())).await;
    }
    assert_eq!(so_far().await, before, "writes and calls of hooks while pods and a pool had other notes");
    pod(&cluster, 13, "vllm", "False").await;
    until("Envoy knows that one pod is not ready", async || {
        (world.envoy().hosts(CLUSTER).await.get(&at(13))? == "DRAINING").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes = world.ground.writes_of_the_controller().split_off(before.0.len());
    assert!((1..=3).contains(&writes.len()), "for one change: {writes:#?}");
}

pub async fn the_controller_is_killed_and_nothing_is_lost(world: &mut World) {
    let cluster = world.cluster().clone();
    let traffic = brisk();
    traffic.more(20).await;
    world.controller.take().unwrap().kill();
    pod(&cluster, 13, "vllm", "False").await;
    traffic.lasts(Duration::from_secs(3)).await;
    world.controller = Some(Controller::start(&world.ground, &world.module, "replica-b", &[]).await);
    let hosts = [(at(11), "HEALTHY"), (at(12), "HEALTHY"), (at(13), "DRAINING")];
    world.envoy().knows(CLUSTER, &hosts).await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
}
