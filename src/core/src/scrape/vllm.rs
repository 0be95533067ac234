//! vLLM's metrics, by name: from a page of Prometheus text to the load of a pod.
//!
//! A pod may run several engines (data-parallel ranks). Each has samples with its number in the label `engine`:
//! [`Page::ranks`] keeps them apart, [`Page::total`] adds them up.

use crate::scrape::exposition::{Sample, samples};

/// A metrics page of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The load of each engine, by its number. A pod without data parallelism has one.
    pub ranks: Vec<RankLoad>,
    /// Start of the process in seconds since the epoch (`process_start_time_seconds`). A server with several API processes
    /// does not tell it.
    pub started: Option<f64>,
    /// Requests that the server has refused because its queue was full (`vllm:admission_rejections_total`), since it started.
    pub rejections: f64,
}

/// What a page says of one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RankLoad {
    /// The engine's number.
    pub rank: u16,
    /// Requests in the running batch (`vllm:num_requests_running`).
    pub running: f32,
    /// Requests in the queue that wait for room (`vllm:num_requests_waiting` without those that are deferred).
    pub waiting: f32,
    /// Share of KV cache blocks that running requests use, 0 to 1 (`vllm:kv_cache_usage_perc`; `vllm:gpu_cache_usage_perc`
    /// in older versions).
    pub kv_usage: f32,
    /// Tokens that the KV cache can hold (`vllm:cache_config_info`). 0 when prefix caching is off, `None` when the page does
    /// not say.
    pub capacity: Option<u64>,
    /// The engine sleeps (`vllm:engine_sleep_state`): it serves nothing, and its cache is gone.
    pub asleep: bool,
    /// Tokens that the engine has computed since it started, of prompts and of answers; `None` when the page does not say.
    pub computed_tokens: Option<f64>,
    /// Prompt tokens that were looked up in the prefix cache since the engine started (`vllm:prefix_cache_queries_total`).
    pub cache_queries: f64,
    /// Those of them that the cache held (`vllm:prefix_cache_hits_total` and `vllm:external_prefix_cache_hits_total`).
    pub cache_hits: f64,
}

/// What a page says of a pod as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PodLoad {
    /// Requests in the running batches.
    pub running: f32,
    /// Requests in the queues that wait for room.
    pub waiting: f32,
    /// Share of KV cache blocks that running requests use, 0 to 1: the mean over engines.
    pub kv_usage: f32,
    /// Tokens that the KV caches can hold together. 0 when prefix caching is off, `None` when the page does not say.
    pub capacity: Option<u64>,
    /// Start of the process in seconds since the epoch, if the page tells it; another value is a restart.
    pub started: Option<f64>,
    /// Every engine sleeps.
    pub asleep: bool,
    /// Tokens that were computed since the engines started, of prompts and of answers; `None` when the page does not say.
    pub computed_tokens: Option<f64>,
    /// Prompt tokens that were looked up in the prefix caches.
    pub cache_queries: f64,
    /// Those of them that the caches held.
    pub cache_hits: f64,
    /// Requests that were refused because the queue was full.
    pub rejections: f64,
}

/// A page without a single metric of vLLM: another server, or one that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotVllm;

/// Reads a metrics page and adds its engines up.
///
/// # Errors
/// [`NotVllm`] when the page has no metric of vLLM.
pub fn load(page: &[u8]) -> Result<PodLoad, NotVllm> {
    Page::parse(page).map(|page| page.total())
}

