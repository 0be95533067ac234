//! What a pod was believed to hold of the prompts that it has answered: the collector compares it with what
//! the pod's cache says that it gave.

use crate::{Micros, Tokens};

/// Shorter matches do not count: a pod may look for whole blocks of its own, and those of a hybrid model have
/// hundreds of tokens.
const MIN_TOKENS: Tokens = Tokens(1024);

/// Tokens that were believed to be cached, since a time that the collector has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheTally {
    /// Only requests that were sent since then count, as the pod has looked up each of them since then; 0
    /// when nobody compares.
    pub since: Micros,
    /// Tokens of their prompts that the pod was believed to hold.
    pub tokens: Tokens,
    /// How many there were with such tokens.
    pub answers: u16,
}

impl CacheTally {
    /// A tally from `now` on.
    pub fn from(now: Micros) -> CacheTally {
        CacheTally { since: now, ..CacheTally::default() }
    }

    /// The pod has answered a request that was sent at `sent_at`, and was believed to hold `tokens` of its
    /// prompt.
    pub fn add(&mut self, tokens: Tokens, sent_at: Micros) {
        if tokens >= MIN_TOKENS && self.since > Micros::ZERO && sent_at >= self.since {
            self.tokens = self.tokens + tokens;
            self.answers = self.answers.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;

    #[test]
    fn only_long_matches_of_requests_since_the_start_count() {
        let mut idle = CacheTally::default();
        idle.add(Tokens(5000), SECOND);
        assert_eq!(idle, CacheTally::default(), "nobody compares");
        let mut tally = CacheTally::from(2 * SECOND);
        tally.add(Tokens(5000), SECOND);
        tally.add(MIN_TOKENS - Tokens(1), 3 * SECOND);
        tally.add(Tokens(5000), 3 * SECOND);
        tally.add(Tokens(2000), 2 * SECOND);
        assert_eq!((tally.tokens, tally.answers), (Tokens(7000), 2));
    }
}
