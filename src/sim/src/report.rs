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

use crate::fleet::{Run, Summary};

/// One policy on one workload and fleet.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its name; ours are `warmpath` and `warmpath-default`.
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
    pub summary: Summary,
    /// All of the run, where it is plotted.
    #[serde(skip)]
    pub run: Option<Run>,
}

impl Entry {
    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        self.policy.starts_with("warmpath") || self.policy.contains('=')
    }

    /// Whether it is a baseline that one could run: the oracle is none.
    pub fn is_rival(&self) -> bool {
        !self.is_ours() && self.policy != "oracle"
    }

    fn case(&self) -> (&str, &str, usize, usize, usize, u64) {
        (&self.workload, &self.profile, self.pods, self.workers, self.gateways, self.seed)
    }
}

/// The results as one JSON array.
///
/// # Errors
/// None that these values can cause.
pub fn json(entries: &[Entry]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(entries)
}

/// Entries of the same workload and fleet, which can be compared.
fn cases(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    entries.chunk_by(|a, b| a.case() == b.case())
}

/// `chats on 4 a10 pods, 4 workers`.
fn title(entry: &Entry) -> String {
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
