//! One vLLM pod on virtual time: continuous batching in steps of a token budget, over an LRU prefix cache of
//! KV blocks. No clock and no I/O; seconds come in as arguments, and the same calls give the same answers.
//!
//! A step is planned when it starts and its tokens are out when it ends. Planning follows vLLM's V1
//! scheduler: running requests first, in the order they were admitted, then waiting ones first come first
//! served, until the step's tokens are used up. A request that is only partly prefilled is therefore always
//! the last that runs, and the decodes before it take their one token first. A waiting request is admitted
//! when the free blocks hold all of its tokens; a running one that finds no block to grow into takes those of
//! the newest, which starts over.
//!
//! A driver asks [`Engine::next_event`], calls [`Engine::step`] at that time, and asks again after every call
//! that changes something. At equal times it submits before it steps, so that what arrives together is
//! planned together.

mod adapters;
mod chain;
mod config;
mod host;
mod pool;
mod queue;
mod step;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{HashMap, VecDeque};

pub use adapters::{AdapterLine, AdapterSlots, WaitingForAdapter};
pub use chain::Chain;
pub use config::{EngineConfig, Hardware, Profile};
use host::HostCache;
use pool::BlockPool;
pub use queue::{QueueLimit, QueueLimits, Queued};
pub use types::{BatchStep, Counters, EngineEvent, EngineLoad, EngineRequest, EventKind, SubmitError};

/// A request the engine has.
#[derive(Clone, Debug)]
struct Sequence {
    request: EngineRequest,
    /// Told apart from an earlier request in the same slot.
    serial: u64,
    /// Tokens given out.
    generated: u32,
    /// Tokens whose KV is in `table`.
    computed: u32,
    /// Leading blocks of `table` that are in the cache by hash.
    named: u32,
    /// Prompt tokens found in the cache; `None` until first admitted.
    cached_tokens: Option<u32>,
    /// The blocks it holds, in order.
    table: Vec<u32>,
}

impl Sequence {
    /// Tokens there are to compute: the prompt and what was generated after it.
    fn tokens(&self) -> u32 {
        self.request.prompt_tokens + self.generated
    }
}

/// A request's part of the step in flight.
#[derive(Clone, Copy, Debug)]
struct Share {
    slot: u32,
    serial: u64,
    tokens: u32,
}

/// The model of one pod. See the module's own words for how to drive it.
#[derive(Clone, Debug)]
pub struct Engine {
    config: EngineConfig,
    pool: BlockPool,
    host: HostCache,
    slots: Vec<Option<Sequence>>,
    empty_slots: Vec<u32>,
    by_id: HashMap<u64, u32>,
    waiting: VecDeque<u32>,
    /// In the order of admission; only the last may be partly prefilled.
    running: Vec<u32>,
    shares: Vec<Share>,
    in_flight: Option<BatchStep>,
    last_step: BatchStep,
    /// When work was found while no step was in flight.
    ready_at: f64,
    serial: u64,
    counters: Counters,
}

impl Engine {
    /// An idle pod with an empty cache.
    pub fn new(config: EngineConfig) -> Engine {
        Engine {
            pool: BlockPool::new(config.usable_blocks()),
            host: HostCache::new(config.host_blocks),
            config,
            slots: Vec::new(),
            empty_slots: Vec::new(),
            by_id: HashMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            shares: Vec::new(),
            in_flight: None,
            last_step: BatchStep::default(),
            ready_at: 0.0,
            serial: 0,
            counters: Counters::default(),
        }
    }

