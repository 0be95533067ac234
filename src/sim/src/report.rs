//! Reports of runs: a table, a JSON array, and a page with plots.

mod check;
mod page;
pub(crate) mod plots;
mod progress;
mod table;

use serde::Serialize;

pub use check::{Check, check};
pub use page::html;
pub use progress::Progress;
pub use table::table;

use crate::fleet::{FleetRun, FleetSummary};

/// One policy on one workload and fleet.
#[derive(Clone, Debug, Serialize)]
pub struct ResultRow {
    /// Its name; ours are `warmpath` and `warmpath-load-only`.
    pub policy: String,
    /// The workload.
    pub workload: String,
    /// The hardware.
    pub profile: String,
    /// How many pods there are at most.
    pub pods: usize,
    /// Worker threads of each gateway.
    pub workers: usize,
    /// Gateways.
    pub gateways: usize,
    /// Of all chance in it.
    pub seed: u64,
    /// The numbers.
    #[serde(flatten)]
    pub summary: FleetSummary,
    /// All of the run, where it is plotted.
    #[serde(skip)]
    pub run: Option<FleetRun>,
}

impl ResultRow {
    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        self.policy.starts_with("warmpath") || self.policy.contains('=')
    }

    /// Whether it is a baseline that one could run: the oracle is none.
    pub fn is_rival(&self) -> bool {
        !self.is_ours() && self.policy != "oracle"
    }

    /// The same with other numbers, and nothing to plot.
    fn with(&self, summary: FleetSummary) -> ResultRow {
        let ResultRow { policy, workload, profile, pods, workers, gateways, seed, .. } = self;
        ResultRow {
            policy: policy.clone(),
            workload: workload.clone(),
            profile: profile.clone(),
            pods: *pods,
            workers: *workers,
            gateways: *gateways,
            seed: *seed,
            summary,
            run: None,
        }
    }

    fn case(&self) -> (&str, &str, usize, usize, usize, u64) {
        (&self.workload, &self.profile, self.pods, self.workers, self.gateways, self.seed)
    }
}

/// A workload on a fleet, with the seeds as one.
struct CaseSummary {
    title: String,
    seeds: usize,
    /// One a policy, in the order of the first seed; each number is its mean over seeds.
    policies: Vec<ResultRow>,
}

/// The results by workload and fleet.
fn over_seeds(entries: &[ResultRow]) -> Vec<CaseSummary> {
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

/// The results as one JSON array.
///
/// # Errors
/// None that these values can cause.
pub fn json(entries: &[ResultRow]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(entries)
}

/// Entries of the same workload and fleet, which can be compared.
fn cases(entries: &[ResultRow]) -> impl Iterator<Item = &[ResultRow]> {
    entries.chunk_by(|a, b| a.case() == b.case())
}

/// `chats on 4 a10 pods, 4 workers`.
fn title(entry: &ResultRow) -> String {
    let plural = |n: usize, word: &str| if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") };
    let hardware = match entry.profile.as_str() {
        "mixed" => "A10 and H100".to_owned(),
        other => other.to_uppercase(),
    };
    let mut title =
        format!("{} on {} {hardware} pods, {}", entry.workload, entry.pods, plural(entry.workers, "worker"));
    if entry.gateways > 1 {
        title.push_str(&format!(", {} gateways", entry.gateways));
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{RequestRecord, summarize};

    /// A run of one request on four A10 pods behind one worker.
    pub(super) fn entry(policy: &str, workload: &str, seed: u64, ttft: f64) -> ResultRow {
        let record =
            RequestRecord { first_token: Some(ttft), finished: Some(ttft), ..RequestRecord::default() };
        ResultRow {
            policy: policy.into(),
            workload: workload.into(),
            profile: "a10".into(),
            pods: 4,
            workers: 1,
            gateways: 1,
            seed,
            summary: summarize(&FleetRun { records: vec![record], ..FleetRun::default() }),
            run: None,
        }
    }
}
