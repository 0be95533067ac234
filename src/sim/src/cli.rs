//! The command line of `warmpath-sim`.

mod pod;

use clap::{Parser, Subcommand};

use crate::traffic::compare;
use crate::{instant, load, traffic};

/// Simulated vLLM pods, and load for gateways in front of them: what a router can see of a fleet, without a GPU.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `warmpath-sim` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one simulated vLLM pod over HTTP until SIGTERM or SIGINT.
    Pod(pod::PodArgs),
    /// Answer every request at once, to measure what stands before it.
    Instant(instant::Options),
    /// Send chat requests in a closed loop, and measure how long their answers take.
    Load(load::Options),
    /// Send the reference's benchmarks or a fleet's workload to a gateway, and print what the reference's tools print.
    // The many flags would make all commands large.
    Traffic(Box<traffic::Options>),
    /// Lay runs of `traffic` beside each other: a table, and a page with plots.
    Compare(compare::CompareOptions),
    /// Compare routing policies on a fleet of simulated pods, in virtual time.
    Fleet(Box<crate::fleet::cli::FleetArgs>),
}

impl Cli {
    /// Does it, and comes back when it is done.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Pod(args) => pod::run(args),
            Command::Instant(options) => instant::run(&options),
            Command::Load(options) => load::run(&options),
            Command::Traffic(options) => traffic::run(&options),
            Command::Compare(options) => compare::run(&options),
            Command::Fleet(args) => args.run(),
        }
    }
}
