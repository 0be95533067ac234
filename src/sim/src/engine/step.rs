//! One step of the engine: who gets which of its tokens when it starts, and what is out when it ends.

use super::{BatchStep, Engine, EngineEvent, EventKind, Share, free_table};

/// A step in the making.
#[derive(Default)]
struct Plan {
    /// Tokens left.
    budget: u32,
    prefill_tokens: u32,
    /// Tokens copied back from host memory.
    copied_tokens: u32,
    decodes: u32,
    context_tokens: u64,
}

impl Engine {
    // === planning a step ===

    pub(super) fn start_step(&mut self, at: f64, on: &mut impl FnMut(EngineEvent)) {
        let mut plan = Plan { budget: self.config.max_num_batched_tokens, ..Plan::default() };
        self.shares.clear();
        let preempted = self.plan_running(at, &mut plan, on);
        // Whoever lost blocks in this step would take them right back.
        if !preempted {
            self.plan_waiting(at, &mut plan, on);
        }
        let config = &self.config;
        let seconds = config.step_seconds
            + f64::from(plan.prefill_tokens) / config.prefill_tokens_per_second
            + f64::from(plan.copied_tokens) / config.host_tokens_per_second
            + f64::from(plan.decodes) * config.decode_seconds_per_seq
            + plan.context_tokens as f64 * config.decode_seconds_per_context_token;
        self.in_flight = Some(BatchStep {
            began: at,
            ends: at + seconds,
            prefill_tokens: plan.prefill_tokens,
            decodes: plan.decodes,
        });
    }

    /// Gives the running requests their tokens; says whether one of them had to be preempted.
    fn plan_running(&mut self, at: f64, plan: &mut Plan, on: &mut impl FnMut(EngineEvent)) -> bool {
        let mut preempted = false;
        let mut next = 0;
        while let Some(&slot) = self.running.get(next) {
            let Some(sequence) = self.slots.get(slot as usize).and_then(Option::as_ref) else { break };
            let tokens = (sequence.tokens() - sequence.computed).min(plan.budget);
            if tokens == 0 {
                break;
            }
            let blocks = (sequence.computed + tokens).div_ceil(self.config.block_size);
            let missing = blocks.saturating_sub(sequence.table.len() as u32);
            while self.pool.free() < missing {
                preempted = true;
                let Some(newest) = self.running.pop() else { break };
                self.preempt(newest, at, on);
            }
            // It may have been the newest itself.
            if next >= self.running.len() {
                break;
            }
            self.give(slot, tokens, missing, plan);
            next += 1;
        }
        preempted
    }

    fn plan_waiting(&mut self, at: f64, plan: &mut Plan, on: &mut impl FnMut(EngineEvent)) {
        while plan.budget > 0 && self.running.len() < self.config.max_num_seqs as usize {
            let Some(&slot) = self.waiting.front() else { break };
            let Some(sequence) = self.slots.get(slot as usize).and_then(Option::as_ref) else { break };
            let all = sequence.tokens();
            let mut hits: Vec<u32> = self.prefix(&sequence.request.blocks, all).collect();
            let in_host = self.host_prefix(&sequence.request.blocks, hits.len(), all) as u32;
            let kept = hits.iter().filter(|&&block| self.pool.is_free(block)).count() as u32;
            // All of its tokens must fit, not just this step's: vLLM checks the same to avoid admitting what
            // it would have to preempt.
            let missing = all.div_ceil(self.config.block_size) - hits.len() as u32;
            if missing > self.pool.free() - kept {
                break;
            }
            let on_gpu = hits.len() as u32 * self.config.block_size;
            let cached = on_gpu + in_host * self.config.block_size;
            for &block in &hits {
                self.pool.hold(block);
            }
            for hash in sequence.request.blocks.iter().skip(hits.len()).take(in_host as usize) {
                let Some(block) = self.pool.take() else { break };
                self.pool.name(block, *hash);
                self.host.touch(*hash);
                hits.push(block);
            }
            plan.copied_tokens += cached - on_gpu;
            self.waiting.pop_front();
            self.running.push(slot);
            let Some(sequence) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { break };
            sequence.computed = cached;
            sequence.named = hits.len() as u32;
            sequence.table = hits;
            if sequence.cached_tokens.is_none() {
                sequence.cached_tokens = Some(cached);
                self.counters.prefix_queries += u64::from(all);
                self.counters.prefix_hits += u64::from(on_gpu);
                if self.config.host_blocks > 0 {
                    self.counters.host_queries += u64::from(all - on_gpu);
                    self.counters.host_hits += u64::from(cached - on_gpu);
                }
                on(EngineEvent {
                    id: sequence.request.id,
                    at,
                    what: EventKind::Scheduled { cached_tokens: cached },
                });
            }
            let tokens = (all - cached).min(plan.budget);
            let blocks = (cached + tokens).div_ceil(self.config.block_size);
            let more = blocks - sequence.table.len() as u32;
            self.give(slot, tokens, more, plan);
        }
    }

