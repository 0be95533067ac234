//! Which names and which LoRA adapters each pod has: the collector's part. Every pod is asked once for its
//! list of models, as long as its process lives, and a pod with LoRA again and again: its adapters come and
//! go, and its page of metrics shows only those that have requests.

use crate::collector::{Collector, DueScrape};
use crate::scrape::adapters::PageAdapters;
use crate::scrape::model_list::{ModelList, NoList};
use crate::shared::adapters::{AdapterLists, MOST_ENTRIES};
use crate::shared::model_names::ModelNames;
use crate::shared::pod_table::{PodAdapters, PodKey};
use crate::shared::store::{Keys, SharedData};
use crate::{Micros, ModelId, Slot};

/// Time between two looks at the list of a pod: adapters come and go by hand.
const EVERY: Micros = Micros::from_seconds(5);
/// Pods that are asked at a time.
const MOST_AT_ONCE: usize = 32;

/// What the lists of the pods say.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    adapters_key: String,
    adapters: AdapterLists,
    names_key: String,
    names: ModelNames,
    /// The names of each pod that has several for a model.
    names_of: Vec<(PodKey, Vec<Vec<String>>)>,
    /// By slot.
    asked: Vec<Asked>,
}

/// When the pod in a slot was asked for its list.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// Its identity; 0 for none.
    id: u32,
    at: Micros,
    /// Whether it has ever said what it has, or that it does not say.
    answered: bool,
}

/// What is new in the list of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListNews {
    /// How many adapters it has, if they have changed and it says so.
    pub adapters: Option<usize>,
    /// How many names it has for its model, if they are several and new.
    pub names: Option<usize>,
}

impl Lists {
    /// Goes on from the lists that are shared.
    pub fn new(keys: &Keys, shared: &impl SharedData) -> Lists {
        let adapters = shared.get(&keys.adapter_lists);
        let adapters = adapters.and_then(|(bytes, _)| AdapterLists::decode(&bytes).ok());
        let names = shared.get(&keys.model_names).and_then(|(bytes, _)| ModelNames::decode(&bytes).ok());
        Lists {
            adapters_key: keys.adapter_lists.clone(),
            adapters: adapters.unwrap_or_default(),
            names_key: keys.model_names.clone(),
            names: names.unwrap_or_default(),
            names_of: Vec::new(),
            asked: Vec::new(),
        }
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
        lists.asked.resize(table.pods.len(), Asked::default());
        let mut due = Vec::new();
        for (slot, pod) in table.addresses().filter(|(_, pod)| pod.state.tells_load()) {
            let Some(asked) = lists.asked.get_mut(usize::from(slot)) else { break };
            if asked.id != pod.id {
                *asked = Asked { id: pod.id, at: now, answered: false };
            } else if (asked.answered && pod.adapters.is_none()) || now.since(asked.at) < EVERY {
                continue;
            }
            asked.at = now;
            due.push(DueScrape { slot, id: pod.id, address: pod.address.clone() });
            if due.len() == MOST_AT_ONCE {
                break;
            }
        }
        due
    }

    /// A list of models has come, or something else: then it is not known which adapters and names the pod
    /// has. Returns what is news.
    pub fn take_list(&mut self, due: &DueScrape, body: &[u8], shared: &mut impl SharedData) -> ListNews {
        let key = PodKey { slot: due.slot, id: due.id };
        let Some(pod) = self.table.get(key) else { return ListNews::default() };
        let has_adapters = pod.adapters.is_some();
        if let Some(asked) =
            self.lists.asked.get_mut(usize::from(due.slot)).filter(|asked| asked.id == due.id)
        {
            asked.answered = true;
        }
        let (adapters, names) = match ModelList::parse(body) {
            Ok(ModelList { adapters, names }) => (Some(adapters), names),
            Err(NoList) => (None, Vec::new()),
        };
        let count = names.iter().map(Vec::len).max();
        let listed = adapters.as_ref().map(Vec::len);
        let new_adapters = has_adapters && self.set_adapters(key, adapters, shared);
        let new_names = self.set_names(key, names);
        if self.share_names(shared) || new_adapters {
            self.table.model_lists = self.table.model_lists.wrapping_add(1).max(1);
            self.changed = true;
        }
        ListNews { adapters: listed.filter(|_| new_adapters), names: count.filter(|_| new_names) }
    }

    /// Shares which adapters a pod has, `None` where that is not known; returns whether it is news.
    fn set_adapters(
        &mut self,
        key: PodKey,
        found: Option<Vec<ModelId>>,
        shared: &mut impl SharedData,
    ) -> bool {
        let Collector { table, lists: Lists { adapters: known, adapters_key, .. }, .. } = self;
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
        known.lists != before && shared.set(adapters_key, &known.encode(), None).is_ok()
    }

    /// Notes the names of a pod; returns whether they are several and news.
    fn set_names(&mut self, key: PodKey, names: Vec<Vec<String>>) -> bool {
        let Collector { table, lists: Lists { names_of, .. }, .. } = self;
        let is_news =
            !names.is_empty() && !names_of.iter().any(|(pod, known)| *pod == key && *known == names);
        names_of.retain(|(pod, _)| *pod != key && table.get(*pod).is_some());
        if !names.is_empty() {
            names_of.push((key, names));
        }
        is_news
    }

    /// Shares which names are of one model; returns whether that is news. What an earlier collector knew
    /// holds until every pod has told its names.
    fn share_names(&mut self, shared: &mut impl SharedData) -> bool {
        let Collector { table, lists, .. } = self;
        let has_told = |slot: Slot, id| {
            lists.asked.get(usize::from(slot)).is_some_and(|asked| asked.id == id && asked.answered)
        };
        let mut told = table.addresses().filter(|(_, pod)| pod.state.tells_load());
        let all_told = told.all(|(slot, pod)| has_told(slot, pod.id));
        // A name that is an adapter's on any pod is of that alone.
        let adapters = &lists.adapters;
        let is_base = |name: &&String| adapters.pods_with(ModelId::of(name.as_bytes())).next().is_none();
        let mut names = ModelNames::default();
        // Most pods have the same ones, and whether a name is an adapter's takes a look at every list.
        let mut joined: Vec<&Vec<String>> = Vec::new();
        for group in lists.names_of.iter().flat_map(|(_, groups)| groups) {
            if !joined.contains(&group) {
                names.join(group.iter().filter(is_base));
                joined.push(group);
            }
        }
        if !all_told {
            lists.names.groups().for_each(|group| names.join(group.iter().filter(is_base)));
        }
        let names = names.chosen(&lists.names);
        if names == lists.names || shared.set(&lists.names_key, &names.encode(), None).is_err() {
            return false;
        }
        lists.names = names;
        true
    }
}
