//! `warmpath-sim pod`.

use std::net::IpAddr;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::WrongFlag;
use crate::engine::Profile;
use crate::pod::{Faults, PodConfig, serve_until};

/// The flags of `warmpath-sim pod`. Without any, it is an A10 with a 7B model on port 8000.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  warmpath-sim pod --port 8001                      an A10 with a 7B model, in real time
  warmpath-sim pod --port 0 --speed-up 20           the same, 20 times as fast, on any free port
  warmpath-sim pod --profile h100 --blocks 4000     an H100 whose KV cache holds only 64,000 tokens
  warmpath-sim pod --instant                        one constant answer, for measuring a gateway
  warmpath-sim pod --fault '{\"fail\": 3}'            the first three requests get a 503")]
pub struct PodArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one and the ready line says which
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Name of the model in requests, answers and metrics
    #[arg(long, default_value = "/model/qwen")]
    model: String,
    /// GPU and model that the engine's speed and cache are taken from; the flags below change single figures
    #[arg(long, value_enum, default_value = "a10")]
    profile: Profile,
    /// Prompt tokens computed a second [a10: 5500, h100: 25000]
    #[arg(long)]
    prefill_rate: Option<f64>,
    /// Milliseconds that every step costs, whatever is in it [a10: 28, h100: 6.8]
    #[arg(long)]
    step_ms: Option<f64>,
    /// Milliseconds that every decoding request adds to a step [a10: 0.2, h100: 0.03]
    #[arg(long)]
    decode_ms_per_seq: Option<f64>,
    /// KV blocks (num_gpu_blocks) [a10: 2048, h100: 24000]
    #[arg(long)]
    blocks: Option<u32>,
    /// Tokens of a KV block (default 16)
    #[arg(long)]
    block_size: Option<u32>,
    /// Requests that run at the same time, at most [a10: 256, h100: 1024]
    #[arg(long)]
    max_num_seqs: Option<u32>,
    /// Tokens of one step, at most [a10: 2048, h100: 8192]
    #[arg(long)]
    max_num_batched_tokens: Option<u32>,
    /// Tokens of prompt and answer together, at most
    #[arg(long, default_value_t = 16_384)]
    max_model_len: u32,
    /// Tokens of an answer that its request does not limit
    #[arg(long, default_value_t = 128)]
    default_output_tokens: u32,
    /// Run so many times faster than real time; metrics stay in the engine's own seconds
    #[arg(long, default_value_t = 1.0)]
    speed_up: f64,
    /// Another seed gives other answers to the same prompts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Answer POST /v1/* at once with a constant body, without engine
    #[arg(long)]
    instant: bool,
    /// Faults from the start, as JSON; fields: reset, fail, status, cut, cut_after, slow_down, refuse_metrics
    #[arg(long, value_name = "JSON")]
    fault: Option<Faults>,
    /// Let POST /sim/faults change the faults while the pod runs (GET shows them)
    #[arg(long)]
    faults: bool,
}

impl PodArgs {
    fn config(self) -> PodConfig {
        let mut engine = self.profile.config();
        let set = |place: &mut u32, value: Option<u32>| *place = value.unwrap_or(*place);
        let set_seconds = |place: &mut f64, ms: Option<f64>| *place = ms.map_or(*place, |ms| ms / 1e3);
        set(&mut engine.num_gpu_blocks, self.blocks);
        set(&mut engine.block_size, self.block_size);
        set(&mut engine.max_num_seqs, self.max_num_seqs);
        set(&mut engine.max_num_batched_tokens, self.max_num_batched_tokens);
        set_seconds(&mut engine.step_seconds, self.step_ms);
        set_seconds(&mut engine.decode_seconds_per_seq, self.decode_ms_per_seq);
        if let Some(rate) = self.prefill_rate {
            engine.prefill_tokens_per_second = rate;
        }
        PodConfig {
            model: self.model,
            engine,
            speed_up: self.speed_up,
            max_model_len: self.max_model_len,
            default_output_tokens: self.default_output_tokens,
            seed: self.seed,
            instant: self.instant,
            faults: self.fault.unwrap_or_default(),
            faults_endpoint: self.faults,
        }
    }
}

/// Serves until a signal. One thread: several pods, a gateway and a load generator share a laptop's cores.
pub(super) fn run(args: PodArgs) -> anyhow::Result<()> {
    let address = (args.host, args.port);
    let config = args.config();
    config.check().map_err(|error| WrongFlag(format!("the pod cannot run like this: {error}")))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {}:{}", address.0, address.1))?;
        println!("{}", ready_line(&config, listener.local_addr()?));
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(serve_until(listener, config, stop).await?)
    })
}

fn ready_line(config: &PodConfig, address: std::net::SocketAddr) -> String {
    let engine = &config.engine;
    let what = match config.instant {
        true => "constant answers at once".to_owned(),
        false => format!(
            "{} prompt tokens/s, {} ms a step, {} blocks of {} tokens, {}x real time",
            engine.prefill_tokens_per_second,
            engine.step_seconds * 1e3,
            engine.num_gpu_blocks,
            engine.block_size,
            config.speed_up
        ),
    };
    format!("pod {} on http://{address} ({what})", config.model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::{CommandFactory, Parser};

    fn config(args: &[&str]) -> PodConfig {
        let args = ["warmpath-sim", "pod"].iter().chain(args);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Pod(args) => args.config(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_flags_it_is_the_default_pod() {
        let config = config(&[]);
        assert_eq!(config.engine, PodConfig::default().engine);
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn flags_change_single_figures_of_a_profile() {
        let config =
            config(&["--profile", "h100", "--blocks", "5000", "--step-ms", "10", "--fault", "{\"fail\":1}"]);
        let mut expected = Profile::H100.config();
        expected.num_gpu_blocks = 5000;
        expected.step_seconds = 0.010;
        assert_eq!(config.engine, expected);
        assert_eq!(config.faults.fail, 1);
    }

    #[test]
    fn what_cannot_run_says_which_flag() {
        for (args, setting) in [
            (["--blocks", "100"], "max_model_len"),
            (["--step-ms", "0"], "step_ms"),
            (["--speed-up", "0"], "speed_up"),
            (["--block-size", "0"], "block_size"),
        ] {
            assert_eq!(config(&args).check().unwrap_err().setting, setting);
        }
    }
}