    /// The cached blocks at the start of `blocks`. At least one of the `tokens` is left over, because the
    /// model must compute something to give the next token.
    pub(super) fn prefix<'a>(&'a self, blocks: &'a [u64], tokens: u32) -> impl Iterator<Item = u32> + 'a {
        let most = tokens.saturating_sub(1) / self.config.block_size;
        blocks.iter().take(most as usize).map_while(|&hash| self.pool.find(hash))
    }

    /// How many of the blocks after the first `on_gpu` host memory holds in a row, with the same token left
    /// over.
    pub(super) fn host_prefix(&self, blocks: &[u64], on_gpu: usize, tokens: u32) -> usize {
        let most = (tokens.saturating_sub(1) / self.config.block_size) as usize;
        blocks.iter().take(most).skip(on_gpu).take_while(|&&hash| self.host.holds(hash)).count()
    }

    /// Puts `tokens` of a request into the step, with `blocks` more blocks. What the step computes is in the
    /// cache at once: a request planned after it in the same step may already use it, as in vLLM.
    fn give(&mut self, slot: u32, tokens: u32, blocks: u32, plan: &mut Plan) {
        let Some(sequence) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        for _ in 0..blocks {
            sequence.table.extend(self.pool.take());
        }
        let full = (sequence.computed + tokens) / self.config.block_size;
        let named = sequence.named as usize;
        let hashes = sequence.request.blocks.iter().take(full as usize).skip(named);
        for (&block, &hash) in sequence.table.iter().skip(named).zip(hashes) {
            self.pool.name(block, hash);
            self.host.touch(hash);
        }
        sequence.named = full.max(sequence.named);
        let decodes = sequence.generated > 0 && sequence.computed + 1 == sequence.tokens();
        plan.budget -= tokens;
        if decodes {
            plan.decodes += 1;
            plan.context_tokens += u64::from(sequence.tokens());
        } else {
            plan.prefill_tokens += tokens;
        }
        self.shares.push(Share { slot, serial: sequence.serial, tokens });
    }

    /// Takes all blocks from a request and puts it first in the queue.
    fn preempt(&mut self, slot: u32, at: f64, on: &mut impl FnMut(EngineEvent)) {
        let Some(sequence) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        free_table(&mut self.pool, &mut sequence.table);
        sequence.computed = 0;
        sequence.named = 0;
        self.waiting.push_front(slot);
        self.counters.preemptions += 1;
        on(EngineEvent { id: sequence.request.id, at, what: EventKind::Preempted });
    }

    // === ending a step ===

    pub(super) fn finish_step(&mut self, step: BatchStep, on: &mut impl FnMut(EngineEvent)) {
        let at = step.ends;
        self.counters.steps += 1;
        self.counters.busy_seconds += step.ends - step.began;
        self.last_step = step;
        self.ready_at = at;
        let mut finished = false;
        let shares = std::mem::take(&mut self.shares);
        for share in &shares {
            let place = self.slots.get_mut(share.slot as usize).and_then(Option::as_mut);
            // A request that was aborted meanwhile has left its slot.
            let Some(sequence) = place.filter(|s| s.serial == share.serial) else { continue };
            sequence.computed += share.tokens;
            if sequence.computed < sequence.tokens() {
                continue;
            }
            let id = sequence.request.id;
            if sequence.generated == 0 {
                self.counters.prompt_tokens += u64::from(sequence.request.prompt_tokens);
                self.counters.prompt_tokens_cached += u64::from(sequence.cached_tokens.unwrap_or(0));
            }
            if sequence.request.output_tokens > 0 {
                sequence.generated += 1;
                self.counters.generation_tokens += 1;
                let what = match sequence.generated {
                    1 => EventKind::FirstToken,
                    generated => EventKind::Token { generated },
                };
                on(EngineEvent { id, at, what });
            }
            if sequence.generated >= sequence.request.output_tokens {
                finished = true;
                self.counters.finished += 1;
                self.remove(share.slot);
                on(EngineEvent { id, at, what: EventKind::Finished });
            }
        }
        self.shares = shares;
        if finished {
            let slots = &self.slots;
            self.running.retain(|&slot| slots.get(slot as usize).is_some_and(Option::is_some));
        }
    }
}
