//! What goes into the engine and what comes out.

use std::fmt;
use std::sync::Arc;

/// One request as the engine sees it: lengths, and which blocks its tokens make.
#[derive(Clone, Debug)]
pub struct EngineRequest {
    /// Unique among the requests the engine has at that time.
    pub id: u64,
    /// Chained hashes of the full blocks of the prompt *and* of the answer it will get (see
    /// [`Chain`](super::Chain)). Blocks past the end of this list are computed but never cached.
    pub blocks: Arc<[u64]>,
    /// Tokens of the prompt, at least 1.
    pub prompt_tokens: u32,
    /// Tokens of the answer. 0 is a request that ends with its prefill, like an embedding.
    pub output_tokens: u32,
}

/// Something that happened to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineEvent {
    /// The request.
    pub id: u64,
    /// When, in seconds.
    pub at: f64,
    /// What.
    pub what: EventKind,
}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was admitted for the first time, with so many prompt tokens found in the cache.
    Scheduled {
        /// A multiple of the block size, less than the prompt.
        cached_tokens: u32,
    },
    /// It lost its blocks to an older request and waits again; the tokens it has given out stay.
    Preempted,
    /// Its first token is out.
    FirstToken,
    /// A later token is out: the `generated`-th, from 2.
    Token {
        /// Tokens of the answer so far.
        generated: u32,
    },
    /// It is complete, and its blocks are free but still cached. Follows the last token at the same time.
    Finished,
}

/// What a scrape of the pod would say about its load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineLoad {
    /// Requests in the batch (`vllm:num_requests_running`).
    pub running: u32,
    /// Requests that wait to be admitted (`vllm:num_requests_waiting`).
    pub waiting: u32,
    /// Share of the blocks that requests hold, 0 to 1 (`vllm:kv_cache_usage_perc`). Cached blocks nobody
    /// holds count as free.
    pub kv_usage: f64,
}

/// Sums since the start or the last [`Engine::restart`](super::Engine::restart).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Prompt tokens looked up in the prefix cache, counted at first admission.
    pub prefix_queries: u64,
    /// Of those, the ones found.
    pub prefix_hits: u64,
    /// Prompt tokens looked up in host memory, which is what the GPU's cache did not have.
    pub host_queries: u64,
    /// Of those, the ones found.
    pub host_hits: u64,
    /// Tokens of the prompts whose prefill is complete.
    pub prompt_tokens: u64,
    /// Of those, the ones that came from the cache.
    pub prompt_tokens_cached: u64,
    /// Tokens given out.
    pub generation_tokens: u64,
    /// Preemptions.
    pub preemptions: u64,
    /// Requests that finished.
    pub finished: u64,
    /// Steps that ended.
    pub steps: u64,
    /// Seconds spent in those steps.
    pub busy_seconds: f64,
}

/// One step: what was in it and when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchStep {
    /// Seconds.
    pub began: f64,
    /// Seconds.
    pub ends: f64,
    /// Prompt tokens computed, and tokens recomputed after a preemption.
    pub prefill_tokens: u32,
    /// Requests that decode one token each.
    pub decodes: u32,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// Prompt and answer together are more than the whole cache holds, so it could never finish.
    TooLong {
        /// Prompt and answer.
        tokens: u32,
        /// What the cache holds.
        capacity: u32,
    },
    /// A prompt has at least one token.
    Empty,
    /// The id belongs to a request the engine still has.
    DuplicateId(u64),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubmitError::TooLong { tokens, capacity } => {
                write!(f, "the request needs {tokens} tokens of KV cache, the pod has {capacity}")
            }
            SubmitError::Empty => write!(f, "the prompt is empty"),
            SubmitError::DuplicateId(id) => write!(f, "request {id} is already there"),
        }
    }
}

impl std::error::Error for SubmitError {}
