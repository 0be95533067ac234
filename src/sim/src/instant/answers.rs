//! The answers of the instant backend, made once.

use std::time::Duration;

use memchr::memmem;

use super::options::InstantOptions;

/// What an idle vLLM says of itself, and where it says the size of its KV cache: blocks of 128 tokens.
const METRICS: &str = include_str!("../../../../tests/fixtures/vllm-0.32/metrics-idle.txt");
const CACHE_BLOCKS: &str = "num_gpu_blocks=\"1024\"";
const BLOCK_TOKENS: u64 = 128;
/// The models of a vLLM that serves one.
const MODELS: &[u8] = include_bytes!("../../../../tests/fixtures/vllm-0.32/models.json");

/// The answers, made once.
#[derive(Debug)]
pub(super) struct Answers {
    /// Head and body of an answer to a prompt; the number of prompt tokens is written into a copy at
    /// `tokens_at`.
    pub(super) chat: Vec<u8>,
    pub(super) tokens_at: usize,
    /// Writes one after the other; empty when answers are whole.
    pub(super) events: Vec<Vec<u8>>,
    pub(super) gap: Duration,
    pub(super) metrics: Vec<u8>,
    pub(super) models: Vec<u8>,
    pub(super) healthy: Vec<u8>,
    pub(super) missing: Vec<u8>,
}

impl Answers {
    /// As the options say.
    pub(super) fn new(options: &InstantOptions) -> Answers {
        // As vLLM writes it, without `cached_tokens`: it reports them on request only. The number of tokens
        // is padded, so that it can be written in place.
        let body = concat!(
            r#"{"id":"chatcmpl-0","object":"chat.completion","created":1795224855,"model":"warmpath-bench","choices":"#,
            r#"[{"index":0,"message":{"role":"assistant","content":"Forty-two.","refusal":null,"tool_calls":[]},"#,
            r#""logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":"#,
            r#"        16,"total_tokens":20,"completion_tokens":4,"prompt_tokens_details":null},"prompt_logprobs":null}"#,
        );
        let chat = whole("200 OK", "application/json", body.as_bytes());
        let key = br#""prompt_tokens":"#;
        let tokens_at = memmem::find(&chat, key).map_or(0, |at| at + key.len());
        let mut events = Vec::new();
        if options.events > 0 {
            // The head goes alone, then one write an event, as vLLM's server does.
            events.push(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
                    .to_vec(),
            );
            for nth in 0..options.events {
                let event = format!(
                    "data: {{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion.chunk\",\"created\":1795224855,\"model\":\"warmpath-bench\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word{nth}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
                );
                events.push(format!("{:x}\r\n{event}\r\n", event.len()).into_bytes());
            }
            events.push(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n".to_vec());
        }
        let blocks = options.cache_tokens / BLOCK_TOKENS;
        let metrics = METRICS.replace(CACHE_BLOCKS, &format!("num_gpu_blocks=\"{blocks}\""));
        Answers {
            chat,
            tokens_at,
            events,
            gap: Duration::from_micros(options.event_gap_us),
            metrics: whole("200 OK", "text/plain; version=1.0.0; charset=utf-8", metrics.as_bytes()),
            models: whole("200 OK", "application/json", MODELS),
            healthy: whole("200 OK", "application/json", b""),
            missing: whole("404 Not Found", "application/json", br#"{"detail":"Not Found"}"#),
        }
    }
}

/// A whole answer.
fn whole(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len())
            .into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// Writes `number` right-aligned into ten bytes; JSON allows the spaces.
pub(super) fn set_number(answer: &mut [u8], at: usize, mut number: usize) {
    for place in answer.get_mut(at..at + 10).unwrap_or_default().iter_mut().rev() {
        *place = if number > 0 { b'0' + (number % 10) as u8 } else { b' ' };
        number /= 10;
    }
    if let Some(last) = answer.get_mut(at + 9).filter(|b| **b == b' ') {
        *last = b'0';
    }
}
