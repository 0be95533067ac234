//! What a request's own record says of its decision: properties of the stream, for the access log, headers and spans.

use std::fmt::Write;

use warmpath::answer::usage::Usage;
use warmpath::router::Decision;
use warmpath::{Micros, Tokens};

use crate::host;

/// Why the request went to its pod.
const REASON: &str = "warmpath.reason";
/// Prompt tokens that the pod was believed to hold, and all of them: `2351/2415`. Only a request with a prompt has it.
pub const MATCHED: &str = "warmpath.matched";
/// Milliseconds from the whole request to its first token.
const FIRST_TOKEN: &str = "warmpath.ttft_ms";
/// Prompt tokens, as the answer reports them.
const PROMPT: &str = "warmpath.prompt_tokens";
/// Those of them that the pod had in its cache, as the answer reports them.
const CACHED: &str = "warmpath.cached_tokens";

/// The request is decided.
pub fn decided(decision: &Decision) {
    host::set_property(REASON, decision.reason.as_str().as_bytes());
    if decision.tokens > Tokens::NONE {
        share(MATCHED, decision.matched_tokens, decision.tokens);
    }
}

/// Its first token has come.
pub fn started(took: Micros) {
    let mut text = String::new();
    let _ = write!(text, "{}.{}", took.0 / 1000, took.0 / 100 % 10);
    host::set_property(FIRST_TOKEN, text.as_bytes());
}

/// Its answer has reported what it used, and how much of that came from the cache.
pub fn answered(usage: Option<Usage>) {
    if let Some(Usage { prompt_tokens, cached_tokens: Some(cached) }) = usage {
        number(PROMPT, prompt_tokens);
        number(CACHED, cached);
    }
}

fn number(name: &str, value: Tokens) {
    let mut text = String::new();
    let _ = write!(text, "{}", value.0);
    host::set_property(name, text.as_bytes());
}

fn share(name: &str, part: Tokens, whole: Tokens) {
    let mut text = String::new();
    let _ = write!(text, "{}/{}", part.0, whole.0);
    host::set_property(name, text.as_bytes());
}
