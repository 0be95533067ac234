//! Pods of InferencePools that load, vanish, or do not serve; what is around them goes away and comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::json;
use warmpath_tests::{Request, Stopwatch, Traffic};

use super::{brisk, is_used, steady, whole};
use crate::access_log::ask;
use crate::api::{POD, ROUTED_POOL};
use crate::controller::{Controller, FIRST, SECOND_REPLICA, count};
use crate::pools::{CLUSTER, events, pod, pod_object, remove_pod};
use crate::wait::until;
use crate::world::{World, at, routed};

/// Statuses and pods of so many requests, one after the other.
async fn met(number: usize, request: impl Fn(usize) -> Request) -> BTreeSet<(u16, String)> {
    let mut met = BTreeSet::new();
    for turn in 0..number {
        let reply = request(turn).send(routed()).await;
        met.insert((reply.status.into(), reply.header("x-test-pod").unwrap_or_default().to_owned()));
    }
    met
}

pub async fn one_pod_of_the_pool_is_ready_and_three_load(world: &mut World) {
    let cluster = world.cluster().clone();
    for number in [12, 13] {
        world.pods.remove(&number).unwrap().kill().await;
    }
    for number in [12, 13, 14] {
        pod(&cluster, number, "vllm", "False").await;
    }
    let loading = [(at(11), "HEALTHY"), (at(12), "DRAINING"), (at(13), "DRAINING"), (at(14), "DRAINING")];
    world.envoy().knows(CLUSTER, &loading).await;
    // Of other cases, in which the pool had no pod.
    let before = world.envoy().panics(CLUSTER).await;
    let only = BTreeSet::from([(200, at(11))]);
    assert_eq!(met(100, |turn| Request::chat(&format!("Chat number {turn}."))).await, only);
    assert_eq!(met(100, |_| Request::get("/v1/models")).await, only);
    assert_eq!(met(100, |_| Request::post("/tokenize", &json!({"prompt": "so"}))).await, only);
    assert_eq!(world.envoy().panics(CLUSTER).await, before, "Envoy has sent to all pods, ready or not");
    world.start_pods(&[12]).await;
    pod(&cluster, 12, "vllm", "True").await;
    let watch = Stopwatch::start();
    is_used(12).await;
    // The module looks once a second.
    watch.within(Duration::from_secs(3), "the first chat at a pod that has turned ready");
    for number in [11, 12] {
        pod(&cluster, number, "vllm", "False").await;
    }
    let nobody = [11, 12, 13, 14].map(|number| (at(number), "DRAINING"));
    world.envoy().knows(CLUSTER, &nobody).await;
    // Until the module has looked, which it does once a second, it names a pod that has just turned not ready
    // and is still there.
    let watch = Stopwatch::start();
    until("nobody is asked any more, and the client is told so at once", async || {
        let since = Instant::now();
        let reply = Request::chat("Is anybody there?").send(routed()).await;
        (reply.status == 503 && since.elapsed() < Duration::from_secs(1)).then_some(())
    })
    .await;
    watch.within(Duration::from_secs(3), "the first 503 after the last pod has turned not ready");
    for _ in 0..20 {
        assert_eq!(Request::chat("And now?").send(routed()).await.status, 503);
    }
    assert_eq!(world.envoy().panics(CLUSTER).await, before, "Envoy has sent to all pods, ready or not");
}

pub async fn a_deletion_that_no_watch_has_seen_is_noticed(world: &mut World) {
    let cluster = world.cluster().clone();
    let traffic = steady();
    traffic.more(20).await;
    // The controller sees nothing of it: it stands still, and when it goes on its watches have lost the
    // server.
    let controller = world.controller.as_ref().unwrap();
    controller.freeze();
    remove_pod(&cluster, 13).await;
    world.ground.stop_api_server();
    traffic.lasts(Duration::from_secs(3)).await;
    world.controller.as_ref().unwrap().go_on();
    traffic.lasts(Duration::from_secs(17)).await;
    world.ground.start_api_server().await;
    let (since, watch) = (Instant::now(), Stopwatch::start());
    world.gateway_lives(crate::pools::envoy_gateway_values()).await;
    until("the controller tells of it", async || {
        (crate::pools::routed_pool(&cluster, "pool").await?["pods"] == 2).then_some(())
    })
    .await;
    watch.within(Duration::from_secs(5), "the controller's word after the API server's return");
    let told = since.elapsed();
    comes_to_know(world, &[(at(11), "HEALTHY"), (at(12), "HEALTHY")]).await;
    println!(
        "after the API server's return the controller tells of it in {told:.1?}, Envoy knows it in {:.1?}",
        since.elapsed()
    );
    whole(&traffic.stop().await);
    world.stop_gateway().await;
}

