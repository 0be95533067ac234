//! `GET /metrics`: the recorded page of vLLM with this pod's values (see `metrics/README.md`).

mod histogram;
mod page;

pub(super) use page::Page;

use self::histogram::Histogram;

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

/// What the pod counts beside the engine's own counters.
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
