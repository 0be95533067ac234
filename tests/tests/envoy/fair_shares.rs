//! Fair shares: when all pods are busy, a tenant that has more than its share of the work is refused, and the
//! others find a free pod.

use serde_json::{Value, json};
use warmpath_tests::{Envoy, Flood, Random, Received, Request, TestPod};

const OVER: &str = "wasmcustom.warmpath_rejected_total.reason=over_share;.pool=default;";

fn stream(tenant: &str, model: &str, seed: u64, bytes: usize) -> Request {
    let prompt = Random::text(seed, bytes);
    let body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": prompt}]});
    Request::post("/v1/chat/completions", &body).header("x-tenant", tenant)
}

fn settings() -> Value {
    json!({"tenant_header": "X-Tenant", "models": [{"name": "vital", "criticality": "Critical"}]})
}

async fn ready(pods: &[TestPod], tenant: &str) -> Envoy {
    pods.iter().for_each(|pod| pod.answer_all(Flood::answer));
    let envoy = Envoy::of(pods).settings(&settings()).concurrency(4).log_level("warn").start().await;
    envoy.sees_ready(pods.len()).await;
    Flood::prepare(&envoy, pods.len(), |n| stream(tenant, "m", n, 700)).await;
    envoy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_one_tenant_leaves_the_others_a_free_pod() {
    const SMALL: u64 = 12;
    let pods = TestPod::several(4).await;
    let envoy = ready(&pods, "small").await;
    let routed = envoy.routed;
    let flood = Flood::start(routed, 30, "rejected-over-share", |n| stream("big", "m", 1000 + n, 8000)).await;
    for n in 0..SMALL {
        let reply = stream("small", "m", 50_000 + n, 700).send(routed).await;
        assert_eq!(reply.status, 200, "the small tenant was refused: {}", reply.text());
    }
    // A critical request is never refused, whichever tenant sends it.
    assert_eq!(stream("big", "vital", 60_000, 8000).send(routed).await.status, 200);
    let (served, shed) = flood.stop().await;
    let is = |request: &Received, tenant: &str| {
        request.headers.get("x-tenant").is_some_and(|found| found == tenant)
    };
    let crowded = Flood::met(&pods, |request| is(request, "small"), |request| is(request, "big"));
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

#[tokio::test(flavor = "multi_thread")]
async fn short_prompts_at_the_same_time_take_every_idle_pod_though_another_tenant_is_there() {
    let pods = TestPod::several(8).await;
    pods.iter().for_each(|pod| pod.answer_all(Flood::answer));
    let envoy = Envoy::of(&pods).settings(&settings()).concurrency(4).log_level("warn").start().await;
    envoy.sees_ready(pods.len()).await;
    assert_eq!(stream("big", "m", 1, 8000).send(envoy.routed).await.status, 200);
    // A pod that has one of them is not free: it is more than the bound's work.
    let all = (0..8).map(|n| stream("small", "m", 100 + n, 3200).send(envoy.routed));
    let replies = futures::future::join_all(all).await;
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status.as_u16()).collect();
    assert_eq!(statuses, [200; 8]);
    assert_eq!(envoy.stat(OVER).await, 0);
    envoy.accounts_for_nothing().await;
}
