//! Where a request goes, and why.

use crate::account::ticket::Ticket;
use crate::decide::pick::Picks;
use crate::decide::reason::Reason;
use crate::{Bytes, Slot, Tokens};

/// Where a request goes, and why.
#[derive(Clone, Debug)]
#[must_use = "the request is booked: its ticket must be closed"]
pub struct Decision {
    /// The pods, best first.
    pub picks: Picks,
    /// The engine that is named to each of them, where they have several.
    pub engine: Option<u16>,
    /// The request goes on from a response that the best pod has stored, and no other.
    pub goes_on: bool,
    /// Canonical bytes of the prompt.
    pub bytes: Bytes,
    /// Canonical bytes of it that the best pod is believed to hold.
    pub matched_bytes: Bytes,
    /// Tokens of the prompt, as estimated; 0 without one.
    pub tokens: Tokens,
    /// Tokens of it that the best pod is believed to hold.
    pub matched_tokens: Tokens,
    /// Why it goes to the best pod.
    pub reason: Reason,
    /// The pod that holds most of the prompt, where the request leaves it for another one.
    pub left: Option<Slot>,
    /// Pods beyond those that are named would not know the model: the request is for a LoRA adapter that only
    /// some have.
    pub restricted: bool,
    /// The request's account in the ledger.
    pub ticket: Ticket,
}

impl Decision {
    /// Share of the prompt that the best pod is believed to hold, 0 to 1.
    pub fn match_ratio(&self) -> f64 {
        self.matched_bytes.0 as f64 / self.bytes.0.max(1) as f64
    }
}
