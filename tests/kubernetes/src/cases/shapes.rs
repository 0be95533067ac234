//! Other shapes of Gateways, routes and Services.

use std::collections::BTreeSet;

use serde_json::json;
use warmpath_tests::{Request, until};

use super::{chat_ends_whole, named_by_warmpath, whole};
use crate::api::{ENDPOINT_SLICE, GATEWAY, HTTP_ROUTE, SERVICE};
use crate::gateway::Envoy;
use crate::objects;
use crate::world::{OF_EG, World, at, input, plain, ready, routed};

pub async fn the_names_of_listeners_change_under_load(world: &mut World) {
    world.spoilt();
    let traffic = warmpath_tests::Traffic::start(routed(), 2);
    traffic.more(50).await;
    for (flags, policy) in
        [(json!({"enabled": ["XDSNameSchemeV2"]}), "warmpath-by-port"), (json!({}), "warmpath")]
    {
        world.start_gateway(json!({"runtimeFlags": flags})).await;
        until(&format!("{policy} is the one that is programmed"), async || {
            let checked = world.check();
            let line = format!("EnvoyPatchPolicy default/{policy} is accepted and programmed");
            (checked.code == 0 && checked.out.contains(&line)).then_some(())
        })
        .await;
        traffic.more(100).await;
    }
    whole(&traffic.stop().await);
    world.is_routed().await;
}

pub async fn two_pools_on_one_listener_are_kept_apart(world: &mut World) {
    world.spoilt();
    second_pool(world).await;
    world.cluster().apply(HTTP_ROUTE, &objects::route("second", "routed", &[("/b/", "vllm-b")])).await;
    world.attach(&["--selector=pool=vllm"]).await;
    until("the second pool is routed", async || {
        let reply = Request::new("POST", "/b/v1/chat/completions").body(body("Who?")).send(routed()).await;
        (reply.status == 200 && named_by_warmpath(world, &reply)).then_some(())
    })
    .await;
    for number in 0..60 {
        let text = format!("number {number}");
        let first = Request::chat(&text).send(routed()).await;
        let second = Request::new("POST", "/b/v1/chat/completions").body(body(&text)).send(routed()).await;
        assert!(
            at_one_of(&first, &[11, 12, 13]) && at_one_of(&second, &[21, 22]),
            "{} and {}",
            first.pod(),
            second.pod()
        );
    }
}

/// The same move on the port that Warmpath does not route tells what it costs by itself.
pub async fn a_rule_that_moves_takes_its_pool_along(world: &mut World) {
    world.spoilt();
    second_pool(world).await;
    let before: [(&str, &str); 1] = [("/", "vllm")];
    let after = [("/b/", "vllm-b"), ("/", "vllm")];
    let mut homes = Vec::new();
    for number in 0..20 {
        homes.push(conversation(number, 1).send(routed()).await.pod().to_owned());
    }
    for (round, rules) in [(2, &after[..]), (3, &before[..])] {
        let ports = [routed(), plain()].map(|port| warmpath_tests::Traffic::start(port, 2));
        for traffic in &ports {
            traffic.more(20).await;
        }
        let changed = ports[0].now();
        for name in ["routed", "plain"] {
            world.cluster().apply(HTTP_ROUTE, &objects::route(name, name, rules)).await;
        }
        // Until then Envoy may use the changed cluster as it was.
        ports[0].lasts(std::time::Duration::from_secs(17)).await;
        let mut told = Vec::new();
        for traffic in ports {
            let account = traffic.stop().await;
            // Envoy Gateway gives the name of a cluster to other pods, and tells Envoy of these before it tells of the routes. So
            // for a moment requests meet the other pool, or a cluster that is not there, with Warmpath or without.
            let of_pool = |pod: &str| [11, 12, 13].iter().any(|&number| at(number) == pod);
            let astray = |sent: &&warmpath_tests::Sent| !sent.pod.as_deref().is_some_and(of_pool);
            let refused =
                account.sent.iter().filter(|sent| sent.ending != warmpath_tests::Ending::Whole).count();
            let astray: Vec<_> = account.sent.iter().filter(astray).map(|sent| sent.at).collect();
            let last = astray.last().map_or(0.0, |at| at.saturating_sub(changed).as_secs_f64());
            assert!(astray.len() <= 20 && last < 5.0, "{} astray, the last after {last:.2} s", astray.len());
            told.push((refused, astray.len(), last));
        }
        let (ours, theirs) = (told[0], told[1]);
        println!("refused, astray, seconds until the last: {ours:.2?} with Warmpath, {theirs:.2?} without");
        assert!(ours.0 <= theirs.0 + 3, "{} refused, and {} without Warmpath", ours.0, theirs.0);
        let mut warm = 0;
        for (number, home) in homes.iter().enumerate() {
            let reply = conversation(number, round).send(routed()).await;
            warm += usize::from(reply.pod() == home);
        }
        assert!(warm >= 19, "after the move {warm} of 20 conversations are warm");
        if round == 2 {
            for number in 0..20 {
                let request = Request::new("POST", "/b/v1/chat/completions").body(body(&format!("{number}")));
                let reply = request.send(routed()).await;
                assert!(at_one_of(&reply, &[21, 22]), "{}", reply.pod());
            }
        }
    }
    // No series has the name of a rule.
    let page = world.envoy().admin("/stats/prometheus").await.unwrap().text();
    let named = page.lines().find(|line| line.starts_with("warmpath_") && line.contains("rule/"));
    assert_eq!(named, None);
}

