//! What a pod serves and how: everything that its flags say.

use std::fmt;

use super::Faults;
use crate::engine::{EngineConfig, QueueLimits};

/// The settings of a pod. [`PodConfig::default`] is an A10 with a 7B model and vLLM's own defaults.
#[derive(Clone, Debug)]
pub struct PodConfig {
    /// Where the model lies: its name, unless `served_names` says otherwise.
    pub model: String,
    /// The names that requests use instead, the first of which stands in answers and metrics
    /// (`--served-model-name`).
    pub served_names: Vec<String>,
    /// LoRA adapters (`--lora-modules`); each is a model of its own to clients.
    pub adapters: Vec<String>,
    /// Adapters that the GPU holds at a time (`--max-loras`).
    pub max_loras: usize,
    /// Virtual seconds that a request waits for an adapter that the GPU does not hold.
    pub adapter_load_seconds: f64,
    /// The limits and the speed of each engine.
    pub engine: EngineConfig,
    /// Engines behind this address, each with a cache of its own (`--data-parallel-size`).
    pub engines: u32,
    /// API server processes (`--api-server-count`). More than one change the metrics page, as does more than
    /// one engine.
    pub api_servers: u32,
    /// When requests are refused, over all engines.
    pub queue: QueueLimits,
    /// Groups of a hybrid model's KV cache: `num_gpu_blocks` on the page is the share of one group, and only
    /// `kv_cache_size_tokens` says what fits.
    pub kv_groups: u32,
    /// Prompt and answer together have at most so many tokens.
    pub max_model_len: u32,
    /// Tokens of an answer that its request does not limit, end-of-sequence token included.
    pub default_output_tokens: u32,
    /// Whether answers report `cached_tokens` (`--enable-prompt-tokens-details`).
    pub reports_cached: bool,
    /// Whether responses are stored (`VLLM_ENABLE_RESPONSES_API_STORE=1`).
    pub stores_responses: bool,
    /// Refuse requests without this key (`--api-key`).
    pub api_key: Option<String>,
    /// Real seconds after which an idle connection is closed (`VLLM_HTTP_TIMEOUT_KEEP_ALIVE`); 0 is never.
    pub idle_seconds: f64,
    /// Virtual seconds in one real second. Metrics and limits are in virtual seconds.
    pub speed_up: f64,
    /// Another seed gives other answers to the same prompts.
    pub seed: u64,
    /// Answer every inference request at once with one constant body, without engine: for measuring a
    /// gateway.
    pub instant: bool,
    /// Faults from the start.
    pub faults: Faults,
    /// Whether `POST /sim/faults` may change the faults while the pod runs.
    pub faults_endpoint: bool,
}

impl Default for PodConfig {
    fn default() -> PodConfig {
        PodConfig {
            model: "/model/qwen".to_owned(),
            served_names: Vec::new(),
            adapters: Vec::new(),
            max_loras: 1,
            adapter_load_seconds: 0.5,
            engine: EngineConfig::default(),
            engines: 1,
            api_servers: 1,
            queue: QueueLimits::default(),
            kv_groups: 1,
            max_model_len: 16_384,
            default_output_tokens: 128,
            reports_cached: true,
            stores_responses: false,
            api_key: None,
            idle_seconds: 5.0,
            speed_up: 1.0,
            seed: 0,
            instant: false,
            faults: Faults::default(),
            faults_endpoint: false,
        }
    }
}

/// A setting that a pod cannot run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The flag of the setting, without dashes.
    pub setting: &'static str,
    /// What it must be.
    pub must: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} must be {}", self.setting, self.must)
    }
}

impl std::error::Error for ConfigError {}

impl PodConfig {
    /// The name of the model in answers and metrics.
    pub fn name(&self) -> &str {
        self.served_names.first().unwrap_or(&self.model)
    }

    /// Says which setting is impossible. Like vLLM, a pod does not start with a cache too small for one
    /// request of `max_model_len` tokens.
    ///
    /// # Errors
    /// The first impossible setting, with what it must be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        let engine = &self.engine;
        let decodes = [engine.decode_seconds_per_seq, engine.decode_seconds_per_context_token];
        for (fine, setting, must) in [
            (!self.name().is_empty(), "model", "a name"),
            (engine.block_size > 0, "block-size", "at least 1"),
            (engine.max_num_seqs > 0, "max-num-seqs", "at least 1"),
            (engine.max_num_batched_tokens > 0, "max-num-batched-tokens", "at least 1"),
            (positive(engine.prefill_tokens_per_second), "prefill-rate", "more than 0 tokens per second"),
            (positive(engine.step_seconds), "step-ms", "more than 0, or time would stand still"),
            (decodes.into_iter().all(not_negative), "decode-ms-per-seq", "at least 0"),
            (positive(self.speed_up), "speed-up", "more than 0"),
            (self.default_output_tokens > 0, "default-output-tokens", "at least 1"),
            ((1..=64).contains(&self.engines), "data-parallel-size", "1 to 64"),
            ((1..=64).contains(&self.api_servers), "api-server-count", "1 to 64"),
            (self.max_loras > 0, "max-loras", "at least 1"),
            (not_negative(self.adapter_load_seconds), "lora-load-ms", "at least 0"),
            ((1..=64).contains(&self.kv_groups), "kv-groups", "1 to 64"),
            (not_negative(self.idle_seconds), "keep-alive-seconds", "at least 0"),
            (self.queue.requests != Some(0), "max-num-queued-reqs", "at least 1"),
            (self.queue.prompt_tokens != Some(0), "max-num-queued-tokens", "at least 1"),
        ] {
            if !fine {
                return Err(ConfigError { setting, must: must.to_owned() });
            }
        }
        if let Err(must) = self.faults.check() {
            return Err(ConfigError { setting: "faults", must });
        }
        let capacity = engine.capacity_tokens();
        if self.max_model_len < 2 || self.max_model_len > capacity {
            let must = format!("2 to {capacity}, the tokens that the KV cache holds");
            return Err(ConfigError { setting: "max-model-len", must });
        }
        Ok(())
    }
}
