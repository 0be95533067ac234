//! The engines in real time, and what the handlers share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc};

use super::PodConfig;
use super::adapters::AdapterSlots;
use super::admission::{Admission, Queued, Rejections, busy};
use super::clock::Clock;
use super::error::ApiError;
use super::faults::{Faults, Treatment};
use super::live::{LiveRequest, Progress, on_event};
use super::metrics::{EngineView, Hist, Page, PageView, SleepLevel, Stats};
use super::models::Models;
use super::store::ResponseStore;
use super::tokens::AnswerPlan;
use crate::engine::{Chain, Counters, Engine, EngineLoad, EngineRequest};

/// One pod, shared by its connections and the task that drives the engines.
pub(super) struct LivePod {
    pub(super) config: PodConfig,
    pub(super) models: Models,
    pub(super) responses: ResponseStore,
    page: Page,
    state: Mutex<State>,
    /// Told when an engine has something to do earlier than the driver knows.
    wake: Notify,
}

struct State {
    engines: Vec<LiveEngine>,
    clock: Clock,
    /// Unix seconds.
    started: f64,
    live: HashMap<u64, LiveRequest>,
    adapters: AdapterSlots,
    rejections: Rejections,
    next_id: u64,
    faults: Faults,
    sleep: SleepLevel,
    /// What the metrics page says while the engines hang.
    page_while_hung: Option<String>,
    /// Whether there has been a request since the start.
    used: bool,
}

struct LiveEngine {
    engine: Engine,
    /// HTTP requests are counted with the first engine.
    stats: Stats,
    /// The load after the last batch: what stale gauges show.
    last_load: EngineLoad,
}

/// What a request asks for, beside its prompt.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerLimits {
    /// Tokens of the answer at most; `None` is as many as the model's length allows.
    pub(super) max_tokens: Option<u32>,
    /// Go on to the limit instead of stopping.
    pub(super) ignore_eos: bool,
    pub(super) streams: bool,
    /// See [`AnswerPlan::stands_alone`].
    pub(super) stands_alone: bool,
    /// The request is an embedding: no answer at all.
    pub(super) prefill_only: bool,
}

/// Where a request is computed.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    pub(super) adapter: Option<String>,
    /// The engine; `None` is the one with the least load.
    pub(super) rank: Option<u32>,
}

/// A request that an engine has taken.
pub(super) struct Submitted {
    pub(super) id: u64,
    /// How far it is, whenever that changes.
    pub(super) progress: mpsc::UnboundedReceiver<Progress>,
    pub(super) prompt_tokens: u32,
    pub(super) answer: AnswerPlan,
}

impl LivePod {
    pub(super) fn new(config: PodConfig) -> LivePod {
        let page = Page::new(&config);
        let engine = || LiveEngine {
            engine: Engine::new(config.engine.clone()),
            stats: page.empty_stats(),
            last_load: EngineLoad::default(),
        };
        let mut state = State {
            engines: (0..config.engines.max(1)).map(|_| engine()).collect(),
            clock: Clock::new(config.speed_up),
            started: unix_seconds(),
            live: HashMap::new(),
            adapters: AdapterSlots::new(config.max_loras, config.adapter_load_seconds),
            rejections: Rejections::default(),
            next_id: 0,
            faults: config.faults.clone(),
            sleep: SleepLevel::Awake,
            page_while_hung: None,
            used: false,
        };
        state.clock.set_rate(state.rate(config.speed_up));
        let models = Models::new(&config);
        let responses = ResponseStore::default();
        LivePod { config, models, responses, page, state: Mutex::new(state), wake: Notify::new() }
    }

