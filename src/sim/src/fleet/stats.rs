//! What a run came to: one record per request, a look at every pod now and then, and the numbers people
//! compare.

use serde::Serialize;

use crate::engine::EngineLoad;
use crate::workload::RequestClass;

/// What became of one request; times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestRecord {
    /// When the client sent it.
    pub arrived: f64,
    /// When the client had its first token.
    pub first_token: Option<f64>,
    /// When the client had it all.
    pub finished: Option<f64>,
    /// When the client stopped sending what nobody answered.
    pub gave_up: Option<f64>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of it that the pod had cached.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// What it is besides its prompt.
    pub class: RequestClass,
}

impl RequestRecord {
    /// Seconds to the first token; to the end of all tries where none ever came. `None` for an answer that
    /// broke off before.
    pub fn ttft(&self) -> Option<f64> {
        Some(self.first_token.or(self.gave_up)? - self.arrived)
    }

    /// Seconds for each token after the first.
    pub fn tpot(&self) -> Option<f64> {
        let more = self.output_tokens.checked_sub(1).filter(|&more| more > 0)?;
        Some((self.finished? - self.first_token?) / f64::from(more))
    }
}

/// A look at every pod.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSample {
    /// Seconds.
    pub at: f64,
    /// What a scrape would have said, by pod.
    pub pods: Vec<EngineLoad>,
    /// Whether the pod was there at all.
    pub listed: Vec<bool>,
}

/// Everything a run gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetRun {
    /// In the order of arrival.
    pub records: Vec<RequestRecord>,
    /// By time.
    pub samples: Vec<FleetSample>,
    /// Prompt tokens each pod computed.
    pub computed: Vec<f64>,
    /// Requests whose answer broke off.
    pub broken: usize,
    /// Requests nobody ever answered.
    pub failed: usize,
    /// Requests that every pod which was tried refused as it was full.
    pub refused: usize,
    /// Times a full pod refused a request.
    pub refusals: usize,
    /// Times Envoy went on to another pod.
    pub envoy_retries: usize,
    /// Times a client had to send again.
    pub client_retries: usize,
    /// When the last request was over, in seconds.
    pub ended: f64,
}

impl FleetRun {
    /// An empty run of a fleet.
    pub fn new(pods: usize, requests: usize) -> FleetRun {
        FleetRun { records: Vec::with_capacity(requests), computed: vec![0.0; pods], ..FleetRun::default() }
    }
}

/// A distribution, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// Nine of ten are below.
    pub p90: f64,
    /// Ninety-nine of a hundred are below.
    pub p99: f64,
}

impl Spread {
    /// Of exact values, by nearest rank; of none there are no numbers (in JSON null), so that nothing looks
    /// fast for having answered nobody.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            let at = (share * values.len() as f64).ceil() as usize;
            values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
        };
        Spread {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: rank(0.5),
            p90: rank(0.9),
            p99: rank(0.99),
        }
    }

    /// The mean of several runs, number by number.
    fn over(runs: &[Spread]) -> Spread {
        let mean = |of: fn(&Spread) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        Spread { mean: mean(|s| s.mean), p50: mean(|s| s.p50), p90: mean(|s| s.p90), p99: mean(|s| s.p99) }
    }
}

/// The numbers of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FleetSummary {
    /// Time to first token, in seconds.
    pub ttft: Spread,
    /// Time of each token after the first, in seconds.
    pub tpot: Spread,
    /// Share of prompt tokens that came from a cache.
    pub hit_rate: f64,
    /// Tokens of answers per second, from the first arrival to the last end.
    pub tokens_per_second: f64,
    /// How unevenly KV caches were used: the standard deviation over pods of the used share, mean over time,
    /// divided by the mean of the used share. 0 is even.
    pub imbalance: f64,
    /// Requests that were answered whole.
    pub answered: usize,
    /// Requests whose answer broke off.
    pub broken: usize,
    /// Requests nobody ever answered.
    pub failed: usize,
    /// Requests that every pod which was tried refused as it was full.
    pub refused: usize,
    /// Times a full pod refused a request.
    pub refusals: usize,
    /// Times Envoy went on to another pod.
    pub retries: usize,
}

