//! What a page proves wrong in the ledger: requests that no pod has, a cache that is empty, a refusal that
//! was taken for a failure.

use crate::Micros;
use crate::account::cache_tally::CacheTally;
use crate::account::pod_account::PodAccount;
use crate::collector::Collector;
use crate::scrape::cache_check::Finding;
use crate::scrape::leaks::Leak;
use crate::scrape::vllm;
use crate::shared::pod_table::PodKey;
use crate::shared::store::{Contended, SharedData};

impl Collector {
    /// Compares what the pod's cache has found with what was believed, and lets the routers believe nothing
    /// where that is clearly wrong. A tally that could not be written begins with the next page.
    pub(super) fn check_cache(
        &mut self,
        key: PodKey,
        load: &vllm::PodLoad,
        own: &PodAccount,
        shared: &mut impl SharedData,
        now: Micros,
    ) {
        let slot = usize::from(key.slot);
        let (Some(pod), Some(history)) = (self.table.pods.get_mut(slot), self.histories.get_mut(slot)) else {
            return;
        };
        if pod.id != key.id || own.id != key.id {
            return;
        }
        let finding = history.cache.see(load, own.cache, now);
        if finding == Finding::Emptied {
            pod.cache_epoch = pod.cache_epoch.wrapping_add(1);
            self.emptied += 1;
        }
        if finding != Finding::Undecided {
            self.change(key, shared, |account| account.cache = CacheTally::from(now));
        }
    }

    /// A server that has refused requests since its last page because its queue was full has not failed.
    /// Where nothing reads the answers of each attempt, the routers took such a refusal for a failure if
    /// another pod served the request.
    pub(super) fn check_rejections(
        &mut self,
        pod: PodKey,
        load: &vllm::PodLoad,
        shared: &mut impl SharedData,
        now: Micros,
    ) {
        let Some(history) = self.histories.get_mut(usize::from(pod.slot)) else { return };
        let before = history.rejections.replace(load.rejections);
        if before.is_some_and(|before| load.rejections > before) {
            self.change(pod, shared, |account| account.health.refused_as_full(now));
        }
    }

    pub(super) fn reconcile(&mut self, pod: PodKey, leak: Leak, shared: &mut impl SharedData) {
        // If it is not written, the next window shows the same leak.
        if self.change(pod, shared, |account| account.reconcile(leak.requests, leak.waiting)) {
            self.leaked += u64::from(leak.requests);
        }
    }

    /// Changes the account of a pod; returns whether the change is written, and counts one that is not.
    fn change(&mut self, pod: PodKey, shared: &mut impl SharedData, with: impl Fn(&mut PodAccount)) -> bool {
        let changed = self.store.transact(shared, |ledger, _| {
            ledger.change(pod, &with);
            Ok::<_, Contended>(())
        });
        self.contended += u64::from(changed.is_err());
        changed.is_ok()
    }
}
