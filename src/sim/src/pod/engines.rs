//! The engines of a pod on its clock, and what is known of their requests. Every call is made under the pod's
//! lock.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::PodConfig;
use super::admission::Rejections;
use super::clock::Clock;
use super::error::ApiError;
use super::faults::Faults;
use super::live::{LiveRequest, on_event};
use super::metrics::{EngineView, Hist, Page, PageView, SleepLevel, Stats};
use crate::engine::{AdapterSlots, Counters, Engine, EngineLoad, EngineRequest, Queued};

/// Everything that changes while a pod runs.
pub(super) struct Engines {
    pub(super) engines: Vec<LiveEngine>,
    pub(super) clock: Clock,
    /// Unix seconds.
    pub(super) started: f64,
    pub(super) live: HashMap<u64, LiveRequest>,
    pub(super) adapters: AdapterSlots,
    pub(super) rejections: Rejections,
    pub(super) next_id: u64,
    pub(super) faults: Faults,
    pub(super) sleep: SleepLevel,
    /// What the metrics page says while the engines hang.
    pub(super) page_while_hung: Option<String>,
    /// Whether there has been a request since the start.
    pub(super) used: bool,
}

/// One engine.
pub(super) struct LiveEngine {
    pub(super) engine: Engine,
    /// HTTP requests are counted with the first engine.
    pub(super) stats: Stats,
    /// The load after the last batch: what stale gauges show.
    pub(super) last_load: EngineLoad,
}

impl Engines {
    /// Idle engines with empty caches, as the pod is configured.
    pub(super) fn new(config: &PodConfig, empty: &Stats) -> Engines {
        let engine = || LiveEngine {
            engine: Engine::new(config.engine.clone()),
            stats: empty.clone(),
            last_load: EngineLoad::default(),
        };
        let mut engines = Engines {
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
        engines.set_rate(config.speed_up);
        engines
    }

    /// Runs as fast as faults and sleep allow: not at all while the engines stand still.
    pub(super) fn set_rate(&mut self, speed_up: f64) {
        let rate = if self.stands_still() { 0.0 } else { speed_up / self.faults.slow_down };
        self.clock.set_rate(rate);
    }

    fn stands_still(&self) -> bool {
        self.faults.hang || self.sleep != SleepLevel::Awake
    }

    /// When an engine or an adapter has something to do next.
    pub(super) fn next_event(&self) -> Option<f64> {
        if self.stands_still() {
            return None;
        }
        let engines = self.engines.iter().filter_map(|engine| engine.engine.next_event());
        engines.chain(self.adapters.next_ready()).min_by(f64::total_cmp)
    }

    /// Steps the engines to the present.
    pub(super) fn catch_up(&mut self) {
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
        let Engines { engines, live, .. } = self;
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

    /// Queues a request in an engine.
    pub(super) fn submit(&mut self, now: f64, engine: usize, request: EngineRequest) -> Result<(), ApiError> {
        let Some(engine) = self.engines.get_mut(engine) else { return Ok(()) };
        engine
            .engine
            .submit(now, request)
            .map_err(|error| ApiError::bad_request("input_tokens", error.to_string()))
    }

    /// The engine that a request names, or the one with the least load: a request that waits counts as four
    /// that run, as in vLLM's own balancing.
    pub(super) fn engine_for(&self, rank: Option<u32>) -> Result<usize, ApiError> {
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
    pub(super) fn queued(&self) -> Queued {
        let without_token = self.live.values().filter(|request| request.generated == 0);
        Queued {
            requests: self.live.len() as u32,
            prompt_tokens: without_token.map(|request| u64::from(request.prompt_tokens)).sum(),
        }
    }

    /// Gives free slots to adapters that requests wait for, and notes which adapters have requests.
    pub(super) fn assign_adapters(&mut self) {
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
        let names: Vec<&str> = of_adapter.iter().map(|(name, _)| *name).collect();
        self.adapters.note(names.join(","), unix_seconds());
        let requests = |adapter: &str| {
            of_adapter.iter().find(|(name, _)| *name == adapter).map_or(0, |(_, requests)| *requests)
        };
        self.adapters.assign(self.clock.now(), requests);
    }

    /// As after a crash: nothing is known any more.
    pub(super) fn restart(&mut self, empty: Stats) {
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

    /// The metrics page.
    pub(super) fn render(&self, page: &Page) -> String {
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
