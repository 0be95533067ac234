//! Which LoRA adapters each pod has: the collector's part. Pods with LoRA are asked for their list of models,
//! for a page of metrics shows only adapters that have requests.

use crate::Micros;
use crate::collector::{Collector, DueScrape};
use crate::scrape::adapters::{PageAdapters, listed};
use crate::shared::adapters::{AdapterLists, MOST_ENTRIES};
use crate::shared::pod_table::{PodAdapters, PodKey};
use crate::shared::store::{Keys, SharedData};

/// Time between two looks at the list of a pod: adapters come and go by hand.
const EVERY: Micros = Micros::from_seconds(5);

/// The lists of adapters, and when each pod was asked last.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    key: String,
    known: AdapterLists,
    asked: Vec<(PodKey, Micros)>,
}

impl Lists {
    /// Goes on from the lists that are shared.
    pub fn new(keys: &Keys, shared: &impl SharedData) -> Lists {
        let known = shared.get(&keys.adapter_lists).and_then(|(bytes, _)| AdapterLists::decode(&bytes).ok());
        Lists { key: keys.adapter_lists.clone(), known: known.unwrap_or_default(), asked: Vec::new() }
    }
}

impl Collector {
    /// The page of a pod tells this of its adapters, or of those of each of its engines.
    pub(super) fn take_adapters(&mut self, key: PodKey, page: &PageAdapters) {
        if let Some(pod) = self.table.pods.get_mut(usize::from(key.slot)).filter(|pod| pod.id == key.id) {
            let of_page = || PodAdapters { slots: page.slots, active: page.active.clone() };
            pod.adapters = page.on.then(of_page);
        }
    }

    /// The pods whose list of models is to be fetched now. They count as asked.
    pub fn due_lists(&mut self, now: Micros) -> Vec<DueScrape> {
        let Collector { table, lists, .. } = self;
        lists.asked.retain(|(pod, at)| table.get(*pod).is_some() && now.since(*at) < EVERY);
        let mut due = Vec::new();
        for (slot, pod) in
            table.addresses().filter(|(_, pod)| pod.adapters.is_some() && pod.state.tells_load())
        {
            let key = PodKey { slot, id: pod.id };
            if !lists.asked.iter().any(|(asked, _)| *asked == key) {
                lists.asked.push((key, now));
                due.push(DueScrape { slot, id: pod.id, address: pod.address.clone() });
            }
        }
        due
    }

    /// A list of models has come, or something else: then it is not known which adapters the pod has. Returns
    /// how many it has, if that is news.
    pub fn take_list(&mut self, due: &DueScrape, body: &[u8], shared: &mut impl SharedData) -> Option<usize> {
        let key = PodKey { slot: due.slot, id: due.id };
        self.table.get(key)?;
        let found = listed(body).ok();
        let Collector { table, lists: Lists { known, key: shared_key, .. }, .. } = self;
        let before = known.lists.clone();
        // Its engines have the same ones.
        let engines: Vec<PodKey> = table.engines_with(key).collect();
        known.lists.retain(|(pod, _)| !engines.contains(pod) && table.get(*pod).is_some());
        let mut entries: usize = known.lists.iter().map(|(_, list)| list.len()).sum();
        for engine in engines {
            let Some(list) = found.clone().filter(|list| entries + list.len() <= MOST_ENTRIES) else { break };
            entries += list.len();
            let at = known.lists.partition_point(|(pod, _)| pod.slot < engine.slot);
            known.lists.insert(at, (engine, list));
        }
        if known.lists == before {
            return None;
        }
        shared.set(shared_key, &known.encode(), None).ok()?;
        self.table.adapter_lists = self.table.adapter_lists.wrapping_add(1).max(1);
        self.changed = true;
        found.map(|list| list.len())
    }
}
