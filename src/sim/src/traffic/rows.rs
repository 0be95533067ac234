//! What is compared of runs: by workload, a row for each thing measured.

use super::TrafficRun;

/// One line of the table.
pub(super) struct Row {
    /// What is measured, and its unit.
    pub(super) name: &'static str,
    /// Whether a larger number is the better one.
    pub(super) more_is_better: bool,
    /// For each run, the value in words, and the change in percent from the first run.
    pub(super) cells: Vec<(String, Option<f64>)>,
}

/// What is shown of a run.
struct Measure {
    name: &'static str,
    of: fn(&TrafficRun) -> Option<f64>,
    show: fn(f64) -> String,
    more_is_better: bool,
}

const fn less(name: &'static str, of: fn(&TrafficRun) -> Option<f64>, show: fn(f64) -> String) -> Measure {
    Measure { name, of, show, more_is_better: false }
}

const fn more(name: &'static str, of: fn(&TrafficRun) -> Option<f64>, show: fn(f64) -> String) -> Measure {
    Measure { name, of, show, more_is_better: true }
}

const MEASURES: [Measure; 11] = [
    less("TTFT mean, s", |r| Some(r.ttft.mean), seconds),
    less("TTFT p50, s", |r| Some(r.ttft.p50), seconds),
    less("TTFT p90, s", |r| Some(r.ttft.p90), seconds),
    less("TTFT p99, s", |r| Some(r.ttft.p99), seconds),
    less("time per token, s", |r| Some(r.tpot.mean), seconds),
    more("tokens out, 1/s", |r| Some(tokens_a_second(r)), |v| format!("{v:.1}")),
    more("hit rate", |r| r.hit_rate, |v| format!("{:.1} %", v * 100.0)),
    less("evenness (0 is even)", |r| r.evenness, |v| format!("{v:.3}")),
    // The pods' own clock: what a stall of the machine cannot disturb.
    less("TTFT in the pods, s", |r| r.ttft_in_pods, seconds),
    less("TTFT outside, s", |r| r.ttft_in_pods.map(|inside| r.ttft.mean - inside), seconds),
    less("errors", |r| Some(r.errors.values().sum::<u64>() as f64), |v| format!("{v:.0}")),
];

fn seconds(value: f64) -> String {
    format!("{value:.4}")
}

fn tokens_a_second(record: &TrafficRun) -> f64 {
    let tokens: u64 = record.requests.iter().map(|request| request.output_tokens).sum();
    if record.seconds > 0.0 { tokens as f64 / record.seconds } else { 0.0 }
}

/// Runs by workload, in the order in which workloads come first.
pub(super) fn groups(records: &[TrafficRun]) -> Vec<Vec<&TrafficRun>> {
    let mut groups: Vec<Vec<&TrafficRun>> = Vec::new();
    for record in records {
        let same =
            |group: &&mut Vec<&TrafficRun>| group.iter().any(|other| other.workload == record.workload);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    groups
}

/// The rows of one workload; what no run has is left out.
pub(super) fn rows(group: &[&TrafficRun]) -> Vec<Row> {
    let row = |measure: &Measure| {
        let values: Vec<Option<f64>> = group.iter().map(|record| (measure.of)(record)).collect();
        let first = values.first().copied().flatten();
        let cells = values.iter().enumerate().map(|(nth, value)| {
            let text = value.map_or_else(|| "-".to_owned(), measure.show);
            let change = (nth > 0).then_some(()).and(value.zip(first)).filter(|(_, first)| *first != 0.0);
            (text, change.map(|(value, first)| (value / first - 1.0) * 100.0))
        });
        values.iter().any(Option::is_some).then(|| Row {
            name: measure.name,
            more_is_better: measure.more_is_better,
            cells: cells.collect(),
        })
    };
    MEASURES.iter().filter_map(row).collect()
}
