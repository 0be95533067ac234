//! What a page says of its pod's load, beside what the ledger says of the requests that were routed to it.

use crate::Micros;
use crate::account::pod_account::PodAccount;
use crate::collector::members::{DEFAULT_CAPACITY, next_id};
use crate::collector::{Collector, PodHistory};
use crate::scrape::history::Signs;
use crate::scrape::leaks::{Leak, LeakDetector};
use crate::scrape::vllm;
use crate::shared::pod_table::{PodKey, PodState};

impl Collector {
    /// Takes in a load; returns the requests that the ledger counts and that do not exist, once that has
    /// lasted.
    pub(super) fn take_load(
        &mut self,
        key: PodKey,
        load: &vllm::PodLoad,
        own: Option<PodAccount>,
        now: Micros,
    ) -> Option<Leak> {
        let slot = usize::from(key.slot);
        let (pod, history) = (self.table.pods.get_mut(slot)?, self.histories.get_mut(slot)?);
        if pod.id != key.id {
            return None;
        }
        let own = own.filter(|account| account.id == pod.id);
        let Signs { restarted, hangs, ended } = history.pages.see(load, own.as_ref(), now);
        let own = own.filter(|_| !restarted);
        if restarted {
            // Its cache is empty and its requests are gone, so it is another pod to everyone.
            pod.id = next_id(&mut self.table.last_id);
            let PodHistory { pages, several, .. } = *history;
            *history = PodHistory { pages, several, ..PodHistory::default() };
        }
        let (own_waiting, own_in_flight) = own.map_or((0.0, 0.0), |e| (e.waiting as f32, e.in_flight as f32));
        let foreign = (load.running + load.waiting - own_in_flight - ended).max(0.0);
        // Not `clamp`, which panics where a bound is no number.
        let foreign_waiting = (load.waiting - own_waiting).max(0.0).min(foreign);
        let foreign_running = foreign - foreign_waiting;
        if pod.state == PodState::Unreachable {
            pod.recovered_at = now;
        }
        let state = match (load.asleep, hangs) {
            (true, _) => PodState::Asleep,
            (false, true) => PodState::Hanging,
            (false, false) => PodState::Ready,
        };
        if state == PodState::Asleep && pod.state != PodState::Asleep {
            // Sleeping empties the cache.
            pod.cache_epoch = pod.cache_epoch.wrapping_add(1);
        }
        pod.state = state;
        pod.started = milliseconds(load.started);
        pod.scraped_at = now;
        pod.running = load.running;
        pod.waiting = load.waiting;
        pod.kv_usage = load.kv_usage;
        pod.foreign_running = foreign_running.min(history.foreign_running);
        pod.foreign_waiting = foreign_waiting.min(history.foreign_waiting);
        pod.capacity = load.capacity.unwrap_or(DEFAULT_CAPACITY);
        history.changed = (foreign - history.foreign_running - history.foreign_waiting).abs();
        (history.foreign_running, history.foreign_waiting) = (foreign_running, foreign_waiting);
        self.changed = true;
        match own {
            Some(own) => history.leaks.see(&own, load.running + load.waiting, now),
            None => {
                history.leaks = LeakDetector::default();
                None
            }
        }
    }
}

/// Seconds as whole milliseconds; 0 for none.
pub(super) fn milliseconds(seconds: Option<f64>) -> u64 {
    seconds.map_or(0, |seconds| (seconds * 1e3) as u64)
}