    /// Runs the engines for as long as the pod lives.
    pub(super) async fn drive(self: Arc<LivePod>) {
        loop {
            let due = {
                let mut state = self.lock();
                state.catch_up();
                state.next_event().map(|at| state.clock.when(at))
            };
            match due {
                None => self.wake.notified().await,
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake.notified() => {}
                },
            }
        }
    }

    /// Sends a prompt to an engine.
    ///
    /// # Errors
    /// 400 for a prompt or limits that the model cannot have, 503 when the pod is full.
    pub(super) fn submit(
        &self,
        prompt: Chain,
        limits: AnswerLimits,
        target: Target,
    ) -> Result<Submitted, ApiError> {
        let prompt_tokens = prompt.tokens();
        let room = self.room(prompt_tokens, limits)?;
        let limit = limits.max_tokens.unwrap_or(room);
        let stops = !limits.ignore_eos && self.config.default_output_tokens <= limit;
        let answer = AnswerPlan {
            seed: prompt.digest() ^ self.config.seed,
            tokens: match limits.prefill_only {
                true => 0,
                false if stops => self.config.default_output_tokens,
                false => limit,
            },
            stops,
            stands_alone: limits.stands_alone,
        };
        let mut all = prompt;
        answer.tokenize(|token| all.push_token(token));
        let (news, progress) = mpsc::unbounded_channel();
        let mut state = self.lock();
        state.catch_up();
        let admission = Admission {
            max_requests: self.config.max_queued_requests,
            max_tokens: self.config.max_queued_tokens,
        };
        let queued = state.queued();
        if !admission.admit(queued, &mut state.rejections) {
            return Err(busy());
        }
        let now = state.clock.now();
        let id = state.next_id;
        state.next_id += 1;
        state.used = true;
        let engine = state.engine_for(target.rank)?;
        let request =
            EngineRequest { id, blocks: all.shared_blocks(), prompt_tokens, output_tokens: answer.tokens };
        match target.adapter.clone() {
            Some(adapter) => state.adapters.push(engine, request, adapter),
            None => state.submit(now, engine, request)?,
        }
        let live = LiveRequest {
            news,
            engine,
            adapter: target.adapter,
            streams: limits.streams,
            stops,
            arrived: now,
            scheduled: now,
            first_token: now,
            last_token: now,
            prompt_tokens,
            cached_tokens: 0,
            generated: 0,
            max_tokens: limit,
            preemptions: 0,
        };
        state.live.insert(id, live);
        state.assign_adapters();
        drop(state);
        self.wake.notify_one();
        Ok(Submitted { id, progress, prompt_tokens, answer })
    }

    /// Tokens that an answer may have after a prompt of `prompt_tokens`.
    fn room(&self, prompt_tokens: u32, limits: AnswerLimits) -> Result<u32, ApiError> {
        let longest = self.config.max_model_len;
        if prompt_tokens == 0 {
            return Err(ApiError::bad_request("prompt", "The prompt is empty.".to_owned()));
        }
        let room = longest.saturating_sub(prompt_tokens);
        if room == 0 || limits.max_tokens.is_some_and(|tokens| tokens > room) {
            let asked = limits.max_tokens.unwrap_or(1);
            let message = format!(
                "This model's maximum context length is {longest} tokens. However, you requested {asked} output tokens \
                 and your prompt contains {prompt_tokens} input tokens. Please reduce the length of the input prompt \
                 or the number of requested output tokens."
            );
            return Err(ApiError::bad_request("input_tokens", message));
        }
        if limits.max_tokens == Some(0) {
            let message = "max_tokens must be at least 1, got 0.".to_owned();
            return Err(ApiError::bad_request("max_tokens", message));
        }
        Ok(room)
    }

    /// The client of a request is gone.
    pub(super) fn abort(&self, id: u64) {
        let mut state = self.lock();
        let Some(request) = state.live.remove(&id) else { return };
        state.catch_up();
        state.adapters.abort(id);
        if let Some(engine) = state.engines.get_mut(request.engine) {
            engine.engine.abort(id);
            engine.stats.aborted += 1;
        }
        state.assign_adapters();
    }

    /// `GET /metrics`, or nothing when a fault forbids it.
    pub(super) fn metrics(&self) -> Option<String> {
        let mut state = self.lock();
        if state.faults.refuse_metrics {
            return None;
        }
        state.catch_up();
        Some(state.page_while_hung.clone().unwrap_or_else(|| state.render(&self.page)))
    }

    /// How much later the metrics page comes, and how long making it holds the thread up.
    pub(super) fn metrics_cost(&self) -> (Duration, Duration) {
        let faults = &self.lock().faults;
        (Duration::from_millis(faults.metrics_delay_ms), Duration::from_millis(faults.metrics_busy_ms))
    }

    /// Requests the engines have.
    pub(super) fn in_flight(&self) -> usize {
        self.lock().live.len()
    }

    /// Virtual seconds since the pod began.
    pub(super) fn now(&self) -> f64 {
        self.lock().clock.now()
    }

    /// How often a stream that waits for its first token gets a comment.
    pub(super) fn keep_alive(&self) -> Option<Duration> {
        self.lock().faults.keep_alive()
    }

    /// Counts an answered HTTP request that came in at `since`.
    pub(super) fn count_http(
        &self,
        path: &str,
        ok: bool,
        request_bytes: u64,
        response_bytes: u64,
        since: f64,
    ) {
        let mut state = self.lock();
        let seconds = state.clock.now() - since;
        if let Some(engine) = state.engines.first_mut() {
            engine.stats.http(path, ok, request_bytes, response_bytes, seconds);
        }
    }

    // === what an operator does ===

    /// Empties the prefix caches, whatever runs.
    pub(super) fn reset_prefix_cache(&self) {
        let mut state = self.lock();
        state.catch_up();
        state.engines.iter_mut().for_each(|engine| engine.engine.reset_prefix_cache());
    }

    /// Puts the engines to sleep, which empties their caches, or wakes them. What they have stands still meanwhile.
    pub(super) fn set_sleep(&self, level: SleepLevel) {
        let mut state = self.lock();
        state.catch_up();
        state.sleep = level;
        if level != SleepLevel::Awake {
            state.engines.iter_mut().for_each(|engine| engine.engine.reset_prefix_cache());
        }
        let rate = state.rate(self.config.speed_up);
        state.clock.set_rate(rate);
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn sleeps(&self) -> bool {
        self.lock().sleep != SleepLevel::Awake
    }

    // === faults ===

    /// How the next inference request is treated.
    pub(super) fn next_treatment(&self) -> Treatment {
        self.lock().faults.next()
    }

    pub(super) fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    /// Replaces all faults, at once.
    pub(super) fn set_faults(&self, faults: Faults) {
        let mut state = self.lock();
        state.catch_up();
        if faults.restart {
            state.restart(self.page.empty_stats());
            self.responses.clear();
        }
        state.page_while_hung = match (faults.hang, state.page_while_hung.take()) {
            (false, _) => None,
            (true, Some(page)) => Some(page),
            (true, None) => Some(state.render(&self.page)),
        };
        state.faults = Faults { restart: false, ..faults };
        let rate = state.rate(self.config.speed_up);
        state.clock.set_rate(rate);
        drop(state);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counters and queues that are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Virtual seconds per real one: none while the engines stand still.
    fn rate(&self, speed_up: f64) -> f64 {
        if self.stands_still() { 0.0 } else { speed_up / self.faults.slow_down }
    }

    fn stands_still(&self) -> bool {
        self.faults.hang || self.sleep != SleepLevel::Awake
    }

    fn next_event(&self) -> Option<f64> {
        if self.stands_still() {
            return None;
        }
        let engines = self.engines.iter().filter_map(|engine| engine.engine.next_event());
        engines.chain(self.adapters.next_ready()).min_by(f64::total_cmp)
    }

    /// Steps the engines to the present.
    fn catch_up(&mut self) {
        if self.stands_still() {
            return;
        }
        let now = self.clock.now();
        while let Some(at) = self.adapters.next_ready().filter(|&at| at <= now) {
            self.step_to(at);
            while let Some(ready) = self.adapters.take_ready(at) {
                // It fits: that was seen when it came.
                let _ = self.submit(at, ready.engine, ready.request);
            }
            self.assign_adapters();
        }
        self.step_to(now);
        self.assign_adapters();
    }

    fn step_to(&mut self, now: f64) {
        let State { engines, live, .. } = self;
        for LiveEngine { engine, stats, last_load } in engines {
            loop {
                let Counters { steps, finished, generation_tokens: generated, .. } = *engine.counters();
                if !engine.step(now, |event| on_event(live, stats, event)) {
                    break;
                }
                let (load, counters) = (engine.load(), engine.counters());
                // A batch whose clients have all left says nothing of what remains.
                if load.running + load.waiting > 0 || counters.finished > finished {
                    *last_load = load;
                }
                if counters.steps > steps {
                    let tokens =
                        u64::from(engine.last_step().prefill_tokens) + counters.generation_tokens - generated;
                    stats.observe(Hist::IterationTokens, tokens as f64);
                }
            }
        }
    }

    fn submit(&mut self, now: f64, engine: usize, request: EngineRequest) -> Result<(), ApiError> {
        let Some(engine) = self.engines.get_mut(engine) else { return Ok(()) };
        engine
            .engine
            .submit(now, request)
            .map_err(|error| ApiError::bad_request("input_tokens", error.to_string()))
    }

    /// The engine that a request names, or the one with the least load: a request that waits counts as four that run,
    /// as in vLLM's own balancing.
    fn engine_for(&self, rank: Option<u32>) -> Result<usize, ApiError> {
        let count = self.engines.len();
        if let Some(rank) = rank {
            return Some(rank as usize).filter(|&rank| rank < count).ok_or_else(|| {
                let message = format!("data_parallel_rank {rank} is out of range [0, {count}).");
                ApiError::bad_request("data_parallel_rank", message)
            });
        }
        let load = |number: &usize| {
            self.engines.get(*number).map_or(0, |engine| {
                let EngineLoad { running, waiting, .. } = engine.engine.load();
                4 * (waiting + self.adapters.waiting(*number)) + running
            })
        };
        Ok((0..count).min_by_key(load).unwrap_or(0))
    }

    /// What counts against the admission limits.
    fn queued(&self) -> Queued {
        let without_token = self.live.values().filter(|request| request.generated == 0);
        Queued {
            requests: self.live.len() as u32,
            prompt_tokens: without_token.map(|request| u64::from(request.prompt_tokens)).sum(),
        }
    }

    /// Gives free slots to adapters that requests wait for, and notes which adapters have requests.
    fn assign_adapters(&mut self) {
        let mut of_adapter: Vec<(&str, usize)> = Vec::new();
        let mut ids: Vec<&u64> =
            self.live.iter().filter(|(_, r)| r.adapter.is_some()).map(|(id, _)| id).collect();
        ids.sort_unstable();
        for adapter in ids.into_iter().filter_map(|id| self.live.get(id)?.adapter.as_deref()) {
            match of_adapter.iter_mut().find(|(name, _)| *name == adapter) {
                Some((_, requests)) => *requests += 1,
                None => of_adapter.push((adapter, 1)),
            }
        }
        if of_adapter.is_empty() && self.adapters.lines().is_empty() {
            return;
        }
        let in_use: Vec<String> = of_adapter
            .iter()
            .filter(|(name, requests)| *requests > self.adapters.without_slot(name))
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let names: Vec<&str> = of_adapter.iter().map(|(name, _)| *name).collect();
        self.adapters.note(names.join(","), unix_seconds());
        let now = self.clock.now();
        self.adapters.assign(now, |adapter| in_use.iter().any(|name| name == adapter));
    }

    /// As after a crash: nothing is known any more.
    fn restart(&mut self, empty: Stats) {
        for engine in &mut self.engines {
            engine.engine.restart();
            engine.stats = empty.clone();
            engine.last_load = EngineLoad::default();
        }
        // Their handlers see the channel close.
        self.live.clear();
        self.adapters.clear();
        self.rejections = Rejections::default();
        self.sleep = SleepLevel::Awake;
        self.page_while_hung = None;
        self.used = false;
        self.started = unix_seconds();
    }

    fn render(&self, page: &Page) -> String {
        let mut engines = Vec::with_capacity(self.engines.len());
        for (number, live) in self.engines.iter().enumerate() {
            engines.push(EngineView {
                load: if self.faults.stale_gauges { live.last_load } else { live.engine.load() },
                deferred: self.adapters.waiting(number) + if number == 0 { self.faults.deferred } else { 0 },
                counters: *live.engine.counters(),
                stats: &live.stats,
            });
        }
        page.render(&PageView {
            engines: &engines,
            started: self.started,
            used: self.used,
            sleep: self.sleep,
            rejections: self.rejections,
            adapters: self.adapters.lines(),
        })
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
