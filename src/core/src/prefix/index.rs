//! Which pod is believed to hold which block, one replica per worker.
//!
//! It believes what vLLM does. A match is contiguous from the start of the prompt, for each pod separately.
//! Heads outlive tails: a use makes every block of a prompt recent, the first one most, and the tail of the
//! least recently used prompt goes first. A pod holds no more than its KV cache, and a pod that restarts
//! holds nothing.

mod letting_go;

pub use self::letting_go::Evictions;
pub use crate::prefix::copies::PopularBlocks;
use crate::prefix::copies::popular_blocks;
use crate::prefix::holdings::{Holdings, UsedAt};
use crate::prefix::popularity::Popularity;
use crate::prefix::slab::NONE;
use crate::prefix::tree::{Path, ROOT, Tree, common};
use crate::{Bytes, Slot};

/// How large a [`PrefixIndex`] may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLimits {
    /// Memory in bytes, as [`PrefixIndex::memory`] counts it.
    pub memory: usize,
    /// Holdings, over all pods.
    pub holdings: usize,
}

/// The result of [`PrefixIndex::look_up`]; reused, so that its memory is.
#[derive(Clone, Debug, Default)]
pub struct PrefixMatch {
    path: Path,
    blocks: Vec<u16>,
}

impl PrefixMatch {
    /// How many leading blocks the pod in `slot` holds.
    pub fn blocks(&self, slot: Slot) -> u16 {
        self.blocks.get(usize::from(slot)).copied().unwrap_or(0)
    }
}

/// When a pod used a prompt, by the clock of that pod, which counts its prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UseStamp {
    /// This use.
    pub at: u32,
    /// The use before it of the last block that the pod held of the prompt; `None` when it held nothing.
    pub previous: Option<u32>,
}

/// The index of one worker.
#[derive(Debug)]
pub struct PrefixIndex {
    limits: IndexLimits,
    tree: Tree,
    holdings: Holdings,
    /// Counts the prompts of all pods, to order their uses.
    clock: u32,
    /// The way of the prompt that is being put in; kept for its memory.
    path: Path,
    evictions: Evictions,
}

impl PrefixIndex {
    /// An empty index.
    pub fn new(limits: IndexLimits) -> PrefixIndex {
        PrefixIndex {
            limits,
            tree: Tree::default(),
            holdings: Holdings::default(),
            clock: 0,
            path: Path::new(),
            evictions: Evictions::default(),
        }
    }

    /// Looks up how many leading blocks of `chain` each of the first `pods` slots holds.
    pub fn look_up(&self, chain: &[u32], pods: usize, found: &mut PrefixMatch) {
        self.tree.find(chain, &mut found.path);
        let blocks = &mut found.blocks;
        blocks.clear();
        blocks.resize(pods, 0);
        let mut depth = 0;
        for &(id, common) in &found.path {
            let Some(node) = self.tree.get(id) else { return };
            let mut goes_on = false;
            for (_, holding) in self.holdings.of_node(node.first_holding) {
                if let Some(blocks) = blocks.get_mut(usize::from(holding.slot))
                    && *blocks == depth
                {
                    *blocks += holding.blocks.min(common);
                    goes_on |= holding.blocks >= common;
                }
            }
            if !goes_on {
                return;
            }
            depth += common;
        }
    }

    /// Leading blocks of a chain that was looked up which many prompts share, among `pods` pods with
    /// `in_flight` requests in all.
    pub fn popular_blocks(&self, found: &PrefixMatch, pods: usize, in_flight: f32) -> PopularBlocks {
        popular_blocks(&self.tree, &self.holdings, self.clock, &found.path, pods, in_flight)
    }

    /// The pod in `slot` has computed the prompt `chain`: it holds all of it now, and used it last.
    pub fn insert(&mut self, slot: Slot, chain: &[u32]) -> UseStamp {
        let mut stamp = UseStamp { at: self.pod_clock(slot), previous: None };
        if chain.is_empty() {
            return stamp;
        }
        self.clock = self.clock.wrapping_add(1);
        stamp.at = stamp.at.wrapping_add(1);
        self.holdings.pod_mut(slot).clock = stamp.at;
        let now = UsedAt { index_clock: self.clock, pod_clock: stamp.at };
        let mut path = std::mem::take(&mut self.path);
        let grown = self.walk(slot, chain, &mut path);
        let mut depth = path.iter().map(|&(_, blocks)| blocks).sum::<u16>();
        // The last part first, so that the first part ends up as the most recent.
        for &(id, blocks) in path.iter().rev() {
            depth -= blocks;
            let Some(node) = self.tree.get_mut(id) else { continue };
            if grown != Some(id) {
                node.popularity.count(self.clock);
            }
            let previous = self.holdings.hold(slot, (id, &mut node.first_holding), (depth, blocks), now);
            stamp.previous = stamp.previous.or(previous);
        }
        path.clear();
        self.path = path;
        self.fit(slot);
        stamp
    }

