//! The attach as it is printed and applied.

use std::net::SocketAddr;

use serde_json::{Value, json};
use warmpath_tests::{Answer, Request, Stream};

use crate::api::{DEPLOYMENT, ENVOY_PROXY};
use crate::objects::envoy_proxy;
use crate::sandbox::address;
use crate::wait::until;
use crate::world::{OF_EG, World, at, plain, routed};

pub async fn the_printed_policies_are_accepted_and_the_check_says_so(world: &mut World) {
    let checked = world.check().await;
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
    assert!(checked.out.ends_with("all there\n"), "{}", checked.out);
    assert!(checked.out.contains("say why a request went to its pod\n"), "{}", checked.out);
}

pub async fn a_client_names_no_pod(world: &mut World) {
    for number in [11, 12, 13] {
        let reply =
            Request::chat("Who answers?").header("x-warmpath-destination", at(number)).send(routed()).await;
        assert_eq!(reply.status, 200);
        let pod = world.pod_of(&reply).unwrap();
        let seen = pod.received().pop().unwrap().headers;
        let named: Vec<_> = seen.get_all("x-warmpath-destination").iter().collect();
        assert_eq!(named.len(), 1, "{named:?}");
        assert!(
            named[0].to_str().unwrap().starts_with(reply.pod()),
            "{named:?}, and {} answered",
            reply.pod()
        );
    }
    // And on a port that Warmpath does not route, least request alone decides: the header is no way to steer
    // it.
    until("the plain port sends to another pod than the header names", async || {
        let reply = Request::chat("Who?").header("x-warmpath-destination", at(11)).send(plain()).await;
        (reply.status == 200 && reply.pod() != at(11)).then_some(())
    })
    .await;
}

pub async fn whole_bodies_reach_the_pod(world: &mut World) {
    let prompt = "x".repeat(3_000_000);
    for request in [Request::chat(&prompt), Request::chat(&prompt).chunked(100_000)] {
        let reply = request.send(routed()).await;
        assert_eq!(reply.status, 200);
        let pod = world.pod_of(&reply).unwrap();
        let body: Value = serde_json::from_slice(&pod.received().pop().unwrap().body).unwrap();
        assert!(body["messages"][0]["content"] == prompt.as_str(), "the body changed on its way");
    }
    // Above the limit of the printed policies.
    let reply = Request::chat(&"x".repeat(40_000_000)).send(routed()).await;
    assert_eq!(reply.status, 413);
}

pub async fn a_pod_that_is_dead_or_full_costs_nothing(world: &mut World) {
    let home = Request::chat(&conversation(1)).send(routed()).await.pod().to_owned();
    let number = *world.pods.iter().find(|(_, pod)| pod.address() == home).unwrap().0;
    world.pods[&number].answer_next(Answer::Whole(503, vec![], "{}".into()));
    let reply = Request::chat(&conversation(1)).send(routed()).await;
    assert_eq!(reply.status, 200);
    assert_ne!(reply.pod(), home, "the full pod answered");
    world.pods.get_mut(&number).unwrap().kill().await;
    for _ in 0..20 {
        let reply = Request::chat(&conversation(1)).send(routed()).await;
        assert_eq!(reply.status, 200);
        assert_ne!(reply.pod(), home);
    }
}

pub async fn a_singleton_collects_pages_show_it_and_a_broken_stream_is_answered_by_another_pod(
    world: &mut World,
) {
    world.spoilt();
    let printed = world.print(&world.module, &["--collector=singleton", "--pages"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    // Envoy would refuse the clusters as long as it has no file.
    let both = ["--collector=singleton", "--answer-filter"];
    let refused = world.print(&world.module, &both).await;
    assert!(refused.code == 1 && refused.err.contains("--collector singleton alone"), "{}", refused.err);
    // The command of the printed comment, and what the printed EnvoyProxy says, in that of the Gateway.
    let module = world.ground.folder.join("module.wasm");
    let done = world
        .cluster()
        .kubectl(&["create", "configmap", "warmpath-module", "--namespace=envoy-gateway-system"])
        .args(["--dry-run=client", "--output=yaml"])
        .arg(format!("--from-file=warmpath.wasm={}", module.display()))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    world.cluster().pipe(&["apply", "--server-side"], &String::from_utf8(done.stdout).unwrap()).await;
    let proxy = printed.out.split("---\n").find(|object| object.contains("kind: EnvoyProxy\n")).unwrap();
    let proxy: Value = serde_saphyr::from_str(proxy).unwrap();
    world.cluster().replace(ENVOY_PROXY, &envoy_proxy(proxy["spec"].clone())).await;
    until("Envoy's Deployment mounts the module", async || {
        let deployments = world.cluster().list(DEPLOYMENT, "envoy-gateway-system", OF_EG).await;
        deployments.first()?.to_string().contains("warmpath-module").then_some(())
    })
    .await;
    world.attach(&both).await;
    world.start_envoy().await;
    world.is_routed().await;
    world.is_seen().await;
    let said = world.envoy().said();
    assert!(said.contains("collector, pool default") && said.contains("answer, pool default"), "{said}");
    // A pod that fails after the headers of its stream and before its first token.
    let prompt = conversation(1);
    let home = Request::chat(&prompt).send(routed()).await.pod().to_owned();
    let (stream, answer) = Stream::new();
    world.pods.values().find(|pod| pod.address() == home).unwrap().answer_next(answer);
    stream.break_off();
    let body =
        json!({"model": "/model/qwen", "stream": true, "messages": [{"role": "user", "content": prompt}]});
    let reply = Request::post("/v1/chat/completions", &body).send(routed()).await;
    assert!(reply.status == 200 && reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    assert_ne!(reply.pod(), home, "the pod that failed answered");
    let there = ["--gateway=eg", "--listener=routed", "--route=routed", "--check"];
    let checked = world.manifests(&[&there[..], &both[..]].concat()).await;
    assert_eq!(checked.code, 0, "{}", checked.out);
    // What the roles that show things know, which is what the routers share: for Prometheus, and on loopback
    // for a person.
    let [metrics, console] = [(address::ENVOY, 9902), ("127.0.0.1", 9903)];
    let of_pod = format!("warmpath_pod_requests_total{{pod=\"{home}\",pool=\"default\"}}");
    let page = page(metrics, "/metrics").await;
    assert!(page.lines().any(|line| line.starts_with(&of_pod) && !line.ends_with(" 0")), "{page}");
    assert!(self::page(console, "/console.json").await.contains(&home), "the console does not show {home}");
    assert_eq!(Request::get("/stats").send(to(metrics)).await.status, 404);
}

fn to((host, port): (&str, u16)) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

/// A page of one of Warmpath's own listeners.
async fn page(at: (&str, u16), path: &str) -> String {
    let reply = Request::get(path).send(to(at)).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.text().to_owned()
}

/// A long beginning of its own.
fn conversation(number: u32) -> String {
    (0..1000).map(|n| format!("{:x} ", (number + 1) * 7919 * (n + 3))).collect()
}
