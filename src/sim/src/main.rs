//! The `warmpath-sim` binary; everything is in the library.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    warmpath_sim::cli::Cli::parse().run()
}
