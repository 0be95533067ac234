//! What the pods say of themselves during a run, read from their `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;
use warmpath::scrape::{exposition, vllm};

use super::clock::ServerClock;
use super::sample::{PodSample, PoolSample};

/// A page that takes longer is left out of its sample.
const LONGEST: Duration = Duration::from_secs(2);
/// Readings are never closer than this in real time, so that they stay a small part of a pod's work.
const CLOSEST: Duration = Duration::from_millis(50);

/// Counters of all pods together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// Prompt tokens looked up in the caches, and found.
    pub(super) queried: f64,
    pub(super) hit: f64,
    /// Seconds to the first token as the pods measure it, summed up, and for how many requests.
    pub(super) ttft_sum: f64,
    pub(super) ttft_count: f64,
}

impl Totals {
    fn add(&mut self, page: &[u8]) {
        exposition::samples(
            page,
            |line| {
                line.starts_with(b"vllm:prefix_cache_")
                    || line.starts_with(b"vllm:time_to_first_token_seconds_")
            },
            |sample| match sample.name {
                b"vllm:prefix_cache_queries_total" => self.queried += sample.value,
                b"vllm:prefix_cache_hits_total" => self.hit += sample.value,
                b"vllm:time_to_first_token_seconds_sum" => self.ttft_sum += sample.value,
                b"vllm:time_to_first_token_seconds_count" => self.ttft_count += sample.value,
                _ => {}
            },
        );
    }

    fn since(self, before: Totals) -> Totals {
        Totals {
            queried: self.queried - before.queried,
            hit: self.hit - before.hit,
            ttft_sum: self.ttft_sum - before.ttft_sum,
            ttft_count: self.ttft_count - before.ttft_count,
        }
    }
}

/// What was seen of the pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) samples: Vec<PoolSample>,
    /// `None` when no pod was watched, or one did not answer at the beginning or the end.
    pub(super) totals: Option<Totals>,
}

/// Reads the pods' metrics at intervals.
#[derive(Debug)]
pub(super) struct Watch {
    reader: Arc<Reader>,
    before: Option<Totals>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Reader {
    http: reqwest::Client,
    urls: Vec<String>,
    clock: ServerClock,
    samples: Mutex<Vec<PoolSample>>,
}

impl Watch {
    /// Begins; every pod must answer once.
    pub(super) async fn start(
        pods: &[String],
        interval: f64,
        clock: ServerClock,
    ) -> anyhow::Result<Option<Watch>> {
        if pods.is_empty() {
            return Ok(None);
        }
        let http = reqwest::Client::builder().no_proxy().timeout(LONGEST).build()?;
        let urls: Vec<String> = pods.iter().map(|pod| format!("http://{pod}/metrics")).collect();
        let reader = Arc::new(Reader { http, urls, clock, samples: Mutex::default() });
        let pages = reader.pages().await;
        for (pod, page) in pods.iter().zip(&pages) {
            let load = page.as_ref().and_then(|page| vllm::load(page).ok());
            anyhow::ensure!(
                load.is_some(),
                "--pods has {pod}, but http://{pod}/metrics is no page of a vLLM pod"
            );
        }
        let before = totals(&pages);
        let pause = clock.real(interval).max(CLOSEST);
        let task = tokio::spawn({
            let reader = reader.clone();
            async move {
                let mut ticks = tokio::time::interval(pause);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    reader.sample().await;
                }
            }
        });
        Ok(Some(Watch { reader, before, task }))
    }

    /// Ends it.
    pub(super) async fn end(self) -> Seen {
        self.task.abort();
        let after = totals(&self.reader.pages().await);
        let mut samples = self.reader.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = self.before.zip(after).map(|(before, after)| after.since(before));
        Seen { samples: std::mem::take(&mut samples), totals }
    }
}

impl Reader {
    async fn pages(&self) -> Vec<Option<Vec<u8>>> {
        join_all(self.urls.iter().map(|url| async move {
            let response = self.http.get(url).send().await.ok()?.error_for_status().ok()?;
            Some(response.bytes().await.ok()?.to_vec())
        }))
        .await
    }

    async fn sample(&self) {
        let at = self.clock.now();
        let pages = self.pages().await;
        let pods = pages.iter().map(|page| {
            let load = vllm::load(page.as_ref()?).ok()?;
            Some(PodSample {
                cache_usage: load.kv_usage.into(),
                running: load.running.into(),
                waiting: load.waiting.into(),
            })
        });
        let sample = PoolSample { at, pods: pods.collect() };
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }
}

fn totals(pages: &[Option<Vec<u8>>]) -> Option<Totals> {
    let mut totals = Totals::default();
    for page in pages {
        totals.add(page.as_ref()?);
    }
    Some(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_vllms_page() {
        let path =
            format!("{}/../../tests/fixtures/vllm-0.32/metrics-loaded.txt", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read(path).unwrap();
        let mut totals = Totals::default();
        totals.add(&page);
        assert!(totals.queried > 0.0 && totals.hit > 0.0 && totals.hit < totals.queried, "{totals:?}");
        assert!(totals.ttft_sum > 0.0 && totals.ttft_count >= 1.0, "{totals:?}");
        assert_eq!(totals.since(totals), Totals::default());
    }
}
