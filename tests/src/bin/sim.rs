//! `warmpath-sim` where the tests find it: cargo builds the binaries of a package before its own tests, not those of others.

use clap::Parser;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(warmpath_sim::cli::Cli::parse().run()?)
}
