//! InferencePools in other shapes: several ports, other address families, rules that move, several pools in
//! one rule, what stands beside a pool in a route, and other configurations of Envoy Gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use warmpath_tests::{Reply, Request, TestPod, Traffic};

use super::{brisk, until_within, whole};
use crate::api::{GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, POD, POOL};
use crate::controller::{Controller, FIRST, count};
use crate::gateway::Envoy;
use crate::pools::{CLUSTER, conditions, envoy_gateway_values, events, pod, pool, route, routed_pool};
use crate::wait::until;
use crate::world::{OF_EG, World, at, input, routed};

/// A chat on a path, as long as a conversation whose number it is.
async fn chat(path: &str, number: usize, round: usize) -> Reply {
    let opening = format!("Conversation {number}. {}", "It goes on and on and on. ".repeat(80));
    let messages: Vec<Value> =
        (0..round).map(|turn| json!({"role": "user", "content": format!("{opening} {turn}")})).collect();
    let body = json!({"model": "/model/qwen", "messages": messages});
    Request::post(&format!("{path}/v1/chat/completions"), &body).send(routed()).await
}

/// Pods 21 and 22 in a pool of their own, `other`.
async fn other_pool(world: &mut World) {
    world.start_pods(&[21, 22]).await;
    for number in [21, 22] {
        pod(world.cluster(), number, "other", "True").await;
    }
    world.cluster().apply(POOL, &pool("other", "other", json!({}))).await;
}

/// What takes longer than most must be so within it.
const MINUTE: Duration = Duration::from_secs(60);

/// The answers to so many chats on a path, a few at a time.
async fn chats(path: &str, requests: usize) -> Vec<Reply> {
    futures::stream::iter(0..requests).map(|number| chat(path, number, 1)).buffer_unordered(4).collect().await
}

/// How many of so many requests each pod answered; each must be 200.
async fn shares(path: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for reply in chats(path, requests).await {
        assert_eq!(reply.status, 200, "{}", reply.text());
        *shares.entry(reply.pod().to_owned()).or_default() += 1;
    }
    shares
}

pub async fn a_pod_that_serves_one_of_two_ports(world: &mut World) {
    let cluster = world.cluster().clone();
    let mut second = Vec::new();
    for number in [11, 12] {
        second.push(crate::world::test_pod(&format!("10.244.0.{number}:8001")).await);
    }
    cluster
        .apply(POOL, &pool("pool", "vllm", json!({"targetPorts": [{"number": 8000}, {"number": 8001}]})))
        .await;
    until("each port is a place", async || (world.envoy().hosts(CLUSTER).await.len() == 6).then_some(()))
        .await;
    let traffic = Traffic::start(routed(), 8);
    traffic.more(200).await;
    whole(&traffic.stop().await);
    let mut number = 100;
    until("a chat goes to the second port", async || {
        number += 1;
        assert_eq!(chat("", number, 1).await.status, 200);
        second.iter().any(|pod| !pod.received().is_empty()).then_some(())
    })
    .await;
    // A conversation stays on its port.
    let first = chat("", 7, 1).await.pod().to_owned();
    assert_eq!(chat("", 7, 2).await.pod(), first);
    until("the pool's object names the port that is closed", async || {
        (crate::pools::refusing(&cluster, "pool").await? == "pod-13 10.244.0.13:8001").then_some(())
    })
    .await;
    // Another replica begins to lead: what it has not seen itself yet is not taken back.
    let all_clears = events(&cluster, "Listening").await;
    let log = world.ground.logs().join("warmpath-controller.log");
    let told = || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.matches("refuses connections at 10.244.0.13:8001").count()
    };
    let before = told();
    world.controller.take().unwrap().kill();
    world.controller = Some(Controller::start(&world.ground, &world.module, "replica-next", &[]).await);
    until("the new leader has seen it too", async || (told() > before).then_some(())).await;
    assert_eq!(events(&cluster, "Listening").await, all_clears, "a false all-clear");
    cluster.apply(POOL, &pool("pool", "vllm", json!({}))).await;
    cluster.patch(POOL, "default", "pool", json!({"spec": {"targetPorts": [{"number": 8000}]}})).await;
}

