//! `warmpath-controller`: see `--help`.

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use warmpath_controller::cli::{Cli, Command};
use warmpath_controller::{certgen, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if cli.log_json {
        log.json().init()
    } else {
        log.init()
    }
    match cli.command {
        Command::Serve(options) => run::run(options).await,
        Command::Certgen(options) => certgen::run(&options).await,
    }
}
