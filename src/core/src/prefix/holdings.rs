//! Which pod holds how much of which node, and which pod used it how long ago.
//!
//! A pod's share of a node is a holding. All holdings of a node stand in one list, and all holdings of a pod
//! in another, from the most to the least recently used.

use crate::prefix::slab::{NONE, Slab};
use crate::request::blocks::bytes_of;
use crate::{Bytes, Slot};

/// A pod's share of a node: its first `blocks` blocks.
#[derive(Debug)]
pub(super) struct Holding {
    pub node: u32,
    pub slot: Slot,
    pub blocks: u16,
    /// Blocks before the node, so that bytes can be told without walking up.
    pub depth: u16,
    /// The last use by the clock of the index, to compare pods.
    pub index_clock: u32,
    /// The last use by the clock of its pod.
    pub pod_clock: u32,
    newer: u32,
    older: u32,
    next_in_node: u32,
}

impl Default for Holding {
    /// A holding that is free.
    fn default() -> Self {
        Holding {
            node: NONE,
            slot: Slot::default(),
            blocks: 0,
            depth: 0,
            index_clock: 0,
            pod_clock: 0,
            newer: NONE,
            older: NONE,
            next_in_node: NONE,
        }
    }
}

impl Holding {
    /// Canonical bytes that it stands for.
    pub fn bytes(&self) -> Bytes {
        self.bytes_of_first(self.blocks)
    }

    /// Canonical bytes of its first `blocks` blocks.
    pub fn bytes_of_first(&self, blocks: u16) -> Bytes {
        let before = usize::from(self.depth);
        bytes_of(before + usize::from(blocks)) - bytes_of(before)
    }
}

/// What one pod is believed to hold.
#[derive(Clone, Debug)]
pub(super) struct PodHoldings {
    newest: u32,
    oldest: u32,
    /// Canonical bytes of all its holdings.
    pub bytes: Bytes,
    /// Canonical bytes that the pod can hold.
    pub capacity: Bytes,
    /// Prompts of this pod. All replicas count the same prompts in the order of the log, so that the time
    /// between two uses is the same number in each.
    pub clock: u32,
}

impl Default for PodHoldings {
    fn default() -> Self {
        PodHoldings { newest: NONE, oldest: NONE, bytes: Bytes::NONE, capacity: Bytes(u64::MAX), clock: 0 }
    }
}

impl PodHoldings {
    /// The least recently used holding.
    pub fn oldest(&self) -> Option<u32> {
        Some(self.oldest).filter(|&oldest| oldest != NONE)
    }

    /// Bytes over the capacity.
    pub fn excess(&self) -> Bytes {
        self.bytes - self.capacity
    }
}

/// A use of blocks by a pod: by the clock of the index and by that of the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct UsedAt {
    pub index_clock: u32,
    pub pod_clock: u32,
}

/// The holdings of all pods.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    all: Slab<Holding>,
    pods: Vec<PodHoldings>,
}

impl Holdings {
    #[inline]
    pub fn get(&self, id: u32) -> Option<&Holding> {
        self.all.get(id)
    }

    /// Holdings over all pods.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// All pods that were ever named.
    pub fn pods(&self) -> &[PodHoldings] {
        &self.pods
    }

    /// The pod in `slot`, if it was ever named.
    pub fn pod(&self, slot: Slot) -> Option<&PodHoldings> {
        self.pods.get(usize::from(slot))
    }

    /// The pod in `slot`.
    pub fn pod_mut(&mut self, slot: Slot) -> &mut PodHoldings {
        let at = usize::from(slot);
        if self.pods.len() <= at {
            self.pods.resize(at + 1, PodHoldings::default());
        }
        #[expect(clippy::indexing_slicing, reason = "made long enough just above")]
        &mut self.pods[at]
    }

    /// The holdings of a node, whose list begins with `first`.
    #[inline]
    pub fn of_node(&self, first: u32) -> impl Iterator<Item = (u32, &Holding)> {
        let mut next = first;
        std::iter::from_fn(move || {
            let id = next;
            let holding = self.all.get(id)?;
            next = holding.next_in_node;
            Some((id, holding))
        })
    }

    /// The holding of the pod in `slot` in the node whose list begins with `first`.
    #[inline]
    pub fn of_pod(&self, first: u32, slot: Slot) -> Option<u32> {
        self.of_node(first).find(|(_, holding)| holding.slot == slot).map(|(id, _)| id)
    }

    /// The pod in `slot` holds the first `blocks` blocks of `node`, which begins after `depth` blocks, and
    /// used them just now. `first` is the head of the node's list. Returns when the pod used the node before,
    /// by its own clock.
    pub fn hold(
        &mut self,
        slot: Slot,
        (node, first): (u32, &mut u32),
        (depth, blocks): (u16, u16),
        now: UsedAt,
    ) -> Option<u32> {
        let known = self.of_pod(*first, slot);
        let previous = known.and_then(|known| self.all.get(known)).map(|holding| holding.pod_clock);
        let holding = match known {
            Some(known) => {
                self.unlink(known);
                known
            }
            None => self.add(Holding { node, slot, depth, ..Holding::default() }, first),
        };
        let newest = self.pod_mut(slot).newest;
        self.link(holding, NONE, newest);
        if let Some(holding) = self.all.get_mut(holding) {
            (holding.index_clock, holding.pod_clock) = (now.index_clock, now.pod_clock);
            let held = holding.bytes();
            holding.blocks = holding.blocks.max(blocks);
            let grown = holding.bytes() - held;
            let pod = self.pod_mut(slot);
            pod.bytes = pod.bytes + grown;
        }
        previous
    }

