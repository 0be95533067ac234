//! The console: who may read it, what it shows, and that nothing is kept for it while nobody looks. What it
//! looks like is tried in a browser by `scripts/console --check`.

use std::net::SocketAddr;

use serde_json::Value;
use warmpath_tests::{Envoy, Request, TestPod, until};

async fn with_console(pods: &[TestPod]) -> (Envoy, SocketAddr) {
    let envoy = Envoy::of(pods).flag("--console-port", "0").start().await;
    envoy.sees(pods).await;
    let console = envoy.listener("console").await;
    (envoy, console)
}

async fn document(console: SocketAddr) -> Value {
    let reply = Request::get("/console.json").send(console).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn the_console_shows_pods_and_decisions_with_their_costs() {
    let pods = TestPod::several(3).await;
    let (envoy, console) = with_console(&pods).await;
    let prompt = "a prompt of some length ".repeat(100);
    let id = "an \"id\" with \\ and <b>";
    let shown = until("the console showed the request", async || {
        // It is kept from the tick on at which the router sees that somebody looks.
        let shown = document(console).await;
        let reply = Request::chat(&prompt).header("x-request-id", id).send(envoy.routed).await;
        assert_eq!(reply.status, 200);
        let decisions = shown["decisions"].as_array().unwrap();
        decisions.iter().any(|decision| decision["reason"] == "prefix").then_some(shown)
    })
    .await;
    assert_eq!(shown["pods"].as_array().unwrap().len(), 3);
    for (pod, of) in shown["pods"].as_array().unwrap().iter().zip(&pods) {
        assert_eq!((pod["pod"].as_str(), pod["status"].as_str()), (Some(&*of.address()), Some("ready")));
    }
    let decision =
        shown["decisions"].as_array().unwrap().iter().find(|one| one["reason"] == "prefix").unwrap();
    assert_eq!(decision["id"], id);
    assert!(decision["matched"].as_u64().unwrap() * 2 > decision["tokens"].as_u64().unwrap(), "{decision}");
    let candidates = decision["pods"].as_array().unwrap();
    assert_eq!(candidates.len(), 3, "{decision}");
    for candidate in candidates {
        assert_eq!(
            (candidate["terms"].as_array().unwrap().len(), candidate["rank"].as_str()),
            (7, Some("Ready"))
        );
        assert!(candidate["cost"].as_u64().unwrap() > 0, "{decision}");
    }
    assert!(!shown.to_string().contains("some length"), "a prompt is on the console");
}

#[tokio::test]
async fn nothing_is_kept_while_nobody_looks() {
    let pods = TestPod::several(1).await;
    let (envoy, console) = with_console(&pods).await;
    for _ in 0..20 {
        assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
    }
    // Two ticks of the router later: the table is published every second, and so is a tick.
    let generation = "wasmcustom.warmpath_pod_table_generation.pool=default;";
    let before = envoy.stat(generation).await;
    until("some seconds had passed", async || (envoy.stat(generation).await > before + 2).then_some(()))
        .await;
    assert_eq!(document(console).await["decisions"], serde_json::json!([]));
}

#[tokio::test]
async fn only_this_machine_may_read_the_console() {
    let pods = TestPod::several(1).await;
    let (_envoy, console) = with_console(&pods).await;
    let page = Request::get("/").send(console).await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(
        !page.text().contains("http://") && !page.text().contains("https://"),
        "it needs nothing from elsewhere"
    );
    for path in ["/", "/console.json"] {
        // What a browser sends for a name that was made to lead here.
        let reply = Request::get(path).authority("evil.example:9903").send(console).await;
        assert_eq!(reply.status, 403, "{path}");
        for name in ["localhost:9903", "127.0.0.1", "[::1]:9903"] {
            assert_eq!(
                Request::get(path).authority(name).send(console).await.status,
                200,
                "{path} as {name}"
            );
        }
    }
    assert_eq!(Request::get("/").authority("localhost.evil.example").send(console).await.status, 403);
    for path in ["/metrics", "/stats", "/console", "/index.html"] {
        assert_eq!(Request::get(path).send(console).await.status, 404, "{path}");
    }
    assert_eq!(Request::post("/console.json", &serde_json::json!({})).send(console).await.status, 404);
}
