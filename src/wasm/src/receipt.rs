//! What a request's own record says of its decision and its answer, for the access log, headers and spans.
//!
//! The decision is a request header, which pods see and ignore: to write a property makes objects in Envoy,
//! and takes several times as long as a header. What is known only once the request has left is a property.

use warmpath::answer::usage::Usage;
use warmpath::config::Config;
use warmpath::router::Decision;
use warmpath::{Micros, Tokens};

#[cfg(feature = "blind")]
use crate::blind::{self, Observed};
use crate::host;

/// The header, as `reason=prefix pods=3 matched=2351/2415`. It is one text, because each header costs a call,
/// and each field of the access log a look-up.
const DECISION: &str = "x-warmpath-decision";
const REASON: &str = "reason=";
/// How many pods are named for the request: one, and those that follow it.
const PODS: &str = " pods=";
/// The request goes on from a response that its pod has stored.
const STORED: &str = " stored=1";
/// Prompt tokens that the pod was believed to hold, of all. Only a request with a prompt has it.
const MATCHED: &str = " matched=";
/// The record of a prompt that no pod is named for, which goes where Envoy sends it.
const UNROUTED: &str = "pods=0 matched=0/0";
/// Room for all of it.
const LONGEST: usize = 64;

/// The property, as `ttft_ms=12.3 reported=2304/2415`.
const ANSWER: &str = "warmpath.answer";
/// Milliseconds to the first token of its stream, with one digit after the point.
const FIRST_TOKEN: &str = "ttft_ms=";
/// Prompt tokens that came from the cache, of all, as the answer reports them.
const REPORTED: &str = "reported=";

/// The headers that have a part of the decision each, for headers of the answer.
mod headers {
    /// Why the request went to its pod.
    pub const REASON: &str = "x-warmpath-reason";
    /// Prompt tokens that the pod was believed to hold, of all: `2351/2415`.
    pub const MATCHED: &str = "x-warmpath-matched";
}

/// The properties that have one value each, for the tags of spans.
mod properties {
    /// The name of the model that the request asks for, as the request spells it. It is no header, as a
    /// client may spell it with bytes that a header may not have.
    pub const MODEL: &str = "warmpath.model";
    /// Prompt tokens, as the answer reports them.
    pub const PROMPT: &str = "warmpath.prompt_tokens";
    /// Those of them that the pod had in its cache, as the answer reports them.
    pub const CACHED: &str = "warmpath.cached_tokens";
}

/// Which parts of the record stand by themselves, too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    headers: bool,
    properties: bool,
}

impl Parts {
    /// Those that the configuration asks for.
    pub fn of(config: &Config) -> Parts {
        Parts { headers: config.receipt_headers, properties: config.receipt_properties }
    }
}

/// The record of one request, as far as it is not written yet.
#[derive(Debug, Default)]
pub struct Receipt {
    /// What is known of its answer.
    answer: String,
    parts: Parts,
}

impl Receipt {
    /// The request is decided, which asks for `model` if it has a prompt.
    pub fn decided(decision: &Decision, model: Option<&[u8]>, parts: Parts) -> Receipt {
        let reason = decision.reason.as_str();
        let mut text = String::with_capacity(LONGEST);
        text.push_str(REASON);
        text.push_str(reason);
        text.push_str(PODS);
        // Three at most.
        push_number(&mut text, decision.picks.iter().count() as u64);
        if decision.goes_on {
            text.push_str(STORED);
        }
        let mut matched = "";
        if decision.tokens > Tokens::NONE {
            text.push_str(MATCHED);
            let at = text.len();
            push_share(&mut text, decision.matched_tokens, decision.tokens);
            matched = text.get(at..).unwrap_or_default();
        }
        if parts.headers {
            host::set_request_header(headers::REASON, Some(reason.as_bytes()));
            host::set_request_header(headers::MATCHED, (!matched.is_empty()).then_some(matched.as_bytes()));
        }
        if let Some(model) = model.filter(|_| parts.properties) {
            host::set_property(properties::MODEL, model);
        }
        host::set_request_header(DECISION, Some(text.as_bytes()));
        Receipt { answer: String::new(), parts }
    }

    /// No pod is named for the request, and Envoy finds one.
    pub fn unrouted(has_prompt: bool) {
        // Without one, what a client has sent is removed.
        host::set_request_header(DECISION, has_prompt.then_some(UNROUTED.as_bytes()));
    }

    /// Its first token has come, so long after the whole request.
    pub fn started(&mut self, took: Micros) {
        self.answer.push_str(FIRST_TOKEN);
        push_number(&mut self.answer, took.0 / 1000);
        self.answer.push('.');
        push_number(&mut self.answer, took.0 / 100 % 10);
        self.show_answer();
    }

    /// Its answer has reported what it used.
    pub fn answered(&mut self, usage: Option<Usage>) {
        let Some(Usage { prompt_tokens, cached_tokens: Some(cached) }) = usage else { return };
        if !self.answer.is_empty() {
            self.answer.push(' ');
        }
        self.answer.push_str(REPORTED);
        push_share(&mut self.answer, cached, prompt_tokens);
        self.show_answer();
        if self.parts.properties {
            host::set_property(properties::PROMPT, prompt_tokens.0.to_string().as_bytes());
            host::set_property(properties::CACHED, cached.0.to_string().as_bytes());
        }
    }

    fn show_answer(&self) {
        #[cfg(feature = "blind")]
        if blind::observed() != Observed::All {
            return;
        }
        host::set_property(ANSWER, self.answer.as_bytes());
    }
}

fn push_share(text: &mut String, part: Tokens, whole: Tokens) {
    push_number(text, part.0.into());
    text.push('/');
    push_number(text, whole.0.into());
}

/// Appends a number, without the machinery that formats anything: it would cost more than the rest of the
/// record.
fn push_number(text: &mut String, number: u64) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 7, 10, 2_415, 1_000_000, u64::from(u32::MAX), u64::MAX] {
            let mut text = String::from("n=");
            push_number(&mut text, number);
            assert_eq!(text, format!("n={number}"));
        }
    }
}
