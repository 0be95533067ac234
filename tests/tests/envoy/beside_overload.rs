//! How long those wait who are to see nothing of an overload of others: idle and busy in turns, on pods that
//! compute like vLLM.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use warmpath_tests::{Envoy, Random, Request, SimPod};

/// The simulator as cargo built it for these tests.
const SIMULATOR: &str = env!("CARGO_BIN_EXE_sim");
/// Slow pods, next to which the noise of a machine is small: a first token takes half a second.
const SLOW: [&str; 2] = ["--speed-up", "0.5"];
const PODS: usize = 4;
/// Requests that are measured in each turn.
const MEASURED: u64 = 30;
/// Clients that send without a pause: some three times what the pods can do.
const OTHERS: u64 = 40;
/// Turns until it is given up.
const TURNS: usize = 3;

fn stream(model: &str, tenant: &str, seed: u64, bytes: usize) -> Request {
    let messages = json!([{"role": "user", "content": Random::text(seed, bytes)}]);
    let body = json!({"model": model, "stream": true, "max_tokens": 8, "messages": messages});
    Request::post("/v1/chat/completions", &body).header("x-tenant", tenant)
}

/// The 99th percentile of the time to first token of a few requests, one after the other in each of two
/// clients.
async fn p99(to: SocketAddr, request: fn(u64) -> Request, from: u64) -> Duration {
    let mut clients = JoinSet::new();
    for client in 0..2 {
        clients.spawn(async move {
            let mut took = Vec::new();
            for n in (client..MEASURED).step_by(2) {
                let began = Instant::now();
                let mut opened = request(from + n).open(to).await;
                assert_eq!(opened.status, 200);
                assert!(opened.chunk().await.unwrap().is_some());
                took.push(began.elapsed());
                opened.finish().await.unwrap();
            }
            took
        });
    }
    let mut took = clients.join_all().await.concat();
    took.sort();
    took[(took.len() * 99).div_ceil(100) - 1]
}

async fn compare(settings: Value, measured: fn(u64) -> Request, other: fn(u64) -> Request) {
    let mut flags = SLOW.to_vec();
    flags.extend(["--served-model-name", "m,vital,batch"]);
    let pods: Vec<SimPod> = (0..PODS).map(|_| SimPod::start(SIMULATOR, &flags)).collect();
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect())
        .settings(&settings)
        .flag("--scrape-ms", "100")
        .concurrency(4)
        .log_level("warn")
        .start()
        .await;
    envoy.sees_ready(PODS).await;
    let to = envoy.routed;
    // The workers learn how fast the pods are.
    for n in 0..6 {
        let all = (0..PODS as u64).map(|pod| measured(1_000_000 + 10 * n + pod).send(to));
        futures::future::join_all(all).await;
    }
    let mut ratios = Vec::new();
    for turn in 0..TURNS as u64 {
        let idle = p99(to, measured, 2_000_000 + turn * 1000).await;
        let stop = Arc::new(AtomicBool::new(false));
        let (served, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for client in 0..OTHERS {
            let (stop, served, refused) = (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&refused));
            clients.spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let reply = other(turn * 1_000_000 + client * 10_000 + n).send(to).await;
                    match reply.status.as_u16() {
                        200 => served.fetch_add(1, Ordering::Relaxed),
                        429 => {
                            tokio::time::sleep(Duration::from_millis(250)).await;
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        _ => panic!("{}", reply.text()),
                    };
                }
            });
        }
        let busy = p99(to, measured, 3_000_000 + turn * 1000).await;
        stop.store(true, Ordering::Relaxed);
        clients.join_all().await;
        let ratio = busy.as_secs_f64() / idle.as_secs_f64();
        let (served, refused) = (served.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        println!(
            "p99 {idle:.3?} idle, {busy:.3?} busy: {ratio:.2}; of the others {served} served, {refused} refused"
        );
        assert!(served > 0 && refused > served, "no overload: {served} served, {refused} refused");
        if ratio <= 1.2 {
            return;
        }
        ratios.push(ratio);
    }
    panic!("busy is longer than idle by {ratios:.2?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_critical_wait_no_longer_beside_three_times_the_capacity() {
    let settings = json!({
        "models": [{"name": "vital", "criticality": "Critical"}, {"name": "batch", "criticality": "Sheddable"}]
    });
    compare(settings, |n| stream("vital", "a", n, 3600), |n| stream("batch", "a", n, 3600)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_waits_no_longer_beside_a_burst_of_another() {
    let settings = json!({"tenant_header": "x-tenant"});
    compare(settings, |n| stream("m", "small", n, 3600), |n| stream("m", "big", n, 24_000)).await;
}
