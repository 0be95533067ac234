//! `warmpath-sim compare`: runs of the same workload beside each other, as a table and as a page with plots.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use super::{Record, page};

/// The flags of `warmpath-sim compare`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  warmpath-sim traffic --url http://127.0.0.1:8080 --workload random --label plain --json plain.json
  warmpath-sim traffic --url http://127.0.0.1:8081 --workload random --label routed --json routed.json
  warmpath-sim compare plain.json routed.json --html report.html")]
pub struct CompareOptions {
    /// Files that `traffic --json` has written; of each workload, the first one is what the others are compared with
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write a page with plots, which needs no other file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// A line about how it was measured, for the page; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub note: Vec<String>,
}

/// Prints the table, writes the page.
///
/// # Errors
/// When a file cannot be read or written.
pub fn run(options: &CompareOptions) -> anyhow::Result<()> {
    let mut records = Vec::new();
    for path in &options.files {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let record: Record = serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is not what `warmpath-sim traffic --json` writes", path.display())
        })?;
        records.push(record);
    }
    ensure!(!records.is_empty(), "there is no file to compare");
    print!("{}", table(&records));
    if let Some(path) = &options.html {
        fs::write(path, page::html(&records, &options.note)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

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
    of: fn(&Record) -> Option<f64>,
    show: fn(f64) -> String,
    more_is_better: bool,
}

const fn less(name: &'static str, of: fn(&Record) -> Option<f64>, show: fn(f64) -> String) -> Measure {
    Measure { name, of, show, more_is_better: false }
}

const fn more(name: &'static str, of: fn(&Record) -> Option<f64>, show: fn(f64) -> String) -> Measure {
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

fn tokens_a_second(record: &Record) -> f64 {
    let tokens: u64 = record.requests.iter().map(|request| request.output_tokens).sum();
    if record.seconds > 0.0 { tokens as f64 / record.seconds } else { 0.0 }
}

/// Runs by workload, in the order in which workloads come first.
pub(super) fn groups(records: &[Record]) -> Vec<Vec<&Record>> {
    let mut groups: Vec<Vec<&Record>> = Vec::new();
    for record in records {
        let same = |group: &&mut Vec<&Record>| group.iter().any(|other| other.workload == record.workload);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    groups
}

/// The rows of one workload; what no run has is left out.
pub(super) fn rows(group: &[&Record]) -> Vec<Row> {
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

/// The table of all workloads.
pub fn table(records: &[Record]) -> String {
    let mut out = String::new();
    for group in groups(records) {
        let Some(first) = group.first() else { continue };
        // Writing into a string cannot fail.
        let _ = write!(out, "{:<24}", first.workload.name());
        for (nth, record) in group.iter().enumerate() {
            let _ = write!(out, "{:>16}", record.label);
            if nth > 0 {
                let _ = write!(out, "{:>10}", "change");
            }
        }
        out.push('\n');
        for row in rows(&group) {
            let _ = write!(out, "  {:<22}", row.name);
            for (nth, (value, change)) in row.cells.iter().enumerate() {
                let _ = write!(out, "{value:>16}");
                if nth > 0 {
                    let change = change.map_or_else(String::new, |change| format!("{change:+.1} %"));
                    let _ = write!(out, "{change:>10}");
                }
            }
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::summary::tests_record as record;

    #[test]
    fn runs_of_a_workload_stand_beside_each_other_with_their_change() {
        let mut faster = record();
        faster.label = "b".to_owned();
        faster.ttft.mean = 0.375;
        faster.evenness = Some(0.5);
        let text = table(&[record(), faster]);
        let line = |start: &str| text.lines().find(|line| line.trim().starts_with(start)).unwrap().to_owned();
        assert!(line("TTFT mean").ends_with("0.7500          0.3750   -50.0 %"), "{text}");
        assert!(line("evenness").contains(" - "), "{text}");
        assert!(!text.contains("hit rate"), "no run has one:\n{text}");
        assert_eq!(
            text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["random", "a", "b", "change"]
        );
    }
}
