//! Pods from Envoy's own clusters, with the names and the form that Envoy Gateway gives them: no list of
//! pods, no collector, one destination header.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use warmpath_tests::{Answer, Envoy, Request, Stopwatch, TestPod, filters_share_a_vm, target, until};

const CLUSTER: &str = "httproute/default/chat/rule/0";

/// The endpoints of the route's cluster, in a file that Envoy follows.
pub struct Endpoints(TempDir);

impl Endpoints {
    /// Each pod with its health.
    pub fn of(hosts: &[(&TestPod, &str)]) -> Self {
        let endpoints = Self(tempfile::tempdir().unwrap());
        endpoints.set(hosts);
        endpoints
    }

    /// Healthy ones at these addresses.
    pub fn at(addresses: &[String]) -> Self {
        let endpoints = Self(tempfile::tempdir().unwrap());
        let hosts: Vec<(String, &str)> = addresses.iter().map(|at| (at.clone(), "HEALTHY")).collect();
        endpoints.set_addresses(&hosts);
        endpoints
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("eds.json")
    }

    /// Changes them; each pod with its health.
    pub fn set(&self, hosts: &[(&TestPod, &str)]) {
        let hosts: Vec<(String, &str)> = hosts.iter().map(|(pod, health)| (pod.address(), *health)).collect();
        self.set_addresses(&hosts);
    }

    fn set_addresses(&self, hosts: &[(String, &str)]) {
        let host = |(address, health): &(String, &str)| {
            let (ip, port) = address.rsplit_once(':').unwrap();
            json!({"health_status": health, "endpoint": {"address": socket(ip, port.parse().unwrap())}})
        };
        let hosts: Vec<Value> = hosts.iter().map(host).collect();
        let page = json!({"resources": [{
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": CLUSTER,
            "endpoints": [{"locality": {"region": format!("{CLUSTER}/backend/0")}, "lb_endpoints": hosts}],
        }]});
        // Envoy looks when a file is moved to this name.
        let next = self.0.path().join("next.json");
        std::fs::write(&next, page.to_string()).unwrap();
        std::fs::rename(next, self.file()).unwrap();
    }
}

fn socket(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn listener(name: &str, filters: &[Value]) -> Value {
    let mut filters = filters.to_vec();
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}));
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": CLUSTER, "timeout": "0s", "retry_policy": {
        "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
        "retriable_status_codes": [503], "num_retries": 2}}});
    json!({"name": name, "address": socket("127.0.0.1", 0), "filter_chains": [{"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name, "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        },
    }]}]})
}

/// What Envoy Gateway makes of a route with the policies, or of one without
/// `allow_on_headers_stop_iteration`.
fn configuration(endpoints: &Path, stop_iteration: bool) -> String {
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = json!({
        "destination": "list",
        "discovery": {"cluster": "prometheus_stats"},
        "scrape": {"interval_ms": 50, "idle_interval_ms": 50},
    });
    let mut wasm = json!({
        "name": "warmpath", "root_id": "router", "failure_policy": "FAIL_RELOAD",
        "vm_config": {
            "vm_id": "warmpath", "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": target().join("warmpath.wasm")}},
        },
        "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": settings.to_string()},
    });
    if stop_iteration {
        wasm["allow_on_headers_stop_iteration"] = true.into();
    }
    let filter = json!({"name": "envoy.filters.http.wasm/envoyextensionpolicy/default/warmpath/wasm/0", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": wasm}});
    let policy = |name: &str, kind: &str, mut config: Value| {
        config["@type"] =
            format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}.v3.{kind}").into();
        let name = format!("envoy.load_balancing_policies.{name}");
        json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": config}}]})
    };
    let least_request = policy("least_request", "LeastRequest", json!({}));
    let cluster = json!({
        "name": CLUSTER, "connect_timeout": "1s", "type": "EDS",
        "eds_cluster_config": {"eds_config": {"resource_api_version": "V3", "path_config_source": {"path": endpoints}}},
        "load_balancing_policy": policy("override_host", "OverrideHost", json!({
            "override_host_sources": [{"header": "x-warmpath-destination"}], "fallback_policy": least_request})),
    });
    let admin_cluster = json!({
        "name": "prometheus_stats", "connect_timeout": "1s", "type": "STATIC",
        "load_assignment": {"cluster_name": "prometheus_stats", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": socket("127.0.0.1", admin)}}]}]},
    });
    json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": socket("127.0.0.1", admin)},
        "static_resources": {
            "listeners": [listener("routed", &[filter]), listener("plain", &[])],
            "clusters": [cluster, admin_cluster],
        },
    })
    .to_string()
}

