//! The flags of `scripts/soak`.

use clap::Parser;

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
    /// Leave out the faults in what pods answer: refusals, error events, streams without a token, keep-alives, engines that
    /// hang, sleep or die
    #[arg(long)]
    pub no_answers: bool,
    /// Print the summary as JSON, and the lines before it to standard error
    #[arg(long)]
    pub json: bool,
}
