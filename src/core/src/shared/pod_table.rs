//! The table of a pool: its pods and their load, as the collector last saw them. It is one versioned value in
//! shared data; a router keeps its copy until the generation moves.

mod codec;

use std::borrow::Cow;

use crate::shared::clusters::{Cluster, ClusterSet};
use crate::shared::codec::{CodecError, Reader};
use crate::{Micros, ModelId, Slot};

/// An engine number that stands for none.
const NO_ENGINE: u16 = u16::MAX;

/// Most pods in a pool. Every decision copies the ledger, which has an account per pod, so a larger fleet
/// needs several pools.
pub const MAX_PODS: usize = 1024;

/// The result of the last scrape of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodState {
    /// Not scraped yet.
    #[default]
    Unknown,
    /// The pod answered with its load.
    Ready,
    /// The pod answers, but not with vLLM's metrics. It may serve all the same.
    Unreadable,
    /// No answer: refused, reset or timed out.
    Unreachable,
    /// The engine has had requests for too long without computing a token.
    Hanging,
    /// The engine sleeps: it serves nothing until it is woken.
    Asleep,
}

impl PodState {
    const ALL: [PodState; 6] = [
        PodState::Unknown,
        PodState::Ready,
        PodState::Unreadable,
        PodState::Unreachable,
        PodState::Hanging,
        PodState::Asleep,
    ];

    /// Whether the last scrape brought a load.
    pub fn tells_load(self) -> bool {
        matches!(self, PodState::Ready | PodState::Hanging | PodState::Asleep)
    }
}

/// The LoRA adapters of a pod, as its metrics page shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAdapters {
    /// How many one batch can have; 0 when the page does not say.
    pub slots: u16,
    /// Those with requests, in order.
    pub active: Vec<ModelId>,
}

/// One pod, or one engine of a pod that runs several (data parallelism): each has a cache and a queue of its
/// own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Identity: a new one for another address in this slot, and after a restart. 0 is an empty slot.
    pub id: u32,
    /// The first identity that this address had in this slot; the identities from it to `id` are of the same
    /// machine.
    pub first_id: u32,
    /// `ip:port`, IPv6 in brackets.
    pub address: String,
    /// The place of the engine among those at this address, from 0 (its data-parallel rank); `None` where
    /// there is one.
    pub engine: Option<u16>,
    /// The clusters that may send to it.
    pub candidate_of: ClusterSet,
    /// The last scrape.
    pub state: PodState,
    /// When its process started, in milliseconds since the Unix epoch; 0 when the page does not tell.
    pub started: u64,
    /// Counts how often the cache was emptied while the process lived on.
    pub cache_epoch: u32,
    /// When the last scrape that brought a load was answered; 0 for never.
    pub scraped_at: Micros,
    /// When scrapes last began to succeed after they had failed; 0 for never.
    pub recovered_at: Micros,
    /// Requests in the running batch.
    pub running: f32,
    /// Requests in the queue.
    pub waiting: f32,
    /// Share of the KV cache that running requests use, 0 to 1.
    pub kv_usage: f32,
    /// Running requests that no worker of this Envoy sent.
    pub foreign_running: f32,
    /// Waiting requests that no worker of this Envoy sent.
    pub foreign_waiting: f32,
    /// Tokens its KV cache can hold; 0 when it caches no prefixes.
    pub capacity: u64,
    /// Its LoRA adapters; `None` when it is started without.
    pub adapters: Option<PodAdapters>,
}

impl Pod {
    /// Its name for people: the address, and the engine where there are several, as in `10.0.0.1:8000/1`.
    pub fn name(&self) -> Cow<'_, str> {
        match self.engine {
            None => Cow::Borrowed(&self.address),
            Some(engine) => Cow::Owned(format!("{}/{engine}", self.address)),
        }
    }

    /// Whether it stands for its address: of several engines there, the first one does.
    pub fn is_first(&self) -> bool {
        matches!(self.engine, None | Some(0))
    }
}

/// One pod among all that a slot has had. A pod that restarts has another identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodKey {
    /// The slot.
    pub slot: Slot,
    /// The identity.
    pub id: u32,
}

impl PodKey {
    /// No pod.
    pub const NONE: PodKey = PodKey { slot: Slot::NONE, id: 0 };

    /// Appends its six bytes to a shared value.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.slot.0.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
    }

    /// Reads it from a shared value.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when the value ends before.
    pub fn decode(from: &mut Reader<'_>) -> Result<PodKey, CodecError> {
        Ok(PodKey { slot: Slot(from.u16()?), id: from.u32()? })
    }
}

