//! What a router tells the answer filters of a request: they may be in another VM, and Envoy no longer shows
//! them the request's headers, so a property of the stream tells it.
//!
//! To write a property takes as long as all else that a request's record costs. So it is written only where
//! a request is not like most: these have a prompt, as many pods are named for them as ever are, and any pod
//! may serve them. In a pool of fewer pods every request is told of.

use warmpath::Tokens;
use warmpath::decide::pick::PICKS;
use warmpath::router::Decision;

use crate::abi::Bytes;
use crate::host;

/// The property, one byte for each field of [`AnswerHint`].
const UNLIKE_MOST: &str = "warmpath.unlike_most";

/// What is told of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHint {
    /// Pods that are named for it; 0 for one that goes where Envoy sends it.
    pub pods: usize,
    /// Whether it has a prompt that is known.
    pub has_prompt: bool,
    /// Whether it goes on from a response that its first pod has stored, and no other.
    pub goes_on: bool,
}

impl AnswerHint {
    /// What is true of most requests.
    const USUAL: AnswerHint = AnswerHint { pods: PICKS, has_prompt: true, goes_on: false };

    /// That of a request which is decided.
    pub fn of(decision: &Decision) -> AnswerHint {
        AnswerHint {
            pods: decision.picks.iter().count(),
            has_prompt: decision.tokens > Tokens::NONE,
            goes_on: decision.goes_on,
        }
    }

    /// That of a request which goes where Envoy sends it.
    pub fn unrouted(has_prompt: bool) -> AnswerHint {
        AnswerHint { pods: 0, has_prompt, goes_on: false }
    }

    /// Gives it to the answer filters of this stream.
    pub fn give(self) {
        if self != AnswerHint::USUAL {
            host::set_property(UNLIKE_MOST, &self.encode());
        }
    }

    /// What the router has told of this stream's request.
    pub fn of_stream() -> AnswerHint {
        host::property(UNLIKE_MOST).and_then(AnswerHint::decode).unwrap_or(AnswerHint::USUAL)
    }

    fn encode(self) -> [u8; 3] {
        [self.pods as u8, self.has_prompt.into(), self.goes_on.into()]
    }

    fn decode(bytes: Bytes) -> Option<AnswerHint> {
        let [pods, has_prompt, goes_on] = <[u8; 3]>::try_from(bytes).ok()?;
        Some(AnswerHint { pods: pods.into(), has_prompt: has_prompt != 0, goes_on: goes_on != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        for pods in 0..=PICKS {
            for (has_prompt, goes_on) in [(false, false), (false, true), (true, false), (true, true)] {
                let told = AnswerHint { pods, has_prompt, goes_on };
                assert_eq!(AnswerHint::decode(told.encode().to_vec()), Some(told));
            }
        }
    }
}