    /// Puts a holding into its node; the caller links it into its pod's list.
    fn add(&mut self, mut holding: Holding, first: &mut u32) -> u32 {
        holding.next_in_node = *first;
        let id = self.all.insert(holding);
        *first = id;
        id
    }

    /// Every holding of the node whose list begins with `lower` gives its first `at` blocks to the new node
    /// `upper`. Returns the heads of both lists.
    pub fn split(&mut self, mut lower: u32, upper: u32, at: u16) -> (u32, u32) {
        let (mut next, mut first) = (lower, NONE);
        while let Some(holding) = self.all.get_mut(next) {
            let (old, newer) = (next, holding.newer);
            next = holding.next_in_node;
            let taken = holding.blocks.min(at);
            let new = Holding {
                node: upper,
                slot: holding.slot,
                blocks: taken,
                depth: holding.depth,
                index_clock: holding.index_clock,
                pod_clock: holding.pod_clock,
                ..Holding::default()
            };
            // The bytes stay with the pod: it loses none, and gains none.
            holding.blocks -= taken;
            holding.depth += at;
            let emptied = holding.blocks == 0;
            let new = self.add(new, &mut first);
            self.link(new, newer, old);
            if emptied {
                self.drop(old, &mut lower);
            }
        }
        (lower, first)
    }

    /// Lets a holding keep its first `keep` blocks. At 0 the caller drops it.
    pub fn shorten(&mut self, id: u32, keep: u16) {
        let Some(holding) = self.all.get_mut(id) else { return };
        let before = holding.bytes();
        holding.blocks = holding.blocks.min(keep);
        let freed = before - holding.bytes();
        let slot = holding.slot;
        let pod = self.pod_mut(slot);
        pod.bytes = pod.bytes - freed;
    }

    /// Takes an empty holding out of its pod's list and out of its node's, which begins with `first`.
    pub fn drop(&mut self, id: u32, first: &mut u32) {
        self.unlink(id);
        let Some(holding) = self.all.get(id) else { return };
        let next = holding.next_in_node;
        self.all.remove(id);
        if *first == id {
            *first = next;
            return;
        }
        let mut at = *first;
        while let Some(holding) = self.all.get_mut(at) {
            if holding.next_in_node == id {
                holding.next_in_node = next;
                return;
            }
            at = holding.next_in_node;
        }
    }

    /// Forgets all holdings, but neither the pods' capacities nor their clocks.
    pub fn clear(&mut self) {
        self.all = Slab::default();
        for pod in &mut self.pods {
            (pod.newest, pod.oldest, pod.bytes) = (NONE, NONE, Bytes::NONE);
        }
    }

    /// Memory that is taken, in bytes, in use or not.
    pub fn memory(&self) -> usize {
        self.all.memory()
    }

    /// Bytes of free holdings, which only new holdings can use.
    pub fn idle(&self) -> usize {
        self.all.idle()
    }

    /// Holdings that can be added before another chunk of `CHUNK_MEMORY` bytes is needed.
    pub fn room(&self) -> usize {
        self.all.room()
    }

    /// Bytes by which the holdings grow.
    pub const CHUNK_MEMORY: usize = Slab::<Holding>::CHUNK_MEMORY;

    // --- each pod's list, from the most to the least recently used ---

    fn unlink(&mut self, id: u32) {
        let Some(holding) = self.all.get(id) else { return };
        let (slot, newer, older) = (holding.slot, holding.newer, holding.older);
        self.set_older(slot, newer, older);
        self.set_newer(slot, older, newer);
    }

    /// Puts `id` between two neighbours of its pod's list.
    fn link(&mut self, id: u32, newer: u32, older: u32) {
        let Some(holding) = self.all.get_mut(id) else { return };
        holding.newer = newer;
        holding.older = older;
        let slot = holding.slot;
        self.set_older(slot, newer, id);
        self.set_newer(slot, older, id);
    }

    fn set_older(&mut self, slot: Slot, of: u32, to: u32) {
        match self.all.get_mut(of) {
            Some(holding) => holding.older = to,
            None => self.pod_mut(slot).newest = to,
        }
    }

    fn set_newer(&mut self, slot: Slot, of: u32, to: u32) {
        match self.all.get_mut(of) {
            Some(holding) => holding.newer = to,
            None => self.pod_mut(slot).oldest = to,
        }
    }
}

#[cfg(test)]
impl Holdings {
    /// Checks every link and count of the pods' lists; returns how many holdings stand in them.
    pub fn check(&self) -> usize {
        let mut listed = 0;
        for pod in &self.pods {
            let (mut at, mut newer, mut bytes) = (pod.newest, NONE, Bytes::NONE);
            while at != NONE {
                let holding = self.all.get(at).unwrap();
                assert_eq!(holding.newer, newer);
                bytes = bytes + holding.bytes();
                listed += 1;
                (newer, at) = (at, holding.older);
            }
            assert_eq!(pod.oldest, newer);
            assert_eq!(pod.bytes, bytes);
            assert!(pod.bytes <= pod.capacity);
        }
        listed
    }
}
