//! Where the LoRA adapter of a request is: on the GPU of some pods, beside a free place on others, and on
//! some not at all.

use crate::decide::cost::CostConstants;
use crate::shared::adapters::{AdapterLists, AdapterUse};
use crate::shared::clusters::ClusterSet;
use crate::shared::pod_table::{Pod, PodKey, PodTable};
use crate::{ModelId, Slot};

/// What a pod has to do before it can compute a request for an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterPlace {
    /// Nothing: the adapter has requests there, or is among the last ones that had.
    #[default]
    Loaded,
    /// Load it: a place is free.
    Room,
    /// Load it in the place of one that has no requests, and may be asked for again.
    Swap,
    /// Wait until an adapter has no more requests, and load it in that place.
    Full,
    /// The pod does not have it, and another one does: it would answer 404.
    Missing,
}

/// The pods as they are for the adapter of one request.
#[derive(Debug, Default)]
pub struct AdapterPlaces {
    /// By slot; empty when the request is for no adapter.
    places: Vec<AdapterPlace>,
    /// What is counted of each pod, by slot.
    counts: Vec<Counts>,
    /// Whether some pod does not have the adapter.
    restricted: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Adapters that were used last and that the page does not show.
    remembered: usize,
    /// Those of them that were sent there after the page.
    newer: usize,
    has: bool,
}

impl AdapterPlaces {
    /// The request is for no adapter.
    pub fn clear(&mut self) {
        self.places.clear();
        self.restricted = false;
    }

    /// Finds where `adapter` is, by what pods list, what their pages show and which adapters were used last.
    /// A pod that is no candidate, since it is not among these clusters, keeps no other one from being asked.
    pub fn find(
        &mut self,
        adapter: ModelId,
        table: &PodTable,
        among: ClusterSet,
        lists: &AdapterLists,
        uses: &[AdapterUse],
    ) {
        self.clear();
        self.counts.clear();
        self.counts.resize(table.pods.len(), Counts::default());
        for one in uses {
            let Some(pod) = table.get(one.pod) else { continue };
            let Some(counts) = self.counts.get_mut(usize::from(one.pod.slot)) else { continue };
            counts.has |= one.adapter == adapter;
            if !active(pod).contains(&one.adapter) {
                counts.remembered += 1;
                counts.newer += usize::from(one.at > pod.scraped_at);
            }
        }
        let candidate = |pod: PodKey| table.get(pod).is_some_and(|pod| pod.candidate_of.meets(among));
        let listed = lists.pods_with(adapter).any(candidate);
        for ((slot, pod), counts) in table.all().zip(&self.counts) {
            let missing = listed && pod.id != 0 && lists.lacks(PodKey { slot, id: pod.id }, adapter);
            self.restricted |= missing;
            self.places.push(if missing { AdapterPlace::Missing } else { place(adapter, pod, counts) });
        }
    }

