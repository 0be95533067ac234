//! `warmpath-sim pod`.

use std::net::IpAddr;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::wrong_flag::WrongFlag;
use crate::engine::{Profile, QueueLimits};
use crate::pod::{Faults, PodConfig, serve_until};

/// The flags of `warmpath-sim pod`. Without any, it is an A10 with a 7B model on port 8000.
#[derive(Debug, Args)]
#[command(
    long_about = "Serve one simulated vLLM pod over HTTP until SIGTERM or SIGINT.\n\n\
It follows vLLM 0.32: endpoints, forms of answers, streams and errors, and the metrics page are those of recorded \
servers, and a flag that vLLM has too does what it does there. Answers are made-up words, but the same prompt gets \
the same answer, and its time comes from a model of continuous batching over a prefix cache.",
    after_help = AFTER_HELP
)]
pub struct PodArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one and the ready line says which
    #[arg(long, default_value_t = 8000)]
    port: u16,

    /// The model: its name in requests, answers and metrics unless --served-model-name gives others
    #[arg(long, default_value = "/model/qwen", help_heading = MODEL)]
    model: String,
    /// Names of the model in requests; the first stands in answers and metrics, --model is then the `root` of
    /// all
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = MODEL)]
    served_model_name: Vec<String>,
    /// LoRA adapters that are there from the start; POST /v1/load_lora_adapter and unload_lora_adapter change
    /// them
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = MODEL)]
    lora_modules: Vec<String>,
    /// Adapters that the GPU holds at a time; requests for others wait, and count as deferred
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = MODEL)]
    max_loras: usize,
    /// Milliseconds that loading an adapter takes
    #[arg(long, value_name = "MS", default_value_t = 500.0, help_heading = MODEL)]
    lora_load_ms: f64,
    /// Tokens of prompt and answer together, at most
    #[arg(long, default_value_t = 16_384, help_heading = MODEL)]
    max_model_len: u32,
    /// Tokens of an answer that its request does not limit
    #[arg(long, default_value_t = 128, help_heading = MODEL)]
    default_output_tokens: u32,
    /// Another seed gives other answers to the same prompts
    #[arg(long, default_value_t = 0, help_heading = MODEL)]
    seed: u64,

    /// GPU and model that the engine's speed and cache are taken from; the flags below change single figures
    #[arg(long, value_enum, default_value = "a10", help_heading = ENGINE)]
    profile: Profile,
    /// Prompt tokens computed per second [a10: 5500, h100: 25000]
    #[arg(long, help_heading = ENGINE)]
    prefill_rate: Option<f64>,
    /// Milliseconds that every step costs, whatever is in it [a10: 28, h100: 6.8]
    #[arg(long, help_heading = ENGINE)]
    step_ms: Option<f64>,
    /// Milliseconds that every decoding request adds to a step [a10: 0.2, h100: 0.03]
    #[arg(long, help_heading = ENGINE)]
    decode_ms_per_seq: Option<f64>,
    /// KV blocks [a10: 2048, h100: 24000]
    #[arg(long, help_heading = ENGINE)]
    blocks: Option<u32>,
    /// Tokens of a KV block (default 16)
    #[arg(long, help_heading = ENGINE)]
    block_size: Option<u32>,
    /// Requests that run at the same time, at most [a10: 256, h100: 1024]
    #[arg(long, help_heading = ENGINE)]
    max_num_seqs: Option<u32>,
    /// Tokens of one step, at most [a10: 2048, h100: 8192]
    #[arg(long, help_heading = ENGINE)]
    max_num_batched_tokens: Option<u32>,
    /// KV groups of a hybrid model: num_gpu_blocks on the metrics page is the share of one,
    /// kv_cache_size_tokens the whole
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = ENGINE)]
    kv_groups: u32,
    /// KV blocks in host memory in addition to the GPU's, filled as they are computed (vLLM:
    /// --kv-offloading-size, in GiB)
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = ENGINE)]
    host_blocks: u32,
    /// Run so many times faster than real time; metrics stay in the engine's own seconds
    #[arg(long, default_value_t = 1.0, help_heading = ENGINE)]
    speed_up: f64,

    /// Engines behind this address, each with a cache of its own; X-data-parallel-rank names one, else the
    /// least busy
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = SERVER)]
    data_parallel_size: u32,
    /// API server processes; more than one take process_start_time_seconds off the page, and its gauges until
    /// a request
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = SERVER)]
    api_server_count: u32,
    /// Refuse with 503 (in a stream: 200 and an error event) while so many requests are unfinished
    #[arg(long, value_name = "N", help_heading = SERVER)]
    max_num_queued_reqs: Option<u32>,
    /// The same while the prompts without a first token have so many tokens
    #[arg(long, value_name = "N", help_heading = SERVER)]
    max_num_queued_tokens: Option<u64>,
    /// Answers do not report cached_tokens, as without vLLM's --enable-prompt-tokens-details
    #[arg(long, help_heading = SERVER)]
    no_prompt_tokens_details: bool,
    /// Store responses for previous_response_id, GET and cancel (vLLM: VLLM_ENABLE_RESPONSES_API_STORE=1)
    #[arg(long, help_heading = SERVER)]
    responses_store: bool,
    /// Refuse requests without this key with 401
    #[arg(long, value_name = "KEY", help_heading = SERVER)]
    api_key: Option<String>,
    /// Close connections that were idle for so long, in real seconds; 0 is never (vLLM:
    /// VLLM_HTTP_TIMEOUT_KEEP_ALIVE)
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, help_heading = SERVER)]
    keep_alive_seconds: f64,
    /// Answer POST /v1/* at once with a constant body, without engine
    #[arg(long, help_heading = SERVER)]
    instant: bool,

    /// Fail on purpose: begin with these faults, and let GET and POST /sim/faults show and replace them.
    /// Without JSON there are none to begin with; without the flag nobody can set any
    #[arg(long, value_name = "JSON", num_args = 0..=1, default_missing_value = "{}", help_heading = FAULTS)]
    faults: Option<Faults>,
}