/// Waits until Envoy knows these hosts of the pool, after the API server was away: Envoy Gateway's watches
/// wait up to a minute before they try again.
async fn comes_to_know(world: &World, hosts: &[(String, &str)]) {
    super::until_within(Duration::from_secs(120), &format!("Envoy knows {hosts:?}"), async || {
        world.envoy().has(CLUSTER, hosts).await
    })
    .await;
}

pub async fn an_address_that_was_given_to_a_stranger_gets_nothing(world: &mut World) {
    let cluster = world.cluster().clone();
    let evicted = json!({"phase": "Failed", "reason": "Evicted"});
    cluster.patch_status(POD, "default", "pod-13", evicted).await;
    world.envoy().knows(CLUSTER, &[(at(11), "HEALTHY"), (at(12), "HEALTHY")]).await;
    // A pod of another namespace with the same label has its address now, while the failed one is still there
    // with it.
    cluster.apply(crate::api::NAMESPACE, &json!({"metadata": {"name": "strangers"}})).await;
    let ip = crate::sandbox::address::pod(13);
    pod_object(&cluster, ("strangers", "stranger"), json!({"app": "vllm"}), &ip, "True").await;
    world.start_pods(&[13]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (scrapes, received) = (world.pods[&13].scrapes(), world.pods[&13].received().len());
    assert_eq!(met(60, |turn| Request::chat(&format!("Question {turn}."))).await.len(), 2);
    assert_eq!((world.pods[&13].scrapes(), world.pods[&13].received().len()), (scrapes, received));
    cluster.delete(POD, "strangers", "stranger").await;
}

/// Asks for the story of that number; whether it met its prefix.
async fn story_is_warm(world: &World, story: usize) -> bool {
    let opening = format!("Story {story}. {}", "Once upon a time there was a long one. ".repeat(200));
    is_warm(world, &opening).await
}

/// Asks this; whether it met its prefix.
async fn is_warm(world: &World, prompt: &str) -> bool {
    let (reply, line) = ask(world.envoy(), Request::chat(prompt)).await;
    assert_eq!(reply.status, 200);
    line.is_warm()
}

pub async fn a_pod_that_takes_over_an_address_is_believed_to_hold_nothing(world: &mut World) {
    let cluster = world.cluster().clone();
    for number in [12, 13] {
        pod(&cluster, number, "vllm", "False").await;
    }
    world.envoy().knows(CLUSTER, &[(at(11), "HEALTHY"), (at(12), "DRAINING"), (at(13), "DRAINING")]).await;
    world.envoy().has_ready(1).await;
    for story in 0..20 {
        assert!(!story_is_warm(world, story).await, "story {story} is new");
    }
    assert!(story_is_warm(world, 0).await, "the first story is warm");
    remove_pod(&cluster, 11).await;
    for number in [12, 13] {
        pod(&cluster, number, "vllm", "True").await;
    }
    world.envoy().knows(CLUSTER, &[(at(12), "HEALTHY"), (at(13), "HEALTHY")]).await;
    // Its successor.
    world.start_pods(&[11]).await;
    pod(&cluster, 11, "vllm", "True").await;
    world.envoy().knows(CLUSTER, &[11, 12, 13].map(|number| (at(number), "HEALTHY"))).await;
    world.pods[&11].scraped(2).await;
    // Its page must be told a second time, after a look at Envoy's clusters. Each story is told once more
    // only.
    let mut stories = 1..20;
    for story in stories.by_ref() {
        if !story_is_warm(world, story).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let rest: Vec<usize> = stories.take(3).collect();
    assert_eq!(rest.len(), 3, "what the pod before it held is believed of its successor");
    for story in rest {
        assert!(
            !story_is_warm(world, story).await,
            "story {story} of the pod before it is believed of its successor"
        );
    }
}

pub async fn a_pod_that_is_replaced_before_its_first_page_leaves_nothing_behind(world: &mut World) {
    let cluster = world.cluster().clone();
    let opening = "A story that nobody has told before, and that goes on. ".repeat(200);
    // One pod alone, whose page nobody can read.
    for number in [12, 13] {
        pod(&cluster, number, "vllm", "False").await;
    }
    world.envoy().knows(CLUSTER, &[(at(11), "HEALTHY"), (at(12), "DRAINING"), (at(13), "DRAINING")]).await;
    remove_pod(&cluster, 11).await;
    world.start_pods(&[14]).await;
    world.pods[&14].set_metrics_status(500);
    pod(&cluster, 14, "vllm", "True").await;
    world.envoy().knows(CLUSTER, &[(at(12), "DRAINING"), (at(13), "DRAINING"), (at(14), "HEALTHY")]).await;
    is_used(14).await;
    for _ in 0..2 {
        let reply = Request::chat(&opening).send(routed()).await;
        assert_eq!(reply.pod(), at(14), "{}", reply.text());
    }
    assert!(is_warm(world, &opening).await, "the conversation is warm");
    // Another process has the address, within the same second and without a word to anybody.
    world.start_pods(&[14]).await;
    world.pods[&14].scraped(3).await;
    // Warmpath has read its page.
    world.envoy().has_ready(1).await;
    assert!(!is_warm(world, &opening).await, "what the pod before it held is believed of its successor");
}

/// One turns not ready, another loses the label of the pool; their servers go on, and so does a minute of
/// their streams.
pub async fn pods_of_the_pool_are_taken_out_while_they_stream(world: &mut World) {
    let cluster = world.cluster().clone();
    let streams = [(12, super::stream_at(world, 12).await), (13, super::stream_at(world, 13).await)];
    let label = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    pod(&cluster, 12, "vllm", "False").await;
    cluster.patch(POD, "default", "pod-13", label("drained")).await;
    world.envoy().knows(CLUSTER, &[(at(11), "HEALTHY"), (at(12), "DRAINING")]).await;
    world.envoy().has_ready(1).await;
    let view = crate::pools::routed_pool(&cluster, "pool").await.expect("a RoutedPool");
    assert_eq!((&view["pods"], &view["ready"]), (&json!(2), &json!(1)));
    super::only_streams_go_on(world, streams, 60).await;
    pod(&cluster, 12, "vllm", "True").await;
    cluster.patch(POD, "default", "pod-13", label("vllm")).await;
    is_used(12).await;
    is_used(13).await;
}

pub async fn a_helper_that_is_ready_and_does_not_listen(world: &mut World) {
    // No other case has a pod at this address: of one that was down before nothing new would be said.
    let cluster = world.cluster().clone();
    let said = world.envoy().said().len();
    pod(&cluster, 15, "vllm", "True").await;
    world.envoy().knows(CLUSTER, &[11, 12, 13, 15].map(|number| (at(number), "HEALTHY"))).await;
    let traffic = Traffic::start(routed(), 8);
    traffic.more(200).await;
    whole(&traffic.stop().await);
    let refusing = async || crate::pools::refusing(&cluster, "pool").await;
    until("the pool's object names it", async || {
        (refusing().await? == format!("pod-15 {}", at(15))).then_some(())
    })
    .await;
    let warnings = || {
        let log = world.envoy().said();
        log[said..].lines().filter(|line| line.contains(&at(15)) && line.contains("[warning]")).count()
    };
    until("a warning names it", async || (warnings() > 0).then_some(())).await;
    assert!(warnings() <= 2, "{} warnings name it", warnings());
    until("an event names it", async || {
        events(&cluster, "NotListening").await.iter().any(|event| event.contains(&at(15))).then_some(())
    })
    .await;
    let all_clears = events(&cluster, "Listening").await;
    // It serves.
    world.start_pods(&[15]).await;
    let watch = Stopwatch::start();
    is_used(15).await;
    watch.within(Duration::from_secs(5), "the first chat at a pod that begins to listen");
    until("the pool's object names nobody", async || refusing().await.is_none().then_some(())).await;
    until("an event says so", async || (events(&cluster, "Listening").await != all_clears).then_some(()))
        .await;
}

pub async fn one_of_two_replicas_is_killed(world: &mut World) {
    let cluster = world.cluster().clone();
    // One that was here before may have left the lease behind, which ends after six seconds.
    until("the first one leads", async || (count(FIRST, "leader").await == 1.0).then_some(())).await;
    let second = Controller::start_at(SECOND_REPLICA, &world.ground, &world.module, "replica-two", &[]).await;
    let traffic = brisk();
    traffic.more(20).await;
    assert_eq!(count(SECOND_REPLICA, "leader").await, 0.0);
    world.controller.take().unwrap().kill();
    pod(&cluster, 13, "vllm", "False").await;
    let watch = Stopwatch::start();
    world.envoy().knows(CLUSTER, &[(at(11), "HEALTHY"), (at(12), "HEALTHY"), (at(13), "DRAINING")]).await;
    // The lease lasts six seconds, and is looked at every two.
    watch.within(Duration::from_secs(10), "a change after the leader was killed");
    until("the second one says that it leads", async || {
        (count(SECOND_REPLICA, "leader").await == 1.0).then_some(())
    })
    .await;
    // What the other one was asked is known to it: there is no false alarm.
    until("the second one says that Envoy Gateway asks", async || {
        let told = crate::pools::conditions(&cluster, crate::api::POOL, "pool").await;
        let serving = told.get("warmpath.dev/Serving")?;
        assert!(serving.0, "{serving:?}");
        (count(SECOND_REPLICA, "pool_serving").await == 1.0).then_some(())
    })
    .await;
    pod(&cluster, 13, "vllm", "True").await;
    let watch = Stopwatch::start();
    world.envoy().knows(CLUSTER, &[11, 12, 13].map(|number| (at(number), "HEALTHY"))).await;
    watch.within(Duration::from_secs(1), "a change that the new leader writes");
    whole(&traffic.stop().await);
    world.controller = Some(Controller::start(&world.ground, &world.module, "replica-c", &[]).await);
    second.kill();
}

pub async fn envoy_gateway_is_killed_and_pools_are_served_on(world: &mut World) {
    let cluster = world.cluster().clone();
    let traffic = brisk();
    traffic.more(20).await;
    world.gateway.take().unwrap().kill();
    pod(&cluster, 13, "vllm", "False").await;
    traffic.lasts(Duration::from_secs(3)).await;
    world.start_gateway(crate::pools::envoy_gateway_values()).await;
    world.envoy().knows(CLUSTER, &[(at(11), "HEALTHY"), (at(12), "HEALTHY"), (at(13), "DRAINING")]).await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
}

pub async fn the_api_server_is_gone_for_a_minute(world: &mut World) {
    let traffic = steady();
    traffic.more(20).await;
    world.ground.stop_api_server();
    traffic.lasts(Duration::from_secs(60)).await;
    world.ground.start_api_server().await;
    follows(world).await;
    whole(&traffic.stop().await);
}

pub async fn the_api_server_accepts_and_never_answers_for_a_minute(world: &mut World) {
    let traffic = steady();
    traffic.more(20).await;
    world.ground.freeze_api_server();
    traffic.lasts(Duration::from_secs(60)).await;
    world.ground.unfreeze_api_server().await;
    follows(world).await;
    whole(&traffic.stop().await);
}

/// After its return, what changes is in force.
async fn follows(world: &mut World) {
    let cluster = world.cluster().clone();
    world.gateway_lives(crate::pools::envoy_gateway_values()).await;
    pod(&cluster, 13, "vllm", "False").await;
    let watch = Stopwatch::start();
    until("the controller tells of the change", async || {
        (crate::pools::routed_pool(&cluster, "pool").await?["ready"] == 2).then_some(())
    })
    .await;
    // Watches are tried again every second, and the lease is taken again.
    watch.within(Duration::from_secs(15), "the controller's first change after the API server's return");
    comes_to_know(world, &[(at(11), "HEALTHY"), (at(12), "HEALTHY"), (at(13), "DRAINING")]).await;
    // Other watches than that may wait still.
    world.stop_gateway().await;
}

pub async fn envoy_restarts_while_controller_and_gateway_live(world: &mut World) {
    world.envoy.take().unwrap().end();
    world.start_envoy().await;
    world.envoy().knows(CLUSTER, &[11, 12, 13].map(|number| (at(number), "HEALTHY"))).await;
    world.is_routed().await;
    let traffic = brisk();
    traffic.more(50).await;
    whole(&traffic.stop().await);
}

/// Envoy Gateway and the controller have everything in memory. An Envoy Gateway that elects a leader would
/// stop for want of its lease.
pub async fn envoy_restarts_while_the_api_server_is_gone(world: &mut World) {
    let mut values = crate::pools::envoy_gateway_values();
    crate::objects::merge(
        &mut values,
        json!({"provider": {"kubernetes": {"leaderElection": {"disable": true}}}}),
    );
    world.start_gateway(values).await;
    // It has read everything when it hands on a change.
    let all = [11, 12, 13].map(|number| (at(number), "HEALTHY"));
    pod(world.cluster(), 13, "vllm", "False").await;
    world.envoy().knows(CLUSTER, &[all[0].clone(), all[1].clone(), (at(13), "DRAINING")]).await;
    pod(world.cluster(), 13, "vllm", "True").await;
    world.envoy().knows(CLUSTER, &all).await;
    world.ground.stop_api_server();
    world.envoy.as_mut().unwrap().restart().await;
    world.envoy().knows(CLUSTER, &all).await;
    world.is_routed().await;
    let traffic = brisk();
    traffic.more(50).await;
    world.ground.start_api_server().await;
    follows(world).await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
}

pub async fn a_thousand_pods(world: &mut World) {
    const PODS: u32 = 1000;
    let cluster = world.cluster().clone();
    let before = world.controller.as_ref().unwrap().memory();
    let start = Instant::now();
    let pods = futures::stream::iter(0..PODS);
    pods.for_each_concurrent(8, |number| crate::pools::distant_pod(&cluster, number, "vllm")).await;
    let written = start.elapsed();
    until("Envoy knows all of them", async || {
        (world.envoy().hosts(CLUSTER).await.len() == PODS as usize + 3).then_some(())
    })
    .await;
    let after_the_last = start.elapsed() - written;
    let since = Instant::now();
    let (name, ip) = (format!("distant-{}", PODS - 1), crate::pools::distant_address(PODS - 1));
    crate::pools::pod_status(&cluster, ("default", &name), &ip, "False").await;
    let last = format!("{ip}:8000");
    until("Envoy knows one change more", async || {
        (world.envoy().hosts(CLUSTER).await.get(&last)? == "DRAINING").then_some(())
    })
    .await;
    let changed = since.elapsed();
    let memory = world.controller.as_ref().unwrap().memory();
    println!(
        "      1,000 pods: Envoy knows them {after_the_last:.1?} after the last was written, one change more after {changed:.1?}; \
         the controller has {} MiB, {} before",
        memory >> 20,
        before >> 20
    );
    assert!(memory < 256 << 20, "{memory} bytes");
    let pods = futures::stream::iter((0..PODS).map(|number| format!("distant-{number}")));
    pods.for_each_concurrent(8, async |name| cluster.delete(POD, "default", &name).await).await;
    until("they are gone", async || (world.envoy().hosts(CLUSTER).await.len() == 3).then_some(())).await;
    until("the pool's object says so", async || {
        let views = cluster.list(ROUTED_POOL, "default", "").await;
        (views[0]["spec"]["pods"] == 3).then_some(())
    })
    .await;
}