pub async fn merged_gateways_share_an_envoy(world: &mut World) {
    world.spoilt();
    world.cluster().pipe(&["apply"], &input("merged.yaml"));
    for (name, gateway, listener) in [("a", "team-a", "llm"), ("b", "team-b", "web")] {
        let mut route = objects::route(name, listener, &[("/", "vllm")]);
        route["spec"]["parentRefs"][0]["name"] = gateway.into();
        world.cluster().apply(HTTP_ROUTE, &route).await;
    }
    let where_ = ["--gateway=team-a", "--listener=llm", "--route=a"];
    let url = world.modules.put(&world.module);
    let file = world.ground.folder.join("module.wasm");
    let mut flags = where_.to_vec();
    // Policies of a name of their own: the Gateway `eg` has those called warmpath.
    flags.extend(["--name=merged", "--module-url", &url, "--module", file.to_str().unwrap()]);
    let printed = world.manifests(&flags);
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(printed.out.contains("kind: GatewayClass, name: merged"), "{}", printed.out);
    world.cluster().pipe(&["apply"], &printed.out);
    // Both Envoys want the same ports.
    world.envoy.take().unwrap().end();
    world.envoy = Some(
        Envoy::start(
            &world.ground,
            "gateway.envoyproxy.io/owning-gatewayclass=merged",
            "envoy-gateway-system",
        )
        .await,
    );
    world.is_routed().await;
    until("the check finds all of it", async || {
        let checked = world.manifests(&[&where_[..], &["--name=merged", "--check"]].concat());
        (checked.code == 0).then_some(())
    })
    .await;
    for number in 0..10 {
        chat_ends_whole(number).await;
        let reply = Request::chat(&format!("{number}")).send(plain()).await;
        assert!(reply.status == 200 && !named_by_warmpath(world, &reply), "team-b met the module");
    }
    one_poller_a_pod(world).await;
    for (kind, namespace, name) in [
        (GATEWAY, "default", "team-a"),
        (GATEWAY, "default", "team-b"),
        (crate::api::GATEWAY_CLASS, "", "merged"),
    ] {
        world.cluster().delete(kind, namespace, name).await;
    }
}

pub async fn a_service_in_place_of_its_pods_is_told(world: &mut World) {
    world.spoilt();
    world.cluster().pipe(&["apply"], &input("by-service.yaml"));
    let printed = world.print(&world.module, &[]);
    assert_eq!(printed.code, 1);
    assert!(printed.out.is_empty() && printed.err.contains("routingType: Endpoint"), "{}", printed.err);
    let checked = world.check();
    assert!(
        checked.code == 1 && checked.out.contains("EnvoyProxy default/eg has routingType Service"),
        "{}",
        checked.out
    );
}

