//! Fair shares: when all pods are busy, a tenant that has more than its share of the work is refused, and the
//! others find a free pod.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use warmpath_tests::{Answer, Envoy, Random, Request, TestPod, until};

/// Time until the first token of every answer.
const FIRST: Duration = Duration::from_millis(500);
const OVER: &str = "wasmcustom.warmpath_rejected_total.reason=over_share;.pool=default;";

fn slow() -> Answer {
    Answer::Tokens { first: FIRST, each: Duration::from_millis(2), tokens: 3, cut: None }
}

fn stream(tenant: &str, model: &str, seed: u64, bytes: usize) -> Request {
    let prompt = Random::text(seed, bytes);
    let body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": prompt}]});
    Request::post("/v1/chat/completions", &body).header("x-tenant", tenant)
}

fn settings() -> Value {
    json!({"tenant_header": "X-Tenant", "models": [{"name": "vital", "criticality": "Critical"}]})
}

async fn ready(pods: &[TestPod], tenant: &str) -> Envoy {
    pods.iter().for_each(|pod| pod.answer_all(slow));
    let envoy = Envoy::of(pods).settings(&settings()).concurrency(4).log_level("warn").start().await;
    envoy.sees_ready(pods.len()).await;
    // The workers learn how fast the pods are.
    for n in 0..6 {
        let all = (0..pods.len() as u64)
            .map(|pod| stream(tenant, "m", 90_000 + n * 100 + pod, 700).send(envoy.routed));
        futures::future::join_all(all).await;
    }
    envoy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_one_tenant_leaves_the_others_a_free_pod() {
    const SMALL: u64 = 12;
    let pods = TestPod::several(4).await;
    let envoy = ready(&pods, "small").await;
    let routed = envoy.routed;
    let (stop, shed, served) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..30u64 {
        let (stop, shed, served) = (Arc::clone(&stop), Arc::clone(&shed), Arc::clone(&served));
        clients.spawn(async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                sent += 1;
                let reply = stream("big", "m", 1000 + client * 1000 + sent, 8000).send(routed).await;
                if reply.status == 429 {
                    shed.fetch_add(1, Ordering::Relaxed);
                    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                    assert!((1..=60).contains(&seconds), "{seconds}");
                    assert_eq!(reply.header("x-llm-d-request-dropped-reason"), Some("rejected-over-share"));
                    assert_eq!(reply.json()["error"]["code"], 429);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                } else {
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    served.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    until("requests were refused", async || (shed.load(Ordering::Relaxed) > 20).then_some(())).await;
    for n in 0..SMALL {
        let reply = stream("small", "m", 50_000 + n, 700).send(routed).await;
        assert_eq!(reply.status, 200, "the small tenant was refused: {}", reply.text());
    }
    // What is critical is never refused, whose ever it is.
    assert_eq!(stream("big", "vital", 60_000, 8000).send(routed).await.status, 200);
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let (shed, served) = (shed.load(Ordering::Relaxed), served.load(Ordering::Relaxed));
    // Whoever came to a pod within the time of a first token before a request was waiting there.
    let mut crowded = 0;
    for pod in &pods {
        let received = pod.received();
        let is = |headers: &hyper::HeaderMap, tenant: &str| {
            headers.get("x-tenant").is_some_and(|found| found == tenant)
        };
        for request in received.iter().filter(|request| is(&request.headers, "small")) {
            let before = request.at - FIRST;
            crowded += received
                .iter()
                .filter(|r| is(&r.headers, "big") && r.at > before && r.at < request.at)
                .count();
        }
    }
    println!(
        "{served} of the big tenant were served and {shed} refused; {crowded} waited where one of {SMALL} small came"
    );
    assert!(served > 0, "a tenant is served as far as there is room");
    assert_eq!(crowded, 0, "a small request had to wait behind the burst");
    assert_eq!(envoy.stat(OVER).await, shed as i64);
    envoy.accounts_for_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_alone_is_never_refused() {
    let pods = TestPod::several(2).await;
    let envoy = ready(&pods, "big").await;
    let all = (0..24).map(|n| stream("big", "m", n, 4000).send(envoy.routed));
    let replies = futures::future::join_all(all).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(envoy.stat(OVER).await, 0);
    envoy.accounts_for_nothing().await;
}