/// An Envoy for these endpoints.
pub async fn attached(pods: &[TestPod], endpoints: &Endpoints, stop_iteration: bool) -> Envoy {
    attached_at(pods.iter().map(TestPod::address).collect(), endpoints, stop_iteration).await
}

/// The same with pods at these addresses.
pub async fn attached_at(pods: Vec<String>, endpoints: &Endpoints, stop_iteration: bool) -> Envoy {
    let text = configuration(&endpoints.file(), stop_iteration);
    Envoy::at(pods).concurrency(2).log_level("info").edit(move |_| text).start().await
}

fn chat(conversation: usize) -> Request {
    Request::chat(&format!("conversation {conversation} says many words. ").repeat(200))
}

/// The pods that a request is sent with, best first.
async fn named(envoy: &Envoy, pods: &[TestPod]) -> String {
    let reply = chat(99).send(envoy.routed).await;
    let pod = pods.iter().find(|pod| pod.address() == reply.pod()).unwrap();
    let list = pod.received().last().unwrap().headers.get("x-warmpath-destination").cloned();
    list.map(|list| list.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn pods_of_the_routes_cluster_are_found_and_a_conversation_stays_where_it_is_warm() {
    let pods = TestPod::several(3).await;
    let all = |health: [&'static str; 3]| -> Vec<(&TestPod, &str)> { pods.iter().zip(health).collect() };
    let endpoints = Endpoints::of(&all(["HEALTHY"; 3]));
    let envoy = attached(&pods, &endpoints, true).await;

    // Nothing is known of the cluster yet: the request is served all the same.
    assert_eq!(chat(0).send(envoy.routed).await.status, 200);
    envoy.sees_ready(3).await;
    let home = chat(1).send(envoy.routed).await.pod().to_owned();
    let before = envoy.prefix_hits().await;
    for _ in 0..6 {
        assert_eq!(chat(1).send(envoy.routed).await.pod(), home);
    }
    assert_eq!(envoy.prefix_hits().await, before + 6);
    let at = pods.iter().position(|pod| pod.address() == home).unwrap();
    let list =
        pods[at].received().last().unwrap().headers["x-warmpath-destination"].to_str().unwrap().to_owned();
    assert!(list.starts_with(&format!("{home},")) && list.split(',').count() == 3, "{list}");

    // A pod that drains gets nothing, and is scraped on.
    let mut health = ["HEALTHY"; 3];
    health[at] = "DRAINING";
    endpoints.set(&all(health));
    until("the draining pod was no candidate", async || {
        (!named(&envoy, &pods).await.contains(&home)).then_some(())
    })
    .await;
    for conversation in 3..9 {
        assert_ne!(chat(conversation).send(envoy.routed).await.pod(), home);
    }
    pods[at].scraped(3).await;

    // When it is ready again, it is believed to hold what it held.
    endpoints.set(&all(["HEALTHY"; 3]));
    until("the pod was a candidate again", async || named(&envoy, &pods).await.contains(&home).then_some(()))
        .await;
    assert_eq!(chat(1).send(envoy.routed).await.pod(), home);

    // A pod that has left the cluster gets nothing.
    let rest: Vec<(&TestPod, &str)> =
        pods.iter().filter(|pod| pod.address() != home).map(|pod| (pod, "HEALTHY")).collect();
    endpoints.set(&rest);
    until("the pod was no candidate", async || (!named(&envoy, &pods).await.contains(&home)).then_some(()))
        .await;
    assert_ne!(chat(1).send(envoy.routed).await.pod(), home);
}

#[tokio::test]
async fn the_hosts_of_a_dns_cluster_are_the_pods_of_a_composite_one() {
    let pods = TestPod::several(3).await;
    let names: Vec<String> = pods.iter().map(|pod| pod.address().replace("127.0.0.1", "localhost")).collect();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let envoy = Envoy::at(names)
        .flag("--discover", "vllm")
        .flag("--admin-port", &admin.to_string())
        .concurrency(2)
        .log_level("info")
        .start()
        .await;
    // No request is needed: the collector asks for the cluster that the configuration names.
    envoy.sees_ready(3).await;
    let home = chat(1).send(envoy.routed).await.pod().to_owned();
    let before = envoy.prefix_hits().await;
    for _ in 0..6 {
        assert_eq!(chat(1).send(envoy.routed).await.pod(), home);
    }
    assert_eq!(envoy.prefix_hits().await, before + 6);
    let at = pods.iter().position(|pod| pod.address() == home).unwrap();
    let headers = pods[at].received().last().unwrap().headers.clone();
    assert_eq!(headers["x-warmpath-destination-0"], home.as_str());
    // The singleton collects, and no router takes over from it.
    assert_eq!(envoy.stat("wasmcustom.warmpath_collector_takeovers_total.pool=default;").await, 0);
}

#[tokio::test]
async fn one_root_context_asks_for_all_threads() {
    let pods = TestPod::several(2).await;
    let endpoints = Endpoints::of(&[(&pods[0], "HEALTHY"), (&pods[1], "HEALTHY")]);
    let envoy = attached(&pods, &endpoints, true).await;
    chat(0).send(envoy.routed).await;
    envoy.sees_ready(2).await;
    let asked = "cluster.prometheus_stats.upstream_rq_completed";
    let (start, before) = (Instant::now(), envoy.stat(asked).await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = envoy.stat(asked).await - before;
    let took = start.elapsed().as_secs() as i64;
    assert!((1..=took + 1).contains(&asked), "asked {asked} times in {took} s, once a second is due");
}

/// The configuration with the filter of answers in the pods' cluster, through which they are scraped, too: in
/// the router's VM, or in one of its own.
fn with_answer_filter(configuration: &str, shares_vm: bool) -> String {
    let mut all: Value = serde_json::from_str(configuration).unwrap();
    let mut vm = all["static_resources"]["listeners"]
        .pointer("/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/vm_config")
        .unwrap()
        .clone();
    if !shares_vm {
        vm["configuration"] =
            json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "answer"});
    }
    let settings = json!({"destination": "list", "discovery": {"cluster": "prometheus_stats"}});
    let filter = json!({"name": "envoy.filters.http.wasm", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "warmpath-answer", "root_id": "answer", "failure_policy": "FAIL_RELOAD",
            "allow_on_headers_stop_iteration": true,
            "vm_config": vm,
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": settings.to_string()},
        },
    }});
    let codec = json!({"name": "envoy.filters.http.upstream_codec", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}});
    all["static_resources"]["clusters"][0]["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "http_filters": [filter, codec],
        },
    });
    all.to_string()
}

