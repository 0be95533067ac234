//! What the pod remembers of a request in an engine: who hears of its progress, and what is counted when it
//! ends.

use std::collections::HashMap;

use tokio::sync::mpsc;

use super::metrics::{Hist, Stats};
use crate::engine::{EngineEvent, EventKind};

/// How far a request is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    pub(super) generated: u32,
    pub(super) cached_tokens: u32,
    pub(super) finished: bool,
}

/// A request in an engine. Times are virtual seconds.
pub(super) struct LiveRequest {
    pub(super) news: mpsc::UnboundedSender<Progress>,
    /// The number of its engine.
    pub(super) engine: usize,
    pub(super) adapter: Option<String>,
    /// Whether every token is news, or only the end.
    pub(super) streams: bool,
    pub(super) stops: bool,
    pub(super) arrived: f64,
    pub(super) scheduled: f64,
    pub(super) first_token: f64,
    pub(super) last_token: f64,
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
    pub(super) generated: u32,
    pub(super) max_tokens: u32,
    pub(super) preemptions: u32,
}

/// Tells the request's handler and counts what vLLM counts.
pub(super) fn on_event(live: &mut HashMap<u64, LiveRequest>, stats: &mut Stats, event: EngineEvent) {
    let Some(request) = live.get_mut(&event.id) else { return };
    match event.what {
        EventKind::Scheduled { cached_tokens } => {
            request.scheduled = event.at;
            request.cached_tokens = cached_tokens;
        }
        EventKind::Preempted => request.preemptions += 1,
        EventKind::FirstToken => {
            stats.observe(Hist::TimeToFirstToken, event.at - request.arrived);
            request.first_token = event.at;
            request.last_token = event.at;
            request.generated = 1;
            request.tell(false);
        }
        EventKind::Token { generated } => {
            stats.observe(Hist::InterTokenLatency, event.at - request.last_token);
            request.last_token = event.at;
            request.generated = generated;
            request.tell(false);
        }
        EventKind::Finished => {
            request.last_token = event.at;
            request.tell(true);
            request.count(event.at, stats);
            live.remove(&event.id);
        }
    }
}

impl LiveRequest {
    fn tell(&self, finished: bool) {
        if finished || self.streams {
            let progress =
                Progress { generated: self.generated, cached_tokens: self.cached_tokens, finished };
            // A handler that is gone has its request aborted on the way out.
            let _ = self.news.send(progress);
        }
    }

    fn count(&self, now: f64, stats: &mut Stats) {
        match self.stops {
            true => stats.stopped += 1,
            false => stats.cut_at_limit += 1,
        }
        let decode = if self.generated > 0 { self.last_token - self.first_token } else { 0.0 };
        let inference = self.last_token - self.scheduled;
        for (hist, value) in [
            (Hist::PromptTokens, f64::from(self.prompt_tokens)),
            (Hist::GenerationTokens, f64::from(self.generated)),
            (Hist::MaxGenerationTokens, f64::from(self.generated)),
            (Hist::ParamsN, 1.0),
            (Hist::ParamsMaxTokens, f64::from(self.max_tokens)),
            (Hist::TimePerOutputToken, decode / f64::from(self.generated.max(2) - 1)),
            (Hist::EndToEnd, now - self.arrived),
            (Hist::QueueTime, self.scheduled - self.arrived),
            (Hist::InferenceTime, inference),
            (Hist::PrefillTime, inference - decode),
            (Hist::DecodeTime, decode),
            (Hist::Preemptions, f64::from(self.preemptions)),
            (Hist::KvComputedTokens, f64::from(self.prompt_tokens - self.cached_tokens)),
        ] {
            stats.observe(hist, value);
        }
    }
}
