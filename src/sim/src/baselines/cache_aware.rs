//! SGLang's `cache_aware` with its command line's defaults: when loads are out of balance (`max - min > 64`
//! and `max > 1.5 * min` requests in flight) the least loaded pod; else the pod of the longest match in the
//! radix tree if it covers more than 0.3 of the prompt, else the least loaded; of equally loaded ones any.
//! One process, so one tree per gateway; the tree's bound of 2^26 characters per pod is far beyond what a run
//! puts in.

use std::collections::HashMap;

use super::rank::ranked;
use crate::policy::{Policy, RequestEnd, RouteRequest, World};
use crate::workload::Dice;

const THRESHOLD: f64 = 0.3;
const ABSOLUTE: usize = 64;
const RELATIVE: f64 = 1.5;

/// The picker.
#[derive(Debug)]
pub struct CacheAware {
    in_flight: Vec<usize>,
    at: HashMap<u64, usize>,
    /// Who was last sent a prompt with this block, then those before: the tree, by block instead of by
    /// character.
    tree: HashMap<u64, Vec<usize>>,
    dice: Dice,
}

impl CacheAware {
    /// In front of so many pods.
    pub fn new(pods: usize, dice: Dice) -> CacheAware {
        CacheAware { in_flight: vec![0; pods], at: HashMap::new(), tree: HashMap::new(), dice }
    }

    /// The pod of the longest match, and the share of the prompt it covers.
    fn longest(&self, ask: &RouteRequest<'_>, pods: &[usize]) -> Option<(usize, f64)> {
        let mut best = None;
        for (depth, hash) in (1..).zip(ask.blocks) {
            let Some(holders) = self.tree.get(hash) else { break };
            let Some(&pod) = holders.iter().find(|pod| pods.contains(pod)) else { break };
            best = Some((pod, f64::from(depth * ask.block_size) / f64::from(ask.prompt_tokens)));
        }
        best
    }

    fn open(&mut self, id: u64, pod: usize) {
        self.in_flight[pod] += 1;
        self.at.insert(id, pod);
    }

    fn leave(&mut self, id: u64) {
        if let Some(pod) = self.at.remove(&id) {
            self.in_flight[pod] -= 1;
        }
    }
}

impl Policy for CacheAware {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        let mut pods = ranked(&world.candidates(), &mut self.dice, |pod| -(self.in_flight[pod] as f64));
        let (Some(&idle), Some(&busy)) = (pods.first(), pods.last()) else { return pods };
        let (least, most) = (self.in_flight[idle], self.in_flight[busy]);
        let out_of_balance = most - least > ABSOLUTE && most as f64 > RELATIVE * least as f64;
        let best = match self.longest(ask, &pods) {
            Some((pod, share)) if !out_of_balance && share > THRESHOLD => pod,
            _ => idle,
        };
        for &hash in ask.blocks {
            let holders = self.tree.entry(hash).or_default();
            holders.retain(|&pod| pod != best);
            holders.insert(0, best);
        }
        self.open(ask.id, best);
        pods.retain(|&pod| pod != best);
        pods.insert(0, best);
        pods.truncate(warmpath::decide::pick::PICKS);
        pods
    }

    fn on_moved(&mut self, _world: &World<'_>, id: u64, to: usize) {
        self.leave(id);
        self.open(id, to);
    }

    fn on_end(&mut self, _world: &World<'_>, id: u64, _outcome: RequestEnd) {
        self.leave(id);
    }
}