impl FleetSummary {
    /// Several runs as one, such as those of several seeds: the mean of each number, and the sum of each
    /// count.
    pub fn over(runs: &[FleetSummary]) -> FleetSummary {
        let mean = |of: fn(&FleetSummary) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let spread = |of: fn(&FleetSummary) -> Spread| Spread::over(&runs.iter().map(of).collect::<Vec<_>>());
        let sum = |of: fn(&FleetSummary) -> usize| runs.iter().map(of).sum();
        FleetSummary {
            ttft: spread(|s| s.ttft),
            tpot: spread(|s| s.tpot),
            hit_rate: mean(|s| s.hit_rate),
            tokens_per_second: mean(|s| s.tokens_per_second),
            imbalance: mean(|s| s.imbalance),
            answered: sum(|s| s.answered),
            broken: sum(|s| s.broken),
            failed: sum(|s| s.failed),
            refused: sum(|s| s.refused),
            refusals: sum(|s| s.refusals),
            retries: sum(|s| s.retries),
        }
    }
}

/// The numbers of a run.
pub fn summarize(run: &FleetRun) -> FleetSummary {
    let sum = |of: fn(&RequestRecord) -> u32| run.records.iter().map(|r| f64::from(of(r))).sum::<f64>();
    let answered = run.records.iter().filter(|r| r.finished.is_some());
    let first = run.records.first().map_or(0.0, |r| r.arrived);
    let generated: f64 = answered.clone().map(|r| f64::from(r.output_tokens)).sum();
    FleetSummary {
        ttft: Spread::of(run.records.iter().filter_map(RequestRecord::ttft).collect()),
        tpot: Spread::of(run.records.iter().filter_map(RequestRecord::tpot).collect()),
        hit_rate: sum(|r| r.cached_tokens) / sum(|r| r.prompt_tokens).max(1.0),
        tokens_per_second: generated / (run.ended - first).max(1e-9),
        imbalance: imbalance(&run.samples),
        answered: answered.count(),
        broken: run.broken,
        failed: run.failed,
        refused: run.refused,
        refusals: run.refusals,
        retries: run.envoy_retries + run.client_retries,
    }
}

fn imbalance(samples: &[FleetSample]) -> f64 {
    let (mut deviations, mut means) = (0.0, 0.0);
    for sample in samples {
        let used: Vec<f64> = sample
            .pods
            .iter()
            .zip(&sample.listed)
            .filter(|(_, listed)| **listed)
            .map(|(load, _)| load.kv_usage)
            .collect();
        let count = used.len().max(1) as f64;
        let mean = used.iter().sum::<f64>() / count;
        deviations += (used.iter().map(|u| (u - mean).powi(2)).sum::<f64>() / count).sqrt();
        means += mean;
    }
    if means > 0.0 { deviations / means } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let spread = Spread::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((spread.mean, spread.p50, spread.p90, spread.p99), (50.5, 50.0, 90.0, 99.0));
        assert!(Spread::of(vec![]).mean.is_nan() && Spread::of(vec![]).p99.is_nan());
        assert_eq!(Spread::of(vec![3.0]).p99, 3.0);
    }

    #[test]
    fn a_request_that_nobody_answers_is_charged_what_its_client_waited() {
        let answered = RequestRecord { arrived: 1.0, first_token: Some(1.5), ..RequestRecord::default() };
        let failed = RequestRecord { arrived: 1.0, gave_up: Some(121.0), ..RequestRecord::default() };
        let broken = RequestRecord { arrived: 1.0, ..RequestRecord::default() };
        let run = FleetRun { records: vec![answered, failed, broken], ..FleetRun::default() };
        assert_eq!(summarize(&run).ttft.p99, 120.0);
        assert_eq!(summarize(&run).ttft.p50, 0.5);
    }

    #[test]
    fn even_caches_have_no_imbalance() {
        let load = |kv_usage| EngineLoad { kv_usage, ..EngineLoad::default() };
        let sample = |a, b| FleetSample { at: 0.0, pods: vec![load(a), load(b)], listed: vec![true, true] };
        assert_eq!(imbalance(&[sample(0.5, 0.5), sample(0.0, 0.0)]), 0.0);
        assert!((imbalance(&[sample(0.0, 1.0)]) - 1.0).abs() < 1e-12);
    }
}
