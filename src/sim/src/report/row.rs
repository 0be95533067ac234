//! What a report is made of: one policy's numbers on one workload and fleet.

use serde::Serialize;

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
    pub(super) fn with(&self, summary: FleetSummary) -> ResultRow {
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

    /// What rows that can be compared have in common.
    pub(super) fn case(&self) -> (&str, &str, usize, usize, usize, u64) {
        (&self.workload, &self.profile, self.pods, self.workers, self.gateways, self.seed)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fleet::{RequestRecord, summarize};

    /// A run of one request on four A10 pods behind one worker.
    pub(in crate::report) fn entry(policy: &str, workload: &str, seed: u64, ttft: f64) -> ResultRow {
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
