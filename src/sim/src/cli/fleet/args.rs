//! The flags of `warmpath-sim fleet`.

use std::path::PathBuf;

use clap::Args;
use warmpath::shared::pod_table::MAX_PODS;

use super::help::{at_most, long_help, policy_name, positive, profile_name, short_help, workload_name};
use crate::fleet::Connections;
use crate::fleet::tuning::Sweep;
use crate::fleet::warmpath::Share;

/// The flags of `warmpath-sim fleet`.
#[derive(Args, Clone, Debug)]
#[command(
    long_about = "Compare routing policies on a fleet of simulated pods, in virtual time.\n\n\
Clients, gateways and pods are discrete events: the same seed gives the same numbers, to the byte, and a minute of \
traffic takes about a second. The policy called warmpath is the code that runs in Envoy; the others are what routers \
in use do. Times are those of models of GPUs, not of GPUs: good for comparing routers, not for sizing a cluster.",
    after_help = short_help(),
    after_long_help = long_help()
)]
pub struct FleetArgs {
    /// Workloads, with commas; `all` is all but trace. The list is below
    #[arg(long, default_value = "all", value_delimiter = ',', value_parser = workload_name)]
    pub workload: Vec<String>,
    /// Policies, with commas; `all` is ours and every other. The list is below
    #[arg(long, default_value = "all", value_delimiter = ',', value_parser = policy_name)]
    pub policy: Vec<String>,
    /// Hardware of the pods: a10, h100, mixed (every other pod an H100); several with commas, or all
    #[arg(long, default_value = "a10", value_delimiter = ',', value_parser = profile_name)]
    pub profile: Vec<String>,
    /// Pods [default: the workload's own number, 4 or 8; see below]
    #[arg(long, value_parser = at_most(MAX_PODS))]
    pub pods: Option<usize>,
    /// Worker threads of each gateway; several with commas
    #[arg(long, default_value = "4", value_delimiter = ',', value_parser = at_most(64))]
    pub workers: Vec<usize>,
    /// What the workers of a gateway of ours share
    #[arg(long, value_enum, default_value_t)]
    pub share: Share,
    /// Gateways that know nothing of each other
    #[arg(long, default_value = "1", value_parser = at_most(64))]
    pub gateways: usize,
    /// Seed of all chance: the same seed gives the same numbers, to the byte
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// So many seeds, one after another from --seed on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// Whether a client keeps its connection, and so its worker
    #[arg(long, value_enum, default_value_t)]
    pub connections: Connections,
    /// Gateways hold the headers of a stream until its first event, and go on to another pod until then: a
    /// pod that dies costs no stream that still waits for its first token
    #[arg(long)]
    pub hold_headers: bool,
    /// Judge: in each case ours must be within 5 % or 10 ms of the best other policy in mean TTFT and within
    /// 10 % or 50 ms in its 99th percentile, answer as many as least-request where pods refuse, and be better
    /// than each other policy by 20 % somewhere. Several seeds count as their mean. Exits with 1 on a miss
    #[arg(long)]
    pub check: bool,
    /// Requests, about [default: the workload's own number, 1500 to 4000; see below]
    #[arg(long, value_parser = at_most(10_000_000))]
    pub requests: Option<usize>,
    /// Requests per second, mean [default: the workload's own share of the fleet's capacity; see below]
    #[arg(long, value_parser = positive)]
    pub rate: Option<f64>,
    /// The trace of the workload `trace`: JSON lines of {"time", "segments": [["name", tokens], ...],
    /// "output_tokens"}
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Run ours with other constants of its cost, or another interval of its scrapes (scrape_ms), as well, as
    /// in own_work_weight=0,0.5,2; several with a slash before the one that varies, as in
    /// backlog_weight=2/tie_band=0,0.1
    #[arg(long, value_name = "CONSTANT=VALUES")]
    pub sweep: Vec<Sweep>,
    /// Answers do not report cached_tokens: vLLM without --enable-prompt-tokens-details
    #[arg(long)]
    pub no_cached_tokens: bool,
    /// Print one JSON array and nothing else. `imbalance` is the standard deviation of KV cache use over
    /// pods, divided by its mean
    #[arg(long)]
    pub json: bool,
    /// Write a page with a verdict and plots, which needs no other file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Runs at the same time
    #[arg(long, default_value = "2", value_parser = at_most(256))]
    pub jobs: usize,
}
