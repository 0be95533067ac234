//! Which samples of a page count, by vLLM's names for them, and what they say of one engine.

use crate::scrape::exposition::Sample;

/// Most requests, blocks or tokens that a sample is believed to count: sums of such numbers stay finite.
const PLAUSIBLE: f64 = 1e15;
/// The same for requests, which are kept as `f32`.
const PLAUSIBLE_REQUESTS: f64 = 1e9;
/// Most engines that one page is read for.
pub const MAX_RANKS: usize = 64;

/// What a page says of one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RankLoad {
    /// The engine's number.
    pub rank: u16,
    /// Requests in the running batch (`vllm:num_requests_running`).
    pub running: f32,
    /// Requests in the queue that wait for room (`vllm:num_requests_waiting` without those that are
    /// deferred).
    pub waiting: f32,
    /// Share of KV cache blocks that running requests use, 0 to 1 (`vllm:kv_cache_usage_perc`;
    /// `vllm:gpu_cache_usage_perc` in older versions).
    pub kv_usage: f32,
    /// Tokens that the KV cache can hold (`vllm:cache_config_info`). 0 when prefix caching is off, `None`
    /// when the page does not say.
    pub capacity: Option<u64>,
    /// The engine sleeps (`vllm:engine_sleep_state`): it serves nothing, and its cache is gone.
    pub asleep: bool,
    /// Tokens that the engine has computed since it started, of prompts and of answers; `None` when the page
    /// does not say.
    pub computed_tokens: Option<f64>,
    /// Prompt tokens that were looked up in the prefix cache since the engine started
    /// (`vllm:prefix_cache_queries_total`).
    pub cache_queries: f64,
    /// Those of them that the cache held (`vllm:prefix_cache_hits_total` and
    /// `vllm:external_prefix_cache_hits_total`).
    pub cache_hits: f64,
}

/// Whether a line may be one of those that count. A page has hundreds of others, so the first letter decides
/// most.
pub fn wanted(line: &[u8]) -> bool {
    let Some(name) = line.strip_prefix(b"vllm:") else {
        return line.starts_with(b"process_start_time_seconds");
    };
    let starts: &[&[u8]] = match name.first() {
        Some(b'n') => &[b"num_requests_"],
        Some(b'k') => &[b"kv_cache_usage_perc"],
        Some(b'g') => &[b"gpu_cache_usage_perc", b"generation_tokens_total"],
        Some(b'c') => &[b"cache_config_info"],
        Some(b'e') => &[b"engine_sleep_state", b"external_prefix_cache_hits_total"],
        Some(b'p') => &[b"prompt_tokens_total", b"prefix_cache_queries_total", b"prefix_cache_hits_total"],
        Some(b'a') => &[b"admission_rejections_total"],
        Some(b'l') => &[b"lora_requests_info"],
        _ => &[],
    };
    starts.iter().any(|start| name.starts_with(start))
}

/// The engine that a sample belongs to; a sample without a readable label `engine` is of engine 0. `None`
/// past the bound.
pub fn rank_of<'b>(builders: &'b mut Vec<RankBuilder>, sample: &Sample<'_>) -> Option<&'b mut RankBuilder> {
    let label = sample.label("engine").and_then(|label| std::str::from_utf8(label).ok());
    let rank = label.and_then(|label| label.parse().ok()).unwrap_or(0);
    // In the order of their numbers.
    let at = builders.partition_point(|builder| builder.load.rank < rank);
    if builders.get(at).is_none_or(|builder| builder.load.rank != rank) {
        if builders.len() >= MAX_RANKS {
            return None;
        }
        let load = RankLoad { rank, ..RankLoad::default() };
        builders.insert(at, RankBuilder { load, ..RankBuilder::default() });
    }
    builders.get_mut(at)
}

/// The samples of one engine, as they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct RankBuilder {
    load: RankLoad,
    deferred: f32,
    kv: Mean,
    gpu: Mean,
}

impl RankBuilder {
    pub fn add(&mut self, sample: &Sample<'_>) {
        let load = &mut self.load;
        match sample.name {
            b"vllm:num_requests_running" => load.running += requests(sample.value),
            b"vllm:num_requests_waiting" => load.waiting += requests(sample.value),
            // A deferred request waits for something else than room, such as KV blocks that another server
            // sends.
            b"vllm:num_requests_waiting_by_reason" if sample.label("reason") == Some(b"deferred") => {
                self.deferred += requests(sample.value);
            }
            b"vllm:kv_cache_usage_perc" => self.kv.add(sample.value),
            b"vllm:gpu_cache_usage_perc" => self.gpu.add(sample.value),
            b"vllm:cache_config_info" => {
                if let Some(tokens) = capacity(sample) {
                    load.capacity = Some(load.capacity.unwrap_or(0).saturating_add(tokens));
                }
            }
            b"vllm:engine_sleep_state" if sample.label("sleep_state") == Some(b"awake") => {
                load.asleep = sample.value == 0.0
            }
            b"vllm:prompt_tokens_total" | b"vllm:generation_tokens_total" => {
                load.computed_tokens = Some(load.computed_tokens.unwrap_or(0.0) + plausible(sample.value));
            }
            b"vllm:prefix_cache_queries_total" => load.cache_queries += plausible(sample.value),
            // What a connector has found beyond the GPU's cache, as LMCache does, was not found there, and is
            // a hit all the same.
            b"vllm:prefix_cache_hits_total" | b"vllm:external_prefix_cache_hits_total" => {
                load.cache_hits += plausible(sample.value)
            }
            _ => {}
        }
    }

    pub fn finish(&self) -> RankLoad {
        let kv = if self.kv.count > 0 { self.kv } else { self.gpu };
        RankLoad {
            waiting: (self.load.waiting - self.deferred).max(0.0),
            kv_usage: kv.value().clamp(0.0, 1.0),
            ..self.load
        }
    }
}

/// Tokens that the cache of one engine can hold.
///
/// Where the page has `kv_cache_size_tokens`, that is the number. Blocks times their size is too small for
/// hybrid models, whose smallest block is named, and too large with data parallelism, as each engine names
/// the blocks of all.
fn capacity(info: &Sample<'_>) -> Option<u64> {
    let number = |name| std::str::from_utf8(info.label(name)?).ok()?.parse::<u64>().ok();
    if info.label("enable_prefix_caching") == Some(b"False") {
        return Some(0);
    }
    number("kv_cache_size_tokens").or_else(|| number("num_gpu_blocks")?.checked_mul(number("block_size")?))
}

/// The value of a counter, or 0 for one that cannot be.
pub fn plausible(value: f64) -> f64 {
    if (0.0..=PLAUSIBLE).contains(&value) { value } else { 0.0 }
}

/// A number of requests, or 0 for one that cannot be.
fn requests(value: f64) -> f32 {
    if (0.0..=PLAUSIBLE_REQUESTS).contains(&value) { value as f32 } else { 0.0 }
}

/// A mean of shares; a share that cannot be is left out.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    total: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        if (0.0..=PLAUSIBLE_REQUESTS).contains(&value) {
            self.total += value;
            self.count += 1;
        }
    }

    fn value(self) -> f32 {
        (self.total / f64::from(self.count.max(1))) as f32
    }
}