#[tokio::test]
async fn a_metrics_page_that_is_refused_is_no_refusal_of_a_request() {
    refused_pages(false).await;
}

/// A scrape makes the context of the answer filter in the middle of the call by which the router's VM sends
/// it, where they share one.
#[tokio::test]
async fn a_scrape_may_meet_an_answer_filter_in_the_vm_that_sends_it() {
    refused_pages(filters_share_a_vm()).await;
}

async fn refused_pages(shares_vm: bool) {
    let pods = TestPod::several(2).await;
    let endpoints = Endpoints::of(&[(&pods[0], "HEALTHY"), (&pods[1], "HEALTHY")]);
    let text = with_answer_filter(&configuration(&endpoints.file(), true), shares_vm);
    let envoy = Envoy::of(&pods).concurrency(2).log_level("info").edit(move |_| text).start().await;
    chat(0).send(envoy.routed).await;
    envoy.sees_ready(2).await;
    let declined =
        async || envoy.stats("warmpath_early_errors_total.reason=declined;").await.values().sum::<i64>();
    for (nth, status) in (1..).zip([502, 404]) {
        pods[0].set_metrics_status(status);
        let scrapes = pods[0].scrapes();
        until("it is scraped some times", async || (pods[0].scrapes() > scrapes + 5).then_some(())).await;
        assert_eq!(declined().await, nth - 1, "{status}");
        // Of a request it is one.
        pods.iter().for_each(TestPod::forget_answers);
        let body = json!({"error": {"message": "not here", "code": status}}).to_string();
        for pod in &pods {
            pod.answer_next(Answer::json(status, body.clone()));
        }
        assert_eq!(chat(nth as usize).send(envoy.routed).await.status, status);
        assert_eq!(declined().await, nth, "{status}");
    }
}

