//! Whether a prefix is so popular that one more pod should hold a copy of it.

use crate::prefix::holdings::Holdings;
use crate::prefix::tree::{Path, Tree};

/// Slack, in copies, when deciding whether a popular prefix deserves one more. Without it the last copies
/// come late, because older prompts count less.
const POPULARITY_SLACK: f32 = 0.5;

/// Leading blocks of a prompt that many prompts share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PopularBlocks {
    /// Blocks whose share of recent prompts, times the number of pods, exceeds the number of pods that hold
    /// them.
    pub popular: usize,
    /// Blocks for which each pod that holds them is expected to serve at least one request in flight.
    pub in_use: usize,
}

/// Finds the popular blocks of a chain whose way through the tree is `path`, among `pods` pods with
/// `in_flight` requests in all.
pub(super) fn popular_blocks(
    tree: &Tree,
    holdings: &Holdings,
    clock: u32,
    path: &Path,
    pods: usize,
    in_flight: f32,
) -> PopularBlocks {
    let (mut blocks, mut depth, pods) = (PopularBlocks::default(), 0, pods as f32);
    for &(id, common) in path {
        let Some(node) = tree.get(id) else { break };
        let share = node.popularity.share_at(clock);
        let mut holders = 0.0;
        for (_, holding) in holdings.of_node(node.first_holding) {
            holders += f32::from(u8::from(holding.blocks >= common));
        }
        let popular = blocks.popular == depth && share > 0.0 && share * pods + POPULARITY_SLACK > holders;
        let in_use = blocks.in_use == depth && share * in_flight >= holders;
        depth += usize::from(common);
        if popular {
            blocks.popular = depth;
        }
        if in_use {
            blocks.in_use = depth;
        }
        if !popular && !in_use {
            break;
        }
    }
    blocks
}