/// The pods of a pool; the place in the list is the slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTable {
    /// When it was written.
    pub published_at: Micros,
    /// Counts the tables of this pool.
    pub generation: u64,
    /// The last identity that was given to a pod, gone or not: the next collector goes on from it.
    pub last_id: u32,
    /// The pods by slot; empty slots have id 0.
    pub pods: Vec<Pod>,
    /// The clusters that discovery knows; the place in the list is that in [`Pod::candidate_of`].
    pub clusters: Vec<Cluster>,
    /// Counts the changes of [`crate::shared::adapters::AdapterLists`] and
    /// [`crate::shared::model_names::ModelNames`]; 0 when there are none.
    pub model_lists: u32,
    /// Counts the changes of the settings that the collector has fetched; 0 when there are none.
    pub settings: u32,
}

impl PodTable {
    /// The pods that are there, with their slots.
    pub fn live(&self) -> impl Iterator<Item = (Slot, &Pod)> {
        Slot::all().zip(&self.pods).filter(|(_, pod)| pod.id != 0)
    }

    /// All slots, also the empty ones, whose pod has id 0.
    pub fn all(&self) -> impl Iterator<Item = (Slot, &Pod)> {
        Slot::all().zip(&self.pods)
    }

    /// The pod in a slot, if one is there.
    pub fn pod(&self, slot: Slot) -> Option<&Pod> {
        self.pods.get(usize::from(slot)).filter(|pod| pod.id != 0)
    }

