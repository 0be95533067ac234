//! Other shapes of Gateways, routes and Services.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use warmpath_tests::{Account, Ending, Load, Request, Sent, Stopwatch, Traffic};

use super::{brisk, chat_ends_whole, named_by_warmpath, until_within, whole};
use crate::access_log;
use crate::api::{CLIENT_POLICY, ENDPOINT_SLICE, GATEWAY, HTTP_ROUTE, SERVICE};
use crate::gateway::Envoy;
use crate::objects;
use crate::process::Process;
use crate::sandbox::address;
use crate::wait::until;
use crate::world::{OF_EG, POOL, World, at, input, plain, ready, routed};

pub async fn the_names_of_listeners_change_under_load(world: &mut World) {
    world.spoilt();
    let traffic = brisk();
    traffic.more(50).await;
    for (flags, policy) in
        [(json!({"enabled": ["XDSNameSchemeV2"]}), "warmpath-by-port"), (json!({}), "warmpath")]
    {
        world.start_gateway(json!({"runtimeFlags": flags})).await;
        world.checks(0, &format!("EnvoyPatchPolicy default/{policy} is accepted and programmed")).await;
        traffic.more(100).await;
    }
    whole(&traffic.stop().await);
    world.is_routed().await;
}

pub async fn two_pools_on_one_listener_are_kept_apart(world: &mut World) {
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
    world.rewrite().await;
}

/// Fifty requests per second on both paths. The same move on the port that Warmpath does not route tells what
/// it costs by itself.
pub async fn a_rule_that_moves_takes_its_pool_along(world: &mut World) {
    world.spoilt();
    second_pool(world).await;
    let before: [(&str, &str); 1] = [("/", "vllm")];
    let after = [("/b/", "vllm-b"), ("/", "vllm")];
    let mut homes = Vec::new();
    for number in 0..20 {
        homes.push(conversation(number, 1).send(routed()).await.pod().to_owned());
    }
    for (round, rules, pool_of_b) in [(2, &after[..], &[21, 22][..]), (3, &before[..], &[11, 12, 13])] {
        let loads = [(routed(), ""), (plain(), ""), (routed(), "/b"), (plain(), "/b")]
            .map(|(port, prefix)| Traffic::paced_below(port, prefix, 4, 50));
        for traffic in &loads {
            traffic.more(20).await;
        }
        let missed = world.envoy().without_cluster(routed()).await;
        let changed = loads[0].now();
        for name in ["routed", "plain"] {
            world.cluster().apply(HTTP_ROUTE, &objects::route(name, name, rules)).await;
        }
        // Until then Envoy may use the changed cluster as it was.
        loads[0].lasts(Duration::from_secs(20)).await;
        let mut told = Vec::new();
        for (traffic, pool) in loads.into_iter().zip([&[11, 12, 13][..], &[11, 12, 13], pool_of_b, pool_of_b])
        {
            told.push(Move::of(&traffic.stop().await, changed, pool));
        }
        let [root, plain_root, below, plain_below] = told.try_into().expect("a move for each load");
        println!(
            "/: {root:.2?}, without Warmpath {plain_root:.2?}; /b: {below:.2?}, without Warmpath {plain_below:.2?}"
        );
        // Envoy may hear of a route a moment before it has the cluster that the route names, whoever routes.
        let missed = world.envoy().without_cluster(routed()).await - missed;
        assert!(
            (root.refused + below.refused) as u64 <= missed,
            "{root:?}, {below:?}; {missed} had no cluster"
        );
        assert!(root.last < 5.0 && below.last < 5.0, "{root:?}, {below:?}");
        assert!(root.astray <= 20, "{root:?}");
        let mut warm = 0;
        for (number, home) in homes.iter().enumerate() {
            let reply = conversation(number, round).send(routed()).await;
            warm += usize::from(reply.pod() == home);
        }
        assert!(warm >= 19, "after the move {warm} of 20 conversations are warm");
    }
    // No series has the name of a rule.
    let page = world.envoy().admin("/stats/prometheus").await.unwrap().text();
    let named = page.lines().find(|line| line.starts_with("warmpath_") && line.contains("rule/"));
    assert_eq!(named, None);
}

/// What a load saw of a rule that moves: requests that were not answered whole; requests that met a pod which
/// is not of the pool that answers after the move; and how many seconds after it the last of all these was.
#[derive(Clone, Copy, Debug)]
struct Move {
    refused: usize,
    astray: usize,
    last: f64,
}

