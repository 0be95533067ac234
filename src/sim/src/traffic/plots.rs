//! What is plotted of runs.

use super::{PodSample, TrafficRun};
use crate::report::plots;

/// The colours of a group's runs: the last run is the one that the others are compared with, and stands out.
pub(super) fn colours(group: &[&TrafficRun]) -> Vec<usize> {
    let last = group.len().saturating_sub(1);
    (0..group.len()).map(|nth| if nth == last { 0 } else { nth + 1 }).collect()
}

/// The share of requests that had their first token after so many seconds, a line per run.
pub(super) fn first_tokens(group: &[&TrafficRun]) -> anyhow::Result<String> {
    let times: Vec<(usize, Vec<f64>)> = colours(group)
        .into_iter()
        .zip(group)
        .rev()
        .map(|(colour, record)| {
            let mut ttft: Vec<f64> = record.requests.iter().map(|request| request.ttft).collect();
            ttft.sort_unstable_by(f64::total_cmp);
            (colour, ttft)
        })
        .collect();
    let lines: Vec<(usize, &[f64])> =
        times.iter().map(|(colour, times)| (*colour, times.as_slice())).collect();
    plots::distribution(&lines)
}

/// One value of the pods of `record` over time, on the axes of the whole group.
pub(super) fn over_time(
    group: &[&TrafficRun],
    record: &TrafficRun,
    colour: usize,
    percent: bool,
    of: fn(&PodSample) -> f64,
) -> anyhow::Result<String> {
    let samples = || group.iter().flat_map(|record| &record.samples);
    let end = samples().map(|sample| sample.at).fold(1.0, f64::max);
    let least = if percent { 0.02 } else { 2.0 };
    let most = samples().flat_map(|sample| &sample.pods).flatten().map(of).fold(least, f64::max);
    let line = |nth: usize| -> plots::Series {
        let points = record.samples.iter();
        points.filter_map(|sample| Some((sample.at, of(sample.pods.get(nth)?.as_ref()?)))).collect()
    };
    let pods: Vec<plots::Series> = (0..record.pods.len()).map(line).collect();
    plots::over_time(&pods, colour, end, most, percent)
}
