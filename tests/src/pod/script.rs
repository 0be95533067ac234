//! What a pod says: its metrics page, and the answer to each request.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Frame;
use hyper::header::HeaderMap;
use tokio::sync::mpsc;

/// What a pod's `/metrics` page says.
#[derive(Clone, Debug)]
pub struct Load {
    /// `vllm:num_requests_running` beyond the requests that the pod really works on; those are added.
    pub running: u32,
    /// `vllm:num_requests_waiting`.
    pub waiting: u32,
    /// `vllm:kv_cache_usage_perc`, 0 to 1.
    pub cache_used: f64,
    /// `num_gpu_blocks` of `vllm:cache_config_info`.
    pub blocks: u32,
    /// `block_size` of `vllm:cache_config_info`, in tokens.
    pub block_size: u32,
    /// `process_start_time_seconds`.
    pub started: f64,
    /// Bytes of comments after the metrics.
    pub padding: usize,
}

impl Default for Load {
    /// An idle pod with a cache of 16,384 blocks of 16 tokens.
    fn default() -> Self {
        Self {
            running: 0,
            waiting: 0,
            cache_used: 0.0,
            blocks: 16_384,
            block_size: 16,
            started: 1_795_224_676.25,
            padding: 0,
        }
    }
}

impl Load {
    /// The page, in the form that vLLM 0.32 writes (the lines that matter; `tests/fixtures` has whole ones).
    pub fn page(&self) -> String {
        let Self { running, waiting, cache_used, blocks, block_size, started, padding } = self;
        let padding = "# and so on\n".repeat(padding / 11);
        let of = r#"engine="0",model_name="/model/qwen""#;
        format!(
            "# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.\n\
             # TYPE process_start_time_seconds gauge\n\
             process_start_time_seconds {started:?}\n\
             # HELP vllm:num_requests_running Number of requests in model execution batches.\n\
             # TYPE vllm:num_requests_running gauge\n\
             vllm:num_requests_running{{{of}}} {running}.0\n\
             # HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n\
             # TYPE vllm:num_requests_waiting gauge\n\
             vllm:num_requests_waiting{{{of}}} {waiting}.0\n\
             # HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.\n\
             # TYPE vllm:kv_cache_usage_perc gauge\n\
             vllm:kv_cache_usage_perc{{{of}}} {cache_used:?}\n\
             # HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n\
             # TYPE vllm:cache_config_info gauge\n\
             vllm:cache_config_info{{block_size=\"{block_size}\",cache_dtype=\"auto\",enable_prefix_caching=\"True\",\
             engine=\"0\",num_gpu_blocks=\"{blocks}\"}} 1.0\n\
             {padding}"
        )
    }
}

/// How a `/metrics` page ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageEnd {
    /// Properly.
    Whole,
    /// The connection is cut after so many bytes of it.
    CutAfter(usize),
    /// Nothing follows after so many bytes of it, and the connection stays open.
    StallsAfter(usize),
}

/// A request that reached a pod.
#[derive(Clone, Debug)]
pub struct Received {
    /// When it was there with its whole body.
    pub at: Instant,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// What a pod does with a request.
#[derive(Debug)]
pub enum Answer {
    /// 200 and a small chat completion with usage.
    Completion,
    /// A status with headers and a body.
    Whole(u16, Vec<(&'static str, String)>, Bytes),
    /// 200 and a `text/event-stream` whose pieces the test releases; from [`Stream::new`].
    Stream(StreamEnd),
    /// Like a model: the first of so many `tokens` after `first`, the others `each` apart. Streamed if the
    /// request asks for it.
    Tokens {
        /// Time until the first token.
        first: Duration,
        /// Time between two tokens.
        each: Duration,
        /// Number of tokens.
        tokens: u32,
        /// The pod breaks the connection off after so many tokens. A whole answer then breaks off before its
        /// first byte.
        cut: Option<u32>,
    },
    /// 101, and then the same bytes come back. To a proxy this is a WebSocket.
    Echo,
    /// Waits, then gives the other answer.
    After(Duration, Box<Answer>),
    /// Ends the connection before the first byte of an answer.
    Reset,
    /// Never answers, and keeps the connection open.
    Silence,
}

impl Answer {
    /// `tokens` tokens, of which the first comes after `first` and the others `each` apart; nothing breaks
    /// off.
    pub fn tokens(first: Duration, each: Duration, tokens: u32) -> Answer {
        Answer::Tokens { first, each, tokens, cut: None }
    }

    /// A status with a JSON document, which the test writes.
    pub fn json(status: u16, document: impl Into<Bytes>) -> Answer {
        Answer::Whole(status, vec![("content-type", "application/json".to_owned())], document.into())
    }
}

/// The pod's end of a [`Stream`].
#[derive(Debug)]
pub struct StreamEnd(pub(super) mpsc::UnboundedReceiver<io::Result<Frame<Bytes>>>);

/// The test's end of a streamed answer. Dropping it completes the answer.
#[derive(Debug)]
pub struct Stream(mpsc::UnboundedSender<io::Result<Frame<Bytes>>>);

impl Stream {
    /// A stream, and the answer that carries it.
    pub fn new() -> (Self, Answer) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Answer::Stream(StreamEnd(receiver)))
    }

    /// Releases one piece of the body.
    pub fn chunk(&self, text: impl Into<Bytes>) {
        let _ = self.0.send(Ok(Frame::data(text.into())));
    }

    /// Releases trailers, which end the body.
    pub fn trailers(self, name: &'static str, value: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().unwrap());
        let _ = self.0.send(Ok(Frame::trailers(trailers)));
    }

    /// Breaks the connection off in the middle of the body.
    pub fn break_off(self) {
        let _ = self.0.send(Err(io::Error::other("the test breaks the answer off")));
    }

    /// Whether the connection to the pod has ended, because the client went away or Envoy gave up.
    pub fn is_cut(&self) -> bool {
        self.0.is_closed()
    }
}