pub async fn pods_with_addresses_of_both_families_and_of_the_newer_alone(world: &mut World) {
    let cluster = world.cluster().clone();
    let mut pods = Vec::new();
    for number in [11, 12, 13] {
        pods.push(crate::world::test_pod(&format!("[fd00::{number}]:8000")).await);
        let ip = format!("fd00::{number}");
        let ips = if number == 11 { json!([{"ip": ip}, {"ip": "10.244.0.11"}]) } else { json!([{"ip": ip}]) };
        cluster
            .patch_status(POD, "default", &format!("pod-{number}"), json!({"podIP": ip, "podIPs": ips}))
            .await;
    }
    let hosts = [11, 12, 13].map(|number| (format!("fd00::{number}:8000"), "HEALTHY"));
    world.envoy().knows(CLUSTER, &hosts).await;
    until("the module names one of them", async || {
        chat("", 0, 1).await;
        let named = |pod: &TestPod| {
            let received = pod.received();
            received.iter().any(|request| {
                let header = request.headers.get("x-warmpath-destination");
                header.is_some_and(|value| value.as_bytes().starts_with(b"[fd00::"))
            })
        };
        pods.iter().any(named).then_some(())
    })
    .await;
    for number in 1..10 {
        let first = chat("", number, 1).await.pod().to_owned();
        assert!(first.starts_with("[fd00::"), "{first}");
        assert_eq!(chat("", number, 2).await.pod(), first, "conversation {number}");
    }
    for number in [11, 12, 13] {
        cluster.delete(POD, "default", &format!("pod-{number}")).await;
    }
}

pub async fn a_rule_that_moves_takes_its_pool_of_the_controller_along(world: &mut World) {
    other_pool(world).await;
    let cluster = world.cluster().clone();
    let before: [(&str, &[(&str, u32)]); 2] = [("/a", &[("pool", 1)]), ("/", &[("pool", 1)])];
    let after: [(&str, &[(&str, u32)]); 3] =
        [("/b", &[("other", 1)]), ("/a", &[("pool", 1)]), ("/", &[("pool", 1)])];
    cluster.apply(HTTP_ROUTE, &route("pooled", &before)).await;
    has_rules(world, before.len()).await;
    world.is_routed().await;
    let mut homes = Vec::new();
    for number in 0..20 {
        homes.push(chat("", number, 1).await.pod().to_owned());
    }
    for (round, rules) in [(2, &after[..]), (3, &before[..])] {
        let traffic = brisk();
        traffic.more(20).await;
        let changed = traffic.now();
        cluster.apply(HTTP_ROUTE, &route("pooled", rules)).await;
        has_rules(world, rules.len()).await;
        // Until then Envoy Gateway may name a cluster in a route a moment before Envoy has it, whoever
        // routes.
        let moment = changed..traffic.now();
        traffic.lasts(Duration::from_secs(5)).await;
        let account = traffic.stop().await;
        let bad = account.sent.iter().filter(|sent| sent.ending != warmpath_tests::Ending::Whole);
        let late: Vec<_> = bad.filter(|sent| !moment.contains(&sent.at)).collect();
        assert!(late.is_empty(), "{account}: {:?}", late.first().map(|sent| (sent.at, &sent.ending)));
        let strangers = account
            .sent
            .iter()
            .filter(|sent| [at(21), at(22)].iter().any(|other| sent.pod.as_ref() == Some(other)));
        assert_eq!(strangers.count(), 0, "pods of the other pool answered");
        let mut warm = 0;
        for (number, home) in homes.iter().enumerate() {
            warm += usize::from(chat("", number, round).await.pod() == home);
        }
        assert!(warm >= 19, "after the move {warm} of 20 conversations are warm");
        if round == 2 {
            for number in 0..20 {
                let reply = chat("/b", number, 1).await;
                assert!([at(21), at(22)].contains(&reply.pod().to_owned()), "{}", reply.pod());
            }
        }
    }
}

