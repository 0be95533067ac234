//! The command line of `warmpath-sim`.

mod fleet;
mod pod;
mod wrong_flag;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::wrong_flag::WrongFlag;
use crate::traffic::compare;
use crate::{instant, load, traffic};

/// Simulated vLLM pods, and load for gateways in front of them: what a router can see of a fleet, without a
/// GPU.
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
    Instant(instant::InstantOptions),
    /// Send chat requests in a closed loop, and measure how long their answers take.
    Load(load::LoadOptions),
    /// Send the reference's benchmarks or a fleet's workload to a gateway, and print what the reference's
    /// tools print.
    // The many flags would make all commands large.
    Traffic(Box<traffic::TrafficOptions>),
    /// Compare runs of `traffic`: a table, and a page with plots.
    Compare(compare::CompareOptions),
    /// Compare routing policies on a fleet of simulated pods, in virtual time.
    Fleet(Box<fleet::FleetArgs>),
}

/// The whole program: reads the command line, does it, and says in one line on standard error why it could
/// not.
///
/// Exit codes: 0 when it was done, 1 when it failed, 2 when the flags cannot be what was meant.
pub fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warmpath-sim: {error:#}");
            ExitCode::from(if error.is::<WrongFlag>() { 2 } else { 1 })
        }
    }
}

impl Cli {
    /// Does it, and comes back when it is done.
    ///
    /// # Errors
    /// [`WrongFlag`] for flags that do not fit, or why it could not be done.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Pod(args) => pod::run(args),
            Command::Instant(options) => instant::run(&options),
            Command::Load(options) => load::run(&options),
            Command::Traffic(options) => {
                options.check().map_err(|error| WrongFlag(format!("{error:#}")))?;
                traffic::run(&options)
            }
            Command::Compare(options) => compare::run(&options),
            Command::Fleet(args) => args.run(),
        }
    }
}