pub async fn a_dual_stack_service_is_told(world: &mut World) {
    world.spoilt();
    world.cluster().pipe(&["apply"], &input("slice-ipv6.yaml"));
    let printed = world.print(&world.module, &[]);
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(printed.err.contains("Service default/vllm is dual stack"), "{}", printed.err);
    let checked = world.check();
    assert!(checked.code == 1 && checked.out.contains("ipFamilyPolicy: SingleStack"), "{}", checked.out);
    world.cluster().delete(ENDPOINT_SLICE, "default", "vllm-6").await;
}

pub async fn a_hundred_routes_to_the_same_pods(world: &mut World) {
    world.spoilt();
    for number in 0..100 {
        let path = format!("/r{number}/");
        world
            .cluster()
            .apply(HTTP_ROUTE, &objects::route(&format!("r{number}"), "routed", &[(&path, "vllm")]))
            .await;
    }
    world.attach(&["--selector=pool=vllm"]).await;
    for number in 0..100 {
        until(&format!("route {number} is routed"), async || {
            let path = format!("/r{number}/v1/chat/completions");
            let reply = Request::new("POST", &path).body(body("Who?")).send(routed()).await;
            (reply.status == 200 && named_by_warmpath(world, &reply)).then_some(())
        })
        .await;
    }
    // However many clusters name a pod, it is one pod, and its page is read once a time.
    one_poller_a_pod(world).await;
}

pub async fn two_hundred_pods(world: &mut World) {
    world.spoilt();
    let numbers: Vec<u8> = (11..211).collect();
    world.start_pods(&numbers).await;
    world.endpoints(&ready(&numbers)).await;
    let wanted: Vec<(String, &str)> = numbers.iter().map(|&number| (at(number), "HEALTHY")).collect();
    world.envoy().knows(crate::world::POOL, &wanted).await;
    let mut met = BTreeSet::new();
    for number in 0..400 {
        let reply = Request::chat(&format!("Chat {number}. {}", "word ".repeat(number))).send(routed()).await;
        assert_eq!(reply.status, 200);
        met.insert(reply.pod().to_owned());
    }
    assert!(met.len() > 100, "400 prompts met {} of 200 pods", met.len());
    world.endpoints(&ready(&[11, 12, 13])).await;
    for number in 0..50 {
        chat_ends_whole(number).await;
    }
}

/// A pod's page is read by one of all root contexts, ten times per second at most.
async fn one_poller_a_pod(world: &World) {
    let (before, since) = (world.pods[&11].scrapes(), std::time::Instant::now());
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let rate = (world.pods[&11].scrapes() - before) as f64 / since.elapsed().as_secs_f64();
    assert!(rate <= 15.0, "{rate:.1} scrapes of one pod per second");
}

/// Pods 21 and 22 behind a Service of their own.
async fn second_pool(world: &mut World) {
    world.start_pods(&[21, 22]).await;
    world.cluster().apply(SERVICE, &objects::service("vllm-b")).await;
    world.cluster().apply(ENDPOINT_SLICE, &objects::endpoints("vllm-b", &ready(&[21, 22]))).await;
}

fn at_one_of(reply: &warmpath_tests::Reply, numbers: &[u8]) -> bool {
    numbers.iter().any(|&number| reply.pod() == at(number))
}

fn body(prompt: &str) -> String {
    json!({"model": "/model/qwen", "messages": [{"role": "user", "content": prompt}]}).to_string()
}

/// Round `round` of a conversation, which begins with all that was said before.
fn conversation(number: usize, round: usize) -> Request {
    let words: String = (0..600).map(|n| format!("{:x} ", (number + 1) * 7919 * (n + 3))).collect();
    let mut messages = vec![json!({"role": "user", "content": words})];
    for turn in 1..round {
        messages.push(json!({"role": "assistant", "content": format!("Answer {turn}")}));
        messages.push(json!({"role": "user", "content": format!("And what of {turn}?")}));
    }
    Request::post("/v1/chat/completions", &json!({"model": "/model/qwen", "messages": messages}))
}