    /// What the pod can do.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Queues a request at `now`, in seconds. The caller has stepped the engine up to `now` before.
    pub fn submit(&mut self, now: f64, request: EngineRequest) -> Result<(), SubmitError> {
        if request.prompt_tokens == 0 {
            return Err(SubmitError::Empty);
        }
        if self.by_id.contains_key(&request.id) {
            return Err(SubmitError::DuplicateId(request.id));
        }
        let tokens = request.prompt_tokens.saturating_add(request.output_tokens);
        // The KV of the last token is never written, so one token more than the cache would still fit; asking
        // for room for all of them keeps the rule simple.
        if tokens > self.config.capacity_tokens() {
            return Err(SubmitError::TooLong { tokens, capacity: self.config.capacity_tokens() });
        }
        if self.is_idle() {
            self.ready_at = now;
        }
        self.serial += 1;
        let id = request.id;
        let sequence = Sequence {
            request,
            serial: self.serial,
            generated: 0,
            computed: 0,
            named: 0,
            cached_tokens: None,
            table: Vec::new(),
        };
        let slot = match self.empty_slots.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() as u32 - 1
            }
        };
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(sequence);
        }
        self.by_id.insert(id, slot);
        self.waiting.push_back(slot);
        Ok(())
    }

    /// When [`Engine::step`] has something to do next, in seconds; `None` while idle.
    pub fn next_event(&self) -> Option<f64> {
        match self.in_flight {
            Some(step) => Some(step.ends),
            None if self.is_idle() => None,
            None => Some(self.ready_at),
        }
    }

    /// Ends the step that is due by `now` and starts the next one at the moment it ended. Does nothing, and
    /// says `false`, when [`Engine::next_event`] is later than `now`. Events come in the order they happen.
    pub fn step(&mut self, now: f64, mut on: impl FnMut(EngineEvent)) -> bool {
        let Some(at) = self.next_event().filter(|&at| at <= now) else { return false };
        if let Some(step) = self.in_flight.take() {
            self.finish_step(step, &mut on);
        }
        if !self.is_idle() {
            self.start_step(at, &mut on);
        }
        true
    }

    /// Forgets a request and frees its blocks at once. `false` when there is none of that id, or none any
    /// more.
    pub fn abort(&mut self, id: u64) -> bool {
        let Some(slot) = self.by_id.get(&id).copied() else { return false };
        self.waiting.retain(|&s| s != slot);
        self.running.retain(|&s| s != slot);
        self.remove(slot);
        true
    }

    /// What a scrape would say now.
    pub fn load(&self) -> EngineLoad {
        let total = self.pool.total().max(1);
        EngineLoad {
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            kv_usage: f64::from(self.pool.total() - self.pool.free()) / f64::from(total),
        }
    }

    /// Sums since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The last step that ended.
    pub fn last_step(&self) -> BatchStep {
        self.last_step
    }

    /// Prompt tokens a request with these blocks would find in the cache if it were admitted now. Changes
    /// nothing, not even the order of eviction.
    pub fn cached_tokens(&self, blocks: &[u64], prompt_tokens: u32) -> u32 {
        let on_gpu = self.prefix(blocks, prompt_tokens).count();
        (on_gpu + self.host_prefix(blocks, on_gpu, prompt_tokens)) as u32 * self.config.block_size
    }

    /// Empties the prefix cache, that of host memory included. Requests under way keep the blocks they have.
    pub fn reset_prefix_cache(&mut self) {
        self.pool.forget_all();
        self.host.clear();
    }

    /// The pod starts anew: nothing runs or waits, the cache is empty, the counters are zero. The requests it
    /// had are gone without an event.
    pub fn restart(&mut self) {
        *self = Engine::new(self.config.clone());
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Empties a slot; the caller sees to the queues.
    fn remove(&mut self, slot: u32) {
        let Some(mut sequence) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        free_table(&mut self.pool, &mut sequence.table);
        self.by_id.remove(&sequence.request.id);
        self.empty_slots.push(slot);
    }
}

/// Frees a request's blocks last one first, so that tails are evicted before the heads that others may share.
fn free_table(pool: &mut BlockPool, table: &mut Vec<u32>) {
    for block in table.drain(..).rev() {
        pool.release(block);
    }
}
