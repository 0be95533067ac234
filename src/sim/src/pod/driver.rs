//! The engines in real time, and what the handlers share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::PodConfig;
use super::engines::Engines;
use super::error::ApiError;
use super::faults::{Faults, Treatment};
use super::live::{LiveRequest, Progress};
use super::metrics::{Page, SleepLevel};
use super::models::Models;
use super::store::ResponseStore;
use super::tokens::AnswerPlan;
use crate::engine::{Chain, EngineRequest};

/// One pod, shared by its connections and the task that drives the engines.
pub(super) struct LivePod {
    pub(super) config: PodConfig,
    pub(super) models: Models,
    pub(super) responses: ResponseStore,
    page: Page,
    engines: Mutex<Engines>,
    /// Told when an engine has something to do earlier than the driver knows.
    wake: Notify,
}

/// What a request asks for besides its prompt.
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
        let engines = Engines::new(&config, &page.empty_stats());
        let models = Models::new(&config);
        let responses = ResponseStore::default();
        LivePod { config, models, responses, page, engines: Mutex::new(engines), wake: Notify::new() }
    }

    /// Runs the engines for as long as the pod lives.
    pub(super) async fn drive(self: Arc<LivePod>) {
        loop {
            let due = {
                let mut engines = self.lock();
                engines.catch_up();
                engines.next_event().map(|at| engines.clock.when(at))
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
        let mut engines = self.lock();
        engines.catch_up();
        let queued = engines.queued();
        if let Some(limit) = self.config.queue.refuses(queued) {
            return Err(engines.rejections.refuse(limit));
        }
        let now = engines.clock.now();
        let id = engines.next_id;
        engines.next_id += 1;
        engines.used = true;
        let engine = engines.engine_for(target.rank)?;
        let request =
            EngineRequest { id, blocks: all.shared_blocks(), prompt_tokens, output_tokens: answer.tokens };
        match target.adapter.clone() {
            Some(adapter) => engines.adapters.push(engine, request, adapter),
            None => engines.submit(now, engine, request)?,
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
        engines.live.insert(id, live);
        engines.assign_adapters();
        drop(engines);
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
        let mut engines = self.lock();
        let Some(request) = engines.live.remove(&id) else { return };
        engines.catch_up();
        engines.adapters.abort(id);
        if let Some(engine) = engines.engines.get_mut(request.engine) {
            engine.engine.abort(id);
            engine.stats.aborted += 1;
        }
        engines.assign_adapters();
    }

    /// `GET /metrics`, or nothing when a fault forbids it.
    pub(super) fn metrics(&self) -> Option<String> {
        let mut engines = self.lock();
        if engines.faults.refuse_metrics {
            return None;
        }
        engines.catch_up();
        Some(engines.page_while_hung.clone().unwrap_or_else(|| engines.render(&self.page)))
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
        let mut engines = self.lock();
        let seconds = engines.clock.now() - since;
        if let Some(engine) = engines.engines.first_mut() {
            engine.stats.http(path, ok, request_bytes, response_bytes, seconds);
        }
    }

    // === what an operator does ===

    /// Empties the prefix caches, whatever runs.
    pub(super) fn reset_prefix_cache(&self) {
        let mut engines = self.lock();
        engines.catch_up();
        engines.engines.iter_mut().for_each(|engine| engine.engine.reset_prefix_cache());
    }

    /// Puts the engines to sleep, which empties their caches, or wakes them. Until they wake, their requests
    /// stand still.
    pub(super) fn set_sleep(&self, level: SleepLevel) {
        let mut engines = self.lock();
        engines.catch_up();
        engines.sleep = level;
        if level != SleepLevel::Awake {
            engines.engines.iter_mut().for_each(|engine| engine.engine.reset_prefix_cache());
        }
        engines.set_rate(self.config.speed_up);
        drop(engines);
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
        let mut engines = self.lock();
        engines.catch_up();
        if faults.restart {
            engines.restart(self.page.empty_stats());
            self.responses.clear();
        }
        engines.page_while_hung = match (faults.hang, engines.page_while_hung.take()) {
            (false, _) => None,
            (true, Some(page)) => Some(page),
            (true, None) => Some(engines.render(&self.page)),
        };
        engines.faults = Faults { restart: false, ..faults };
        engines.set_rate(self.config.speed_up);
        drop(engines);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Engines> {
        // A panic elsewhere leaves counters and queues that are still whole.
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