    /// How many prompts the pod in `slot` has been sent: the time by which its uses are ordered.
    pub fn pod_clock(&self, slot: Slot) -> u32 {
        self.holdings.pod(slot).map_or(0, |pod| pod.clock)
    }

    /// Sets how many canonical bytes the pod in `slot` can hold.
    pub fn set_capacity(&mut self, slot: Slot, bytes: Bytes) {
        self.holdings.pod_mut(slot).capacity = bytes;
        self.fit(slot);
    }

    /// Share of its capacity that the pod in `slot` is believed to use, 0 to 1.
    pub fn fill(&self, slot: Slot) -> f32 {
        self.holdings.pod(slot).map_or(0.0, |pod| (pod.bytes.0 as f64 / pod.capacity.0.max(1) as f64) as f32)
    }

    /// Canonical bytes that the pod in `slot` is believed to hold.
    pub fn held(&self, slot: Slot) -> Bytes {
        self.holdings.pod(slot).map_or(Bytes::NONE, |pod| pod.bytes)
    }

    /// Shares of nodes that pods hold, over all pods.
    pub fn holdings(&self) -> usize {
        self.holdings.len()
    }

    /// How often something was let go.
    pub fn evictions(&self) -> Evictions {
        self.evictions
    }

    /// The bounds of the index.
    pub fn limits(&self) -> &IndexLimits {
        &self.limits
    }

    /// Memory that is taken, in bytes, whether in use or not.
    pub fn memory(&self) -> usize {
        self.tree.memory() + self.holdings.memory()
    }

    /// Finds the nodes of `chain`, makes the missing ones, and writes them into `path` from the first to the
    /// last. Returns the last one if the prompt goes on where another ended.
    ///
    /// A node of which the pod in `slot` holds more than the prompt uses is cut where the prompt ends: the
    /// part after that was not used, and grows old.
    fn walk(&mut self, slot: Slot, chain: &[u32], path: &mut Path) -> Option<u32> {
        let (mut parent, mut depth) = (ROOT, 0);
        while let Some(rest) = chain.get(depth..).filter(|rest| !rest.is_empty()) {
            let Some(id) = self.tree.child(parent, chain, depth) else {
                let id = self.tree.add(parent, rest.into(), Popularity::none_at(self.clock));
                path.push((id, rest.len() as u16));
                return None;
            };
            let node = self.tree.get(id)?;
            let (common, blocks) = (common(&node.hashes, rest), node.hashes.len());
            if common == rest.len() {
                let cut = common < blocks && self.holds_more(id, slot, common);
                path.push((if cut { self.split(id, common) } else { id }, common as u16));
                return None;
            }
            if common == blocks && node.children == 0 {
                // A conversation that grows: its last node grows with it.
                self.tree.grow(id, rest.get(common..).unwrap_or_default());
                path.push((id, rest.len() as u16));
                return Some(id);
            }
            parent = if common == blocks { id } else { self.split(id, common) };
            path.push((parent, common as u16));
            depth += common;
        }
        None
    }

    fn holding_of(&self, node: u32, slot: Slot) -> Option<u32> {
        self.holdings.of_pod(self.tree.get(node)?.first_holding, slot)
    }

    fn holds_more(&self, node: u32, slot: Slot, blocks: usize) -> bool {
        self.holding_of(node, slot)
            .and_then(|id| self.holdings.get(id))
            .is_some_and(|holding| usize::from(holding.blocks) > blocks)
    }

    /// Cuts the node `id` and its holdings after `at` blocks; returns the new node that takes the upper part.
    fn split(&mut self, id: u32, at: usize) -> u32 {
        let upper = self.tree.split(id, at);
        let Some(node) = self.tree.get_mut(id) else { return NONE };
        let heads = self.holdings.split(node.first_holding, upper, at as u16);
        node.first_holding = heads.0;
        if let Some(upper) = self.tree.get_mut(upper) {
            upper.first_holding = heads.1;
        }
        // Of a leaf with a tail that nobody holds, nothing is left.
        self.tree.prune(id);
        upper
    }
}

#[cfg(test)]
mod tests;
