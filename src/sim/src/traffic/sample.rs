//! How the pods looked at one moment.

use serde::{Deserialize, Serialize};

/// One pod at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodSample {
    /// Share of the KV cache that running requests use, 0 to 1.
    pub cache_usage: f64,
    /// Requests in the batch.
    pub running: f64,
    /// Requests in the queue.
    pub waiting: f64,
}

/// All pods at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolSample {
    /// Seconds since the traffic began.
    pub at: f64,
    /// In the order of `pods`; `None` is one that did not answer.
    pub pods: Vec<Option<PodSample>>,
}
