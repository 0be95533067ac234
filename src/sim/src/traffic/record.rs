//! A whole run: what `--json` writes and `warmpath-sim compare` reads. All times are the server's seconds.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::drive::Ran;
use super::outcome::Outcome;
use super::sample::PoolSample;
use super::stats::{mean, percentile, variation};
use super::{Named, TrafficOptions, summary};
use crate::workload::RequestClass;
use crate::workload::classes::is_of_the_few;

/// Mean and percentiles of one kind of time, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// The mean.
    pub mean: f64,
    /// Half are shorter.
    pub p50: f64,
    /// 90 % are shorter.
    pub p90: f64,
    /// 99 % are shorter.
    pub p99: f64,
}

impl Times {
    /// Of these, in any order.
    pub fn of(mut values: Vec<f64>) -> Times {
        values.sort_unstable_by(f64::total_cmp);
        let at = |percent| percentile(&values, percent);
        Times { mean: mean(&values), p50: at(50.0), p90: at(90.0), p99: at(99.0) }
    }
}

/// One request that was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestLine {
    /// Seconds since the traffic began.
    pub launched: f64,
    /// Seconds to the first token.
    pub ttft: f64,
    /// Seconds to the end.
    pub latency: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, from the cache, where the server says so.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// The user (multi-round-qa), the number of the prompt (random), or that of the session, from 1.
    pub user: u32,
    /// The user's question or the session's turn, from 1.
    pub round: u32,
    /// What it is besides its prompt.
    #[serde(default)]
    pub class: RequestClass,
}

/// All that was measured in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficRun {
    /// What to call it.
    pub label: String,
    /// The workload.
    pub workload: Named,
    /// Where it was sent.
    pub url: String,
    /// Seconds of the server in one of ours.
    pub speed_up: f64,
    /// The seed.
    pub seed: u64,
    /// The reference's summary, line by line.
    pub summary: Vec<String>,
    /// From the first request to the end of the last one.
    pub seconds: f64,
    /// To the first token.
    pub ttft: Times,
    /// The same of the requests that are to notice nothing of others, where there are others.
    #[serde(default)]
    pub ttft_of_the_few: Option<Times>,
    /// Per token after the first one, a mean for each request.
    pub tpot: Times,
    /// Between one token and the next, over all tokens.
    pub itl: Times,
    /// To the end.
    pub latency: Times,
    /// Share of prompt tokens that the pods found in their caches.
    pub hit_rate: Option<f64>,
    /// Mean seconds to the first token as the pods measure it: the rest of `ttft` is the way there and back.
    pub ttft_in_pods: Option<f64>,
    /// Coefficient of variation of cache usage across pods, mean over the samples under load; 0 is even.
    pub evenness: Option<f64>,
    /// Requests that failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// Those that were answered, in the order of their ends.
    pub requests: Vec<RequestLine>,
    /// The pods watched.
    pub pods: Vec<String>,
    /// What they said.
    pub samples: Vec<PoolSample>,
}

impl TrafficRun {
    /// Of a run.
    pub(super) fn new(options: &TrafficOptions, ran: Ran) -> TrafficRun {
        let good: Vec<&Outcome> = ran.outcomes.iter().filter(|outcome| outcome.ttft().is_some()).collect();
        let mut errors = BTreeMap::new();
        for failure in ran.outcomes.iter().filter_map(|outcome| outcome.failure.as_ref()) {
            *errors.entry(failure.kind()).or_default() += 1;
        }
        let requests: Vec<RequestLine> = good
            .iter()
            .map(|outcome| RequestLine {
                launched: outcome.launched - ran.began,
                ttft: outcome.ttft().unwrap_or_default(),
                latency: outcome.finished - outcome.launched,
                prompt_tokens: outcome.prompt_tokens,
                cached_tokens: outcome.cached_tokens,
                output_tokens: outcome.output_tokens,
                user: outcome.user,
                round: outcome.round,
                class: outcome.class,
            })
            .collect();
        let all = |of: fn(&RequestLine) -> f64| Times::of(requests.iter().map(of).collect());
        let tpot = requests.iter().filter(|request| request.output_tokens > 1);
        let tpot = tpot.map(|request| (request.latency - request.ttft) / (request.output_tokens - 1) as f64);
        let gaps = good.iter().flat_map(|outcome| &outcome.gaps).map(|&gap| gap.into()).collect();
        let totals = ran.seen.totals;
        let mut samples = ran.seen.samples;
        for sample in &mut samples {
            sample.at -= ran.began;
        }
        let mut record = TrafficRun {
            label: options.label.clone().unwrap_or_else(|| options.url.clone()),
            workload: options.workload,
            url: options.url.clone(),
            speed_up: options.speed_up,
            seed: options.seed,
            summary: Vec::new(),
            seconds: ran.ended - ran.began,
            ttft: all(|request| request.ttft),
            ttft_of_the_few: matches!(options.workload, Named::Criticality | Named::Tenants).then(|| {
                let few = requests.iter().filter(|request| is_of_the_few(&request.class));
                Times::of(few.map(|request| request.ttft).collect())
            }),
            tpot: Times::of(tpot.collect()),
            itl: Times::of(gaps),
            latency: all(|request| request.latency),
            hit_rate: totals
                .filter(|totals| totals.queried > 0.0)
                .map(|totals| totals.hit / totals.queried)
                .or_else(|| reported_hit_rate(&requests)),
            ttft_in_pods: totals
                .filter(|totals| totals.ttft_count > 0.0)
                .map(|totals| totals.ttft_sum / totals.ttft_count),
            evenness: evenness(&samples),
            errors,
            first_error: ran
                .outcomes
                .iter()
                .find_map(|outcome| outcome.failure.as_ref())
                .map(|f| f.to_string()),
            requests,
            pods: options.pods.clone(),
            samples,
        };
        record.summary = match options.workload {
            Named::MultiRoundQa => summary::multi_round_qa(&record, options.qps, ran.began_unix),
            _ => summary::serving(&record),
        };
        record
    }

