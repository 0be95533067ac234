//! The page itself: the recorded text cut into what never changes and what is filled in.

use std::fmt::Write;

use super::histogram::Histogram;
use super::{HISTOGRAMS, Hist, Stats};
use crate::engine::{Engine, EngineConfig};

/// `GET /metrics` of vLLM 0.32.0, idle.
const RECORDED: &str = include_str!("page.txt");

/// The model's name in it.
const RECORDED_MODEL: &str = "/model/qwen";

/// The page of one pod.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pieces: Vec<Piece>,
    /// Empty histograms with the bounds of the page.
    histograms: Vec<Histogram>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value(Source),
}

/// Where a line's value comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Running,
    Waiting,
    KvUsage,
    PrefixQueries,
    PrefixHits,
    Preemptions,
    PromptTokens,
    PromptTokensComputed,
    PromptTokensCached,
    GenerationTokens,
    Stopped,
    CutAtLimit,
    Aborted,
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

impl Page {
    /// The page for a model's name and a cache.
    pub(crate) fn new(model: &str, config: &EngineConfig) -> Page {
        let mut page = Page { pieces: Vec::new(), histograms: vec![Histogram::default(); HISTOGRAMS.len()] };
        let mut text = String::new();
        let model = label_value(model);
        for line in RECORDED.lines() {
            let Some((series, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
                text.push_str(line);
                text.push('\n');
                continue;
            };
            let source = page.source(series, value.parse().unwrap_or(0.0));
            if series.starts_with("vllm:cache_config_info{") {
                text.push_str(&cache_config(series, config));
            } else {
                text.push_str(&series.replace(RECORDED_MODEL, &model));
            }
            text.push(' ');
            page.pieces.push(Piece::Text(std::mem::take(&mut text)));
            page.pieces.push(Piece::Value(source));
            text.push('\n');
        }
        page.pieces.push(Piece::Text(text));
        page
    }

    /// Nothing counted yet.
    pub(crate) fn empty_stats(&self) -> Stats {
        Stats {
            histograms: self.histograms.clone(),
            stopped: 0,
            cut_at_limit: 0,
            aborted: 0,
            models: super::Handler::default(),
            chat: super::Handler::default(),
        }
    }

    /// The text, for a pod that started at `started` (Unix seconds).
    pub(crate) fn render(&self, engine: &Engine, stats: &Stats, started: f64) -> String {
        let mut out = String::with_capacity(RECORDED.len() + 4096);
        let load = engine.load();
        let counters = engine.counters();
        let of = |hist: Hist| stats.histograms.get(hist as usize);
        for piece in &self.pieces {
            let source = match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Piece::Value(source) => *source,
            };
            let count = match source {
                Source::Running => u64::from(load.running),
                Source::Waiting => u64::from(load.waiting),
                Source::PrefixQueries => counters.prefix_queries,
                Source::PrefixHits => counters.prefix_hits,
                Source::Preemptions => counters.preemptions,
                Source::PromptTokens => counters.prompt_tokens,
                Source::PromptTokensComputed => counters.prompt_tokens - counters.prompt_tokens_cached,
                Source::PromptTokensCached => counters.prompt_tokens_cached,
                Source::GenerationTokens => counters.generation_tokens,
                Source::Stopped => stats.stopped,
                Source::CutAtLimit => stats.cut_at_limit,
                Source::Aborted => stats.aborted,
                Source::ModelsRequests => stats.models.requests,
                Source::ModelsRequestBytes => stats.models.request_bytes,
                Source::ModelsResponseBytes => stats.models.response_bytes,
                Source::ChatRequests => stats.chat.requests,
                Source::ChatRequestBytes => stats.chat.request_bytes,
                Source::ChatResponseBytes => stats.chat.response_bytes,
                Source::Bucket(hist, bucket) => of(hist).map_or(0, |h| h.up_to(bucket)),
                Source::Count(hist) => of(hist).map_or(0, Histogram::count),
                Source::KvUsage => {
                    push_value(&mut out, load.kv_usage);
                    continue;
                }
                Source::Started => {
                    push_value(&mut out, started);
                    continue;
                }
                Source::Sum(hist) => {
                    push_value(&mut out, of(hist).map_or(0.0, Histogram::sum));
                    continue;
                }
                Source::Always(value) => {
                    push_value(&mut out, value);
                    continue;
                }
            };
            push_value(&mut out, count as f64);
        }
        out
    }

