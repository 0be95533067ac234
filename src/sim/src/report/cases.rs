//! Results by case: a workload on a fleet, which all policies met.

use super::row::ResultRow;
use crate::fleet::FleetSummary;

/// A workload on a fleet, with the seeds as one.
pub(super) struct CaseSummary {
    pub(super) title: String,
    pub(super) seeds: usize,
    /// One per policy, in the order of the first seed; each number is its mean over seeds.
    pub(super) policies: Vec<ResultRow>,
}

/// The results by workload and fleet.
pub(super) fn over_seeds(entries: &[ResultRow]) -> Vec<CaseSummary> {
    type Runs<'a> = Vec<(&'a ResultRow, Vec<FleetSummary>)>;
    let mut cases: Vec<(String, Runs<'_>)> = Vec::new();
    for entry in entries {
        let title = title(entry);
        let case = match cases.iter().position(|(of, _)| *of == title) {
            Some(nth) => nth,
            None => {
                cases.push((title, Vec::new()));
                cases.len() - 1
            }
        };
        let Some((_, policies)) = cases.get_mut(case) else { continue };
        match policies.iter_mut().find(|(of, _)| of.policy == entry.policy) {
            Some((_, runs)) => runs.push(entry.summary),
            None => policies.push((entry, vec![entry.summary])),
        }
    }
    let case = |(title, policies): (String, Runs<'_>)| CaseSummary {
        title,
        seeds: policies.first().map_or(0, |(_, runs)| runs.len()),
        policies: policies.iter().map(|(entry, runs)| entry.with(FleetSummary::over(runs))).collect(),
    };
    cases.into_iter().map(case).collect()
}

/// Entries of the same workload and fleet, which can be compared.
pub(super) fn cases(entries: &[ResultRow]) -> impl Iterator<Item = &[ResultRow]> {
    entries.chunk_by(|a, b| a.case() == b.case())
}

/// `chats, 4 A10` where all cases have the same workers and gateways, else the whole title.
pub(super) fn short_title(row: &ResultRow, rows: &[ResultRow]) -> String {
    let same = |of: fn(&ResultRow) -> usize| rows.iter().all(|other| of(other) == of(row));
    match same(|row| row.workers) && same(|row| row.gateways) {
        true => format!("{}, {} {}", row.workload, row.pods, hardware(row, "+")),
        false => title(row),
    }
}

/// What the pods are.
fn hardware(row: &ResultRow, and: &str) -> String {
    match row.profile.as_str() {
        "mixed" => format!("A10{and}H100"),
        other => other.to_uppercase(),
    }
}

/// `chats on 4 a10 pods, 4 workers`.
pub(super) fn title(entry: &ResultRow) -> String {
    let plural = |n: usize, word: &str| if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") };
    let hardware = hardware(entry, " and ");
    let mut title =
        format!("{} on {} {hardware} pods, {}", entry.workload, entry.pods, plural(entry.workers, "worker"));
    if entry.gateways > 1 {
        title.push_str(&format!(", {} gateways", entry.gateways));
    }
    title
}