impl Page {
    /// Reads a metrics page.
    ///
    /// A fresh server has no samples of its requests until the first one comes, so a page with any metric of vLLM that lacks
    /// them is the page of an idle pod.
    ///
    /// # Errors
    /// [`NotVllm`] when the page has no metric of vLLM.
    pub fn parse(text: &[u8]) -> Result<Page, NotVllm> {
        let mut page = Page::default();
        let mut builders: Vec<RankBuilder> = Vec::new();
        samples(text, wanted, |sample| match sample.name {
            b"process_start_time_seconds" if sample.value.is_finite() => page.started = Some(sample.value),
            b"vllm:admission_rejections_total" => page.rejections += plausible(sample.value),
            b"process_start_time_seconds" => {}
            _ => {
                if let Some(builder) = rank_of(&mut builders, &sample) {
                    builder.add(&sample);
                }
            }
        });
        if builders.is_empty() {
            if !announces_vllm(text) {
                return Err(NotVllm);
            }
            builders.push(RankBuilder::default());
        }
        page.ranks = builders.iter().map(RankBuilder::finish).collect();
        Ok(page)
    }

    /// All engines added up.
    pub fn total(&self) -> PodLoad {
        let engines = self.ranks.len().max(1) as f32;
        let start = PodLoad {
            started: self.started,
            rejections: self.rejections,
            asleep: true,
            ..PodLoad::default()
        };
        self.ranks.iter().fold(start, |sum, rank| PodLoad {
            running: sum.running + rank.running,
            waiting: sum.waiting + rank.waiting,
            kv_usage: sum.kv_usage + rank.kv_usage / engines,
            capacity: either(sum.capacity, rank.capacity, u64::saturating_add),
            asleep: sum.asleep && rank.asleep,
            computed_tokens: either(sum.computed_tokens, rank.computed_tokens, |a, b| a + b),
            cache_queries: sum.cache_queries + rank.cache_queries,
            cache_hits: sum.cache_hits + rank.cache_hits,
            ..sum
        })
    }
}

/// Both numbers together, or the one that is known.
fn either<T>(a: Option<T>, b: Option<T>, both: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(both(a, b)),
        (a, b) => a.or(b),
    }
}

/// Whether a line may be one of those that count. A page has hundreds of others, so the first letter decides most.
fn wanted(line: &[u8]) -> bool {
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
        _ => &[],
    };
    starts.iter().any(|start| name.starts_with(start))
}

/// Whether the comments of a page describe vLLM's metrics, though none has a sample yet.
fn announces_vllm(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"# TYPE vllm:num_requests_running gauge").is_some()
}

/// Most requests, blocks or tokens that a sample is believed to count: sums of such numbers stay finite.
const PLAUSIBLE: f64 = 1e15;
/// The same for requests, which are kept as `f32`.
const PLAUSIBLE_REQUESTS: f64 = 1e9;
/// Most engines that one page is read for.
const MAX_RANKS: usize = 64;

/// The value of a counter, or 0 for one that cannot be.
fn plausible(value: f64) -> f64 {
    if (0.0..=PLAUSIBLE).contains(&value) { value } else { 0.0 }
}

