//! How the index has to be corrected when a request has ended.

use super::{Belief, End, Ticket};
use crate::account::learning;
use crate::answer::usage::Usage;

/// A correction of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The pod has evicted all that it used last at this time of its clock or before.
    EvictUpTo(u32),
    /// The pod has not computed the prompt.
    Retract,
}

impl Ticket {
    /// How the index has to be corrected, given the end of the request. Of a prompt whose answer never began,
    /// the pod is believed to hold what it held before: it may have refused the prompt, or dropped it half
    /// computed.
    pub fn repair(&self, end: End) -> Option<Repair> {
        if let Some(usage) = end.usage() {
            return self.evicted_up_to(&usage).map(Repair::EvictUpTo);
        }
        let unanswered = !matches!(end, End::Answered { .. }) && !self.started;
        (unanswered && !self.hashes().is_empty()).then_some(Repair::Retract)
    }

    /// If the answer proves a miss: the time of the pod's clock up to which all that it used last is evicted.
    ///
    /// The pod evicts the least recently used blocks first, so with the missing blocks went all that it used
    /// no later than them. The prompt itself is computed by now, and the pod holds it. A miss proves nothing
    /// while the prompt that was to fill the blocks may not have been computed: vLLM computes in order of
    /// arrival, so that can only be one of the requests that waited there when this one was sent.
    fn evicted_up_to(&self, usage: &Usage) -> Option<u32> {
        let Belief { matched, used, .. } = self.belief;
        let missed = learning::missed(usage, self.prompt.bytes, usize::from(matched));
        used.previous.filter(|_| missed && self.was_computed())
    }

    /// Whether the pod must have computed what it was believed to hold of the prompt before it came to this
    /// request.
    pub(super) fn was_computed(&self) -> bool {
        let Belief { used, ahead, .. } = self.belief;
        used.previous.is_some_and(|previous| used.at.wrapping_sub(previous) > ahead)
    }
}
