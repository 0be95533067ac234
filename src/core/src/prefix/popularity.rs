//! How large a share of recent prompts starts with a prefix, and whether that earns it one more copy.

use crate::prefix::holdings::Holdings;
use crate::prefix::tree::{Path, Tree};

/// About how many prompts back popularity looks: a prompt counts less with each one after it.
const POPULARITY_WINDOW: f32 = 200.0;
/// Prompts of a prefix that are no evidence yet: the first one says nothing about others.
const POPULARITY_DOUBT: f32 = 1.0;
/// Slack, in copies, when deciding whether a popular prefix deserves one more. Without it the last copies
/// come late, because older prompts count less.
const POPULARITY_SLACK: f32 = 0.5;

/// Prompts that went through a node, older ones counting less.
///
/// A prompt that goes on where the last one ended is the same conversation, and does not count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Popularity {
    prompts: f32,
    /// The index clock at which `prompts` was right.
    counted_at: u32,
}

impl Popularity {
    /// No prompt so far.
    pub fn none_at(clock: u32) -> Popularity {
        Popularity { prompts: 0.0, counted_at: clock }
    }

    /// A prompt goes through the node at `clock`.
    pub fn count(&mut self, clock: u32) {
        *self = Popularity { prompts: self.prompts_at(clock) + 1.0, counted_at: clock };
    }

    fn prompts_at(self, clock: u32) -> f32 {
        self.prompts * (-(clock.wrapping_sub(self.counted_at) as f32) / POPULARITY_WINDOW).exp()
    }

    /// Share of all recent prompts, 0 to 1.
    fn share_at(self, clock: u32) -> f32 {
        let all = POPULARITY_WINDOW.min(clock as f32) + POPULARITY_DOUBT;
        (self.prompts_at(clock) - POPULARITY_DOUBT).max(0.0) / all
    }
}

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
    pods: f32,
    in_flight: f32,
) -> PopularBlocks {
    let (mut blocks, mut depth) = (PopularBlocks::default(), 0);
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
