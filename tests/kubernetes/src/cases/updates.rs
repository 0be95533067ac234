//! What is changed or restarted while requests run.

use std::time::Duration;

use serde_json::json;
use warmpath_tests::{Request, target};

use super::{brisk, steady, whole};
use crate::modules::{self, variant};
use crate::objects::Is;
use crate::wait::until;
use crate::world::{POOL, World, at, ready, routed};

pub async fn envoy_gateway_restarts_and_brings_what_changed_meanwhile(world: &mut World) {
    let traffic = brisk();
    traffic.more(50).await;
    world.stop_gateway().await;
    world.endpoints(&[(11, Is::Ready), (12, Is::Ready)]).await;
    traffic.lasts(Duration::from_secs(2)).await;
    world.start_gateway(json!({})).await;
    world.envoy().knows(POOL, &[(at(11), "HEALTHY"), (at(12), "HEALTHY")]).await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
}

pub async fn the_api_server_is_away_and_comes_back(world: &mut World) {
    let traffic = steady();
    traffic.more(50).await;
    world.ground.stop_api_server();
    traffic.lasts(Duration::from_secs(10)).await;
    world.ground.start_api_server().await;
    world.endpoints(&ready(&[11, 12])).await;
    until("Envoy knows what has changed since", async || {
        world.gateway_lives(json!({})).await;
        world.envoy().has(POOL, &[11, 12].map(|number| (at(number), "HEALTHY"))).await.then_some(())
    })
    .await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
    // Some of its watches may wait still.
    world.stop_gateway().await;
}

pub async fn a_new_module_is_in_force_at_once_and_costs_no_request(world: &mut World) {
    world.spoilt();
    let (stream, mut long) = super::stream_at(world, 11).await;
    let mut homes = Vec::new();
    for number in 0..10 {
        homes.push(round(number, 1).send(routed()).await.pod().to_owned());
    }
    let traffic = brisk();
    traffic.more(50).await;
    let module = world.module.clone();
    for turn in 0..3 {
        let version = format!("0.0.{turn}");
        world.attach_module(&modules::of_version(&module, &version), &[]).await;
        // A VM that starts says its version; that of a module which was fetched and not run says nothing.
        until("the new module runs, in the log and in the metrics", async || {
            let started = world.envoy().said().contains(&format!("warmpath {version}: router"));
            let page = world.envoy().admin("/stats/prometheus?filter=warmpath_build_info").await?.text();
            let label = format!("version=\"{version}\"");
            let running = |line: &str| {
                line.starts_with("warmpath_build_info{") && line.contains(&label) && line.ends_with(" 1")
            };
            (started && page.lines().any(running)).then_some(())
        })
        .await;
        traffic.more(50).await;
    }
    world.attach_module(&module, &["--index-mib=47"]).await;
    until("the changed setting is in force", async || {
        (world.envoy().metric("warmpath_index_limit_bytes").await? == f64::from(47 << 20)).then_some(())
    })
    .await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
    // What the module before knew of the pods is known to the new one, and nothing is left in its ledger but
    // the one stream.
    for (number, home) in homes.iter().enumerate() {
        assert_eq!(round(number, 2).send(routed()).await.pod(), home, "conversation {number}");
    }
    until("one request is in flight", async || {
        (world.envoy().metric("warmpath_in_flight").await? == 1.0).then_some(())
    })
    .await;
    stream.chunk("data: {}\n\ndata: [DONE]\n\n");
    drop(stream);
    super::ends_with_done(&mut long).await;
}

/// A round of a conversation of some 2,000 tokens.
fn round(number: usize, round: usize) -> Request {
    let words: String = (0..1000).map(|n| format!("{:x} ", (number + 1) * 104_729 * (n + 3))).collect();
    let mut messages = vec![json!({"role": "user", "content": words})];
    for turn in 1..round {
        messages.push(json!({"role": "user", "content": format!("And what of {turn}?")}));
    }
    Request::post("/v1/chat/completions", &json!({"model": "/model/qwen", "messages": messages}))
}

pub async fn a_trap_costs_one_request(world: &mut World) {
    world.spoilt();
    let module = std::fs::read(target().join("warmpath-trap.wasm")).expect("scripts/build --trap makes it");
    world.attach_module(&module.into(), &[]).await;
    until("the module that traps on request runs", async || {
        let reply = Request::chat("Who?").header("x-trap", "1").send(routed()).await;
        (reply.status == 503).then_some(())
    })
    .await;
    // Each worker has its VM, which Envoy makes anew a second after it made it the last time.
    let mut in_a_row = 0;
    until("both workers serve again", async || {
        let reply = Request::chat(&format!("{in_a_row}")).send(routed()).await;
        in_a_row = if reply.status == 200 { in_a_row + 1 } else { 0 };
        (in_a_row == 40).then_some(())
    })
    .await;
    world.is_routed().await;
    assert!(world.envoy().stat_sum("vm_reload_success").await > 0, "no VM was made anew");
}

