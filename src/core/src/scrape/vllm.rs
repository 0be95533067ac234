//! vLLM's metrics, by name: from a page of Prometheus text to the load of a pod.
//!
//! A pod may run several engines (data-parallel ranks). Each has samples with its number in the label
//! `engine`: [`Page::ranks`] keeps them apart, [`Page::total`] adds them up.

mod ranks;

use std::cell::Cell;

use crate::scrape::adapters::{ANNOUNCED, PageAdapters};
use crate::scrape::exposition::samples;
pub use ranks::RankLoad;
use ranks::{RankBuilder, plausible, rank_of, wanted};

/// A metrics page of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The load of each engine, by its number. A pod without data parallelism has one.
    pub ranks: Vec<RankLoad>,
    /// Start of the process in seconds since the epoch (`process_start_time_seconds`). A server with several
    /// API processes does not tell it.
    pub started: Option<f64>,
    /// Requests that the server has refused because its queue was full (`vllm:admission_rejections_total`),
    /// since it started.
    pub rejections: f64,
    /// Its LoRA adapters.
    pub adapters: PageAdapters,
}

/// What a page says of a pod as a whole, or of one of its engines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PodLoad {
    /// Requests in the running batches.
    pub running: f32,
    /// Requests in the queues that wait for room.
    pub waiting: f32,
    /// Share of KV cache blocks that running requests use, 0 to 1: the mean over engines.
    pub kv_usage: f32,
    /// Tokens that the KV caches can hold together. 0 when prefix caching is off, `None` when the page does
    /// not say.
    pub capacity: Option<u64>,
    /// Start of the process in seconds since the epoch, if the page tells it; another value is a restart.
    pub started: Option<f64>,
    /// Every engine sleeps.
    pub asleep: bool,
    /// Tokens that were computed since the engines started, of prompts and of answers; `None` when the page
    /// does not say.
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
    /// A fresh server has no samples of its requests until the first one comes, so a page with any metric of
    /// vLLM that lacks them is the page of an idle pod.
    ///
    /// # Errors
    /// [`NotVllm`] when the page has no metric of vLLM.
    pub fn parse(text: &[u8]) -> Result<Page, NotVllm> {
        let mut page = Page::default();
        let mut builders: Vec<RankBuilder> = Vec::new();
        let announces_adapters = Cell::new(false);
        let wanted = |line: &[u8]| {
            if line.starts_with(ANNOUNCED) {
                announces_adapters.set(true);
            }
            wanted(line)
        };
        samples(text, wanted, |sample| match sample.name {
            b"vllm:lora_requests_info" => page.adapters.add(&sample),
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
        page.adapters.on |= announces_adapters.get();
        page.ranks = builders.iter().map(RankBuilder::finish).collect();
        Ok(page)
    }

    /// All engines added up.
    pub fn total(&self) -> PodLoad {
        self.sum_of(&self.ranks)
    }

    /// The load of the engine at this place in the order of their numbers; nothing for one that the page does
    /// not have.
    pub fn of_engine(&self, place: u16) -> PodLoad {
        self.sum_of(self.ranks.get(usize::from(place)).map_or(&[], std::slice::from_ref))
    }

    fn sum_of(&self, ranks: &[RankLoad]) -> PodLoad {
        let engines = ranks.len().max(1) as f32;
        let start = PodLoad {
            started: self.started,
            rejections: self.rejections,
            asleep: true,
            ..PodLoad::default()
        };
        ranks.iter().fold(start, |sum, rank| PodLoad {
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

/// Whether the comments of a page describe vLLM's metrics, though none has a sample yet.
fn announces_vllm(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"# TYPE vllm:num_requests_running gauge").is_some()
}

#[cfg(test)]
mod tests;