impl Move {
    /// Envoy Gateway gives the name of a cluster to other pods, and tells Envoy of these before it tells of
    /// the routes. So for a moment requests meet the other pool, or a cluster that is not there, with
    /// Warmpath or without.
    fn of(account: &Account, changed: Duration, pool: &[u8]) -> Move {
        let of_pool = |pod: &String| pool.iter().any(|&number| at(number) == *pod);
        let is_refused = |sent: &&Sent| sent.ending != Ending::Whole;
        let is_astray =
            |sent: &&Sent| sent.at >= changed && sent.pod.as_ref().is_some_and(|pod| !of_pool(pod));
        let refused = account.sent.iter().filter(is_refused).count();
        let astray = account.sent.iter().filter(is_astray).count();
        let last = account.sent.iter().rfind(|sent| is_refused(sent) || is_astray(sent));
        let last = last.map_or(0.0, |sent| sent.at.saturating_sub(changed).as_secs_f64());
        Move { refused, astray, last }
    }
}

pub async fn merged_gateways_share_an_envoy(world: &mut World) {
    world.spoilt();
    world.cluster().pipe(&["apply"], &input("merged.yaml")).await;
    for (name, gateway, listener) in [("a", "team-a", "llm"), ("b", "team-b", "web")] {
        let mut route = objects::route(name, listener, &[("/", "vllm")]);
        route["spec"]["parentRefs"][0]["name"] = gateway.into();
        world.cluster().apply(HTTP_ROUTE, &route).await;
    }
    let where_ = ["--gateway=team-a", "--listener=llm", "--route=a"];
    let (url, file) = world.publish(&world.module);
    let mut flags = where_.to_vec();
    // Policies of a name of their own: the Gateway `eg` has those called warmpath.
    flags.extend(["--name=merged", "--module-url", &url, "--module", file.to_str().unwrap()]);
    let printed = world.manifests(&flags).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(printed.out.contains("kind: GatewayClass, name: merged"), "{}", printed.out);
    world.cluster().pipe(&["apply"], &printed.out).await;
    world.envoy = Some(
        Envoy::start(
            &world.ground,
            "gateway.envoyproxy.io/owning-gatewayclass=merged",
            "envoy-gateway-system",
        )
        .await,
    );
    world.is_routed().await;
    // This EnvoyProxy asks for no access log, so Envoy Gateway writes its own.
    access_log::printed_has_all_of(world.envoy()).await;
    until("the check finds all of it", async || {
        let checked = world.manifests(&[&where_[..], &["--name=merged", "--check"]].concat()).await;
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
    world.cluster().pipe(&["apply"], &input("by-service.yaml")).await;
    let printed = world.print(&world.module, &[]).await;
    assert_eq!(printed.code, 1);
    assert!(printed.out.is_empty() && printed.err.contains("routingType: Endpoint"), "{}", printed.err);
    let checked = world.check().await;
    assert!(
        checked.code == 1 && checked.out.contains("EnvoyProxy default/eg has routingType Service"),
        "{}",
        checked.out
    );
    // What was attached before is there still, and Envoy knows the one address of the Service, behind which
    // kube-proxy takes a pod for each connection: traffic flows, and the log says that nobody can choose.
    // Envoy's own Service is not served so: it has Envoy's ports, which Envoy wants at every address.
    let vllm = |service: &Service| service.metadata.name.as_deref() == Some("vllm");
    let kube_proxy = tokio::spawn(crate::services::serve(world.cluster().client(), vllm));
    // Processes of real pods have not started in the same second.
    for (&number, pod) in &world.pods {
        pod.set_load(Load { started: 1.79e9 + 1000.0 * f64::from(number), ..Load::default() });
    }
    world.start_envoy().await;
    until("Envoy knows one address", async || (world.envoy().hosts(POOL).await.len() == 1).then_some(()))
        .await;
    until("the Service's address answers", async || {
        let reply = Request::chat("Who?").try_open(routed()).await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
    let traffic = Traffic::start(routed(), 4);
    traffic.more(100).await;
    whole(&traffic.stop().await);
    let several = format!("{}:8000 answers for several processes", service_address(world).await);
    let told = async || world.envoy().said().contains(&several);
    until_within(Duration::from_secs(90), "the log says why nobody can choose among the pods", told).await;
    kube_proxy.abort();
}

/// The address of the Service of every case.
async fn service_address(world: &World) -> String {
    let service = world.cluster().get(SERVICE, "default", "vllm").await.expect("the Service of every case");
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

pub async fn a_dual_stack_service_is_told(world: &mut World) {
    world.cluster().pipe(&["apply"], &input("slice-ipv6.yaml")).await;
    let printed = world.print(&world.module, &[]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(printed.err.contains("Service default/vllm is dual stack"), "{}", printed.err);
    let checked = world.check().await;
    assert!(checked.code == 1 && checked.out.contains("ipFamilyPolicy: SingleStack"), "{}", checked.out);
    world.cluster().delete(ENDPOINT_SLICE, "default", "vllm-6").await;
}

pub async fn a_hundred_routes_to_the_same_pods(world: &mut World) {
    let apply = async |number: usize| {
        let path = format!("/r{number}/");
        let route = objects::route(&format!("r{number}"), "routed", &[(&path, "vllm")]);
        world.cluster().apply(HTTP_ROUTE, &route).await;
    };
    futures::stream::iter(0..100).for_each_concurrent(8, apply).await;
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
    world.rewrite().await;
}

pub async fn two_hundred_pods(world: &mut World) {
    let numbers: Vec<u8> = (11..211).collect();
    world.start_pods(&numbers).await;
    world.endpoints(&ready(&numbers)).await;
    let wanted: Vec<(String, &str)> = numbers.iter().map(|&number| (at(number), "HEALTHY")).collect();
    world.envoy().knows(POOL, &wanted).await;
    let mut met = BTreeSet::new();
    let mut asked = 0;
    // Warmpath looks once a second which pods Envoy knows.
    until("more than half of the pods have met a prompt", async || {
        let chats = futures::stream::iter(asked..asked + 400).map(|number| {
            Request::chat(&format!("Chat {number}. {}", "word ".repeat(number % 400))).send(routed())
        });
        asked += 400;
        for reply in chats.buffer_unordered(4).collect::<Vec<_>>().await {
            assert_eq!(reply.status, 200);
            met.insert(reply.pod().to_owned());
        }
        (met.len() > 100).then_some(())
    })
    .await;
    world.endpoints(&ready(&[11, 12, 13])).await;
    for number in 0..50 {
        chat_ends_whole(number).await;
    }
}

/// A pod's page is read by one of all root contexts, ten times per second at most.
async fn one_poller_a_pod(world: &World) {
    let (before, since) = (world.pods[&11].scrapes(), std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
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
        let watch = Stopwatch::start();
        chat_ends_whole(number).await;
        watch.within(Duration::from_secs(1), &format!("request {number} to a filter that lacks the flag"));
    }
    let checked = world.check().await;
    assert!(
        checked.code == 1 && checked.out.contains("EnvoyPatchPolicy default/warmpath is not there"),
        "{}",
        checked.out
    );
    assert_eq!(world.envoy().metric("warmpath_unpatched").await, Some(1.0), "the gauge warmpath_unpatched");
}

/// Two listeners of one port are one listener in Envoy, with a filter chain for each host name and the first
/// one's name; and one more of the same chains for HTTP/3.
pub async fn listeners_with_tls_and_http3_and_several_host_names(world: &mut World) {
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
    let mut gateway = objects::gateway();
    let listeners = gateway["spec"]["listeners"].as_array_mut().unwrap();
    for (name, host) in ["tls-a", "tls-b"].into_iter().zip(names) {
        listeners.push(json!({
            "name": name, "hostname": host, "port": 8443, "protocol": "HTTPS",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "tls"}]},
        }));
    }
    world.cluster().apply(GATEWAY, &gateway).await;
    let http3 = json!({
        "metadata": {"name": "http3", "namespace": "default"},
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"}],
            "http3": {},
        },
    });
    world.cluster().apply(CLIENT_POLICY, &http3).await;
    let mut route = objects::route("routed", "routed", &[("/", "vllm")]);
    for name in ["tls-a", "tls-b"] {
        route["spec"]["parentRefs"].as_array_mut().unwrap().push(json!({"name": "eg", "sectionName": name}));
    }
    world.cluster().apply(HTTP_ROUTE, &route).await;
    let flags = ["--listener=tls-a", "--listener=tls-b"];
    world.attach(&flags).await;
    world.start_envoy().await;
    let mut clients = Vec::new();
    for (host, port) in names.into_iter().zip(7443..) {
        let http3 = Http3Client::start(world, host, port).await;
        until(&format!("{host} is routed by Warmpath over TLS"), async || {
            (is_named(world, async || over_tls(host, &body("Who?")).await).await? == 200).then_some(())
        })
        .await;
        until(&format!("{host} is routed by Warmpath over HTTP/3"), async || {
            (is_named(world, async || http3.chat("Who?").await).await? == 200).then_some(())
        })
        .await;
        clients.push(http3);
    }
    assert!(world.envoy().stat_sum("downstream_cx_http3_total").await >= 2, "no connection was HTTP/3");
    // A client names no pod on this way either.
    for client in &clients {
        let request = Request::chat("Who?").header("x-warmpath-destination", "10.244.0.99:8000");
        let reply = request.send(client.at).await;
        let seen = world.pod_of(&reply).expect("a pod of this case").received().pop().unwrap().headers;
        let named: Vec<_> = seen.get_all("x-warmpath-destination").iter().collect();
        assert!(named.len() == 1 && named[0] != "10.244.0.99:8000", "{named:?}");
    }
    world.is_routed().await;
    let checked = world
        .manifests(
            &[&["--gateway=eg", "--listener=routed", "--route=routed", "--check"], &flags[..]].concat(),
        )
        .await;
    assert_eq!(checked.code, 0, "{}", checked.out);
    // A route keeps the status of a listener that it names no more, and the check would tell of it.
    world.cluster().delete(HTTP_ROUTE, "default", "routed").await;
}

/// The status of a request, if it reached a pod with the header that names pods.
async fn is_named(world: &World, send: impl AsyncFnOnce() -> u16) -> Option<u16> {
    let before = world.counts();
    let status = send().await;
    let after = world.counts();
    let number = after.keys().find(|number| after[number] > before[number])?;
    let headers = world.pods[number].received().pop()?.headers;
    headers.contains_key("x-warmpath-destination").then_some(status)
}

/// The status of a chat over TLS to this host name, by curl.
async fn over_tls(host: &str, body: &str) -> u16 {
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
        .args(["--resolve", &format!("{host}:8443:{}", address::ENVOY), "--data", body])
        .arg(format!("https://{host}:8443/v1/chat/completions"))
        .output()
        .await
        .expect("curl");
    String::from_utf8_lossy(&done.stdout).parse().expect("a status")
}

/// Another Envoy, which hands on by HTTP/3 what it gets by HTTP/1.1.
struct Http3Client {
    at: SocketAddr,
    _envoy: Process,
}

impl Http3Client {
    async fn start(world: &World, host: &'static str, port: u16) -> Http3Client {
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let configuration = input("http3-client.yaml")
            .replace("LISTEN_PORT", &port.to_string())
            .replace("HOST_NAME", host)
            .replace("GATEWAY_ADDRESS", address::ENVOY);
        let mut command = Command::new(world.ground.tools.join("envoy"));
        command.args(["--disable-hot-restart", "--concurrency", "1", "--config-yaml", &configuration]);
        let mut envoy = Process::start(&format!("http3-client-{host}"), &world.ground.logs(), &mut command);
        until("the client of HTTP/3 listens", async || {
            envoy.lives();
            tokio::net::TcpStream::connect(at).await.ok()
        })
        .await;
        Http3Client { at, _envoy: envoy }
    }

    async fn chat(&self, prompt: &str) -> u16 {
        Request::chat(prompt).send(self.at).await.status.as_u16()
    }
}

pub async fn envoys_in_the_namespace_of_their_gateway(world: &mut World) {
    world.spoilt();
    world.start_gateway(json!({"provider": {"kubernetes": {"deploy": {"type": "GatewayNamespace"}}}})).await;
    world.envoy = Some(Envoy::start(&world.ground, OF_EG, "default").await);
    world.is_routed().await;
    let checked = world.check().await;
    assert_eq!(checked.code, 0, "{}", checked.out);
    for number in 0..10 {
        chat_ends_whole(number).await;
    }
    one_poller_a_pod(world).await;
    // As before, for the next case.
    world.start_gateway(json!({})).await;
}
