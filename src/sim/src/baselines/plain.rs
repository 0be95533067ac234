//! Load balancers that know nothing of prompts.

use std::collections::HashMap;

use super::rank::by_score;
use crate::policy::{Policy, RequestEnd, RouteRequest, World};
use crate::workload::Dice;

/// Any pod.
#[derive(Debug)]
pub struct Random(Dice);

impl Random {
    /// With this chance.
    pub fn new(dice: Dice) -> Random {
        Random(dice)
    }
}

impl Policy for Random {
    fn choose(&mut self, world: &World<'_>, _ask: &RouteRequest<'_>) -> Vec<usize> {
        by_score(&world.candidates(), &mut self.0, |_| 0.0)
    }
}

/// One pod after another.
#[derive(Debug)]
pub struct RoundRobin(usize);

impl RoundRobin {
    /// Starts at a pod: gateways that all start at the first would go in step.
    pub fn new(start: usize) -> RoundRobin {
        RoundRobin(start)
    }
}

impl Policy for RoundRobin {
    fn choose(&mut self, world: &World<'_>, _ask: &RouteRequest<'_>) -> Vec<usize> {
        let mut pods = world.candidates();
        let at = self.0 % pods.len().max(1);
        self.0 += 1;
        pods.rotate_left(at);
        pods
    }
}

/// Envoy's LEAST_REQUEST with equal weights: of two pods at random, the one with fewer requests of this
/// gateway in flight. Envoy draws with replacement; so does this.
#[derive(Debug)]
pub struct LeastRequest {
    in_flight: Vec<usize>,
    at: HashMap<u64, usize>,
    dice: Dice,
}

impl LeastRequest {
    /// In front of so many pods.
    pub fn new(pods: usize, dice: Dice) -> LeastRequest {
        LeastRequest { in_flight: vec![0; pods], at: HashMap::new(), dice }
    }

    fn leave(&mut self, id: u64) -> Option<usize> {
        let pod = self.at.remove(&id)?;
        self.in_flight[pod] -= 1;
        Some(pod)
    }
}

impl Policy for LeastRequest {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        let pods = world.candidates();
        if pods.is_empty() {
            return pods;
        }
        let (a, b) = (pods[self.dice.below(pods.len())], pods[self.dice.below(pods.len())]);
        let best = if self.in_flight[b] < self.in_flight[a] { b } else { a };
        self.in_flight[best] += 1;
        self.at.insert(ask.id, best);
        // A retry draws again.
        let mut picks = by_score(&pods, &mut self.dice, |_| 0.0);
        picks.retain(|&pod| pod != best);
        picks.insert(0, best);
        picks
    }

    fn on_moved(&mut self, _world: &World<'_>, id: u64, to: usize) {
        if self.leave(id).is_some() {
            self.in_flight[to] += 1;
            self.at.insert(id, to);
        }
    }

    fn on_end(&mut self, _world: &World<'_>, id: u64, _outcome: RequestEnd) {
        self.leave(id);
    }
}
