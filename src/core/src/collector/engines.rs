//! The engines of a pod (data-parallel ranks) as places of their own in the table: each has its own load,
//! cache and requests, and all are told by the page of one address.

use crate::collector::{Collector, DueScrape};
use crate::shared::pod_table::{MAX_PODS, Pod, PodKey};

impl Collector {
    /// The engines of the pod that was scraped, now that its page tells of `engines` of them; each with its
    /// place on the page, or `None` where the page is taken as a whole. Nothing when the pod has gone.
    ///
    /// A pod that is found to run several becomes the first of them, and the others join the table behind it.
    /// Where the table has no room for all, it stays one pod.
    pub(super) fn engines_of(&mut self, due: &DueScrape, engines: usize) -> Vec<(PodKey, Option<u16>)> {
        let known = self.engines_as_known(due);
        let Some(pod) = self.table.pod(due.slot).filter(|pod| pod.id == due.id) else { return known };
        if engines == 1 && pod.engine.is_none() {
            return known;
        }
        let room = MAX_PODS - self.table.live().count();
        let engines = if engines <= known.len() + room { engines } else { 1 };
        let like = Pod { address: pod.address.clone(), candidate_of: pod.candidate_of, ..Pod::default() };
        let first = (engines > 1).then_some(0);
        if let Some(pod) = self.table.pods.get_mut(usize::from(due.slot)) {
            self.changed |= pod.engine != first;
            pod.engine = first;
        }
        for (gone, _) in known.iter().skip(engines) {
            if let Some(pod) = self.table.pods.get_mut(usize::from(gone.slot)) {
                *pod = Pod::default();
                self.changed = true;
            }
        }
        for engine in known.len()..engines {
            self.add(Pod { engine: Some(engine as u16), ..like.clone() });
        }
        self.engines_as_known(due)
    }

    /// The engines of the pod that was scraped, as its last page told of them.
    pub(super) fn engines_as_known(&self, due: &DueScrape) -> Vec<(PodKey, Option<u16>)> {
        let Some(pod) = self.table.pod(due.slot).filter(|pod| pod.id == due.id) else { return Vec::new() };
        let first = (PodKey { slot: due.slot, id: due.id }, pod.engine);
        if pod.engine.is_none() {
            return vec![first];
        }
        // There are few of them, and a sort would make the module larger by a fiftieth.
        let mut all = vec![first];
        for (slot, pod) in self.table.at(pod.address.as_bytes()).filter(|(slot, _)| *slot != due.slot) {
            let at = all.partition_point(|&(_, engine)| engine < pod.engine);
            all.insert(at, (PodKey { slot, id: pod.id }, pod.engine));
        }
        all
    }
}
