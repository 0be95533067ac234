//! What is changed or restarted while requests run.

use std::time::Duration;

use serde_json::json;
use warmpath_tests::{Request, Stream, Traffic, until};

use super::whole;
use crate::modules::variant;
use crate::objects::Is;
use crate::world::{POOL, World, at, ready, routed};

pub async fn envoy_gateway_restarts_and_brings_what_changed_meanwhile(world: &mut World) {
    let traffic = Traffic::start(routed(), 2);
    traffic.more(50).await;
    world.stop_gateway();
    world.endpoints(&[(11, Is::Ready), (12, Is::Ready)]).await;
    traffic.lasts(Duration::from_secs(2)).await;
    world.start_gateway(json!({})).await;
    world.envoy().knows(POOL, &[(at(11), "HEALTHY"), (at(12), "HEALTHY")]).await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
}

pub async fn the_api_server_is_away_and_comes_back(world: &mut World) {
    let traffic = Traffic::start(routed(), 2);
    traffic.more(50).await;
    world.ground.stop_api_server();
    traffic.lasts(Duration::from_secs(10)).await;
    world.ground.start_api_server().await;
    world.endpoints(&ready(&[11, 12])).await;
    world.envoy().knows(POOL, &[(at(11), "HEALTHY"), (at(12), "HEALTHY")]).await;
    traffic.more(50).await;
    whole(&traffic.stop().await);
}

pub async fn a_new_module_is_in_force_at_once_and_costs_no_request(world: &mut World) {
    world.spoilt();
    let (stream, answer) = Stream::new();
    world.pods[&11].answer_next(answer);
    let mut long = super::stream_at(11).await;
    let traffic = Traffic::start(routed(), 2);
    traffic.more(50).await;
    let module = world.module.clone();
    for turn in 0..3 {
        let vms = world.envoy().said().matches("start").count();
        let other = variant(&module, &format!("update {turn}"));
        world.attach_module(&other, &[]).await;
        // A VM that starts says so; that of a module which was fetched and not run says nothing.
        until("the new module runs", async || {
            (world.envoy().said().matches("start").count() > vms).then_some(())
        })
        .await;
        traffic.more(50).await;
    }
    whole(&traffic.stop().await);
    stream.chunk("data: {}\n\ndata: [DONE]\n\n");
    drop(stream);
    super::ends_with_done(&mut long).await;
}

pub async fn a_module_that_cannot_be_had_leaves_traffic_flowing(world: &mut World) {
    world.spoilt();
    let traffic = Traffic::start(routed(), 2);
    traffic.more(50).await;
    // Announced and not there; then there, with other bytes than the checksum says.
    let other = variant(&world.module, "nobody has this one");
    let printed = world.print(&other, &[]);
    let url = world.modules.put(&other);
    world.modules.replace(&url, &variant(&other, "wrong"));
    world.cluster().pipe(&["apply"], &printed.out);
    traffic.lasts(Duration::from_secs(8)).await;
    world.modules.go();
    world.attach_module(&variant(&other, "nor this"), &["--index-mib=47"]).await;
    traffic.lasts(Duration::from_secs(8)).await;
    whole(&traffic.stop().await);
    // A client still cannot name a pod.
    let reply = Request::chat("Who?").header("x-warmpath-destination", at(11)).send(routed()).await;
    let pod = world.pods.values().find(|pod| pod.address() == reply.pod()).unwrap();
    assert!(
        !pod.received()
            .pop()
            .unwrap()
            .headers
            .get_all("x-warmpath-destination")
            .iter()
            .any(|value| value == at(11).as_str())
    );
    until("the check says that requests go unrouted", async || {
        let checked = world.check();
        (checked.code == 1 && checked.out.contains("requests go unrouted")).then_some(())
    })
    .await;
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
    world.spoilt();
    let (stream, answer) = Stream::new();
    world.pods[&11].answer_next(answer);
    let mut long = super::stream_at(11).await;
    world.attach_module(&variant(&world.module, "while it streams"), &[]).await;
    for _ in 0..90 {
        stream.chunk("data: {}\n\n");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stream.chunk("data: [DONE]\n\n");
    drop(stream);
    super::ends_with_done(&mut long).await;
}

pub async fn envoy_gateway_restarts_while_the_module_cannot_be_had(world: &mut World) {
    world.spoilt();
    let traffic = Traffic::start(routed(), 2);
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
    let printed = world.print(&world.module, &[]);
    let traffic = Traffic::start(routed(), 2);
    traffic.more(50).await;
    world.cluster().pipe(&["delete"], &printed.out);
    until("no listener has the filter", async || {
        let now = world.envoy().listeners().await;
        (!now.contains("warmpath") && !now.contains("envoy.filters.http.wasm")).then_some(())
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
