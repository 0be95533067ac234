//! `GET /metrics`: the recorded page of vLLM with this pod's values. Names, labels, order, HELP and TYPE
//! lines are vLLM's (`tests/fixtures/vllm-0.32` and `vllm-0.32-modes`), the values are filled in line by
//! line:
//!
//! | lines | value |
//! | --- | --- |
//! | load, cache, token and request series, all `vllm:` histograms | the engines', in virtual seconds |
//! | `vllm:cache_config_info` | the recorded labels; sizes are the pod's |
//! | `vllm:lora_requests_info` | a line for each set of adapters that had requests, with the Unix time when that was last so |
//! | `process_start_time_seconds`, `*_created` | when the pod started, or restarted |
//! | `http_*` | the two handlers of the recorded page, until the headers of the answer, in virtual seconds |
//! | `python_*`, other `process_*` | as recorded: there is no Python here |
//! | all others | what an idle vLLM says |

mod family;
mod histogram;
mod page;
mod source;
mod value;

pub(super) use page::Page;

use self::histogram::Histogram;
use super::admission::Rejections;
use crate::engine::AdapterLine;
use crate::engine::{Counters, EngineLoad};

/// What the page says besides what never changes.
pub(super) struct PageView<'a> {
    /// By number.
    pub(super) engines: &'a [EngineView<'a>],
    /// Unix seconds of the start.
    pub(super) started: f64,
    /// Whether there has been a request since: before that, a pod with several processes has no samples of
    /// its load.
    pub(super) used: bool,
    pub(super) sleep: SleepLevel,
    pub(super) rejections: Rejections,
    pub(super) adapters: &'a [AdapterLine],
}

/// What the page says of one engine.
pub(super) struct EngineView<'a> {
    /// What runs, and what waits for room.
    pub(super) load: EngineLoad,
    /// Requests that wait for something else.
    pub(super) deferred: u32,
    pub(super) counters: Counters,
    pub(super) stats: &'a Stats,
}

/// How deep the engines sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SleepLevel {
    Awake,
    /// Level 1.
    WeightsOffloaded,
    /// Level 2.
    DiscardAll,
}

/// A histogram of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Hist {
    PromptTokens,
    GenerationTokens,
    IterationTokens,
    MaxGenerationTokens,
    ParamsN,
    ParamsMaxTokens,
    TimeToFirstToken,
    InterTokenLatency,
    TimePerOutputToken,
    EndToEnd,
    QueueTime,
    InferenceTime,
    PrefillTime,
    DecodeTime,
    Preemptions,
    KvComputedTokens,
    HttpAll,
    HttpModels,
    HttpChat,
}

/// Every histogram, its name, and a label its lines have where the name alone is not enough.
const HISTOGRAMS: [(Hist, &str, &str); 19] = [
    (Hist::PromptTokens, "vllm:request_prompt_tokens", ""),
    (Hist::GenerationTokens, "vllm:request_generation_tokens", ""),
    (Hist::IterationTokens, "vllm:iteration_tokens_total", ""),
    (Hist::MaxGenerationTokens, "vllm:request_max_num_generation_tokens", ""),
    (Hist::ParamsN, "vllm:request_params_n", ""),
    (Hist::ParamsMaxTokens, "vllm:request_params_max_tokens", ""),
    (Hist::TimeToFirstToken, "vllm:time_to_first_token_seconds", ""),
    (Hist::InterTokenLatency, "vllm:inter_token_latency_seconds", ""),
    (Hist::TimePerOutputToken, "vllm:request_time_per_output_token_seconds", ""),
    (Hist::EndToEnd, "vllm:e2e_request_latency_seconds", ""),
    (Hist::QueueTime, "vllm:request_queue_time_seconds", ""),
    (Hist::InferenceTime, "vllm:request_inference_time_seconds", ""),
    (Hist::PrefillTime, "vllm:request_prefill_time_seconds", ""),
    (Hist::DecodeTime, "vllm:request_decode_time_seconds", ""),
    (Hist::Preemptions, "vllm:request_num_preemptions", ""),
    (Hist::KvComputedTokens, "vllm:request_prefill_kv_computed_tokens", ""),
    (Hist::HttpAll, "http_request_duration_highr_seconds", ""),
    (Hist::HttpModels, "http_request_duration_seconds", "handler=\"/v1/models\""),
    (Hist::HttpChat, "http_request_duration_seconds", "handler=\"/v1/chat/completions\""),
];

/// One of the two handlers the recorded page has lines for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Handler {
    pub(super) requests: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
}

/// What the pod counts besides the engine's own counters.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    histograms: Vec<Histogram>,
    /// Requests that ended by themselves, at their limit, and because the client left.
    pub(super) stopped: u64,
    pub(super) cut_at_limit: u64,
    pub(super) aborted: u64,
    pub(super) models: Handler,
    pub(super) chat: Handler,
}

impl Stats {
    /// Nothing counted yet, in histograms with these bounds.
    fn new(histograms: Vec<Histogram>) -> Stats {
        let (models, chat) = (Handler::default(), Handler::default());
        Stats { histograms, stopped: 0, cut_at_limit: 0, aborted: 0, models, chat }
    }

    fn histogram(&self, hist: Hist) -> Option<&Histogram> {
        self.histograms.get(hist as usize)
    }

    /// Counts one value.
    pub(super) fn observe(&mut self, hist: Hist, value: f64) {
        if let Some(histogram) = self.histograms.get_mut(hist as usize) {
            histogram.observe(value);
        }
    }

    /// Counts an HTTP request that was answered after `seconds`. Sizes are those of `Content-Length`, as the
    /// instrumentation of vLLM has them.
    pub(super) fn http(
        &mut self,
        path: &str,
        ok: bool,
        request_bytes: u64,
        response_bytes: u64,
        seconds: f64,
    ) {
        self.observe(Hist::HttpAll, seconds);
        let (handler, hist) = match path {
            "/v1/models" => (&mut self.models, Hist::HttpModels),
            "/v1/chat/completions" => (&mut self.chat, Hist::HttpChat),
            _ => return,
        };
        handler.requests += u64::from(ok);
        handler.request_bytes += request_bytes;
        handler.response_bytes += response_bytes;
        self.observe(hist, seconds);
    }
}
