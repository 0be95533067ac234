//! The endpoint picker of the Gateway API Inference Extension, now llm-d-router, with its defaults.
//!
//! `S = 2 * (maxQ - Q) / (maxQ - minQ) + 2 * (1 - kv) + 3 * matched / total`, greatest wins, ties by chance.
//! The index is llm-d-router's: blocks of 64 tokens, for each pod an LRU of `num_gpu_blocks` entries, which
//! is what autotuning sets without rescaling for the larger blocks; prompts are put in head first, so heads
//! go first; a pod's matches need not be contiguous, and the walk ends at the first block that no pod has.

use super::prefixes::{Lru, coarse};
use super::rank::by_score;
use super::scrape::Scrape;
use crate::policy::{FleetPod, Policy, RouteRequest, World};
use crate::workload::Dice;

/// Seconds between two scrapes of a pod.
pub const SCRAPE_SECONDS: f64 = 0.05;
/// Tokens of a block of the index.
const BLOCK_TOKENS: u32 = 64;
/// Longest prompt that is looked up, in tokens.
const LONGEST: u32 = 131_072;

/// The approximate prefix index.
#[derive(Debug)]
pub struct Index(Vec<Lru>);

impl Index {
    /// For these pods.
    pub fn new(pods: &[FleetPod]) -> Index {
        Index(pods.iter().map(|pod| Lru::new(u64::from(pod.engine.config().num_gpu_blocks))).collect())
    }

    /// Matched share of the prompt, by pod.
    pub fn ratios(&self, ask: &RouteRequest<'_>) -> Vec<f64> {
        let mut matches = vec![0.0; self.0.len()];
        let mut total = 0.0;
        let mut open = true;
        for hash in blocks(ask) {
            total += 1.0;
            if !open {
                continue;
            }
            open = false;
            for (pod, matches) in self.0.iter().zip(&mut matches) {
                if pod.contains(hash) {
                    *matches += 1.0;
                    open = true;
                }
            }
        }
        matches.iter().map(|matches| matches / f64::max(total, 1.0)).collect()
    }

    /// The pod was chosen, and will hold the prompt.
    pub fn insert(&mut self, pod: usize, ask: &RouteRequest<'_>) {
        for hash in blocks(ask) {
            self.0[pod].touch(hash, 1);
        }
    }
}

fn blocks<'a>(ask: &RouteRequest<'a>) -> impl Iterator<Item = u64> + 'a {
    let step = (BLOCK_TOKENS / ask.block_size).max(1) as usize;
    coarse(ask.blocks, step).take((LONGEST / BLOCK_TOKENS) as usize)
}

/// The picker.
#[derive(Debug)]
pub struct Gie {
    scrape: Scrape,
    index: Index,
    dice: Dice,
}

impl Gie {
    /// In front of these pods.
    pub fn new(pods: &[FleetPod], dice: Dice) -> Gie {
        Gie { scrape: Scrape::new(pods.len(), SCRAPE_SECONDS), index: Index::new(pods), dice }
    }
}

impl Policy for Gie {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        let pods = world.candidates();
        let ratios = self.index.ratios(ask);
        let scrape = &self.scrape;
        let picks = by_score(&pods, &mut self.dice, |pod| {
            2.0 * scrape.queue_score(&pods, pod) + 2.0 * (1.0 - scrape.load(pod).kv_usage) + 3.0 * ratios[pod]
        });
        if let Some(&best) = picks.first() {
            self.index.insert(best, ask);
        }
        picks
    }

    fn on_timer(&mut self, world: &World<'_>) -> Option<f64> {
        self.scrape.take(world)
    }
}
