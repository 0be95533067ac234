//! Limits of a pod's queue: a full pod refuses at once, so that the request may be tried elsewhere.

/// The limits; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Unfinished requests, those that run included (`--max-num-queued-reqs`).
    pub requests: Option<u32>,
    /// Prompt tokens of requests without a first token (`--max-num-queued-tokens`).
    pub prompt_tokens: Option<u64>,
}

/// What counts against the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Requests that have not ended.
    pub requests: u32,
    /// Prompt tokens of those without a first token: whole prompts, whatever of them is computed or cached.
    pub prompt_tokens: u64,
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// [`QueueLimits::requests`].
    Requests,
    /// [`QueueLimits::prompt_tokens`].
    PromptTokens,
}

impl QueueLimits {
    /// The limit for which one more request is refused, if there is one. As in vLLM, a limit refuses from its
    /// own value on, and the size of the request itself does not count.
    pub fn refuses(&self, queued: Queued) -> Option<QueueLimit> {
        if self.requests.is_some_and(|most| queued.requests >= most) {
            return Some(QueueLimit::Requests);
        }
        self.prompt_tokens
            .is_some_and(|most| queued.prompt_tokens >= most)
            .then_some(QueueLimit::PromptTokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_refuses_from_its_own_value_on() {
        let limits = QueueLimits { requests: Some(2), prompt_tokens: Some(100) };
        let refuses = |requests, prompt_tokens| limits.refuses(Queued { requests, prompt_tokens });
        assert_eq!(refuses(1, 99), None);
        assert_eq!(refuses(2, 0), Some(QueueLimit::Requests));
        assert_eq!(refuses(1, 100), Some(QueueLimit::PromptTokens));
        assert_eq!(
            QueueLimits::default().refuses(Queued { requests: 1 << 20, prompt_tokens: 1 << 40 }),
            None
        );
    }
}
