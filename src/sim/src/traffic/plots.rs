//! What is plotted of runs.

use super::{PodSample, TrafficRun};
use crate::report::plots;

/// The share of requests that had their first token after so many seconds, a line a run.
pub(super) fn first_tokens(group: &[&TrafficRun]) -> anyhow::Result<String> {
    // The last run is ours, as a rule, and the first line is the one that stands out.
    let lines: Vec<(&str, Vec<f64>)> = group
        .iter()
        .rev()
        .map(|record| {
            let mut ttft: Vec<f64> = record.requests.iter().map(|request| request.ttft).collect();
            ttft.sort_unstable_by(f64::total_cmp);
            (record.label.as_str(), ttft)
        })
        .collect();
    plots::distribution(&lines)
}

/// Cache usage of every pod of `record` over time; the axis is long enough for each run of the group.
pub(super) fn cache_usage(group: &[&TrafficRun], record: &TrafficRun) -> anyhow::Result<String> {
    plots::over_time(&pods(record, |pod| pod.cache_usage), longest(group), 1.0, true)
}

/// The queue of every pod of `record` over time, on the axes of the whole group.
pub(super) fn queues(group: &[&TrafficRun], record: &TrafficRun) -> anyhow::Result<String> {
    let pods_of_all = group.iter().flat_map(|record| &record.samples).flat_map(|sample| &sample.pods);
    let most = pods_of_all.flatten().map(|pod| pod.waiting).fold(1.0, f64::max);
    plots::over_time(&pods(record, |pod| pod.waiting), longest(group), most, false)
}

fn longest(group: &[&TrafficRun]) -> f64 {
    group.iter().filter_map(|record| record.samples.last()).map(|sample| sample.at).fold(1.0, f64::max)
}

fn pods(record: &TrafficRun, of: fn(&PodSample) -> f64) -> Vec<Vec<(f64, f64)>> {
    let line = |nth: usize| {
        let points = record.samples.iter();
        points.filter_map(|sample| Some((sample.at, of(sample.pods.get(nth)?.as_ref()?)))).collect()
    };
    (0..record.pods.len()).map(line).collect()
}
