//! Waiting for what a cluster comes to.

use std::time::Duration;

/// Shortest and longest time between two checks: each asks the API server or Envoy for a page, on processors
/// that several clusters share.
const REST: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(500)];

/// Waits until `condition` gives a value; panics with `what` when it takes too long. A check that is dear is
/// made less often, so that checks take half of the time at most.
pub async fn until<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    let [shortest, longest] = REST;
    warmpath_tests::until_resting(|look| look.clamp(shortest, longest), what, condition).await
}