/// The engine that a sample belongs to; a sample without a readable label `engine` is of engine 0. `None` past the bound.
fn rank_of<'b>(builders: &'b mut Vec<RankBuilder>, sample: &Sample<'_>) -> Option<&'b mut RankBuilder> {
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
struct RankBuilder {
    load: RankLoad,
    deferred: f32,
    kv: Mean,
    gpu: Mean,
}

impl RankBuilder {
    fn add(&mut self, sample: &Sample<'_>) {
        let load = &mut self.load;
        match sample.name {
            b"vllm:num_requests_running" => load.running += requests(sample.value),
            b"vllm:num_requests_waiting" => load.waiting += requests(sample.value),
            // A deferred request waits for something else than room, such as KV blocks that another server sends.
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
            // What a connector has found beyond the GPU's cache, as LMCache does, was not found there, and is a hit all the same.
            b"vllm:prefix_cache_hits_total" | b"vllm:external_prefix_cache_hits_total" => {
                load.cache_hits += plausible(sample.value)
            }
            _ => {}
        }
    }

    fn finish(&self) -> RankLoad {
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
/// Where the page has `kv_cache_size_tokens`, that is the number. Blocks times their size is too small for hybrid models, whose
/// smallest block is named, and too large with data parallelism, as each engine names the blocks of all.
fn capacity(info: &Sample<'_>) -> Option<u64> {
    let number = |name| std::str::from_utf8(info.label(name)?).ok()?.parse::<u64>().ok();
    if info.label("enable_prefix_caching") == Some(b"False") {
        return Some(0);
    }
    number("kv_cache_size_tokens").or_else(|| number("num_gpu_blocks")?.checked_mul(number("block_size")?))
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

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: &[u8] = include_bytes!("../../../../tests/fixtures/vllm-0.32/metrics-idle.txt");
    const LOADED: &[u8] = include_bytes!("../../../../tests/fixtures/vllm-0.32/metrics-loaded.txt");

    #[test]
    fn recorded_pages_are_read() {
        assert_eq!(
            load(LOADED),
            Ok(PodLoad {
                running: 6.0,
                waiting: 34.0,
                kv_usage: 0.096_774_19,
                capacity: Some(131_072),
                started: Some(1.795_224_676_21e9),
                computed_tokens: load(LOADED).unwrap().computed_tokens,
                cache_queries: load(LOADED).unwrap().cache_queries,
                cache_hits: load(LOADED).unwrap().cache_hits,
                ..PodLoad::default()
            })
        );
        assert_eq!(load(IDLE).map(|l| (l.running, l.waiting)), Ok((0.0, 0.0)));
    }

    #[test]
    fn engines_add_up() {
        let page = b"vllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_running{engine=\"1\"} 3\n\
            vllm:num_requests_waiting{engine=\"0\"} 1\nvllm:num_requests_waiting{engine=\"1\"} 0\n\
            vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n\
            vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1\n\
            vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"50\"} 1\n";
        let load = load(page).unwrap();
        assert_eq!((load.running, load.waiting, load.capacity), (5.0, 1.0, Some(2400)));
        assert!((load.kv_usage - 0.3).abs() < 1e-6);
    }

    #[test]
    fn older_names_and_odd_values_are_understood() {
        let page =
            b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:gpu_cache_usage_perc 0.5\n\
            vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1\n";
        assert_eq!(load(page).unwrap().kv_usage, 0.5);
        assert_eq!(load(page).unwrap().capacity, None);
        let off = b"vllm:num_requests_running 1\nvllm:num_requests_waiting NaN\nvllm:num_requests_waiting 2\n\
            vllm:cache_config_info{enable_prefix_caching=\"False\",block_size=\"16\",num_gpu_blocks=\"9\"} 1\n";
        assert_eq!(load(off).unwrap().waiting, 2.0);
        assert_eq!(load(off).unwrap().capacity, Some(0));
    }

    #[test]
    fn another_page_is_not_a_load() {
        assert_eq!(load(b"<html>not found</html>"), Err(NotVllm));
        assert_eq!(load(b""), Err(NotVllm));
        assert_eq!(load(b"http_requests_total 1\nprocess_start_time_seconds 3\n"), Err(NotVllm));
    }

    macro_rules! page {
        ($path:literal) => {
            include_bytes!(concat!("../../../../tests/fixtures/", $path)).as_slice()
        };
    }

    #[test]
    fn the_size_of_the_cache_is_what_the_engine_says_fits() {
        // A hybrid model: 9,300 blocks of 4 tokens would be 37,200.
        assert_eq!(load(page!("cases/B01/page-a.txt")).unwrap().capacity, Some(1_190_000));
        // Four engines, each with a cache of its own.
        let ranks = Page::parse(page!("cases/B27/page.txt")).unwrap().ranks;
        let each: Vec<_> = ranks.iter().map(|rank| (rank.rank, rank.capacity)).collect();
        assert_eq!(each, (0..4).map(|rank| (rank, Some(131_072))).collect::<Vec<_>>());
        // Two engines of a real server, which name the blocks of both on each line.
        let two = Page::parse(page!("vllm-0.32-modes/data-parallel-2-loaded.txt")).unwrap();
        assert_eq!(two.ranks.iter().map(|rank| rank.capacity).collect::<Vec<_>>(), [Some(131_072); 2]);
        assert_eq!(two.total().capacity, Some(262_144));
    }

    #[test]
    fn engines_are_kept_apart() {
        let two = Page::parse(page!("vllm-0.32-modes/data-parallel-2-loaded.txt")).unwrap();
        let seen: Vec<_> = two.ranks.iter().map(|r| (r.rank, r.cache_queries, r.cache_hits)).collect();
        assert_eq!(seen, [(0, 6375.0, 1152.0), (1, 6430.0, 1152.0)]);
        assert_eq!((two.total().cache_queries, two.total().cache_hits), (12_805.0, 2304.0));
    }

    #[test]
    fn a_fresh_server_without_samples_is_idle() {
        let fresh = load(page!("vllm-0.32-modes/data-parallel-2-idle.txt")).unwrap();
        assert_eq!((fresh.running, fresh.waiting, fresh.capacity), (0.0, 0.0, Some(262_144)));
        let comments = b"# HELP vllm:num_requests_running x\n# TYPE vllm:num_requests_running gauge\n";
        assert_eq!(load(comments).map(|load| (load.running, load.waiting)), Ok((0.0, 0.0)));
        assert!(!load(comments).unwrap().asleep);
    }

    #[test]
    fn a_server_with_several_api_processes_tells_no_start_but_what_it_has_computed() {
        let page = load(page!("vllm-0.32-modes/api-servers-2.txt")).unwrap();
        assert_eq!((page.started, page.cache_queries), (None, 5020.0));
        assert!(page.computed_tokens >= Some(5020.0));
        let (before, after) = (
            load(page!("cases/B14/page-before.txt")).unwrap(),
            load(page!("cases/B14/page-after-restart.txt")).unwrap(),
        );
        assert!(after.computed_tokens < before.computed_tokens);
    }

    #[test]
    fn a_sleeping_engine_is_seen() {
        assert!(load(page!("cases/B05/page-asleep.txt")).unwrap().asleep);
        assert!(!load(page!("cases/B05/page-awake.txt")).unwrap().asleep);
        assert!(!load(LOADED).unwrap().asleep);
        let one_of_two = b"vllm:engine_sleep_state{engine=\"0\",sleep_state=\"awake\"} 0\n\
            vllm:engine_sleep_state{engine=\"1\",sleep_state=\"awake\"} 1\n";
        assert!(!load(one_of_two).unwrap().asleep, "the other engine serves");
    }

    #[test]
    fn deferred_requests_do_not_wait_for_room() {
        let page = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 5\n\
            vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 2\n\
            vllm:num_requests_waiting_by_reason{reason=\"deferred\"} 3\n";
        assert_eq!(load(page).unwrap().waiting, 2.0);
        let odd =
            b"vllm:num_requests_waiting 1\nvllm:num_requests_waiting_by_reason{reason=\"deferred\"} 3\n";
        assert_eq!(load(odd).unwrap().waiting, 0.0);
    }

    #[test]
    fn refusals_are_counted_over_their_reasons() {
        let page = b"vllm:num_requests_running 0\n\
            vllm:admission_rejections_total{model_name=\"m\",reason=\"max_num_queued_reqs\"} 4\n\
            vllm:admission_rejections_total{model_name=\"m\",reason=\"max_num_queued_tokens\"} 2\n";
        assert_eq!(load(page).unwrap().rejections, 6.0);
    }

    #[test]
    fn more_engines_than_the_bound_are_left_out() {
        let lines: String =
            (0..200).map(|n| format!("vllm:num_requests_running{{engine=\"{n}\"}} 1\n")).collect();
        let page = Page::parse(lines.as_bytes()).unwrap();
        assert_eq!((page.ranks.len(), page.total().running), (MAX_RANKS, MAX_RANKS as f32));
    }
}
