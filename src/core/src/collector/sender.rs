//! Whose page it is. A cluster sends elsewhere for a moment when a pod has left it, and one address may stand
//! for several pods, as that of a Service does.

use crate::Micros;
use crate::collector::load::milliseconds;
use crate::collector::{Collector, DueScrape, PodHistory};
use crate::scrape::several::SAME_PROCESS;
use crate::scrape::vllm;

/// Pages in a row that are taken for another pod's. A pod that has left its cluster is scraped for less long.
pub(super) const MOST_PAGES_OF_ANOTHER: u32 = 50;

/// Pages that told of another process than the pod's before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    /// When that process started, in milliseconds.
    started: u64,
    /// When it was told first.
    since: Micros,
    /// Pages in a row that told it.
    pages: u32,
}

impl Collector {
    /// The clusters were asked for at `asked_at`, and [`Collector::set_members`] has what they answered.
    pub fn looked_at(&mut self, asked_at: Micros) {
        self.looked_at = asked_at;
    }

    /// Whether a look at the clusters would tell if a page is of the pod that it was fetched from.
    pub fn doubts(&self) -> bool {
        let unanswered = |doubt: &Doubt| doubt.since >= self.looked_at;
        self.histories.iter().any(|history| history.doubt.as_ref().is_some_and(unanswered))
    }

    /// Whether the connection by which the scrape `due` is made is to be closed after it, to find out whether
    /// the address is that of several pods: only where it is the one host of its clusters. It counts as
    /// closed.
    pub fn take_close(&mut self, due: &DueScrape, now: Micros) -> bool {
        let Some(of) = self.table.pod(due.slot).map(|pod| pod.candidate_of) else { return false };
        let hosts = self.table.addresses().filter(|(_, other)| other.candidate_of.meets(of));
        let alone = hosts.take(2).count() == 1;
        alone && self.discovered(due).is_some_and(|history| history.several.take_close(now))
    }

    /// Nothing came of the scrape `due`, whose connection was to be closed. That says nothing of the pod.
    pub fn close_failed(&mut self, due: &DueScrape, now: Micros) {
        if let Some(history) = self.discovered(due) {
            history.several.close_failed(now);
        }
    }

    /// An address that answers for several processes, as that of a Service does; each is returned once.
    pub fn several_at(&mut self) -> Option<String> {
        self.several_at.take()
    }

    /// The history of the pod of the scrape `due`, where Envoy's clusters list the pods and it is listed
    /// still.
    pub(super) fn discovered(&mut self, due: &DueScrape) -> Option<&mut PodHistory> {
        self.table.pod(due.slot).filter(|pod| self.discovers && pod.id == due.id)?;
        self.histories.get_mut(usize::from(due.slot))
    }

    /// Whether another pod may have sent the page: a cluster sends elsewhere for a moment when a pod has left
    /// it, or when it is another cluster of the same name. The page tells another process than the one that
    /// the pod ran before. It is the pod's if a page tells it still after the clusters were looked at, for a
    /// pod that has left its cluster is not scraped any more. Many such pages in a row are the pod's in any
    /// case: Envoy may not answer what its clusters are.
    pub(super) fn is_of_another(&mut self, due: &DueScrape, load: &vllm::PodLoad, now: Micros) -> bool {
        let Some(pod) = self.table.pod(due.slot).filter(|pod| self.discovers && pod.id == due.id) else {
            return false;
        };
        let started = milliseconds(load.started);
        let same = started == 0 || pod.started == 0 || started.abs_diff(pod.started) <= SAME_PROCESS;
        let Some(history) = self.histories.get_mut(usize::from(due.slot)) else { return false };
        if same {
            history.doubt = None;
            return false;
        }
        let mut doubt = match history.doubt {
            Some(doubt) if doubt.started == started => doubt,
            _ => Doubt { started, since: now, pages: 0 },
        };
        doubt.pages += 1;
        let own = doubt.since < self.looked_at || doubt.pages > MOST_PAGES_OF_ANOTHER;
        history.doubt = (!own).then_some(doubt);
        !own
    }
}
