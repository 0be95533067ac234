//! NVIDIA Dynamo's KV router with its defaults: `cost = prefill blocks + decode blocks`, least wins,
//! equals by chance.
//!
//! Prefill blocks are those of prompts that have no first token yet plus the new one's less its overlap with
//! the pod's cache, which KV events tell exactly. Decode blocks are the distinct blocks of all active
//! requests and the new one.

use std::collections::HashMap;

use super::rank::ranked;
use crate::policy::{Policy, RequestEnd, RouteRequest, World};
use crate::workload::Dice;

/// Weight of prefill against decode (`kv_overlap_score_weight`).
const SCALE: f64 = 1.0;

/// The router.
#[derive(Debug)]
pub struct Dynamo {
    pods: Vec<Active>,
    requests: HashMap<u64, Booked>,
    dice: Dice,
}

/// What is active on a pod.
#[derive(Clone, Debug, Default)]
struct Active {
    prefill_tokens: f64,
    /// Active requests that hold each block.
    blocks: HashMap<u64, usize>,
}

#[derive(Debug)]
struct Booked {
    pod: usize,
    prefill_tokens: f64,
    blocks: Vec<u64>,
}

impl Dynamo {
    /// In front of so many pods.
    pub fn new(pods: usize, dice: Dice) -> Dynamo {
        Dynamo { pods: vec![Active::default(); pods], requests: HashMap::new(), dice }
    }

    fn open(&mut self, id: u64, booked: Booked) {
        let active = &mut self.pods[booked.pod];
        active.prefill_tokens += booked.prefill_tokens;
        for &block in &booked.blocks {
            *active.blocks.entry(block).or_default() += 1;
        }
        self.requests.insert(id, booked);
    }

    fn leave(&mut self, id: u64) -> Option<Booked> {
        let booked = self.requests.remove(&id)?;
        let active = &mut self.pods[booked.pod];
        active.prefill_tokens -= booked.prefill_tokens;
        for block in &booked.blocks {
            if let Some(count) = active.blocks.get_mut(block) {
                *count -= 1;
                if *count == 0 {
                    active.blocks.remove(block);
                }
            }
        }
        Some(booked)
    }
}

impl Policy for Dynamo {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        let block = f64::from(ask.block_size);
        let incoming = |pod: usize| {
            let overlap = world.pods[pod].engine.cached_tokens(ask.blocks, ask.prompt_tokens);
            f64::from(ask.prompt_tokens - overlap)
        };
        let pods = &self.pods;
        let mut picks = ranked(&world.candidates(), &mut self.dice, |pod| {
            let active = &pods[pod];
            let prefill = (active.prefill_tokens + incoming(pod)) / block;
            let new = ask.blocks.iter().filter(|hash| !active.blocks.contains_key(hash)).count();
            -(SCALE * prefill + (active.blocks.len() + new) as f64)
        });
        picks.truncate(warmpath::decide::pick::PICKS);
        if let Some(&pod) = picks.first() {
            let prefill_tokens = incoming(pod);
            self.open(ask.id, Booked { pod, prefill_tokens, blocks: ask.blocks.to_vec() });
        }
        picks
    }

    fn on_moved(&mut self, _world: &World<'_>, id: u64, to: usize) {
        if let Some(booked) = self.leave(id) {
            self.open(id, Booked { pod: to, ..booked });
        }
    }

    fn on_first_token(&mut self, _world: &World<'_>, id: u64) {
        if let Some(booked) = self.requests.get_mut(&id) {
            self.pods[booked.pod].prefill_tokens -= booked.prefill_tokens;
            booked.prefill_tokens = 0.0;
        }
    }

    fn on_end(&mut self, _world: &World<'_>, id: u64, _outcome: RequestEnd) {
        self.leave(id);
    }
}
