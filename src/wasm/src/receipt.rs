//! What a request's own record says of its decision: a property of the stream, for the access log, headers
//! and spans.

use warmpath::answer::usage::Usage;
use warmpath::router::Decision;
use warmpath::{Micros, Tokens};

use crate::host;

/// The property, as `reason=prefix pods=3 matched=2351/2415 ttft_ms=12.3 reported=2304/2415`. It is one text,
/// because each property costs a call, and each field of the access log a look-up.
const DECISION: &str = "warmpath.decision";
/// How many pods are named for the request: one, and those that follow it.
const PODS: &str = " pods=";
/// The request goes on from a response that its pod has stored.
const STORED: &str = " stored=1";
/// Prompt tokens that the pod was believed to hold, of all. Only a request with a prompt has it.
const MATCHED: &str = " matched=";
/// Milliseconds to the first token of its stream, with one digit after the point.
const FIRST_TOKEN: &str = " ttft_ms=";
/// Prompt tokens that came from the cache, of all, as the answer reports them.
const REPORTED: &str = " reported=";
/// Room for all of it.
const LONGEST: usize = 96;

/// The parts that are properties by themselves where the configuration asks for that: headers and tags of
/// spans each need one.
mod parts {
    /// Why the request went to its pod.
    pub const REASON: &str = "warmpath.reason";
    /// Prompt tokens that the pod was believed to hold, of all: `2351/2415`.
    pub const MATCHED: &str = "warmpath.matched";
    /// The name of the model that the request asks for, as the request spells it.
    pub const MODEL: &str = "warmpath.model";
    /// Prompt tokens, as the answer reports them.
    pub const PROMPT: &str = "warmpath.prompt_tokens";
    /// Those of them that the pod had in its cache, as the answer reports them.
    pub const CACHED: &str = "warmpath.cached_tokens";
}

/// The record of one request, as far as it is known.
#[derive(Debug)]
pub struct Receipt {
    text: String,
    in_parts: bool,
}

impl Receipt {
    /// The request is decided, which asks for `model` if it has a prompt. With `in_parts` the parts are
    /// properties, too.
    pub fn decided(decision: &Decision, model: Option<&[u8]>, in_parts: bool) -> Receipt {
        let reason = decision.reason.as_str();
        let mut receipt = Receipt { text: String::with_capacity(LONGEST), in_parts };
        receipt.text.push_str("reason=");
        receipt.text.push_str(reason);
        receipt.part(parts::REASON, reason.as_bytes());
        receipt.text.push_str(PODS);
        // Three at most.
        receipt.text.push(char::from(b'0' + decision.picks.iter().count() as u8));
        if decision.goes_on {
            receipt.text.push_str(STORED);
        }
        if decision.tokens > Tokens::NONE {
            receipt.share(MATCHED, parts::MATCHED, decision.matched_tokens, decision.tokens);
        }
        if let Some(model) = model {
            receipt.part(parts::MODEL, model);
        }
        receipt.show();
        receipt
    }

    /// No pod is named for the request, and Envoy finds one. Those who look at the stream learn whether it
    /// has a prompt.
    pub fn unrouted(has_prompt: bool) {
        if has_prompt {
            let text = [PODS.trim_ascii_start(), "0", MATCHED, "0/0"].concat();
            host::set_property(DECISION, text.as_bytes());
        }
    }

    /// Its first token has come, so long after the whole request.
    pub fn started(&mut self, took: Micros) {
        self.text.push_str(FIRST_TOKEN);
        push_number(&mut self.text, took.0 / 1000);
        self.text.push('.');
        push_number(&mut self.text, took.0 / 100 % 10);
        self.show();
    }

    /// Its answer has reported what it used.
    pub fn answered(&mut self, usage: Option<Usage>) {
        let Some(Usage { prompt_tokens, cached_tokens: Some(cached) }) = usage else { return };
        self.text.push_str(REPORTED);
        push_share(&mut self.text, cached, prompt_tokens);
        self.show();
        if self.in_parts {
            self.part(parts::PROMPT, prompt_tokens.0.to_string().as_bytes());
            self.part(parts::CACHED, cached.0.to_string().as_bytes());
        }
    }

    fn share(&mut self, name: &str, property: &str, part: Tokens, whole: Tokens) {
        self.text.push_str(name);
        let at = self.text.len();
        push_share(&mut self.text, part, whole);
        self.part(property, self.text.get(at..).unwrap_or_default().as_bytes());
    }

    fn part(&self, property: &str, value: &[u8]) {
        if self.in_parts {
            host::set_property(property, value);
        }
    }

    fn show(&self) {
        host::set_property(DECISION, self.text.as_bytes());
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

/// What the record of a request tells whoever else looks at its stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Pods that are named for it; 0 for one that goes where Envoy sends it.
    pub pods: usize,
    /// Whether it has a prompt.
    pub has_prompt: bool,
    /// Whether it goes on from a response that its first pod has stored, and no other.
    pub goes_on: bool,
}

/// What the record of this stream's request tells.
pub fn told() -> Told {
    let Some(text) = host::property(DECISION) else { return Told::default() };
    let after = |name: &str| {
        let at = text.windows(name.len()).position(|at| at == name.as_bytes())?;
        text.get(at + name.len()..)
    };
    let pods =
        after(PODS).and_then(|rest| rest.first()).map_or(0, |digit| usize::from(digit.wrapping_sub(b'0')));
    Told { pods, has_prompt: after(MATCHED).is_some(), goes_on: after(STORED).is_some() }
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
