//! Traffic over real HTTP, against any server that speaks OpenAI's API, simulated or not: the reference's two
//! benchmarks (`multi-round-qa`, and the `random` data set of vLLM's `benchmark_serving`), and the workloads
//! and traces of [`crate::workload`], which are also what a fleet on virtual time meets.
//!
//! A request's way: `sessions`, `random` or `dialogue` says what is asked (no clock, no I/O), `drive` does it
//! in time, `client` sends one request, `sse` and `answer` read its stream, `outcome` is what came of it.
//! `watch` samples the pods meanwhile. [`TrafficRun`] holds a whole run: [`summary`] prints it as the
//! reference's tools do, and [`compare`] lays several next to each other.

mod answer;
mod client;
mod clock;
pub mod compare;
mod dialogue;
mod drive;
mod named;
mod options;
mod outcome;
mod page;
mod plots;
mod random;
mod record;
mod rows;
mod sample;
mod sessions;
mod sse;
mod stats;
pub mod summary;
mod watch;
mod words;

use std::fs;

use anyhow::Context;

pub use named::Named;
pub use options::TrafficOptions;
pub use outcome::Outcome;
pub use record::{RequestLine, Times, TrafficRun};
pub use sample::{PodSample, PoolSample};

/// Sends the traffic and prints the summary.
///
/// # Errors
/// When the flags do not fit together, the server cannot be reached, or no request at all was answered.
pub fn run(options: &TrafficOptions) -> anyhow::Result<()> {
    options.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = runtime.block_on(measure(options))?;
    print!("{}", record.text());
    if let Some(path) = &options.json {
        let json = serde_json::to_vec(&record)?;
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Sends the traffic and returns all that was measured, without printing anything on standard output.
///
/// # Errors
/// As [`run`].
pub async fn measure(options: &TrafficOptions) -> anyhow::Result<TrafficRun> {
    options.check()?;
    let ran = drive::run(options).await?;
    let record = TrafficRun::new(options, ran);
    anyhow::ensure!(record.answered() > 0, "no request was answered: {}", record.errors_line());
    Ok(record)
}
