//! The engine in real time, and what the handlers share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc};

use super::PodConfig;
use super::clock::Clock;
use super::error::ApiError;
use super::faults::{Fate, Faults};
use super::live::{Live, Progress, on_event};
use super::metrics::{Hist, Page, Stats};
use super::tokens::Answer;
use crate::engine::{Chain, Engine, EngineRequest};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One pod, shared by its connections and the task that drives the engine.
pub(super) struct Pod {
    pub(super) config: PodConfig,
    page: Page,
    state: Mutex<State>,
    /// Told when the engine has something to do earlier than the driver knows.
    wake: Notify,
}

struct State {
    engine: Engine,
    clock: Clock,
    /// Unix seconds.
    started: f64,
    stats: Stats,
    live: HashMap<u64, Live>,
    next_id: u64,
    faults: Faults,
}

/// What a request asks for, beside its prompt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tokens of the answer at most; `None` is as many as the model's length allows.
    pub(super) max_tokens: Option<u32>,
    /// Go on to the limit instead of stopping.
    pub(super) ignore_eos: bool,
    pub(super) streams: bool,
    /// See [`Answer::alone`].
    pub(super) alone: bool,
    /// The request is an embedding: no answer at all.
    pub(super) prefill_only: bool,
}

/// A request that the engine has taken.
pub(super) struct Submitted {
    pub(super) id: u64,
    /// How far it is, whenever that changes.
    pub(super) progress: mpsc::UnboundedReceiver<Progress>,
    pub(super) prompt_tokens: u32,
    pub(super) answer: Answer,
}

impl Pod {
    pub(super) fn new(config: PodConfig) -> Pod {
        let page = Page::new(&config.model, &config.engine);
        let state = State {
            engine: Engine::new(config.engine.clone()),
            clock: Clock::new(config.speed_up / config.faults.slow_down),
            started: unix_seconds(),
            stats: page.empty_stats(),
            live: HashMap::new(),
            next_id: 0,
            faults: config.faults.clone(),
        };
        Pod { config, page, state: Mutex::new(state), wake: Notify::new() }
    }

    /// Runs the engine for as long as the pod lives.
    pub(super) async fn drive(self: Arc<Pod>) {
        loop {
            let due = {
                let mut state = self.lock();
                state.catch_up();
                state.engine.next_event().map(|at| state.clock.when(at))
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

    /// An empty prompt. Requests with different salts share no cache.
    pub(super) fn chain(&self, salt: Option<&str>) -> Chain {
        let seed = salt.map_or(0, |salt| xxh3_64_with_seed(salt.as_bytes(), 1));
        Chain::new(self.config.engine.block_size, seed)
    }

    /// Sends a prompt to the engine.
    pub(super) fn submit(&self, prompt: Chain, limits: Limits) -> Result<Submitted, ApiError> {
        let prompt_tokens = prompt.tokens();
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
            return Err(ApiError::bad_request(
                "max_tokens",
                "max_tokens must be at least 1, got 0.".to_owned(),
            ));
        }
        let limit = limits.max_tokens.unwrap_or(room);
        let stops = !limits.ignore_eos && self.config.default_output_tokens <= limit;
        let answer = Answer {
            seed: prompt.digest() ^ self.config.seed,
            tokens: match limits.prefill_only {
                true => 0,
                false if stops => self.config.default_output_tokens,
                false => limit,
            },
            stops,
            alone: limits.alone,
        };
        let mut all = prompt;
        answer.tokenize(|token| all.push_token(token));
        let (news, progress) = mpsc::unbounded_channel();
        let mut state = self.lock();
        state.catch_up();
        let now = state.clock.now();
        let id = state.next_id;
        state.next_id += 1;
        let was_idle = state.engine.next_event().is_none();
        let request =
            EngineRequest { id, blocks: all.shared_blocks(), prompt_tokens, output_tokens: answer.tokens };
        state
            .engine
            .submit(now, request)
            .map_err(|error| ApiError::bad_request("input_tokens", error.to_string()))?;
        let live = Live {
            news,
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
        drop(state);
        if was_idle {
            self.wake.notify_one();
        }
        Ok(Submitted { id, progress, prompt_tokens, answer })
    }

    /// The client of a request is gone.
    pub(super) fn abort(&self, id: u64) {
        let mut state = self.lock();
        if state.live.remove(&id).is_some() {
            state.catch_up();
            state.engine.abort(id);
            state.stats.aborted += 1;
        }
    }

    /// `GET /metrics`, or nothing when a fault forbids it.
    pub(super) fn metrics(&self) -> Option<String> {
        let mut state = self.lock();
        if state.faults.refuse_metrics {
            return None;
        }
        state.catch_up();
        Some(self.page.render(&state.engine, &state.stats, state.started))
    }

    /// Requests the engine has.
    pub(super) fn in_flight(&self) -> usize {
        self.lock().live.len()
    }

    /// Virtual seconds since the pod began.
    pub(super) fn now(&self) -> f64 {
        self.lock().clock.now()
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
        state.stats.http(path, ok, request_bytes, response_bytes, seconds);
    }

    /// What the next inference request meets.
    pub(super) fn next_fate(&self) -> Fate {
        self.lock().faults.next()
    }

    pub(super) fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    /// Replaces all faults, at once.
    pub(super) fn set_faults(&self, faults: Faults) {
        let mut state = self.lock();
        state.catch_up();
        if faults.slow_down != state.faults.slow_down {
            state.clock.set_rate(self.config.speed_up / faults.slow_down);
        }
        if faults.restart {
            state.engine.restart();
            // Their handlers see the channel close.
            state.live.clear();
            state.stats = self.page.empty_stats();
            state.started = unix_seconds();
        }
        state.faults = Faults { restart: false, ..faults };
        drop(state);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counters and queues that are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Steps the engine to the present.
    fn catch_up(&mut self) {
        let now = self.clock.now();
        loop {
            let steps = self.engine.counters().steps;
            let generated = self.engine.counters().generation_tokens;
            let State { engine, live, stats, .. } = self;
            if !engine.step(now, |event| on_event(live, stats, event)) {
                return;
            }
            let counters = engine.counters();
            if counters.steps > steps {
                let tokens =
                    u64::from(engine.last_step().prefill_tokens) + counters.generation_tokens - generated;
                stats.observe(Hist::IterationTokens, tokens as f64);
            }
        }
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