const MODEL: &str = "Model";
const ENGINE: &str = "Engine";
const SERVER: &str = "Server";
const FAULTS: &str = "Faults";

const AFTER_HELP: &str = "\
Fields of --faults and of POST /sim/faults, which replaces all of them. Counts go down with each POST to an inference API:
  reset N              reset the connection before any byte of an answer
  fail N, status S     answer at once with this status [503] and an error body
  error_event N        fail before the first token: a stream says 200 and then an error event with `status`
  dead_engine N        fail as vLLM does once its engine has died: 500, in a stream as its first event
  done_only N          a stream says 200 and nothing but [DONE]
  cut N, cut_after T   break a stream after this many tokens [4]
The others hold until they are replaced:
  slow_down F          engines are this many times slower
  hang true            engines stand still: streams get headers and nothing else, the metrics page does not move
  keep_alive_ms MS     a comment so often in a stream that waits for its first token
  stale_gauges true    running and waiting keep their values until the next batch
  deferred N           so many more requests wait for something else than room
  refuse_metrics true, metrics_delay_ms MS, metrics_busy_ms MS
                       the metrics page answers 503, answers late, or holds up the thread that streams tokens
  restart true         once, now: as after a crash

For operators, as in vLLM: POST /sleep?level=1, /wake_up, /reset_prefix_cache; GET /is_sleeping.

Examples:
  warmpath-sim pod --port 8001                          an A10 with a 7B model, in real time
  warmpath-sim pod --port 0 --speed-up 20               the same, 20 times as fast, on any free port
  warmpath-sim pod --profile h100 --blocks 4000         an H100 whose KV cache holds only 64,000 tokens
  warmpath-sim pod --max-num-queued-reqs 16             refuses the 17th request until one has ended
  warmpath-sim pod --data-parallel-size 2               two engines, two caches, one address
  warmpath-sim pod --lora-modules sql,chat              a model and two adapters
  warmpath-sim pod --faults '{\"fail\": 3}'             the first three requests get a 503
  warmpath-sim pod --instant                            one constant answer, for measuring a gateway";

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
        engine.host_blocks = self.host_blocks;
        if let Some(rate) = self.prefill_rate {
            engine.prefill_tokens_per_second = rate;
        }
        PodConfig {
            model: self.model,
            served_names: self.served_model_name,
            adapters: self.lora_modules,
            max_loras: self.max_loras,
            adapter_load_seconds: self.lora_load_ms / 1e3,
            engine,
            engines: self.data_parallel_size,
            api_servers: self.api_server_count,
            queue: QueueLimits {
                requests: self.max_num_queued_reqs,
                prompt_tokens: self.max_num_queued_tokens,
            },
            kv_groups: self.kv_groups,
            max_model_len: self.max_model_len,
            default_output_tokens: self.default_output_tokens,
            reports_cached: !self.no_prompt_tokens_details,
            stores_responses: self.responses_store,
            api_key: self.api_key,
            idle_seconds: self.keep_alive_seconds,
            speed_up: self.speed_up,
            seed: self.seed,
            instant: self.instant,
            faults_endpoint: self.faults.is_some(),
            faults: self.faults.unwrap_or_default(),
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
            "{} prompt tokens/s, {} ms per step, {} blocks of {} tokens, {}x real time",
            engine.prefill_tokens_per_second,
            engine.step_seconds * 1e3,
            engine.num_gpu_blocks,
            engine.block_size,
            config.speed_up
        ),
    };
    format!("pod {} on http://{address} ({what})", config.name())
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
            config(&["--profile", "h100", "--blocks", "5000", "--step-ms", "10", "--faults", "{\"fail\":1}"]);
        let mut expected = Profile::H100.config();
        expected.num_gpu_blocks = 5000;
        expected.step_seconds = 0.010;
        assert_eq!(config.engine, expected);
        assert_eq!(config.faults.fail, 1);
    }

    #[test]
    fn faults_open_their_endpoint_with_and_without_any_to_begin_with() {
        assert!(!config(&[]).faults_endpoint);
        let open = config(&["--faults", "--port", "0"]);
        assert!(open.faults_endpoint && open.faults == Faults::default());
        assert_eq!(
            config(&["--faults", "{\"hang\": true}"]).faults,
            Faults { hang: true, ..Faults::default() }
        );
        assert!(Cli::try_parse_from(["warmpath-sim", "pod", "--faults", "{\"fial\": 1}"]).is_err());
    }

    #[test]
    fn what_cannot_run_says_which_flag() {
        for (args, setting) in [
            (["--blocks", "100"], "max-model-len"),
            (["--step-ms", "0"], "step-ms"),
            (["--speed-up", "0"], "speed-up"),
            (["--block-size", "0"], "block-size"),
        ] {
            assert_eq!(config(&args).check().unwrap_err().setting, setting);
        }
    }
}