pub async fn a_module_that_cannot_be_had_leaves_traffic_flowing(world: &mut World) {
    world.spoilt();
    let traffic = steady();
    traffic.more(50).await;
    // Announced and not there; then there, with other bytes than the checksum says.
    let other = variant(&world.module, "nobody has this one");
    let printed = world.print(&other, &[]).await;
    let url = world.modules.put(&other);
    world.modules.replace(&url, &variant(&other, "wrong"));
    world.cluster().pipe(&["apply"], &printed.out).await;
    world.checks(1, "requests go unrouted").await;
    traffic.more(100).await;
    world.modules.go();
    world.attach_module(&variant(&other, "nor this"), &["--index-mib=47"]).await;
    // As long as Envoy Gateway tries to get a module.
    traffic.lasts(Duration::from_secs(8)).await;
    traffic.more(100).await;
    whole(&traffic.stop().await);
    // A client still cannot name a pod.
    let reply = Request::chat("Who?").header("x-warmpath-destination", at(11)).send(routed()).await;
    let pod = world.pod_of(&reply).unwrap();
    assert!(
        !pod.received()
            .pop()
            .unwrap()
            .headers
            .get_all("x-warmpath-destination")
            .iter()
            .any(|value| value == at(11).as_str())
    );
    world.checks(1, "requests go unrouted").await;
    // It comes back, and with the next change the routes are routed.
    world.modules.come().await;
    world.attach(&[]).await;
    world.is_routed().await;
}

pub async fn envoy_starts_while_the_module_cannot_be_had(world: &mut World) {
    world.spoilt();
    world.modules.go();
    world.start_gateway(json!({})).await;
    world.start_envoy().await;
    for number in 0..10 {
        super::chat_ends_whole(number).await;
    }
    world.modules.come().await;
    world.attach(&["--index-mib=47"]).await;
    world.is_routed().await;
}

pub async fn a_stream_of_ninety_seconds_survives_an_update(world: &mut World) {
    streams_survive(world, 90).await;
}

pub async fn streams_of_ten_minutes_survive_updates(world: &mut World) {
    streams_survive(world, 600).await;
}

/// Two streams of so many seconds, an event each second. The first begins before a new module, both before a
/// changed setting a sixth of the time later: what is left of them is more than the 60 s after which Envoy
/// Gateway's default cuts.
async fn streams_survive(world: &mut World, seconds: u32) {
    world.spoilt();
    let mut streams = Vec::new();
    for number in [11, 12] {
        streams.push(super::stream_at(world, number).await);
        if number == 11 {
            world.attach_module(&variant(&world.module, "while it streams"), &[]).await;
        }
    }
    for second in 0..seconds {
        if second == seconds / 6 {
            world.attach(&["--index-mib=47"]).await;
        }
        streams.iter().for_each(|(stream, _)| stream.chunk("data: {}\n\n"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (stream, mut opened) in streams {
        stream.chunk("data: [DONE]\n\n");
        drop(stream);
        super::ends_with_done(&mut opened).await;
    }
}

pub async fn envoy_gateway_restarts_while_the_module_cannot_be_had(world: &mut World) {
    world.spoilt();
    let traffic = brisk();
    traffic.more(50).await;
    // Envoy Gateway keeps the modules that it has in memory alone.
    world.modules.go();
    world.start_gateway(json!({})).await;
    // Something that makes it send Envoy what it knows.
    world.endpoints(&[(11, Is::Ready), (12, Is::Ready)]).await;
    world.envoy().knows(POOL, &[(at(11), "HEALTHY"), (at(12), "HEALTHY")]).await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
    world.modules.come().await;
    world.attach(&["--index-mib=47"]).await;
    world.is_routed().await;
}

pub async fn policies_are_removed_and_nothing_is_left(world: &mut World) {
    world.spoilt();
    let printed = world.print(&world.module, &[]).await;
    let traffic = brisk();
    traffic.more(50).await;
    // The filter, and what takes a client's headers away. The access log is that of the Gateway's own
    // EnvoyProxy, which stays.
    let ours = ["envoy.filters.http.wasm", r#""name":"warmpath""#];
    let before = world.envoy().listeners().await;
    assert!(ours.iter().all(|each| before.contains(each)), "{before}");
    // The printed EnvoyProxy, which no Gateway names here, may have been deleted by an earlier case.
    world.cluster().pipe(&["delete", "--ignore-not-found"], &printed.out).await;
    until("no listener has any of it", async || {
        let now = world.envoy().listeners().await;
        (!ours.iter().any(|each| now.contains(each))).then_some(())
    })
    .await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
    until("no cluster reads the header", async || {
        let clusters = world.envoy().admin("/config_dump?resource=dynamic_active_clusters").await?.text();
        (!clusters.contains("x-warmpath-destination")).then_some(())
    })
    .await;
}
