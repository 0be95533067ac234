//! A simulated vLLM pod over HTTP: the engine in real time, behind the endpoints, stream forms and metrics that a
//! router sees of vLLM 0.32.
//!
//! A request's way: `server` takes the connection and applies faults, `routes` finds the handler, one module an API
//! (`chat`, `completions`, `responses`, `messages`, `embeddings`) parses the body and writes the answer, `template` and
//! `tokens` make tokens of text and text of tokens, `driver` runs the engine, `live` counts what a request did, `job` is
//! what a handler holds of it, `stream` turns its tokens into server-sent events, and `metrics` makes the page.

mod call;
mod chat;
mod clock;
mod completions;
mod driver;
mod embeddings;
mod error;
mod faults;
mod instant;
mod job;
mod live;
mod messages;
mod metrics;
mod responses;
mod routes;
mod server;
mod stream;
mod template;
mod tokens;

use std::fmt;

pub use faults::Faults;
pub use server::{serve, serve_until};

use crate::engine::EngineConfig;

/// What a pod serves and how fast.
#[derive(Clone, Debug)]
pub struct PodConfig {
    /// The model's name in requests, answers and metric labels.
    pub model: String,
    /// The pod's limits and speed.
    pub engine: EngineConfig,
    /// Virtual seconds in one real second. Metrics and limits are in virtual seconds.
    pub speed_up: f64,
    /// Prompt and answer together have at most so many tokens.
    pub max_model_len: u32,
    /// Tokens of an answer that its request does not limit, end-of-sequence token included.
    pub default_output_tokens: u32,
    /// Another seed gives other answers to the same prompts.
    pub seed: u64,
    /// Answer every inference request at once with one constant body, without engine: for measuring a gateway.
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
            engine: EngineConfig::default(),
            speed_up: 1.0,
            max_model_len: 16_384,
            default_output_tokens: 128,
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
    /// The setting's name.
    pub setting: &'static str,
    /// What it must be.
    pub must: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}", self.setting, self.must)
    }
}

impl std::error::Error for ConfigError {}

impl PodConfig {
    /// Says which setting is impossible. Like vLLM, a pod does not start with a cache too small for one request of
    /// `max_model_len` tokens.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |setting, must: &str| Err(ConfigError { setting, must: must.to_owned() });
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        let engine = &self.engine;
        if self.model.is_empty() {
            return refuse("model", "a name");
        }
        if engine.block_size == 0 {
            return refuse("block_size", "at least 1");
        }
        if engine.max_num_seqs == 0 {
            return refuse("max_num_seqs", "at least 1");
        }
        if engine.max_num_batched_tokens == 0 {
            return refuse("max_num_batched_tokens", "at least 1");
        }
        if !positive(engine.prefill_tokens_per_second) {
            return refuse("prefill_rate", "more than 0 tokens a second");
        }
        if !positive(engine.step_seconds) {
            return refuse("step_ms", "more than 0, or time would stand still");
        }
        if !not_negative(engine.decode_seconds_per_seq)
            || !not_negative(engine.decode_seconds_per_context_token)
        {
            return refuse("decode_ms_per_seq", "at least 0");
        }
        if !positive(self.speed_up) {
            return refuse("speed_up", "more than 0");
        }
        if !positive(self.faults.slow_down) {
            return refuse("faults.slow_down", "more than 0");
        }
        if self.default_output_tokens == 0 {
            return refuse("default_output_tokens", "at least 1");
        }
        if self.max_model_len < 2 || self.max_model_len > engine.capacity_tokens() {
            let capacity = engine.capacity_tokens();
            return refuse("max_model_len", &format!("2 to {capacity}, the tokens that the KV cache holds"));
        }
        Ok(())
    }
}
