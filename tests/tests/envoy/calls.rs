//! What a request asks of the line between Envoy and the module: entries into the VM and calls of the host, which are most of
//! its price. `scripts/host-calls` shows them by name.

use warmpath_tests::{Envoy, Request, TestPod, until};

/// Entries into the VM and calls of the host for each request that Envoy's log has, in order.
fn account(log: &str) -> Vec<(usize, usize)> {
    let lines = || log.lines().filter(|line| line.contains("[trace][wasm]"));
    let thread = |line: &str| line.split("][").nth(1).map(str::to_owned);
    let worker = lines().find(|line| line.contains("[host->vm] proxy_on_request_headers")).and_then(thread);
    let (mut requests, mut ticks) = (Vec::new(), false);
    for line in lines().filter(|line| thread(line) == worker) {
        if line.contains("proxy_on_tick") {
            ticks = line.contains("[host->vm]");
        } else if line.contains("[host->vm] proxy_on_request_headers") {
            // And the entry that has made its context, just before.
            requests.push((2, 0));
        } else if let Some((entries, calls)) = requests.last_mut().filter(|_| !ticks) {
            let entry = line.contains("[host->vm] proxy_on_")
                && !line.contains("proxy_on_memory_allocate")
                && !line.contains("proxy_on_context_create");
            *entries += usize::from(entry);
            *calls += usize::from(line.contains("[vm->host] "));
        }
    }
    requests
}

#[tokio::test]
async fn a_request_costs_the_same_calls_whatever_the_number_of_pods() {
    // With the level `trace` every decision is a line too: one call for that, and one for the request's id in it.
    const ENTRIES: usize = 7;
    const CALLS: usize = 17 + 2;
    for number in [3, 20, 100] {
        let pods = TestPod::several(number).await;
        // Each new table is a write to shared data, after which a router reads its ledger for some requests.
        let envoy = Envoy::of(&pods).flag("--scrape-ms", "60000").log_level("trace").start().await;
        envoy.sees_ready(number).await;
        let least = until("a request was cheap", async || {
            for _ in 0..20 {
                let reply = Request::chat(&"a prompt of some length ".repeat(80)).send(envoy.routed).await;
                assert_eq!(reply.status, 200);
            }
            // There is a table each second, and in the first five a router asks for the number of the connection.
            let requests = account(&envoy.log());
            let least = *requests.iter().min_by_key(|&&(_, calls)| calls)?;
            (least <= (ENTRIES, CALLS) || requests.len() > 1000).then_some(least)
        })
        .await;
        assert!(least.0 <= ENTRIES && least.1 <= CALLS, "{number} pods: {least:?}");
    }
}