    /// Requests that were answered.
    pub fn answered(&self) -> usize {
        self.requests.len()
    }

    /// The errors in words.
    pub fn errors_line(&self) -> String {
        let kinds: Vec<String> = self.errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let first = self.first_error.as_deref().unwrap_or("none");
        format!("{}; the first: {first}", kinds.join(", "))
    }

    /// What is printed after a run: the reference's summary, and what it does not have.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.speed_up != 1.0 {
            // Writing into a string cannot fail.
            let _ = writeln!(
                text,
                "The server ran {0} times as fast as real time; all times below are its own seconds.",
                self.speed_up
            );
        }
        for line in &self.summary {
            text.push_str(line);
            text.push('\n');
        }
        let Times { mean, p50, p90, p99 } = self.ttft;
        let _ = writeln!(text, "TTFT: mean {mean:.4} s, p50 {p50:.4} s, p90 {p90:.4} s, p99 {p99:.4} s");
        if let Some(Times { mean, p50, p90, p99 }) = self.ttft_of_the_few {
            let few = self.requests.iter().filter(|request| is_of_the_few(&request.class)).count();
            let others = self.requests.len() - few;
            let _ = writeln!(
                text,
                "TTFT of the {few} that are to notice nothing: mean {mean:.4} s, p50 {p50:.4} s, p90 {p90:.4} s, p99 {p99:.4} s; {others} of the others served"
            );
        }
        if let Some(inside) = self.ttft_in_pods {
            let _ = writeln!(
                text,
                "of the mean, {inside:.4} s inside the pods and {:.4} s outside (network, gateway, this machine)",
                mean - inside
            );
        }
        if let Some(rate) = self.hit_rate {
            let _ = writeln!(text, "Prompt tokens from the pods' caches: {:.1} %", rate * 100.0);
        }
        if let Some(evenness) = self.evenness {
            let _ = writeln!(
                text,
                "Evenness: coefficient of variation of cache usage across {} pods {evenness:.3} (0 is even)",
                self.pods.len()
            );
        }
        if !self.errors.is_empty() {
            let _ = writeln!(text, "Errors: {}", self.errors_line());
        }
        text
    }
}

/// Under load is where at least half as many requests were in the pods as in the busiest sample: the
/// beginning and the end of a run say nothing about a router.
fn evenness(samples: &[PoolSample]) -> Option<f64> {
    let load =
        |sample: &PoolSample| sample.pods.iter().flatten().map(|pod| pod.running + pod.waiting).sum::<f64>();
    let busiest = samples.iter().map(load).fold(0.0, f64::max);
    let loaded = samples.iter().filter(|sample| busiest > 0.0 && load(sample) >= busiest / 2.0);
    let variations: Vec<f64> = loaded
        .filter(|sample| sample.pods.iter().all(Option::is_some))
        .filter_map(|sample| {
            let usages: Vec<f64> = sample.pods.iter().flatten().map(|pod| pod.cache_usage).collect();
            variation(&usages)
        })
        .collect();
    (!variations.is_empty()).then(|| mean(&variations))
}

/// What the answers themselves say, when no pod was watched.
fn reported_hit_rate(requests: &[RequestLine]) -> Option<f64> {
    let told = requests.iter().filter_map(|request| Some((request.cached_tokens?, request.prompt_tokens)));
    let (cached, prompts) = told.fold((0, 0), |sum, (cached, prompt)| (sum.0 + cached, sum.1 + prompt));
    (prompts > 0).then(|| cached as f64 / prompts as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::PodSample;

    fn sample(at: f64, pods: &[(f64, f64)]) -> PoolSample {
        let pods =
            pods.iter().map(|&(cache_usage, running)| Some(PodSample { cache_usage, running, waiting: 0.0 }));
        PoolSample { at, pods: pods.collect() }
    }

    #[test]
    fn evenness_is_that_of_the_samples_under_load() {
        let idle = sample(0.0, &[(0.0, 0.0), (0.1, 1.0)]);
        let even = sample(1.0, &[(0.5, 10.0), (0.5, 10.0)]);
        let uneven = sample(2.0, &[(0.2, 5.0), (0.6, 15.0)]);
        let mut blind = uneven.clone();
        blind.pods[0] = None;
        assert!((evenness(&[idle, even, uneven, blind]).unwrap() - 0.25).abs() < 1e-9);
        assert_eq!(evenness(&[sample(0.0, &[(0.0, 0.0)])]), None);
        assert_eq!(evenness(&[]), None);
    }
}
