//! How often a request crosses the line between Envoy and the module: entries into the VM and host calls,
//! which are most of its cost. `scripts/host-calls` shows them by name.

use warmpath_tests::{Envoy, Request, TestPod, until};

/// Calls that depend on time: a router looks at most once per interval for what others may have changed, so
/// requests that follow each other slowly have them and fast ones do not.
const AT_TIMES: [&str; 2] = ["proxy_get_metric", "proxy_get_log_level"];

/// Entries into the VM and host calls of each request in Envoy's log, in order.
fn account(log: &str) -> Vec<(usize, usize)> {
    let lines = || log.lines().filter(|line| line.contains("[trace][wasm]"));
    let thread = |line: &str| line.split("][").nth(1).map(str::to_owned);
    let worker = lines().find(|line| line.contains("[host->vm] proxy_on_request_headers")).and_then(thread);
    let (mut requests, mut ticks) = (Vec::new(), false);
    for line in lines().filter(|line| thread(line) == worker) {
        if line.contains("proxy_on_tick") {
            ticks = line.contains("[host->vm]");
        } else if line.contains("[host->vm] proxy_on_request_headers") {
            // Two: the entry before it made the request's context.
            requests.push((2, 0));
        } else if let Some((entries, calls)) = requests.last_mut().filter(|_| !ticks) {
            let entry = line.contains("[host->vm] proxy_on_")
                && !line.contains("proxy_on_memory_allocate")
                && !line.contains("proxy_on_context_create");
            *entries += usize::from(entry);
            *calls +=
                usize::from(line.contains("[vm->host] ") && !AT_TIMES.iter().any(|name| line.contains(name)));
        }
    }
    requests
}

/// The account of the request with the fewest calls. Others have more: a line of the log that is written now
/// and then, a segment that is sealed, another worker that wrote first.
fn least(requests: &[(usize, usize)]) -> (usize, usize) {
    requests.iter().copied().min_by_key(|&(_, calls)| calls).unwrap_or_default()
}

#[tokio::test]
async fn calls_per_request_do_not_grow_with_the_number_of_pods() {
    const REQUESTS: usize = 200;
    // At the log level `trace` every decision is logged too: one call for the line, and one for the request's
    // id in it.
    const MOST: (usize, usize) = (11, 22 + 2);
    let mut found = Vec::new();
    for number in [3, 20, 100] {
        let pods = TestPod::several(number).await;
        let envoy = Envoy::of(&pods).flag("--scrape-ms", "60000").log_level("trace").start().await;
        envoy.sees_ready(number).await;
        for _ in 0..REQUESTS {
            let reply = Request::chat(&"a prompt of some length ".repeat(80)).send(envoy.routed).await;
            assert_eq!(reply.status, 200);
        }
        let requests = until("the log has every request", async || {
            let requests = account(&envoy.log());
            (requests.len() >= REQUESTS).then_some(requests)
        })
        .await;
        // The first ones find a prompt that no pod holds yet.
        found.push((number, least(&requests[REQUESTS / 10..])));
    }
    println!("entries into the VM and host calls per request, by number of pods: {found:?}");
    let (_, first) = found[0];
    assert!(found.iter().all(|&(_, calls)| calls == first), "{found:?}");
    assert!(first.0 <= MOST.0 && first.1 <= MOST.1, "{found:?}, the most is {MOST:?}");
}
