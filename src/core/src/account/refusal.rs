//! One refusal: what a pod does not serve, since when, and for how long such requests go elsewhere.

use crate::account::pod_health::Observed;
use crate::request::body::Api;
use crate::shared::codec::Field;
use crate::shared::pod_table::PodKey;
use crate::{Micros, ModelId, SECOND, Slot};

/// For how long requests go elsewhere after the first refusal; doubles with each further one.
const FIRST_TIME: Micros = SECOND;
/// The longest such time.
const LONGEST_TIME: Micros = Micros::from_seconds(30);
/// Doublings after which it no longer grows.
const MOST_DOUBLINGS: u32 = 10;
/// Refusals in a row of different prompts that count against a kind of request when nothing is proven.
pub const IN_A_ROW: u16 = 3;
/// One refusal is enough: it is proven that the pod is at fault, or only the same request is kept away.
pub const AT_ONCE: u16 = 1;

/// What is refused, by a hash: requests of a kind, or a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause(pub(super) u32);

impl Cause {
    /// Nothing that could be told apart.
    pub const NONE: Cause = Cause(0);

    /// Requests to an API for a model.
    pub fn kind(api: Api, model: ModelId) -> Cause {
        // Not 0, and not the hash of the model, so that the APIs are told apart.
        Cause(model.0.rotate_left(api as u32 + 1) ^ 0x9E37_79B9 | 1)
    }

    /// A prompt by the chain of its block hashes; none for one without a whole block.
    pub fn prompt(hashes: &[u32]) -> Cause {
        Cause(hashes.last().copied().unwrap_or_default())
    }
}

/// What a request can be refused for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// Its kind.
    pub kind: Cause,
    /// Its prompt.
    pub prompt: Cause,
}

impl Causes {
    pub(super) fn have(self, cause: Cause) -> bool {
        cause != Cause::NONE && (cause == self.kind || cause == self.prompt)
    }
}

/// A refusal of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it refuses.
    pub cause: Cause,
    /// The pod.
    pub pod: PodKey,
    /// Refusals since it last served that; from the one on that was enough, where there is one.
    pub count: u16,
    /// When the last one was seen.
    pub at: Micros,
    /// Until when such requests go elsewhere; 0 as long as the evidence is not enough.
    pub until: Micros,
}

/// The layout of a refusal in the ledger.
pub(super) mod layout {
    use super::Field;

    pub const CAUSE: Field<u32> = Field::FIRST;
    pub const SLOT: Field<u16> = CAUSE.then();
    pub const ID: Field<u32> = SLOT.then();
    pub const COUNT: Field<u16> = ID.then();
    pub const AT: Field<u64> = COUNT.then();
    pub const UNTIL: Field<u64> = AT.then();
    pub const SIZE: usize = UNTIL.end();
}

impl Refusal {
    pub(super) fn encode(&self) -> [u8; layout::SIZE] {
        let mut bytes = [0; layout::SIZE];
        layout::CAUSE.put(&mut bytes, self.cause.0);
        layout::SLOT.put(&mut bytes, self.pod.slot.0);
        layout::ID.put(&mut bytes, self.pod.id);
        layout::COUNT.put(&mut bytes, self.count);
        layout::AT.put(&mut bytes, self.at.0);
        layout::UNTIL.put(&mut bytes, self.until.0);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Refusal {
        Refusal {
            cause: Cause(layout::CAUSE.get(bytes)),
            pod: PodKey { slot: Slot(layout::SLOT.get(bytes)), id: layout::ID.get(bytes) },
            count: layout::COUNT.get(bytes),
            at: Micros(layout::AT.get(bytes)),
            until: Micros(layout::UNTIL.get(bytes)),
        }
    }

    /// One more refusal; `needed` of them are enough. Those that were under way at the last one count as one
    /// with it.
    pub(super) fn again(&mut self, needed: u16, seen: Observed) {
        let is_enough = self.until > Micros::ZERO;
        if is_enough && seen.sent_at < self.at {
            return;
        }
        self.at = seen.at;
        self.count = self.count.saturating_add(1);
        if !is_enough {
            if self.count < needed {
                return;
            }
            self.count = 1;
        }
        let doublings = u32::from(self.count - 1).min(MOST_DOUBLINGS);
        self.until = seen.at + ((1 << doublings) * FIRST_TIME).min(LONGEST_TIME);
    }
}
