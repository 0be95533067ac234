//! Waiting for what a cluster comes to.

use std::time::Duration;

/// Time between two checks: each asks the API server or Envoy for a page, on processors that several clusters
/// share.
const LOOK: Duration = Duration::from_millis(25);

/// Waits until `condition` gives a value; panics with `what` when it takes too long.
pub async fn until<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    warmpath_tests::until_looking(LOOK, what, condition).await
}