    /// What fills in the value of a line. Histograms get their bounds on the way.
    fn source(&mut self, series: &str, recorded: f64) -> Source {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        for (hist, base, label) in HISTOGRAMS {
            let Some(suffix) = name.strip_prefix(base).filter(|_| labels.contains(label)) else { continue };
            match suffix {
                "_bucket" => {
                    let Some(histogram) = self.histograms.get_mut(hist as usize) else { continue };
                    histogram.add_bound(label_of(labels, "le").parse().unwrap_or(f64::INFINITY));
                    return Source::Bucket(hist, histogram.buckets() - 1);
                }
                "_count" => return Source::Count(hist),
                "_sum" => return Source::Sum(hist),
                _ => {}
            }
        }
        let models = labels.contains("handler=\"/v1/models\"");
        match name {
            "vllm:num_requests_running" => Source::Running,
            "vllm:num_requests_waiting" => Source::Waiting,
            "vllm:num_requests_waiting_by_reason" if labels.contains("\"capacity\"") => Source::Waiting,
            "vllm:kv_cache_usage_perc" => Source::KvUsage,
            "vllm:prefix_cache_queries_total" => Source::PrefixQueries,
            "vllm:prefix_cache_hits_total" => Source::PrefixHits,
            "vllm:num_preemptions_total" => Source::Preemptions,
            "vllm:prompt_tokens_total" => Source::PromptTokens,
            "vllm:prompt_tokens_by_source_total" if labels.contains("\"local_compute\"") => {
                Source::PromptTokensComputed
            }
            "vllm:prompt_tokens_by_source_total" if labels.contains("\"local_cache_hit\"") => {
                Source::PromptTokensCached
            }
            "vllm:prompt_tokens_cached_total" => Source::PromptTokensCached,
            "vllm:prompt_tokens_cached_by_source_total" if labels.contains("\"device\"") => {
                Source::PromptTokensCached
            }
            "vllm:generation_tokens_total" => Source::GenerationTokens,
            "vllm:request_success_total" => match label_of(labels, "finished_reason") {
                "stop" => Source::Stopped,
                "length" => Source::CutAtLimit,
                "abort" => Source::Aborted,
                _ => Source::Always(0.0),
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
}

/// The value of a label in `a="x",b="y"}`.
fn label_of<'a>(labels: &'a str, name: &str) -> &'a str {
    labels
        .split_once(&format!("{name}=\""))
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("", |(value, _)| value)
}

/// Quotes and backslashes as the text format wants them.
fn label_value(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `vllm:cache_config_info{...}` with the pod's own sizes.
fn cache_config(recorded: &str, config: &EngineConfig) -> String {
    let tokens = u64::from(config.num_gpu_blocks) * u64::from(config.block_size);
    let mut series = recorded.to_owned();
    for (label, value) in [
        ("{_block_size_resolved=\"True\",block_size", u64::from(config.block_size)),
        (",effective_attention_block_size", u64::from(config.block_size)),
        (",kv_cache_size_tokens", tokens),
        (",num_gpu_blocks", u64::from(config.num_gpu_blocks)),
    ] {
        let from = format!("{label}=\"");
        if let Some((before, after)) = series.split_once(&from)
            && let Some((_, rest)) = after.split_once('"')
        {
            series = format!("{before}{from}{value}\"{rest}");
        }
    }
    series
}

/// Writes a value as Python's Prometheus client does: the shortest form that reads back, `.0` on whole numbers, an
/// exponent from a million up and below a ten-thousandth.
fn push_value(out: &mut String, value: f64) {
    // Writing into a string cannot fail.
    if value == 0.0 {
        out.push_str("0.0");
    } else if value.fract() == 0.0 && value.abs() < 1e6 {
        let _ = write!(out, "{value:.1}");
    } else if value >= 1e6 || value.abs() < 1e-4 {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        let _ = write!(out, "{mantissa}e{sign}{digits:0>2}");
    } else {
        let _ = write!(out, "{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines without their values.
    fn series(page: &str) -> Vec<&str> {
        page.lines()
            .map(|line| if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 })
            .collect()
    }

    #[test]
    fn the_page_has_the_lines_of_vllm_in_order() {
        // The recorded server's cache: 1,024 blocks of 128 tokens.
        let config = EngineConfig { block_size: 128, num_gpu_blocks: 1024, ..EngineConfig::default() };
        let page = Page::new("/model/qwen", &config);
        let ours = page.render(&Engine::new(config), &page.empty_stats(), 1_795_224_676.21);
        assert_eq!(series(&ours), series(RECORDED));
        assert!(ours.contains("process_start_time_seconds 1.79522467621e+09\n"));
        assert!(ours.contains("vllm:num_requests_running{engine=\"0\",model_name=\"/model/qwen\"} 0.0\n"));
        assert!(ours.ends_with('\n'));
    }

    #[test]
    fn every_recorded_value_reads_back_in_its_own_form() {
        for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit_once(' ').unwrap().1;
            let mut ours = String::new();
            push_value(&mut ours, value.parse().unwrap());
            assert_eq!(ours, value, "{line}");
        }
        for (value, text) in
            [(1e6, "1e+06"), (1_234_567.5, "1.2345675e+06"), (2.5e-5, "2.5e-05"), (0.0001, "0.0001")]
        {
            let mut ours = String::new();
            push_value(&mut ours, value);
            assert_eq!(ours, text);
        }
    }

    #[test]
    fn the_pod_says_its_own_model_and_cache() {
        let config = EngineConfig { block_size: 16, num_gpu_blocks: 2048, ..EngineConfig::default() };
        let page = Page::new("a\"b", &config);
        let ours = page.render(&Engine::new(config), &page.empty_stats(), 1.0);
        assert!(ours.contains("model_name=\"a\\\"b\"} 0.0"));
        assert!(!ours.contains(RECORDED_MODEL));
        let info = ours.lines().find(|line| line.starts_with("vllm:cache_config_info{")).unwrap();
        for label in [",block_size=\"16\"", ",num_gpu_blocks=\"2048\"", ",kv_cache_size_tokens=\"32768\""] {
            assert!(info.contains(label), "{label}");
        }
    }

    #[test]
    fn histograms_cumulate() {
        let page = Page::new("m", &EngineConfig::default());
        let mut stats = page.empty_stats();
        stats.observe(Hist::TimeToFirstToken, 0.3);
        stats.observe(Hist::TimeToFirstToken, 9_999.0);
        let ours = page.render(&Engine::new(EngineConfig::default()), &stats, 1.0);
        let bucket = |le| {
            format!("vllm:time_to_first_token_seconds_bucket{{engine=\"0\",le=\"{le}\",model_name=\"m\"}}")
        };
        for (le, count) in [("0.25", "0.0"), ("0.5", "1.0"), ("2560.0", "1.0"), ("+Inf", "2.0")] {
            assert!(ours.contains(&format!("{} {count}\n", bucket(le))), "{le}");
        }
        assert!(ours.contains("time_to_first_token_seconds_sum{engine=\"0\",model_name=\"m\"} 9999.3\n"));
    }
}
