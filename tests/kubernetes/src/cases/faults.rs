//! Pods that are listed and do not serve.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use warmpath_tests::{Request, Stopwatch, Traffic};

use super::whole;
use crate::api::{ENDPOINT_SLICE, ENVOY_PROXY, HTTP_ROUTE, SERVICE};
use crate::objects::{self, Is, envoy_proxy};
use crate::sandbox::address;
use crate::wait::until;
use crate::world::{POOL, World, at, input, ready, routed, test_pod};

pub async fn one_pod_is_ready_and_three_load(world: &mut World) {
    three_load(world).await;
    let loading = Loading::watch(world);
    let (before, panics_before) = (world.counts(), world.envoy().panics(POOL).await);
    for number in 0..100 {
        let three = [
            Request::chat(&format!("{number}")),
            Request::get("/v1/models"),
            Request::post("/v1/load", &json!({})),
        ];
        for reply in join_all(three.map(|request| request.send(routed()))).await {
            assert_eq!(reply.status, 200);
        }
    }
    let after = world.counts();
    assert_eq!(after[&11] - before[&11], 300);
    for number in [12, 14] {
        assert_eq!(after[&number], before[&number], "pod {number} loads, and got requests");
    }
    assert_eq!(world.envoy().panics(POOL).await, panics_before, "Envoy has sent to all pods, ready or not");
    tokio::time::sleep(Duration::from_secs(3)).await;
    loading.check(world);
    world.pods[&14].set_metrics_status(200);
    world.start_pods(&[13]).await;
    world.endpoints(&ready(&[11, 12, 13, 14])).await;
    let watch = Stopwatch::start();
    let mut met = std::collections::BTreeSet::new();
    until("all pods are used", async || {
        let prompt = format!("{:?} {}", watch.elapsed(), "more ".repeat(met.len() * 50));
        met.insert(Request::chat(&prompt).send(routed()).await.pod().to_owned());
        (met.len() == 4).then_some(())
    })
    .await;
    watch.within(Duration::from_secs(3), "a chat at each of four pods, of which three have turned ready");
}

