//! What the index lets go of: what a pod has not computed, has evicted or has lost, and what exceeds a bound.

use super::PrefixIndex;
use crate::prefix::holdings::Holdings;
use crate::prefix::slab::NONE;
use crate::prefix::tree::{Path, Tree};
use crate::{Bytes, Slot};

/// How often the index has let go of something, because it could not be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Because the pod is believed to have evicted it: its cache is full.
    pub by_pod: u64,
    /// Because the index is full.
    pub by_limit: u64,
}

impl PrefixIndex {
    /// The pod in `slot` did not compute the prompt `chain` that it was sent when its clock was `at`: it
    /// holds the first `keep` blocks, and beyond them only what another prompt has used since.
    pub fn trim(&mut self, slot: Slot, chain: &[u32], keep: usize, at: u32) {
        let mut path = Path::new();
        self.tree.find(chain, &mut path);
        let mut depth = path.iter().map(|&(_, common)| usize::from(common)).sum::<usize>();
        for (id, common) in path.into_iter().rev() {
            depth -= usize::from(common);
            if keep >= depth + usize::from(common) {
                break;
            }
            if let Some(holding) = self.holding_of(id, slot)
                && self.holdings.get(holding).is_some_and(|holding| holding.pod_clock == at)
            {
                self.shorten(holding, keep.saturating_sub(depth));
            }
        }
    }

    /// The pod in `slot` has evicted something that it used last when its clock was `up_to`. The least
    /// recently used goes first, so everything that it used no later is gone too.
    pub fn evict(&mut self, slot: Slot, up_to: u32) {
        let Some(now) = self.holdings.pod(slot).map(|pod| pod.clock) else { return };
        while let Some(oldest) = self.oldest(slot)
            && let Some(holding) = self.holdings.get(oldest)
            && now.wrapping_sub(holding.pod_clock) >= now.wrapping_sub(up_to)
        {
            self.shorten(oldest, 0);
        }
    }

    /// The pod in `slot` holds nothing any more.
    pub fn flush(&mut self, slot: Slot) {
        while let Some(oldest) = self.oldest(slot) {
            self.shorten(oldest, 0);
        }
    }

    fn oldest(&self, slot: Slot) -> Option<u32> {
        self.holdings.pod(slot)?.oldest()
    }

    /// Lets a holding keep its first `keep` blocks. At 0 it is dropped, with the part of the tree that only
    /// it kept alive.
    fn shorten(&mut self, id: u32, keep: usize) {
        self.holdings.shorten(id, keep as u16);
        let Some(holding) = self.holdings.get(id) else { return };
        let (at, emptied) = (holding.node, holding.blocks == 0);
        let Some(node) = self.tree.get_mut(at) else { return };
        if emptied {
            self.holdings.drop(id, &mut node.first_holding);
        }
        if node.first_holding == NONE {
            self.tree.prune(at);
        } else if node.children == 0 {
            let held = self.holdings.of_node(node.first_holding).map(|(_, holding)| holding.blocks).max();
            self.tree.free_tail(at, held.unwrap_or(0).into());
        }
    }

    /// Takes at least `bytes` from the tail of a holding, or all of it.
    fn give_up(&mut self, id: u32, bytes: Bytes) {
        let Some(holding) = self.holdings.get(id) else { return };
        let left = holding.bytes() - bytes;
        let mut keep = holding.blocks;
        while keep > 0 && holding.bytes_of_first(keep) > left {
            keep -= 1;
        }
        self.shorten(id, usize::from(keep));
    }

    /// Lets go of whatever exceeds the pod's capacity, then of whatever exceeds the limits of the index.
    pub(super) fn fit(&mut self, slot: Slot) {
        while let Some(pod) = self.holdings.pod(slot)
            && pod.excess() > Bytes::NONE
            && let Some(oldest) = pod.oldest()
        {
            self.give_up(oldest, pod.excess());
            self.evictions.by_pod += 1;
        }
        while self.is_full() {
            self.evictions.by_limit += 1;
            // Slabs never shrink. If over half of the limit is free slots of the wrong kind, a new start
            // loses little, and better than that is not to squeeze into the rest.
            if self.tree.idle() + self.holdings.idle() > self.limits.memory / 2 {
                self.tree = Tree::default();
                return self.holdings.clear();
            }
            let clock = self.clock;
            let oldest = self
                .holdings
                .pods()
                .iter()
                .filter_map(|pod| pod.oldest().and_then(|id| Some((id, self.holdings.get(id)?.index_clock))))
                .max_by_key(|&(_, used)| clock.wrapping_sub(used));
            let Some((oldest, _)) = oldest else { return };
            self.shorten(oldest, 0);
        }
    }

    /// Whether something must go. A slab that is full up to the limit counts: letting go of its entries gives
    /// no memory back, so it must have room for a prompt before it needs another chunk.
    fn is_full(&self) -> bool {
        const PROMPT: usize = 64;
        let left = self.limits.memory.checked_sub(self.memory());
        left.is_none_or(|left| {
            left < Tree::CHUNK_MEMORY && self.tree.room() < PROMPT
                || left < Holdings::CHUNK_MEMORY && self.holdings.room() < PROMPT
        }) || self.holdings() > self.limits.holdings
    }
}