pub async fn a_listener_that_no_patch_names_hangs_nobody(world: &mut World) {
    world.spoilt();
    // As after an upgrade that renames listeners once more.
    for name in ["warmpath", "warmpath-by-port"] {
        world.cluster().delete(crate::api::PATCH_POLICY, "default", name).await;
    }
    until("the filter has lost its patches", async || {
        (!world.envoy().listeners().await.contains("allow_on_headers_stop_iteration")).then_some(())
    })
    .await;
    for number in 0..30 {
        let start = std::time::Instant::now();
        chat_ends_whole(number).await;
        let waited = start.elapsed();
        assert!(waited < std::time::Duration::from_millis(2500), "request {number} waited {waited:?}");
    }
    let checked = world.check();
    assert!(
        checked.code == 1 && checked.out.contains("EnvoyPatchPolicy default/warmpath is not there"),
        "{}",
        checked.out
    );
    assert_eq!(world.envoy().metric("warmpath_unpatched").await, Some(1.0), "the gauge warmpath_unpatched");
}

pub async fn a_listener_with_tls_and_several_host_names(world: &mut World) {
    world.spoilt();
    let names = ["a.example.com", "b.example.com"];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(names.map(str::to_owned)).unwrap().self_signed(&key).unwrap();
    let secret = json!({
        "metadata": {"name": "tls", "namespace": "default"},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
    });
    world.cluster().apply(crate::api::SECRET, &secret).await;
    // Two listeners of one port are one listener in Envoy, with a filter chain for each host name and the first one's name.
    let mut gateway = objects::gateway();
    let listeners = gateway["spec"]["listeners"].as_array_mut().unwrap();
    for (name, host) in ["tls-a", "tls-b"].into_iter().zip(names) {
        listeners.push(json!({
            "name": name, "hostname": host, "port": 8443, "protocol": "HTTPS",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "tls"}]},
        }));
    }
    world.cluster().apply(GATEWAY, &gateway).await;
    let mut route = objects::route("routed", "routed", &[("/", "vllm")]);
    for name in ["tls-a", "tls-b"] {
        route["spec"]["parentRefs"].as_array_mut().unwrap().push(json!({"name": "eg", "sectionName": name}));
    }
    world.cluster().apply(HTTP_ROUTE, &route).await;
    let flags = ["--listener=tls-a", "--listener=tls-b"];
    world.attach(&flags).await;
    world.start_envoy().await;
    for host in names {
        until(&format!("{host} is routed by Warmpath"), async || {
            let before = world.counts();
            let status = over_tls(host, &body("Who?")).await;
            let after = world.counts();
            let number = after.keys().find(|number| after[number] > before[number])?;
            let headers = world.pods[number].received().pop()?.headers;
            (status == "200" && headers.contains_key("x-warmpath-destination")).then_some(())
        })
        .await;
    }
    world.is_routed().await;
    let checked = world.manifests(
        &[&["--gateway=eg", "--listener=routed", "--route=routed", "--check"], &flags[..]].concat(),
    );
    assert_eq!(checked.code, 0, "{}", checked.out);
}

/// The status of a chat over TLS to this host name, by curl.
async fn over_tls(host: &str, body: &str) -> String {
    let done = tokio::process::Command::new("curl")
        .args([
            "--insecure",
            "--silent",
            "--max-time",
            "5",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ])
        .args(["--resolve", &format!("{host}:8443:{}", crate::sandbox::address::ENVOY), "--data", body])
        .arg(format!("https://{host}:8443/v1/chat/completions"))
        .output()
        .await
        .expect("curl");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub async fn envoys_in_the_namespace_of_their_gateway(world: &mut World) {
    world.spoilt();
    world.start_gateway(json!({"provider": {"kubernetes": {"deploy": {"type": "GatewayNamespace"}}}})).await;
    world.envoy.take().unwrap().end();
    world.envoy = Some(Envoy::start(&world.ground, OF_EG, "default").await);
    world.is_routed().await;
    let checked = world.check();
    assert_eq!(checked.code, 0, "{}", checked.out);
    for number in 0..10 {
        chat_ends_whole(number).await;
    }
    one_poller_a_pod(world).await;
    // As before, for the next case.
    world.start_gateway(json!({})).await;
}
