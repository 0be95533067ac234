//! What a request's own record says of its decision: a property of the stream, for the access log, headers and spans.

use std::fmt::Write;

use warmpath::answer::usage::Usage;
use warmpath::router::Decision;
use warmpath::{Micros, Tokens};

use crate::host;

/// The property, as `reason=prefix matched=2351/2415 ttft_ms=12.3 reported=2304/2415`. It is one text, because each property
/// costs a call, and each field of the access log a look-up.
const DECISION: &str = "warmpath.decision";
/// Prompt tokens, as the answer reports them.
const PROMPT: &str = "warmpath.prompt_tokens";
/// Those of them that the pod had in its cache, as the answer reports them.
const CACHED: &str = "warmpath.cached_tokens";
/// Prompt tokens that the pod was believed to hold, of all. Only a request with a prompt has it.
const MATCHED: &str = " matched=";
/// Room for all of it.
const LONGEST: usize = 96;

/// The record of one request, as far as it is known.
#[derive(Debug)]
pub struct Receipt(String);

impl Receipt {
    /// The request is decided.
    pub fn decided(decision: &Decision) -> Receipt {
        let mut receipt = Receipt(String::with_capacity(LONGEST));
        receipt.0.push_str("reason=");
        receipt.0.push_str(decision.reason.as_str());
        if decision.tokens > Tokens::NONE {
            receipt.push_share(MATCHED, decision.matched_tokens, decision.tokens);
        }
        receipt.show();
        receipt
    }

    /// Its first token has come, so long after the whole request.
    pub fn started(&mut self, took: Micros) {
        let _ = write!(self.0, " ttft_ms={}.{}", took.0 / 1000, took.0 / 100 % 10);
        self.show();
    }

    /// Its answer has reported what it used. With `by_themselves` each number is a property of its own, too.
    pub fn answered(&mut self, usage: Option<Usage>, by_themselves: bool) {
        let Some(Usage { prompt_tokens, cached_tokens: Some(cached) }) = usage else { return };
        self.push_share(" reported=", cached, prompt_tokens);
        self.show();
        if by_themselves {
            for (name, number) in [(PROMPT, prompt_tokens), (CACHED, cached)] {
                host::set_property(name, number.0.to_string().as_bytes());
            }
        }
    }

    fn push_share(&mut self, name: &str, part: Tokens, whole: Tokens) {
        let _ = write!(self.0, "{name}{}/{}", part.0, whole.0);
    }

    fn show(&self) {
        host::set_property(DECISION, self.0.as_bytes());
    }
}

/// Whether the request of this stream has a prompt, as its record tells whoever else looks at the stream.
pub fn has_prompt() -> bool {
    host::property(&[DECISION])
        .is_some_and(|text| text.windows(MATCHED.len()).any(|at| at == MATCHED.as_bytes()))
}
