//! Pods that are listed and do not serve.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use warmpath_tests::{Request, Stream, Traffic, until};

use super::whole;
use crate::objects::Is;
use crate::world::{POOL, World, at, input, ready, routed};

pub async fn one_pod_is_ready_and_three_load(world: &mut World) {
    world.start_pods(&[14]).await;
    world.cluster().pipe(&["apply", "--server-side", "--force-conflicts"], &input("loading.yaml"));
    world
        .envoy()
        .knows(POOL, &[(at(11), "HEALTHY"), (at(12), "DRAINING"), (at(13), "DRAINING"), (at(14), "DRAINING")])
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = world.counts();
    let scrapes: BTreeMap<u8, usize> =
        world.pods.iter().map(|(&number, pod)| (number, pod.scrapes())).collect();
    let start = Instant::now();
    for number in 0..100 {
        assert_eq!(Request::chat(&format!("{number}")).send(routed()).await.status, 200);
        assert_eq!(Request::get("/v1/models").send(routed()).await.status, 200);
        assert_eq!(Request::post("/v1/load", &serde_json::json!({})).send(routed()).await.status, 200);
    }
    let after = world.counts();
    for number in [12, 13, 14] {
        assert_eq!(after[&number], before[&number], "pod {number} loads, and got requests");
    }
    assert_eq!(after[&11] - before[&11], 300);
    assert_eq!(world.envoy().stat(&format!("cluster.{POOL}.lb_healthy_panic")).await, 0);
    tokio::time::sleep(Duration::from_secs(3).saturating_sub(start.elapsed())).await;
    let seconds = start.elapsed().as_secs_f64();
    for number in [12, 13, 14] {
        let more = world.pods[&number].scrapes() - scrapes[&number];
        assert!(
            more as f64 <= seconds + 2.0,
            "pod {number} loads, and was scraped {more} times in {seconds:.1} s"
        );
    }
    world.endpoints(&ready(&[11, 12, 13, 14])).await;
    let start = Instant::now();
    let mut met = std::collections::BTreeSet::new();
    until("all pods are used", async || {
        let prompt = format!("{:?} {}", start.elapsed(), "more ".repeat(met.len() * 50));
        met.insert(Request::chat(&prompt).send(routed()).await.pod().to_owned());
        (met.len() == 4).then_some(())
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

pub async fn nobody_is_ready(world: &mut World) {
    world.endpoints(&[(11, Is::NotReady), (12, Is::NotReady), (13, Is::NotReady)]).await;
    world.envoy().knows(POOL, &[(at(11), "DRAINING"), (at(12), "DRAINING"), (at(13), "DRAINING")]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        let start = Instant::now();
        let reply = Request::chat("Anybody?").send(routed()).await;
        assert_eq!(reply.status, 503);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    world.endpoints(&ready(&[11, 12, 13])).await;
    world.is_routed().await;
}

pub async fn a_pod_is_taken_out_while_it_streams(world: &mut World) {
    let (stream, answer) = Stream::new();
    world.pods[&12].answer_next(answer);
    let mut opened = super::stream_at(12).await;
    world.endpoints(&[(11, Is::Ready), (12, Is::NotReady), (13, Is::Ready)]).await;
    world.envoy().knows(POOL, &[(at(11), "HEALTHY"), (at(12), "DRAINING"), (at(13), "HEALTHY")]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = world.pods[&12].begun();
    for round in 0..10 {
        super::chat_ends_whole(round).await;
        stream.chunk("data: {}\n\n");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(world.pods[&12].begun(), before, "a pod that is not ready got new requests");
    stream.chunk("data: [DONE]\n\n");
    drop(stream);
    super::ends_with_done(&mut opened).await;
    world.endpoints(&ready(&[11, 12, 13])).await;
    super::is_used(12).await;
}

pub async fn a_pod_that_is_ready_and_does_not_listen(world: &mut World) {
    // Number 14 has an address and no server.
    world.endpoints(&ready(&[11, 12, 13, 14])).await;
    world.envoy().knows(POOL, &[11, 12, 13, 14].map(|number| (at(number), "HEALTHY"))).await;
    let said = world.envoy().said().len();
    for round in 0..25 {
        let requests = (0..8).map(|number| Request::chat(&format!("{round} {number}")).send(routed()));
        for reply in join_all(requests).await {
            assert_eq!(reply.status, 200);
        }
    }
    let said = world.envoy().said().split_off(said);
    let lines: Vec<&str> =
        said.lines().filter(|line| line.contains("warning") && line.contains(&at(14))).collect();
    assert!(lines.len() <= 1, "{lines:#?}");
    world.start_pods(&[14]).await;
    let start = Instant::now();
    super::is_used(14).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

pub async fn two_hundred_requests_a_second_while_pods_are_replaced(world: &mut World) {
    // Connections that each wait for their answer: eight of them make about two hundred requests per second here.
    let traffic = Traffic::start(routed(), 8);
    let mut lives = std::collections::VecDeque::from([11_u8, 12, 13]);
    for new in 14..30 {
        let old = lives.pop_front().unwrap();
        world.start_pods(&[new]).await;
        lives.push_back(new);
        let mut pods = ready(lives.make_contiguous());
        pods.push((old, Is::Terminating));
        world.endpoints(&pods).await;
        traffic.lasts(Duration::from_secs(5)).await;
        world.endpoints(&ready(lives.make_contiguous())).await;
        traffic.lasts(Duration::from_secs(2)).await;
        world.pods.remove(&old).unwrap().kill().await;
    }
    whole(&traffic.stop().await);
}
