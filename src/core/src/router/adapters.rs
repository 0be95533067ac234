//! What a worker knows of LoRA adapters. In a pool without any it knows nothing, and a decision takes no step
//! more.

use crate::decide::adapters::AdapterPlaces;
use crate::shared::adapters::{AdapterLists, AdapterUse, note_use, uses};
use crate::shared::clusters::ClusterSet;
use crate::shared::pod_table::{PodKey, PodTable};
use crate::shared::store::{Keys, SharedData};
use crate::{Micros, ModelId};

/// The adapters of a pool, and where the one of the request at hand is.
#[derive(Debug)]
pub(super) struct Adapters {
    lists_key: String,
    uses_key: String,
    lists: AdapterLists,
    /// Whether any pod has LoRA.
    any: bool,
    /// The last uses, as read for the request at hand.
    uses: Vec<AdapterUse>,
    pub places: AdapterPlaces,
}

impl Adapters {
    /// Nothing is known yet.
    pub fn new(keys: &Keys) -> Adapters {
        Adapters {
            lists_key: keys.adapter_lists.clone(),
            uses_key: keys.adapter_uses.clone(),
            lists: AdapterLists::default(),
            any: false,
            uses: Vec::new(),
            places: AdapterPlaces::default(),
        }
    }

    /// Takes over what a new table says.
    pub fn refresh(&mut self, table: &PodTable) {
        self.any = table.pods.iter().any(|pod| pod.adapters.is_some());
    }

    /// Takes over lists that have changed.
    pub fn read_lists(&mut self, shared: &impl SharedData) {
        let lists = shared.get(&self.lists_key).and_then(|(bytes, _)| AdapterLists::decode(&bytes).ok());
        self.lists = lists.unwrap_or_default();
    }

    /// Finds where the model of a request is, if it is an adapter: one that a pod lists or whose requests a
    /// pod shows.
    pub fn find(
        &mut self,
        model: Option<ModelId>,
        table: &PodTable,
        among: ClusterSet,
        shared: &impl SharedData,
    ) {
        self.places.clear();
        if !self.any {
            return;
        }
        let Some(model) = model else { return };
        let shown = || table.pods.iter().filter_map(|pod| pod.adapters.as_ref());
        if self.lists.pods_with(model).next().is_some()
            || shown().any(|adapters| adapters.active.contains(&model))
        {
            self.uses = uses(&self.uses_key, shared);
            self.places.find(model, table, among, &self.lists, &self.uses);
        }
    }

    /// The request at hand goes to `pod`. What cannot be written is as good as a request that came just
    /// before this one.
    pub fn note(
        &self,
        adapter: ModelId,
        pod: PodKey,
        table: &PodTable,
        shared: &mut impl SharedData,
        now: Micros,
    ) {
        if !self.places.known() || pod == PodKey::NONE {
            return;
        }
        let slots = table.get(pod).and_then(|pod| pod.adapters.as_ref()).map_or(1, |adapters| adapters.slots);
        let used = AdapterUse { adapter, pod, at: now };
        let _ = note_use(&self.uses_key, used, usize::from(slots), &self.uses, shared);
    }
}
