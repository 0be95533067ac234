//! The ends of a request.

use crate::answer::usage::Usage;
use crate::answer::verdict::Decline;
use crate::{Micros, Tokens};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer, which may have reported its usage. An answer that came whole, its first byte with its
    /// last, need not have been started: both are booked at once.
    Answered {
        /// What the answer reported.
        usage: Option<Usage>,
        /// When it ended.
        at: Micros,
    },
    /// With an error of the pod's own: 500, 502 or 504. Other errors concern the request (4xx), or are
    /// failures at once (503).
    UpstreamError {
        /// When it ended.
        at: Micros,
    },
    /// The pod refused the request in a way that another pod may not.
    Declined {
        /// How.
        how: Decline,
        /// When it ended.
        at: Micros,
    },
    /// Without an answer: the client went away, the stream was reset, or the request itself was at fault.
    Aborted,
}

impl End {
    /// What the answer reported.
    pub(super) fn usage(&self) -> Option<Usage> {
        match *self {
            End::Answered { usage, .. } => usage,
            End::UpstreamError { .. } | End::Declined { .. } | End::Aborted => None,
        }
    }
    /// Prompt tokens that the pod has computed, where the answer reports what came from the cache.
    pub(super) fn computed(&self) -> Option<Tokens> {
        let Usage { prompt_tokens, cached_tokens } = self.usage()?;
        cached_tokens.map(|cached| prompt_tokens - cached)
    }
}