    /// The name of the pod in a slot, for people; `-` for an empty one.
    pub fn name(&self, slot: Slot) -> Cow<'_, str> {
        self.pod(slot).map_or(Cow::Borrowed("-"), Pod::name)
    }

    /// The engines at an address, with their slots: one, unless the pod runs several.
    pub fn at(&self, address: &[u8]) -> impl Iterator<Item = (Slot, &Pod)> {
        self.live().filter(move |(_, pod)| pod.address.as_bytes() == address)
    }

    /// The pod with this key, and the other engines at its address.
    pub fn engines_with(&self, key: PodKey) -> impl Iterator<Item = PodKey> {
        let several = self.get(key).filter(|pod| pod.engine.is_some());
        let there = several.into_iter().flat_map(|pod| self.at(pod.address.as_bytes()));
        let others = there.map(|(slot, pod)| PodKey { slot, id: pod.id }).filter(move |&other| other != key);
        std::iter::once(key).chain(others)
    }

    /// The pods by address: of several engines at one address the first.
    pub fn addresses(&self) -> impl Iterator<Item = (Slot, &Pod)> {
        self.live().filter(|(_, pod)| pod.is_first())
    }

    /// How many engines every candidate of these clusters has, counted from the first: a request may name
    /// those, whichever pod it meets. None where a pod has but one.
    pub fn common_engines(&self, among: ClusterSet) -> u16 {
        let candidates = || self.live().filter(|(_, pod)| pod.candidate_of.meets(among));
        let having = |engine| candidates().filter(|(_, pod)| pod.engine == engine).count();
        let pods = having(Some(0));
        if pods == 0 || having(None) > 0 {
            return 0;
        }
        // Those of a pod are numbered from 0 on.
        (1..NO_ENGINE).find(|&engine| having(Some(engine)) < pods).unwrap_or(NO_ENGINE)
    }

    /// How many pods at other addresses could serve a request of the pod at `address` in its place. One that
    /// has left the table may be of any cluster.
    pub fn others(&self, address: &[u8]) -> usize {
        let of = self.at(address).next().map(|(_, pod)| pod.candidate_of);
        let serves = |other: &Pod| {
            other.state != PodState::Asleep
                && other.address.as_bytes() != address
                && of.is_none_or(|clusters| other.candidate_of.meets(clusters))
        };
        self.addresses().filter(|(_, other)| serves(other)).count()
    }

    /// Whether other gateways send requests to these pods.
    pub fn has_foreign_load(&self) -> bool {
        self.live().any(|(_, pod)| pod.foreign_running + pod.foreign_waiting >= 1.0)
    }

    /// The key of the pod in a slot, if one is there.
    pub fn key(&self, slot: Slot) -> Option<PodKey> {
        self.pod(slot).map(|pod| PodKey { slot, id: pod.id })
    }

    /// The pod with this key, if it is in the table.
    pub fn get(&self, key: PodKey) -> Option<&Pod> {
        self.pod(key.slot).filter(|pod| pod.id == key.id)
    }

    /// The cluster with this name as a set, if discovery knows it.
    pub fn cluster(&self, name: &[u8]) -> Option<ClusterSet> {
        self.clusters.iter().position(|cluster| cluster.name.as_bytes() == name).map(ClusterSet::nth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_common_up_to_the_fewest_of_any_pod() {
        let common = |pods: &[(&str, Option<u16>)]| {
            let pod = |&(address, engine): &(&str, Option<u16>)| Pod {
                id: 1,
                address: address.to_owned(),
                engine,
                ..Pod::default()
            };
            // An empty slot is no pod.
            let pods = pods.iter().map(pod).chain([Pod::default()]).collect();
            PodTable { pods, ..PodTable::default() }.common_engines(ClusterSet::ALL)
        };
        assert_eq!(common(&[]), 0);
        assert_eq!(common(&[("a", None), ("b", None)]), 0);
        assert_eq!(common(&[("a", Some(0)), ("b", Some(1)), ("a", Some(1)), ("b", Some(0))]), 2);
        assert_eq!(common(&[("a", Some(0)), ("a", Some(1)), ("b", Some(0))]), 1);
        assert_eq!(common(&[("a", Some(0)), ("a", Some(1)), ("b", None)]), 0);
    }

    #[test]
    fn pods_of_other_clusters_do_not_matter_to_the_common_engines() {
        let (a, b) = (ClusterSet::nth(0), ClusterSet::nth(1));
        let pod = |engine, candidate_of| Pod { id: 1, engine, candidate_of, ..Pod::default() };
        let of_a = [pod(Some(0), a), pod(Some(1), a)];
        let others = [pod(None, b), pod(None, ClusterSet::NONE)];
        let table = PodTable { pods: [&of_a[..], &others].concat(), ..PodTable::default() };
        assert_eq!([a, b, a.with(b)].map(|among| table.common_engines(among)), [2, 0, 0]);
    }

    #[test]
    fn others_share_a_cluster_and_are_awake() {
        let pod = |id, of, state| Pod {
            id,
            address: format!("10.0.0.{id}:80"),
            candidate_of: of,
            state,
            ..Pod::default()
        };
        let (a, b) = (ClusterSet::nth(0), ClusterSet::nth(1));
        let pods = vec![
            pod(1, a, PodState::Ready),
            pod(2, a, PodState::Unreachable),
            pod(3, a, PodState::Asleep),
            pod(4, b, PodState::Ready),
        ];
        let table = PodTable { pods, ..PodTable::default() };
        assert_eq!(
            [b"10.0.0.1:80", b"10.0.0.3:80", b"10.0.0.4:80", b"10.0.0.9:80"].map(|a| table.others(a)),
            [1, 2, 0, 3]
        );
    }

    #[test]
    fn engines_at_one_address_are_told_apart_and_are_one_pod_to_others() {
        let pod = |id, address: &str, engine| Pod { id, address: address.into(), engine, ..Pod::default() };
        let pods = vec![pod(1, "a:1", Some(0)), pod(2, "b:1", None), pod(3, "a:1", Some(1))];
        let table = PodTable { pods, ..PodTable::default() };
        let ids = |pods: Vec<(Slot, &Pod)>| pods.iter().map(|(_, pod)| pod.id).collect::<Vec<_>>();
        assert_eq!(ids(table.at(b"a:1").collect()), [1, 3]);
        assert_eq!(ids(table.addresses().collect()), [1, 2]);
        let with = |slot, id| table.engines_with(PodKey { slot: Slot(slot), id }).map(|key| key.id);
        assert_eq!(with(2, 3).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(with(1, 2).collect::<Vec<_>>(), [2]);
        let names: Vec<_> = table.live().map(|(_, pod)| pod.name()).collect();
        assert_eq!(names, ["a:1/0", "b:1", "a:1/1"]);
        assert_eq!([b"a:1", b"b:1", b"c:1"].map(|address| table.others(address)), [1, 1, 2]);
    }

    #[test]
    fn empty_slots_are_not_live() {
        let table =
            PodTable { pods: vec![Pod::default(), Pod { id: 3, ..Pod::default() }], ..PodTable::default() };
        assert_eq!(table.live().map(|(slot, pod)| (slot, pod.id)).collect::<Vec<_>>(), [(Slot(1), 3)]);
        assert_eq!((table.pod(Slot(0)), table.key(Slot(0))), (None, None));
        let key = PodKey { slot: Slot(1), id: 3 };
        assert_eq!((table.key(Slot(1)), table.get(key)), (Some(key), table.pods.get(1)));
        assert_eq!(table.get(PodKey { id: 2, ..key }), None);
    }
}