/// Waits until Envoy has that many rules of the route `pooled`, and pods in the cluster of each.
async fn has_rules(world: &World, rules: usize) {
    until(&format!("Envoy has {rules} rules"), async || {
        let dump = world.envoy().admin("/config_dump?resource=dynamic_route_configs").await?.text();
        let named = |rule: usize| dump.contains(&format!(r#""httproute/default/pooled/rule/{rule}""#));
        if !(0..rules).all(named) || named(rules) {
            return None;
        }
        for rule in 0..rules {
            if world.envoy().hosts(&format!("httproute/default/pooled/rule/{rule}")).await.is_empty() {
                return None;
            }
        }
        Some(())
    })
    .await;
}

pub async fn weights_across_pools_hold_whatever_matches(world: &mut World) {
    other_pool(world).await;
    let cluster = world.cluster().clone();
    let rules: [(&str, &[(&str, u32)]); 2] =
        [("/split", &[("pool", 80), ("other", 20)]), ("/", &[("pool", 1)])];
    cluster.apply(HTTP_ROUTE, &route("pooled", &rules)).await;
    until("both pools answer", async || {
        let met = shares("/split", 20).await;
        (met.contains_key(&at(21)) || met.contains_key(&at(22))).then_some(())
    })
    .await;
    world.is_seen().await;
    for round in ["cold", "warm"] {
        let met = shares("/split", 300).await;
        let other: usize = [21, 22].iter().filter_map(|&number| met.get(&at(number))).sum();
        // 60 is expected; 5.3 standard deviations are 37.
        assert!((23..=97).contains(&other), "{round}: {other} of 300 went to the pool of weight 20");
    }
    // The pool of weight 20 is empty: it costs its own share at most.
    for number in [21, 22] {
        crate::pools::remove_pod(&cluster, number).await;
    }
    until("the other pool is empty", async || (world.envoy().hosts(CLUSTER).await.len() == 3).then_some(()))
        .await;
    world.envoy().has_ready(3).await;
    let mut lost = 0;
    for reply in chats("/split", 200).await {
        assert!(reply.status == 200 || reply.status == 503, "{}", reply.status);
        lost += usize::from(reply.status == 503);
    }
    // 40 would be expected; 5.3 standard deviations are 30.
    assert!(lost <= 70, "{lost} of 200 were lost with a pool of weight 20 that is empty");
}

pub async fn what_stands_beside_a_pool_is_told(world: &mut World) {
    let cluster = world.cluster().clone();
    cluster.apply(POOL, &pool("pool-tls", "vllm", json!({}))).await;
    cluster.apply(POOL, &pool("pool-b", "nobody", json!({}))).await;
    let file = input("beside.yaml");
    // The policy comes first, so that from its first moment the route must not send there.
    cluster.pipe(&["apply"], file.split("---\n").last().unwrap()).await;
    until("the controller knows the policy", async || {
        (count(FIRST, r#"objects{kind="BackendTLSPolicy"}"#).await == 1.0).then_some(())
    })
    .await;
    cluster.pipe(&["apply"], &file).await;
    until("the pool says that filters of its backendRef and copies to a pool are not served", async || {
        let all = conditions(&cluster, POOL, "pool").await;
        let (good, _, message) = all.get("warmpath.dev/RoutesComplete")?;
        let both = message.contains("filters of a backendRef") && message.contains("RequestMirror to a pool");
        (!good && both).then_some(())
    })
    .await;
    until("the pool with TLS says that it is not served", async || {
        let all = conditions(&cluster, POOL, "pool-tls").await;
        let (good, _, message) = all.get("ResolvedRefs")?;
        (!good && message.contains("BackendTLSPolicy")).then_some(())
    })
    .await;
    // Never in plain text: Envoy Gateway answers by itself as it has no such authority, or nobody is there to
    // send to.
    until("nothing is sent to it", async || {
        let status = chat("/tls", 1, 1).await.status.as_u16();
        (status == 500 || status == 503).then_some(())
    })
    .await;
    // Until the route was there, the one of every case sent such a path to the pods.
    let sent = |world: &World| {
        let of_pod =
            |pod: &TestPod| pod.received().iter().filter(|request| request.path.starts_with("/tls")).count();
        world.pods.values().map(of_pod).sum::<usize>()
    };
    let before = sent(world);
    for number in 0..20 {
        chat("/tls", number, 1).await;
    }
    assert_eq!(sent(world), before, "a pod that speaks TLS was spoken to in plain text");
    // Its neighbours are served.
    for number in 0..10 {
        assert_eq!(chat("", number, 1).await.status, 200);
    }
    // Envoy Gateway knows no copies to a pool, and the pool says what it does instead.
    assert_eq!(chat("/copy", 1, 1).await.status, 500);
    cluster.pipe(&["delete"], &file).await;
}

pub async fn merged_gateways_with_a_pool_on_one(world: &mut World) {
    world.cluster().pipe(&["apply"], &input("merged.yaml")).await;
    let mut pooled = route("a", &[("/", &[("pool", 1)])]);
    pooled["spec"]["parentRefs"] = json!([{"name": "team-a", "sectionName": "llm"}]);
    world.cluster().apply(HTTP_ROUTE, &pooled).await;
    let mut plain = crate::objects::route("b", "web", &[("/", "vllm")]);
    plain["spec"]["parentRefs"][0]["name"] = "team-b".into();
    world.cluster().apply(HTTP_ROUTE, &plain).await;
    world.envoy.take().unwrap().end();
    let label = "gateway.envoyproxy.io/owning-gatewayclass=merged";
    world.envoy = Some(Envoy::start(&world.ground, label, "envoy-gateway-system").await);
    world.is_routed().await;
    for number in 0..10 {
        assert_eq!(chat("", number, 1).await.status, 200);
        let reply = Request::chat(&format!("{number}")).send(crate::world::plain()).await;
        assert!(reply.status == 200 && !super::named_by_warmpath(world, &reply), "team-b met the module");
    }
    for (kind, namespace, name) in
        [(GATEWAY, "default", "team-a"), (GATEWAY, "default", "team-b"), (GATEWAY_CLASS, "", "merged")]
    {
        world.cluster().delete(kind, namespace, name).await;
    }
    world.start_envoy().await;
}

pub async fn envoys_of_pools_in_the_namespace_of_their_gateway(world: &mut World) {
    let mut values = envoy_gateway_values();
    values["provider"]["kubernetes"]["deploy"]["type"] = "GatewayNamespace".into();
    world.start_gateway(values).await;
    world.envoy.take().unwrap().end();
    world.envoy = Some(Envoy::start(&world.ground, OF_EG, "default").await);
    world.is_routed().await;
    for number in 0..10 {
        assert_eq!(chat("", number, 1).await.status, 200);
    }
    world.start_gateway(envoy_gateway_values()).await;
    world.start_envoy().await;
}

pub async fn envoy_gateway_that_does_not_ask_is_told_and_when_it_does_again(world: &mut World) {
    let cluster = world.cluster().clone();
    // A controller that is new knows of no question; the annotation by which replicas tell each other goes.
    world.controller.take().unwrap().kill();
    let mut half = envoy_gateway_values();
    half["extensionManager"]["hooks"]["xdsTranslator"]["post"] = json!(["Route", "Cluster", "HTTPListener"]);
    for (values, lack) in [(json!({}), "does not ask Warmpath"), (half, "lacks Endpoints")] {
        for each in cluster.list(crate::api::ROUTED_POOL, "default", "").await {
            let name = each["metadata"]["name"].as_str().unwrap();
            cluster.delete(crate::api::ROUTED_POOL, "default", name).await;
        }
        let controller = Controller::start(&world.ground, &world.module, "replica-wiring", &[]).await;
        world.start_gateway(values).await;
        until_within(MINUTE, "the pool says what lacks", async || {
            let all = conditions(&cluster, POOL, "pool").await;
            all.get("warmpath.dev/Serving").is_some_and(|(good, _, message)| !good && message.contains(lack))
        })
        .await;
        world.start_gateway(envoy_gateway_values()).await;
        until_within(MINUTE, "the pool says that it is asked", async || {
            conditions(&cluster, POOL, "pool").await.get("warmpath.dev/Serving").is_some_and(|said| said.0)
        })
        .await;
        controller.kill();
    }
    assert!(!events(&cluster, "NotAsked").await.is_empty(), "no event says it");
    assert!(routed_pool(&cluster, "pool").await.is_some());
}
