//! The metrics port: Warmpath's own page, Envoy's page, and nothing else.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use warmpath_tests::{Answer, Envoy, EnvoyBuilder, Request, TestPod, until};

use crate::receipts::{part_of, streaming_pods};

/// A port that is free now, below those that the kernel hands out.
fn free_port() -> u16 {
    let from = 10_000 + u16::try_from(std::process::id() % 20_000).unwrap();
    (from..).find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).unwrap()
}

/// An Envoy with a metrics port, and the address of that.
async fn with_metrics(builder: EnvoyBuilder) -> (Envoy, SocketAddr) {
    let envoy = builder.flag("--metrics-port", "0").start().await;
    let metrics = envoy.listener("metrics").await;
    (envoy, metrics)
}

async fn page(metrics: SocketAddr) -> String {
    let reply = Request::get("/metrics").send(metrics).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    reply.text()
}

/// The value of the series that begins with `series`, which must end at its labels.
fn value(page: &str, series: &str) -> Option<f64> {
    let line =
        page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

async fn until_value(metrics: SocketAddr, series: &str, wanted: f64) -> String {
    until(&format!("{series} was {wanted}"), async || {
        let page = page(metrics).await;
        (value(&page, series) == Some(wanted)).then_some(page)
    })
    .await
}

#[tokio::test]
async fn the_page_has_times_to_first_token_tokens_and_pods() {
    let pods = streaming_pods(2).await;
    let (envoy, metrics) = with_metrics(Envoy::of(&pods)).await;
    envoy.sees(&pods).await;
    let prompt = "a prompt of some length ".repeat(100);
    let mut pod = String::new();
    for _ in 0..3 {
        let reply = Request::streamed_chat(&prompt).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        pod = reply.pod().to_owned();
    }
    let first = r#"warmpath_time_to_first_token_seconds_count{route="warmpath",matched="false",model="/model/qwen",pool="default"}"#;
    let again = first.replace("false", "true");
    // Each worker tells what it has seen at its own tick.
    until_value(metrics, first, 1.0).await;
    until_value(metrics, &again, 2.0).await;
    until_value(metrics, r#"warmpath_decision_seconds_count{by="prefix",pool="default"}"#, 3.0).await;
    let tokens = r#"warmpath_prompt_tokens_count{model="/model/qwen",pool="default"}"#;
    let page = until_value(metrics, tokens, 3.0).await;
    let last = first.replace("_count{", "_bucket{").replace('}', r#",le="+Inf"}"#);
    assert_eq!(value(&page, &last), Some(1.0));
    let requests = r#"warmpath_requests_total{by="prefix",pool="default"}"#;
    assert_eq!(value(&page, requests), Some(3.0));
    let sent = format!(r#"warmpath_pod_requests_total{{pod="{pod}",pool="default"}}"#);
    assert!(value(&page, &sent).unwrap() >= 1.0);
    for one in &pods {
        let ready =
            format!(r#"warmpath_pod_status{{pod="{}",status="ready",pool="default"}}"#, one.address());
        assert_eq!(value(&page, &ready), Some(1.0), "{page}");
    }
    assert!(value(&page, r#"warmpath_decision_seconds_sum{by="prefix",pool="default"}"#).unwrap() > 0.0);
    let seconds = value(&page, &again.replace("_count{", "_sum{")).unwrap();
    assert!((0.04..60.0).contains(&seconds), "two first tokens took {seconds} s together");
    if let Some(said) = promtool(&page) {
        assert_eq!(said, "", "promtool check metrics");
    }
    // Envoy's own page has the same counters.
    let envoys = envoy.prometheus().await;
    assert!(envoys.contains(r#"warmpath_time_to_first_token_seconds_bucket{"#), "{envoys}");
}

#[tokio::test]
async fn series_of_a_pod_end_with_it() {
    let pods = TestPod::several(2).await;
    let builder = Envoy::of(&pods).flag("--metrics-port", "0").reloadable(600);
    let mut envoy = builder.start().await;
    let metrics = envoy.listener("metrics").await;
    envoy.sees(&pods).await;
    let (stays, goes) = (pods[0].address(), pods[1].address());
    assert!(page(metrics).await.contains(&format!(r#"{{pod="{goes}""#)));
    let left = stays.clone();
    envoy.reload(move |settings| settings["pods"] = serde_json::json!([left])).await;
    let page = until("the pod was gone from the page", async || {
        let page = page(metrics).await;
        (!page.contains(&goes)).then_some(page)
    })
    .await;
    assert!(page.contains(&format!(r#"{{pod="{stays}""#)));
}

#[tokio::test]
async fn the_page_tells_which_pod_errs_and_which_refuses() {
    let mut pods = TestPod::several(3).await;
    let (envoy, metrics) = with_metrics(Envoy::of(&pods)).await;
    envoy.sees(&pods).await;
    let sick = pods[0].address();
    pods[0].answer_all(|| Answer::Whole(500, Vec::new(), "".into()));
    let errs = format!(r#"warmpath_pod_cooling_down{{pod="{sick}",reason="errors",pool="default"}}"#);
    until("the pod that errs was left alone", async || {
        Request::get("/v1/models").send(envoy.routed).await;
        (value(&page(metrics).await, &errs) == Some(1.0)).then_some(())
    })
    .await;
    let text = page(metrics).await;
    assert!(
        value(&text, &format!(r#"warmpath_pod_errors_total{{pod="{sick}",pool="default"}}"#)).unwrap() >= 3.0
    );
    let gone = pods.pop().unwrap();
    let refuses =
        format!(r#"warmpath_pod_status{{pod="{}",status="unreachable",pool="default"}}"#, gone.address());
    drop(gone);
    until_value(metrics, &refuses, 1.0).await;
}

#[tokio::test]
async fn nothing_else_is_reachable_through_the_metrics_port() {
    let pods = TestPod::several(1).await;
    let admin = free_port().to_string();
    let (_envoy, metrics) = with_metrics(Envoy::of(&pods).flag("--admin-port", &admin)).await;
    let reply = Request::get("/stats/prometheus").send(metrics).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("envoy_server_uptime"));
    for path in [
        "/",
        "/stats",
        "/clusters",
        "/config_dump",
        "/metrics/",
        "/stats/prometheus/..",
        "/stats/prometheus/../../quitquitquit",
        "//metrics",
        "/certs",
    ] {
        let status = Request::get(path).send(metrics).await.status;
        assert_eq!(status, 404, "GET {path}");
    }
    for path in ["/quitquitquit", "/logging?wasm=debug", "/stats/prometheus", "/metrics", "/reset_counters"] {
        let status = Request::post(path, &serde_json::json!({})).send(metrics).await.status;
        assert_eq!(status, 404, "POST {path}");
    }
}

#[tokio::test]
async fn many_models_share_the_series_of_others() {
    let pods = TestPod::several(1).await;
    let (envoy, metrics) = with_metrics(Envoy::of(&pods)).await;
    envoy.sees(&pods).await;
    for number in 0..20 {
        let body = serde_json::json!({"model": format!("m{number};.pool=x"), "prompt": "Tell me."});
        assert_eq!(Request::post("/v1/completions", &body).send(envoy.routed).await.status, 200);
    }
    let page =
        until_value(metrics, r#"warmpath_prompt_tokens_count{model="other",pool="default"}"#, 4.0).await;
    assert_eq!(
        value(&page, r#"warmpath_prompt_tokens_count{model="m15_.pool_x",pool="default"}"#),
        Some(1.0),
        "{page}"
    );
    let models = page.lines().filter(|line| line.starts_with("warmpath_prompt_tokens_count")).count();
    assert_eq!(models, 17);
}

#[tokio::test]
async fn samples_of_plain_routing_are_marked() {
    let pods = streaming_pods(2).await;
    let (envoy, metrics) = with_metrics(Envoy::of(&pods).flag("--plain-percent", "50")).await;
    envoy.sees(&pods).await;
    for number in 0..40 {
        let id = format!("request-{number}");
        let reply = Request::streamed_chat(&"the same again ".repeat(100))
            .header("x-request-id", &id)
            .send(envoy.routed)
            .await;
        assert_eq!(reply.status, 200);
    }
    let plain = r#"warmpath_requests_total{by="plain",pool="default"}"#;
    envoy.told().await;
    let samples = value(&page(metrics).await, plain).unwrap();
    // Fewer than 5 or more than 35 of 40 happen once in ten million runs.
    assert!((5.0..=35.0).contains(&samples), "{samples} of 40");
    let first = r#"warmpath_time_to_first_token_seconds_count{route="plain",matched="any",model="/model/qwen",pool="default"}"#;
    until_value(metrics, first, samples).await;
    envoy.access("request-39").await;
    let marked = envoy.access_lines().iter().filter(|line| part_of(line, "reason") == Some("plain")).count();
    assert_eq!(marked as f64, samples);
}

/// What Prometheus' own linter says of a page, where it is there: scripts/test fetches it, and names it as
/// skipped where it cannot.
fn promtool(page: &str) -> Option<String> {
    let program = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    let mut child = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    Some(format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)))
}
