//! `warmpath-sim compare`: runs of the same workload next to each other, as a table and as a page with plots.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use super::rows::{groups, rows};
use super::{TrafficRun, page};

/// The flags of `warmpath-sim compare`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  warmpath-sim traffic --url http://127.0.0.1:8080 --workload random --label plain --json plain.json
  warmpath-sim traffic --url http://127.0.0.1:8081 --workload random --label routed --json routed.json
  warmpath-sim compare plain.json routed.json --html report.html")]
pub struct CompareOptions {
    /// Files that `traffic --json` has written; of each workload, the first one is what the others are
    /// compared with
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
        let record: TrafficRun = serde_json::from_slice(&bytes).with_context(|| {
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

/// The table of all workloads.
pub fn table(records: &[TrafficRun]) -> String {
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