pub async fn three_pods_load_for_ten_minutes(world: &mut World) {
    three_load(world).await;
    let loading = Loading::watch(world);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(600) {
        assert_eq!(Request::chat("Are you there?").send(routed()).await.pod(), at(11));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    loading.check(world);
}

/// One pod is ready. Of those that load, number 12 tells its load, 13 does not listen, and 14 answers that it
/// is not there yet.
async fn three_load(world: &mut World) {
    world.start_pods(&[14]).await;
    world.pods.remove(&13).unwrap().kill().await;
    world.pods[&14].set_metrics_status(503);
    world.cluster().pipe(&["apply", "--server-side", "--force-conflicts"], &input("loading.yaml")).await;
    let hosts = [(11, "HEALTHY"), (12, "DRAINING"), (13, "DRAINING"), (14, "DRAINING")];
    world.envoy().knows(POOL, &hosts.map(|(number, health)| (at(number), health))).await;
    world.envoy().has_ready(1).await;
}

/// How often pods that load were scraped, and what was said before.
struct Loading {
    since: Instant,
    said: usize,
    scrapes: BTreeMap<u8, usize>,
}

impl Loading {
    fn watch(world: &World) -> Loading {
        let scrapes = [12, 14].map(|number| (number, world.pods[&number].scrapes()));
        Loading { since: Instant::now(), said: world.envoy().said().len(), scrapes: scrapes.into() }
    }

    /// Panics if a pod was scraped more than once a second since, or has more than two log lines.
    fn check(&self, world: &World) {
        let seconds = self.since.elapsed().as_secs_f64();
        for (number, before) in &self.scrapes {
            let more = world.pods[number].scrapes() - before;
            assert!(more as f64 <= seconds + 2.0, "pod {number} was scraped {more} times in {seconds:.1} s");
        }
        let said = world.envoy().said().split_off(self.said);
        for number in [12, 13, 14] {
            let of_pod = |line: &&str| line.contains("warmpath: pod") && line.contains(&at(number));
            let lines: Vec<&str> = said.lines().filter(of_pod).collect();
            assert!(lines.len() <= 2, "{lines:#?}");
        }
    }
}

pub async fn nobody_is_ready(world: &mut World) {
    world.endpoints(&[(11, Is::NotReady), (12, Is::NotReady), (13, Is::NotReady)]).await;
    world.envoy().knows(POOL, &[(at(11), "DRAINING"), (at(12), "DRAINING"), (at(13), "DRAINING")]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        let watch = Stopwatch::start();
        let reply = Request::chat("Anybody?").send(routed()).await;
        assert_eq!(reply.status, 503);
        watch.within(Duration::from_secs(1), "a 503 where nobody is ready");
    }
    world.endpoints(&ready(&[11, 12, 13])).await;
    world.is_routed().await;
}

/// One turns not ready, another is selected no more; their servers go on, and so does a minute of their
/// streams.
pub async fn pods_are_taken_out_while_they_stream(world: &mut World) {
    let streams = [(12, super::stream_at(world, 12).await), (13, super::stream_at(world, 13).await)];
    world.endpoints(&[(11, Is::Ready), (12, Is::NotReady)]).await;
    world.envoy().knows(POOL, &[(at(11), "HEALTHY"), (at(12), "DRAINING")]).await;
    world.envoy().has_ready(1).await;
    super::only_streams_go_on(world, streams, 60).await;
    world.endpoints(&ready(&[11, 12, 13])).await;
    super::is_used(12).await;
    super::is_used(13).await;
}

pub async fn a_pod_that_is_ready_and_does_not_listen(world: &mut World) {
    world.spoilt();
    // Envoy counts by address where the EnvoyProxy says so.
    let by_address = json!({"telemetry": {"metrics": {"enablePerEndpointStats": true}}});
    world.cluster().replace(ENVOY_PROXY, &envoy_proxy(by_address)).await;
    world.start_envoy().await;
    world.is_routed().await;
    world.is_seen().await;
    let said = world.envoy().said().len();
    // Number 14 has an address and no server.
    world.endpoints(&ready(&[11, 12, 13, 14])).await;
    world.envoy().knows(POOL, &[11, 12, 13, 14].map(|number| (at(number), "HEALTHY"))).await;
    for round in 0..25 {
        let requests = (0..8).map(|number| Request::chat(&format!("{round} {number}")).send(routed()));
        for reply in join_all(requests).await {
            assert_eq!(reply.status, 200);
        }
    }
    until("one line tells of the pod", async || (warnings_of(world, 14, said).len() == 1).then_some(()))
        .await;
    // Metrics tell how many pods serve, that scrapes fail, and the address that refuses.
    assert_eq!(world.envoy().metric("warmpath_pods").await, Some(4.0));
    assert_eq!(world.envoy().metric("warmpath_ready_pods").await, Some(3.0));
    let page = world.envoy().admin("/stats/prometheus").await.unwrap().text();
    let refusals = |number: u8| {
        let failed =
            |line: &&str| line.contains("_cx_connect_fail{") && line.contains(&format!("\"{}\"", at(number)));
        let values =
            page.lines().filter(failed).map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
        values.sum::<u64>()
    };
    assert_eq!([11, 12, 13].map(refusals), [0, 0, 0]);
    assert!(refusals(14) > 0, "no series tells of refused connections");
    // Probes alone go there, less and less often, and nothing more is said of it.
    for round in 0..100 {
        super::chat_ends_whole(round).await;
    }
    let more = warnings_of(world, 14, said);
    assert_eq!(more.len(), 1, "{more:#?}");
    world.start_pods(&[14]).await;
    let watch = Stopwatch::start();
    super::is_used(14).await;
    watch.within(Duration::from_secs(5), "the first chat at a pod that begins to listen");
}

/// What was said of a pod by way of warning, after so many bytes of the log.
fn warnings_of(world: &World, number: u8, after: usize) -> Vec<String> {
    let said = world.envoy().said().split_off(after);
    let warnings = said.lines().filter(|line| line.contains("[warning][wasm]"));
    warnings.filter(|line| line.contains(&at(number))).map(str::to_owned).collect()
}

pub async fn a_pod_that_does_not_listen_is_told_of_once_in_five_minutes(world: &mut World) {
    let said = world.envoy().said().len();
    world.endpoints(&ready(&[11, 12, 13, 14])).await;
    world.envoy().knows(POOL, &[11, 12, 13, 14].map(|number| (at(number), "HEALTHY"))).await;
    let traffic = Traffic::paced(routed(), 4, 20);
    until("one line tells of the pod", async || (warnings_of(world, 14, said).len() == 1).then_some(()))
        .await;
    traffic.lasts(Duration::from_secs(300)).await;
    whole(&traffic.stop().await);
    let told = warnings_of(world, 14, said);
    assert_eq!(told.len(), 1, "{told:#?}");
}

/// A Service with two ports behind one rule. Number 13 listens on the first alone.
pub async fn a_pod_that_lacks_one_of_two_ports(world: &mut World) {
    world.spoilt();
    let ports = [("http", 8000), ("second", 8001)].map(|(name, port)| json!({"name": name, "port": port}));
    let mut service = objects::service("vllm");
    service["spec"]["ports"] = ports.to_vec().into();
    let mut slice = objects::endpoints("vllm", &ready(&[11, 12, 13]));
    slice["ports"] = ports.to_vec().into();
    let mut route = objects::route("routed", "routed", &[("/", "vllm")]);
    route["spec"]["rules"][0]["backendRefs"] =
        json!([{"name": "vllm", "port": 8000}, {"name": "vllm", "port": 8001}]);
    world.cluster().apply(SERVICE, &service).await;
    world.cluster().apply(ENDPOINT_SLICE, &slice).await;
    world.cluster().apply(HTTP_ROUTE, &route).await;
    let mut second = Vec::new();
    for number in [11, 12] {
        second.push(test_pod(&format!("{}:8001", address::pod(number))).await);
    }
    world.start_envoy().await;
    let all = [11, 12, 13]
        .into_iter()
        .flat_map(|number| [8000, 8001].map(|port| (format!("{}:{port}", address::pod(number)), "HEALTHY")));
    world.envoy().knows(POOL, &all.collect::<Vec<_>>()).await;
    world.is_routed().await;
    // The places that serve; each counts as a pod.
    world.envoy().has_ready(5).await;
    for round in 0..25 {
        let requests = (0..8).map(|number| Request::chat(&format!("{round} {number}")).send(routed()));
        for reply in join_all(requests).await {
            assert_eq!(reply.status, 200);
        }
    }
    assert!(second.iter().all(|pod| !pod.received().is_empty()), "a second port got nothing");
    for number in 0..10 {
        let text = format!("Conversation {number}. {}", "It goes on and on. ".repeat(100));
        let home = Request::chat(&text).send(routed()).await.pod().to_owned();
        assert_eq!(Request::chat(&text).send(routed()).await.pod(), home, "conversation {number}");
    }
    for pod in &mut second {
        pod.kill().await;
    }
}

pub async fn two_hundred_requests_a_second_while_pods_are_replaced(world: &mut World) {
    const RATE: u32 = 200;
    const TIME: Duration = Duration::from_secs(120);
    let traffic = Traffic::paced(routed(), 32, RATE);
    let mut lives = std::collections::VecDeque::from([11_u8, 12, 13]);
    for new in 14.. {
        let old = lives.pop_front().unwrap();
        world.start_pods(&[new]).await;
        lives.push_back(new);
        let mut pods = ready(lives.make_contiguous());
        pods.push((old, Is::Terminating));
        world.endpoints(&pods).await;
        traffic.lasts(Duration::from_secs(4)).await;
        world.endpoints(&ready(lives.make_contiguous())).await;
        traffic.lasts(Duration::from_secs(2)).await;
        world.pods.remove(&old).unwrap().kill().await;
        if traffic.now() >= TIME {
            break;
        }
    }
    let lasted = traffic.now().as_secs_f64();
    let account = traffic.stop().await;
    let rate = account.sent.len() as f64 / lasted;
    println!("{rate:.1} requests per second for {lasted:.0} s: {account}");
    whole(&account);
    assert!(rate >= f64::from(RATE) * 0.99, "{rate:.1} requests per second");
}
