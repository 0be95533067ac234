//! Load that is no longer scraped counts less and less, and finally for nothing.

use std::time::{Duration, Instant};

use warmpath_tests::{Envoy, Load, Request, TestPod, until};

#[tokio::test]
async fn the_load_of_a_pod_whose_scrapes_fail_ages_out() {
    let pods = TestPod::several(2).await;
    pods[0].set_load(Load { running: 100, ..Load::default() });
    let envoy = Envoy::of(&pods).concurrency(2).start().await;
    envoy.sees(&pods).await;
    let mut n = 0;
    // No pod holds these prompts, so load alone decides.
    let mut next = async || {
        n += 1;
        let reply =
            Request::chat(&format!("cold prompt {n}, and nothing else ").repeat(20)).send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.pod() == pods[0].address()
    };
    for _ in 0..20 {
        assert!(!next().await, "a pod with a hundred requests more was chosen");
    }
    pods[0].set_metrics_status(500);
    let since = Instant::now();
    // Not at once, because a page that fails once says nothing about the load.
    for _ in 0..5 {
        assert!(!next().await, "the load was forgotten at once");
    }
    until("the pod got requests", async || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        next().await.then_some(())
    })
    .await;
    let took = since.elapsed();
    println!("the load counted for nothing after {took:.2?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
    envoy.accounts_for_nothing().await;
}