#[tokio::test]
async fn without_the_flag_no_request_waits_long_and_bodies_are_whole() {
    let pods = TestPod::several(2).await;
    let endpoints = Endpoints::of(&[(&pods[0], "HEALTHY"), (&pods[1], "HEALTHY")]);
    let envoy = attached(&pods, &endpoints, false).await;
    let prompt = "words that must not be lost ".repeat(5_000);
    for _ in 0..6 {
        let watch = Stopwatch::start();
        assert_eq!(Request::chat(&prompt).send(envoy.routed).await.status, 200);
        watch.within(Duration::from_secs(1), "a request to a filter that lacks the flag");
    }
    let received: Vec<_> = pods.iter().flat_map(TestPod::received).collect();
    assert_eq!(received.len(), 6);
    for request in &received {
        assert!(
            String::from_utf8_lossy(&request.body).contains(&prompt),
            "{} bytes came",
            request.body.len()
        );
        assert!(!request.headers.contains_key("x-warmpath-destination"));
    }
    let unpatched = envoy.prometheus().await;
    assert!(unpatched.lines().any(|line| line == "warmpath_unpatched_pool_default_{} 1"), "{unpatched}");
    assert_eq!(envoy.log().matches("the filter lacks `allow_on_headers_stop_iteration: true`").count(), 1);
}

#[tokio::test]
async fn a_slow_client_is_not_taken_for_a_missing_flag() {
    let pods = TestPod::several(1).await;
    let endpoints = Endpoints::of(&[(&pods[0], "HEALTHY")]);
    let envoy = attached(&pods, &endpoints, true).await;
    let body = r#"{"model": "/model/qwen", "messages": []}"#;
    let mut stream = tokio::net::TcpStream::connect(envoy.routed).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(envoy.stat("wasmcustom.warmpath_unpatched.pool=default;").await, 0);
}

/// The one host of a cluster is asked for pages by connections that are closed, which HTTP/2 has no header
/// for.
#[tokio::test]
async fn the_one_host_of_a_cluster_may_speak_http_2() {
    let pods = TestPod::several(1).await;
    // An Envoy answers in the protocol that it is asked in.
    let server = Envoy::of(&pods).start().await;
    let address = server.plain.to_string();
    let endpoints = Endpoints::at(std::slice::from_ref(&address));
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut text: Value = serde_json::from_str(&configuration(&endpoints.file(), true)).unwrap();
    text["static_resources"]["clusters"][0]["typed_extension_protocol_options"] = json!({options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    let envoy = Envoy::at(vec![address]).concurrency(2).log_level("info").edit(move |_| text.to_string());
    let envoy = envoy.start().await;
    assert_eq!(chat(0).send(envoy.routed).await.status, 200);
    envoy.sees_ready(1).await;
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < Duration::from_secs(5) {
        number += 1;
        assert_eq!(chat(number).send(envoy.routed).await.status, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(envoy.stats("cx_destroy_local_with_active_rq").await.values().sum::<i64>(), 0);
    assert_eq!(envoy.log().matches("cannot be scraped").count(), 0, "{}", envoy.log());
    envoy.sees_ready(1).await;
}
