//! Amounts of prompt, as types: a number of requests, of blocks or of bytes is never taken for one of tokens.

use std::ops::{Div, Mul};

/// Tokens of prompts. Sums, differences and products stop at the ends of the range instead of going round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tokens(pub u32);

/// Canonical bytes of prompts: what blocks and matches are measured in. Neither the bytes of a body nor those
/// of memory.
///
/// Sums and differences stop at the ends of the range instead of going round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Tokens {
    /// No tokens.
    pub const NONE: Tokens = Tokens(0);

    /// The whole tokens of an estimate; none of one that is below zero or no number.
    pub const fn estimated(tokens: f32) -> Tokens {
        Tokens(tokens as u32)
    }

    /// As a term of an estimate.
    pub const fn as_f32(self) -> f32 {
        self.0 as f32
    }
}

impl Bytes {
    /// No bytes.
    pub const NONE: Bytes = Bytes(0);

    /// As a term of an estimate.
    pub const fn as_f32(self) -> f32 {
        self.0 as f32
    }
}

stop_at_the_ends!(Tokens, Bytes);

impl Mul<Tokens> for u32 {
    type Output = Tokens;

    fn mul(self, tokens: Tokens) -> Tokens {
        Tokens(self.saturating_mul(tokens.0))
    }
}

impl Div<u32> for Tokens {
    type Output = Tokens;

    /// A part of the tokens; none for zero parts.
    fn div(self, parts: u32) -> Tokens {
        Tokens(self.0.checked_div(parts).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_stop_at_the_ends_of_their_range() {
        assert_eq!(Tokens(3) + Tokens(4) - Tokens(2), Tokens(5));
        assert_eq!(Tokens(3) - Tokens(4), Tokens::NONE);
        assert_eq!(Tokens(u32::MAX) + Tokens(1), Tokens(u32::MAX));
        assert_eq!((u32::MAX * Tokens(2), 3 * Tokens(2)), (Tokens(u32::MAX), Tokens(6)));
        assert_eq!((Tokens(7) / 2, Tokens(7) / 0), (Tokens(3), Tokens::NONE));
        assert_eq!(Bytes(u64::MAX) + Bytes(1), Bytes(u64::MAX));
        assert_eq!(Bytes(1) - Bytes(2), Bytes::NONE);
    }

    #[test]
    fn estimates_lose_their_fraction_and_are_never_below_zero() {
        assert_eq!((Tokens::estimated(7.9), Tokens::estimated(-1.0)), (Tokens(7), Tokens::NONE));
        assert_eq!((Tokens::estimated(f32::NAN), Tokens::estimated(1e12)), (Tokens::NONE, Tokens(u32::MAX)));
    }
}
