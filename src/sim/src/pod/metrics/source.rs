//! Where the value of a line comes from.

use super::histogram::Histogram;
use super::{Hist, PageView, SleepLevel};

/// What fills in the value of a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Running,
    /// All that wait, for room or for something else.
    Waiting,
    WaitingForRoom,
    Deferred,
    KvUsage,
    Sleep(SleepLevel),
    PrefixQueries,
    PrefixHits,
    HostQueries,
    HostHits,
    Preemptions,
    PromptTokens,
    PromptTokensComputed,
    PromptTokensCached,
    GenerationTokens,
    Stopped,
    CutAtLimit,
    Aborted,
    RejectedForRequests,
    RejectedForTokens,
    ModelsRequests,
    ModelsRequestBytes,
    ModelsResponseBytes,
    ChatRequests,
    ChatRequestBytes,
    ChatResponseBytes,
    /// Unix seconds of the start.
    Started,
    Bucket(Hist, usize),
    Count(Hist),
    Sum(Hist),
    /// As an idle vLLM has it.
    Always(f64),
}

impl Source {
    /// What fills in a series that is no histogram's.
    pub(super) fn of(series: &str, recorded: f64) -> Source {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let models = labels.contains("handler=\"/v1/models\"");
        match name {
            "vllm:num_requests_running" => Source::Running,
            "vllm:num_requests_waiting" => Source::Waiting,
            "vllm:num_requests_waiting_by_reason" => match label_of(labels, "reason") {
                "deferred" => Source::Deferred,
                _ => Source::WaitingForRoom,
            },
            "vllm:kv_cache_usage_perc" => Source::KvUsage,
            "vllm:engine_sleep_state" => match label_of(labels, "sleep_state") {
                "awake" => Source::Sleep(SleepLevel::Awake),
                "weights_offloaded" => Source::Sleep(SleepLevel::WeightsOffloaded),
                _ => Source::Sleep(SleepLevel::DiscardAll),
            },
            "vllm:prefix_cache_queries_total" => Source::PrefixQueries,
            "vllm:prefix_cache_hits_total" => Source::PrefixHits,
            "vllm:external_prefix_cache_queries_total" => Source::HostQueries,
            "vllm:external_prefix_cache_hits_total" => Source::HostHits,
            "vllm:num_preemptions_total" => Source::Preemptions,
            "vllm:prompt_tokens_total" => Source::PromptTokens,
            "vllm:prompt_tokens_by_source_total" => match label_of(labels, "source") {
                "local_compute" => Source::PromptTokensComputed,
                "local_cache_hit" => Source::PrefixHits,
                _ => Source::HostHits,
            },
            "vllm:prompt_tokens_cached_total" => Source::PromptTokensCached,
            "vllm:prompt_tokens_cached_by_source_total" => match label_of(labels, "source") {
                "device" => Source::PrefixHits,
                "host" => Source::HostHits,
                _ => Source::Always(0.0),
            },
            "vllm:generation_tokens_total" => Source::GenerationTokens,
            "vllm:request_success_total" => match label_of(labels, "finished_reason") {
                "stop" => Source::Stopped,
                "length" => Source::CutAtLimit,
                "abort" => Source::Aborted,
                _ => Source::Always(0.0),
            },
            "vllm:admission_rejections_total" => match label_of(labels, "reason") {
                "max_num_queued_reqs" => Source::RejectedForRequests,
                _ => Source::RejectedForTokens,
            },
            "http_requests_total" if models => Source::ModelsRequests,
            "http_requests_total" => Source::ChatRequests,
            "http_request_size_bytes_count" | "http_response_size_bytes_count" if models => {
                Source::ModelsRequests
            }
            "http_request_size_bytes_count" | "http_response_size_bytes_count" => Source::ChatRequests,
            "http_request_size_bytes_sum" if models => Source::ModelsRequestBytes,
            "http_request_size_bytes_sum" => Source::ChatRequestBytes,
            "http_response_size_bytes_sum" if models => Source::ModelsResponseBytes,
            "http_response_size_bytes_sum" => Source::ChatResponseBytes,
            "process_start_time_seconds" => Source::Started,
            name if name.ends_with("_created") => Source::Started,
            _ => Source::Always(recorded),
        }
    }

    /// The value, for the engine of this number.
    pub(super) fn value(self, view: &PageView<'_>, engine: usize) -> f64 {
        let Some(of) = view.engines.get(engine) else { return 0.0 };
        let (load, counters, stats) = (of.load, &of.counters, of.stats);
        let count = match self {
            Source::Running => u64::from(load.running),
            Source::Waiting => u64::from(load.waiting + of.deferred),
            Source::WaitingForRoom => u64::from(load.waiting),
            Source::Deferred => u64::from(of.deferred),
            Source::Sleep(level) => u64::from(view.sleep == level),
            Source::PrefixQueries => counters.prefix_queries,
            Source::PrefixHits => counters.prefix_hits,
            Source::HostQueries => counters.host_queries,
            Source::HostHits => counters.host_hits,
            Source::Preemptions => counters.preemptions,
            Source::PromptTokens => counters.prompt_tokens,
            Source::PromptTokensComputed => counters.prompt_tokens - counters.prompt_tokens_cached,
            Source::PromptTokensCached => counters.prompt_tokens_cached,
            Source::GenerationTokens => counters.generation_tokens,
            Source::Stopped => stats.stopped,
            Source::CutAtLimit => stats.cut_at_limit,
            Source::Aborted => stats.aborted,
            Source::RejectedForRequests => view.rejections.requests,
            Source::RejectedForTokens => view.rejections.tokens,
            Source::ModelsRequests => stats.models.requests,
            Source::ModelsRequestBytes => stats.models.request_bytes,
            Source::ModelsResponseBytes => stats.models.response_bytes,
            Source::ChatRequests => stats.chat.requests,
            Source::ChatRequestBytes => stats.chat.request_bytes,
            Source::ChatResponseBytes => stats.chat.response_bytes,
            Source::Bucket(hist, bucket) => stats.histogram(hist).map_or(0, |h| h.up_to(bucket)),
            Source::Count(hist) => stats.histogram(hist).map_or(0, Histogram::count),
            Source::KvUsage => return load.kv_usage,
            Source::Started => return view.started,
            Source::Sum(hist) => return stats.histogram(hist).map_or(0.0, Histogram::sum),
            Source::Always(value) => return value,
        };
        count as f64
    }
}

/// The value of a label in `a="x",b="y"}`.
pub(super) fn label_of<'a>(labels: &'a str, name: &str) -> &'a str {
    labels
        .split_once(&format!("{name}=\""))
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("", |(value, _)| value)
}
