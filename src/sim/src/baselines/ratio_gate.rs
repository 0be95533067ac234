//! The reference's PREFIX_CACHE: when more than half of the prompt matches somewhere, the best match gets it,
//! whatever its load; else the filter tree of GIE v0.3 chooses by load (the branch of critical requests,
//! which sheds nothing).

use super::gie::{Index, SCRAPE_SECONDS};
use super::rank::by_score;
use super::scrape::Scrape;
use crate::policy::{FleetPod, Policy, RouteRequest, World};
use crate::workload::Dice;

/// The gate.
const RATIO: f64 = 0.5;
/// Queues longer than this are left out while shorter ones are there.
const LONG_QUEUE: u32 = 128;

/// The picker.
#[derive(Debug)]
pub struct RatioGate {
    scrape: Scrape,
    index: Index,
    dice: Dice,
}

impl RatioGate {
    /// In front of these pods.
    pub fn new(pods: &[FleetPod], dice: Dice) -> RatioGate {
        RatioGate { scrape: Scrape::new(pods.len(), SCRAPE_SECONDS), index: Index::new(pods), dice }
    }

    /// GIE v0.3: short queues, then the least range of queues, then the least range of KV use.
    fn by_load(&self, pods: &[usize]) -> Vec<usize> {
        let queue = |pod: usize| self.scrape.load(pod).waiting;
        let short: Vec<usize> = pods.iter().copied().filter(|&pod| queue(pod) < LONG_QUEUE).collect();
        let pods = if short.is_empty() { pods.to_vec() } else { short };
        // Integer division, as there.
        let (least, most) = range(pods.iter().map(|&pod| queue(pod)));
        let bound = least + (most - least) / (pods.len().max(1) as u32);
        let pods: Vec<usize> = pods.into_iter().filter(|&pod| queue(pod) <= bound).collect();
        let used = |pod: usize| self.scrape.load(pod).kv_usage;
        let least = pods.iter().map(|&pod| used(pod)).fold(f64::INFINITY, f64::min);
        let most = pods.iter().map(|&pod| used(pod)).fold(0.0, f64::max);
        let bound = least + (most - least) / pods.len().max(1) as f64;
        pods.into_iter().filter(|&pod| used(pod) <= bound).collect()
    }
}

fn range(values: impl Iterator<Item = u32> + Clone) -> (u32, u32) {
    (values.clone().min().unwrap_or(0), values.max().unwrap_or(0))
}

impl Policy for RatioGate {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        let pods = world.candidates();
        let ratios = self.index.ratios(ask);
        let matched = pods.iter().any(|&pod| ratios[pod] > RATIO);
        let kept = if matched { Vec::new() } else { self.by_load(&pods) };
        let picks = by_score(&pods, &mut self.dice, |pod| {
            if matched { ratios[pod] } else { f64::from(u8::from(kept.contains(&pod))) }
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
