//! Which pods the table has: those of a configuration, of a router's announcement, or of Envoy's clusters. A
//! pod that stays keeps its slot.

use crate::collector::{Collector, PodHistory};
use crate::discovery::Members;
use crate::scrape::history::PageHistory;
use crate::shared::clusters::ClusterSet;
use crate::shared::pod_table::Pod;
use crate::{Micros, Slot};

/// Tokens that a pod is believed to hold until its page tells: about those of a 7B model on a GPU with 24 GB.
pub(super) const DEFAULT_CAPACITY: u64 = 500_000;

impl Collector {
    /// Tells the time since the epoch at `now`. Of a pod that is listed later it is known since when it was
    /// there.
    pub fn tell_date(&mut self, date: Micros, now: Micros) {
        self.origin = Some(date - now);
    }

    /// Makes `addresses` the pods of the pool: those that stay keep their slots.
    pub fn set_pods(&mut self, addresses: &[String], now: Micros) {
        let listed_at = self.origin.map(|origin| origin + now);
        for (slot, pod) in Slot::all().zip(&mut self.table.pods) {
            if pod.id != 0 && !addresses.contains(&pod.address) {
                *pod = Pod::default();
                self.schedule.remove(slot);
                self.changed = true;
            }
        }
        for address in addresses {
            if self.table.live().any(|(_, pod)| pod.address == *address) {
                continue;
            }
            let slot = self.add(Pod { address: address.clone(), ..Pod::default() });
            if let Some(history) = self.histories.get_mut(usize::from(slot)) {
                history.pages = PageHistory::of_listed(listed_at);
            }
            self.schedule.add(slot, now);
        }
    }

    /// Puts a new pod into an empty slot.
    pub(super) fn add(&mut self, pod: Pod) -> Slot {
        let id = next_id(&mut self.table.last_id);
        let slot = match self.table.pods.iter().position(|pod| pod.id == 0) {
            Some(empty) => empty,
            None => {
                self.table.pods.push(Pod::default());
                self.histories.push(PodHistory::default());
                self.table.pods.len() - 1
            }
        };
        if let (Some(place), Some(history)) = (self.table.pods.get_mut(slot), self.histories.get_mut(slot)) {
            *place = Pod { id, first_id: id, capacity: DEFAULT_CAPACITY, ..pod };
            *history = PodHistory::default();
        }
        self.changed = true;
        Slot(slot as u16)
    }

    /// Makes what discovery has found the pods of the pool.
    pub fn set_members(&mut self, members: &Members, now: Micros) {
        let addresses: Vec<String> = members.pods.iter().map(|member| member.address.clone()).collect();
        self.set_pods(&addresses, now);
        for (slot, pod) in Slot::all().zip(&mut self.table.pods).filter(|(_, pod)| pod.id != 0) {
            if let Some(member) = members.pods.iter().find(|member| member.address == pod.address) {
                self.changed |= pod.candidate_of != member.candidate_of;
                if pod.candidate_of == ClusterSet::NONE && member.candidate_of != ClusterSet::NONE {
                    self.schedule.hasten(slot, now);
                }
                pod.candidate_of = member.candidate_of;
            }
        }
        let was_steered =
            |name: &str| self.table.clusters.iter().any(|known| known.name == name && known.steered);
        if members.clusters.iter().any(|cluster| cluster.steered && !was_steered(&cluster.name)) {
            // Now they can be scraped.
            self.table.addresses().for_each(|(slot, _)| self.schedule.hasten(slot, now));
        }
        self.changed |= self.table.clusters != members.clusters;
        self.table.clusters.clone_from(&members.clusters);
    }
}

/// The identity after the last one that was given; 0 is no pod. Of two identities the larger one is the later
/// one, until four billion restarts wrap them.
pub(super) fn next_id(last: &mut u32) -> u32 {
    *last = last.wrapping_add(1).max(1);
    *last
}
