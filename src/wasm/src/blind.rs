//! Leaves out, for a slice of time after another, what Warmpath observes of requests: for
//! `scripts/bench-observation`, in builds with the feature `blind`, and in no others.
//!
//! Two Envoys side by side differ by more than observation costs. So one is compared with itself.

use crate::host;

/// What is observed of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// All there is.
    All,
    /// Requests and prefix hits, with a call of Envoy for each, as before Warmpath could be observed.
    Counts,
    /// Nothing.
    Nothing,
}

/// Microseconds: long beside a request, and short beside whatever else disturbs a machine.
const SLICE: u64 = 20_000;

/// What is observed now. The script goes by the same rule, in the same numbers.
pub fn observed() -> Observed {
    let slice = host::now().0 / SLICE;
    // An order that nothing else on the machine goes by. The number is the golden ratio, as in Knuth's
    // multiplicative hashing.
    match (slice.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % 3 {
        0 => Observed::All,
        1 => Observed::Counts,
        _ => Observed::Nothing,
    }
}
