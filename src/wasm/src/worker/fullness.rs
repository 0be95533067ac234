//! What a worker tells of its index at each tick: how full it is, what it lets go of, and what each pod is
//! believed to hold.

use warmpath::monitor::held;
use warmpath::prefix::index::Evictions;
use warmpath::shared::store::SharedData;

use super::Worker;
use crate::host::Host;

/// What was told last, as counters take what was added since.
#[derive(Debug, Default)]
pub struct Told {
    evictions: Evictions,
    lost_segments: u64,
}

impl Worker {
    /// Tells how full the index is.
    pub(super) fn tell(&mut self) {
        let index = self.router.index();
        self.metrics.index_holdings.set(index.holdings() as u64);
        self.metrics.index_bytes.set(index.memory() as u64);
        let now = Told { evictions: index.evictions(), lost_segments: self.router.lost_segments() };
        let before = std::mem::replace(&mut self.told, now);
        self.metrics.evicted_by_pod.add(self.told.evictions.by_pod - before.evictions.by_pod);
        self.metrics.evicted_by_limit.add(self.told.evictions.by_limit - before.evictions.by_limit);
        self.metrics.lost_segments.add(self.told.lost_segments - before.lost_segments);
        let held = held::encode(index, self.router.table().pods.len(), self.router.bytes_per_token());
        let _ = Host.set(&self.keys.held, &held, None);
    }
}
