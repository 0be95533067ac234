//! Higress' `ai-endpoint-picker`: the same signals as GIE's, in Envoy, but every worker has an index of its
//! own and loads are those of a health check every two seconds.
//!
//! `S = (2 * queue + 2 * (1 - kv) + 3 * prefix + 1 * inflight) / 8`, where `inflight` is the worker's own
//! requests in flight, scaled like the queue, which corrects what is old in a scrape, and `prefix = 0.75 * m
//! / t + 0.25 * min(m / 8192, 1)^2` in tokens. The prompt is cut at messages, and long messages at 1,024
//! tokens; tails are evicted before heads.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::prefixes::Lru;
use super::rank::by_score;
use super::scrape::{Scrape, inverted};
use crate::policy::{FleetPod, Policy, RequestEnd, RouteRequest, World};
use crate::workload::Dice;

const SCRAPE_SECONDS: f64 = 2.0;
/// Tokens of a segment, at most.
const SEGMENT: u32 = 1024;

/// The picker of all workers of a gateway.
#[derive(Debug)]
pub struct EndpointPicker {
    scrape: Scrape,
    /// By worker and pod, in KV blocks.
    indexes: Vec<Vec<Lru>>,
    /// By worker and pod.
    in_flight: Vec<Vec<u32>>,
    /// Worker and pod of each request.
    at: HashMap<u64, (usize, usize)>,
    dice: Dice,
}

impl EndpointPicker {
    /// In front of these pods.
    pub fn new(pods: &[FleetPod], workers: usize, dice: Dice) -> EndpointPicker {
        let index =
            || pods.iter().map(|pod| Lru::new(u64::from(pod.engine.config().num_gpu_blocks))).collect();
        EndpointPicker {
            scrape: Scrape::new(pods.len(), SCRAPE_SECONDS),
            indexes: (0..workers.max(1)).map(|_| index()).collect(),
            in_flight: vec![vec![0; pods.len()]; workers.max(1)],
            at: HashMap::new(),
            dice,
        }
    }

    fn open(&mut self, id: u64, worker: usize, pod: usize) {
        self.in_flight[worker][pod] += 1;
        self.at.insert(id, (worker, pod));
    }

    fn leave(&mut self, id: u64) -> Option<usize> {
        let (worker, pod) = self.at.remove(&id)?;
        self.in_flight[worker][pod] -= 1;
        Some(worker)
    }
}

/// Chained hashes of the segments, and the tokens of each.
fn segments(ask: &RouteRequest<'_>) -> Vec<(u64, u32)> {
    let mut segments = Vec::new();
    let mut last = 0;
    for span in ask.spans {
        let mut from = 0;
        while from < span.tokens {
            let tokens = (span.tokens - from).min(SEGMENT);
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&span.name.to_le_bytes());
            bytes[8..12].copy_from_slice(&from.to_le_bytes());
            bytes[12..].copy_from_slice(&tokens.to_le_bytes());
            last = xxh3_64_with_seed(&bytes, last);
            segments.push((last, tokens));
            from += tokens;
        }
    }
    segments
}

fn prefix_score(matched: u32, total: u32) -> f64 {
    let (matched, total) = (f64::from(matched), f64::from(total.max(1)));
    0.75 * matched / total + 0.25 * (matched / 8192.0).min(1.0).powi(2)
}

impl Policy for EndpointPicker {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        let pods = world.candidates();
        let segments = segments(ask);
        let index = &mut self.indexes[ask.worker];
        let scrape = &self.scrape;
        let in_flight = &self.in_flight[ask.worker];
        let picks = by_score(&pods, &mut self.dice, |pod| {
            let matched = segments
                .iter()
                .take_while(|(hash, _)| index[pod].contains(*hash))
                .map(|(_, tokens)| tokens)
                .sum();
            let queue = scrape.queue_score(&pods, pod);
            let kv = 1.0 - scrape.load(pod).kv_usage;
            let free = inverted(&pods, pod, |pod| in_flight[pod]);
            (2.0 * queue + 2.0 * kv + 3.0 * prefix_score(matched, ask.prompt_tokens) + free) / 8.0
        });
        if let Some(&best) = picks.first() {
            for &(hash, tokens) in segments.iter().rev() {
                index[best].touch(hash, u64::from(tokens.div_ceil(ask.block_size)));
            }
            self.open(ask.id, ask.worker, best);
        }
        picks
    }

    fn on_moved(&mut self, _world: &World<'_>, id: u64, to: usize) {
        if let Some(worker) = self.leave(id) {
            self.open(id, worker, to);
        }
    }

    fn on_end(&mut self, _world: &World<'_>, id: u64, _outcome: RequestEnd) {
        self.leave(id);
    }

    fn on_timer(&mut self, world: &World<'_>) -> Option<f64> {
        self.scrape.take(world)
    }
}
