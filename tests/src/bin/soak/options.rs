//! The flags of `scripts/soak`.

use clap::Parser;

use crate::fleet::KINDS;

#[derive(Parser)]
#[command(
    name = "scripts/soak",
    about = "Mixed traffic and random faults on a real Envoy, for as long as you like"
)]
pub struct Options {
    /// Minutes to run
    #[arg(long, default_value_t = 3.0)]
    pub minutes: f64,
    /// Repeats a run's traffic and faults, as far as time allows
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Clients, each with one request at a time
    #[arg(long, default_value_t = 24)]
    pub clients: usize,
    /// Inflict only these faults, separated by commas
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', value_parser = KINDS)]
    pub only: Vec<String>,
    /// Print the summary as JSON, and the lines before it to standard error
    #[arg(long)]
    pub json: bool,
}
