//! Admission control of vLLM's API server: a full pod refuses at once, so that the client may try another one.

use super::error::ApiError;

/// What counts against the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queued {
    /// Requests that have not ended, over all engines.
    pub(super) requests: u32,
    /// Prompt tokens of those without a first token: whole prompts, whatever of them is computed or cached.
    pub(super) prompt_tokens: u64,
}

/// The two limits; `None` is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Admission {
    pub(super) max_requests: Option<u32>,
    pub(super) max_tokens: Option<u64>,
}

/// Requests refused since the start, by limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rejections {
    pub(super) requests: u64,
    pub(super) tokens: u64,
}

impl Admission {
    /// Whether one more request is taken; counts it if not.
    pub(super) fn admit(&self, queued: Queued, rejections: &mut Rejections) -> bool {
        if self.max_requests.is_some_and(|most| queued.requests >= most) {
            rejections.requests += 1;
            return false;
        }
        if self.max_tokens.is_some_and(|most| queued.prompt_tokens >= most) {
            rejections.tokens += 1;
            return false;
        }
        true
    }
}

/// What a client that is refused hears.
pub(super) fn busy() -> ApiError {
    ApiError {
        status: axum::http::StatusCode::SERVICE_UNAVAILABLE,
        kind: "ServiceUnavailable",
        message:
            "The engine is currently busy and cannot accept new requests. Please try again later or on a \
                  different instance."
                .to_owned(),
        param: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_refuses_from_its_own_value_on() {
        let admission = Admission { max_requests: Some(2), max_tokens: Some(100) };
        let mut rejections = Rejections::default();
        let mut admit =
            |requests, prompt_tokens| admission.admit(Queued { requests, prompt_tokens }, &mut rejections);
        assert!(admit(1, 99) && !admit(2, 0) && !admit(1, 100) && !admit(0, 500));
        assert_eq!(rejections, Rejections { requests: 1, tokens: 2 });
        assert!(
            Admission::default().admit(Queued { requests: 1 << 20, prompt_tokens: 1 << 40 }, &mut rejections)
        );
    }
}
