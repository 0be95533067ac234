//! What a worker tells of its index at each tick: how full it is, what it lets go of, and what each pod is
//! believed to hold.

use warmpath::monitor::held;
use warmpath::prefix::index::Evictions;
use warmpath::router::Router;
use warmpath::shared::store::{Keys, SharedData};

use crate::host::Host;
use crate::metrics::RouterMetrics;

/// What was told last, as counters take what was added since.
#[derive(Debug, Default)]
pub struct Told {
    evictions: Evictions,
    lost_segments: u64,
}

impl Told {
    /// Tells how full the index is.
    pub(super) fn tell(&mut self, router: &Router, metrics: &RouterMetrics, keys: &Keys) {
        let index = router.index();
        metrics.index_holdings.set(index.holdings() as u64);
        metrics.index_bytes.set(index.memory() as u64);
        let now = Told { evictions: index.evictions(), lost_segments: router.lost_segments() };
        let before = std::mem::replace(self, now);
        metrics.evicted_by_pod.add(self.evictions.by_pod - before.evictions.by_pod);
        metrics.evicted_by_limit.add(self.evictions.by_limit - before.evictions.by_limit);
        metrics.lost_segments.add(self.lost_segments - before.lost_segments);
        let held = held::encode(index, router.table().pods.len(), router.bytes_per_token());
        let _ = Host.set(&keys.held, &held, None);
    }
}