    /// Whether the request is for an adapter.
    pub fn known(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether the request is for an adapter that some pods do not have.
    pub fn restricted(&self) -> bool {
        self.restricted
    }

    /// The pod in a slot; `None` when the request is for no adapter.
    pub fn of(&self, slot: Slot) -> Option<AdapterPlace> {
        self.places.get(usize::from(slot)).copied()
    }

    /// Whether the pod in a slot may serve the request.
    pub fn may_serve(&self, slot: Slot) -> bool {
        self.of(slot) != Some(AdapterPlace::Missing)
    }

    /// Seconds that it costs until the pod in a slot has the adapter ready.
    pub fn seconds(&self, slot: Slot, constants: &CostConstants) -> f32 {
        let loads = match self.of(slot) {
            None | Some(AdapterPlace::Loaded | AdapterPlace::Missing) => 0.0,
            Some(AdapterPlace::Room) => 1.0,
            // The other one has to be loaded again.
            Some(AdapterPlace::Swap) => 2.0,
            // And the request waits before that.
            Some(AdapterPlace::Full) => 3.0,
        };
        loads * constants.adapter_load_seconds
    }
}

fn active(pod: &Pod) -> &[ModelId] {
    pod.adapters.as_ref().map_or(&[], |adapters| &adapters.active)
}

fn place(adapter: ModelId, pod: &Pod, counts: &Counts) -> AdapterPlace {
    let active = active(pod);
    // What vLLM has unless it is told otherwise.
    let slots = pod.adapters.as_ref().map_or(1, |adapters| usize::from(adapters.slots).max(1));
    if counts.has || active.contains(&adapter) {
        AdapterPlace::Loaded
    } else if active.len() + counts.remembered < slots {
        AdapterPlace::Room
    } else if active.len() + counts.newer < slots {
        AdapterPlace::Swap
    } else {
        AdapterPlace::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::pod_table::PodAdapters;
    use crate::{Micros, SECOND};

    const ASKED: ModelId = ModelId(1);

    fn pod(id: u32, slots: u16, active: &[u32]) -> Pod {
        let active = active.iter().copied().map(ModelId).collect();
        let adapters = Some(PodAdapters { slots, active });
        Pod { id, first_id: id, scraped_at: 10 * SECOND, adapters, ..Pod::default() }
    }

    fn used(adapter: u32, slot: u16, seconds: u64) -> AdapterUse {
        let pod = PodKey { slot: Slot(slot), id: u32::from(slot) + 1 };
        AdapterUse { adapter: ModelId(adapter), pod, at: seconds * SECOND }
    }

    fn places(pods: Vec<Pod>, lists: &AdapterLists, uses: &[AdapterUse]) -> Vec<AdapterPlace> {
        let table = PodTable { pods, ..PodTable::default() };
        let mut places = AdapterPlaces::default();
        places.find(ASKED, &table, ClusterSet::nth(0), lists, uses);
        assert_eq!(places.restricted(), places.places.contains(&AdapterPlace::Missing));
        places.places
    }

    #[test]
    fn a_pod_has_it_has_room_swaps_or_is_full() {
        use AdapterPlace::{Full, Loaded, Room, Swap};
        let pods = vec![
            pod(1, 2, &[1, 5]),
            pod(2, 2, &[5]),
            pod(3, 2, &[]),
            pod(4, 2, &[5, 6]),
            pod(5, 2, &[5]),
            pod(6, 2, &[5]),
            pod(7, 0, &[]),
            pod(8, 0, &[]),
        ];
        let uses = [
            // Both places of the third pod had an adapter that is idle by its page.
            used(7, 2, 3),
            used(8, 2, 4),
            // Idle too, and the asked one.
            used(1, 4, 3),
            // Sent after the page: not on it yet.
            used(9, 5, 11),
            // Its page shows it, so it is no other one.
            used(5, 1, 11),
            used(7, 7, 3),
        ];
        assert_eq!(
            places(pods, &AdapterLists::default(), &uses),
            [Loaded, Room, Swap, Full, Loaded, Full, Room, Swap]
        );
    }

    #[test]
    fn an_adapter_that_only_some_pods_have_is_missing_on_the_others() {
        let list = |slot: u16, id, of: &[u32]| {
            (PodKey { slot: Slot(slot), id }, of.iter().copied().map(ModelId).collect())
        };
        let pods = || vec![pod(1, 2, &[]), pod(2, 2, &[]), pod(3, 2, &[]), pod(9, 2, &[])];
        let lists = AdapterLists { lists: vec![list(0, 1, &[1]), list(1, 2, &[4]), list(3, 4, &[])] };
        // The third pod has no list, and the list of the fourth is of the process before.
        use AdapterPlace::{Missing, Room};
        assert_eq!(places(pods(), &lists, &[]), [Room, Missing, Room, Room]);
        let elsewhere = vec![Pod { candidate_of: ClusterSet::nth(5), ..pod(1, 2, &[]) }, pod(2, 2, &[])];
        assert_eq!(places(elsewhere, &lists, &[]), [Room; 2], "the one that has it may not be asked");
        let nowhere = AdapterLists { lists: vec![list(0, 1, &[2]), list(1, 2, &[4])] };
        assert_eq!(places(pods(), &nowhere, &[]), [Room; 4], "an unknown name is for the pods to refuse");
    }

    #[test]
    fn what_a_pod_lacks_costs_time() {
        let table = PodTable {
            pods: vec![pod(1, 1, &[1]), pod(2, 1, &[]), pod(3, 1, &[]), pod(4, 1, &[5])],
            ..PodTable::default()
        };
        let mut places = AdapterPlaces::default();
        places.find(ASKED, &table, ClusterSet::ALL, &AdapterLists::default(), &[used(6, 2, 3)]);
        let constants = CostConstants { adapter_load_seconds: 0.5, ..CostConstants::default() };
        let seconds: Vec<f32> = Slot::all().take(5).map(|slot| places.seconds(slot, &constants)).collect();
        assert_eq!(seconds, [0.0, 0.5, 1.0, 1.5, 0.0]);
        places.clear();
        assert_eq!((places.known(), places.seconds(Slot(3), &constants)), (false, 0.0));
        assert_eq!(places.of(Slot(3)).map(|_| Micros::ZERO), None);
    }
}
