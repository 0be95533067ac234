//! Units that every room counts in, as types, so that none is taken for another.

/// Sums and differences that stop at the ends of the range instead of going round.
macro_rules! stop_at_the_ends {
    ($($unit:ident),*) => { $(
        impl std::ops::Add for $unit {
            type Output = $unit;

            fn add(self, more: $unit) -> $unit {
                $unit(self.0.saturating_add(more.0))
            }
        }

        impl std::ops::Sub for $unit {
            type Output = $unit;

            fn sub(self, less: $unit) -> $unit {
                $unit(self.0.saturating_sub(less.0))
            }
        }
    )* };
}

mod amounts;
mod decimal;
mod random;

use std::ops::{Div, Mul};

pub use amounts::{Bytes, Tokens};
pub use decimal::decimal;
pub use random::Random;

/// Microseconds: a point on a clock that never runs backwards, or a span of time.
///
/// Sums, differences and products stop at the ends of the range instead of going round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

/// The position of a pod in the table and in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot that no pod has.
    pub const NONE: Slot = Slot(u16::MAX);

    /// All slots, in order.
    pub fn all() -> impl Iterator<Item = Slot> {
        (0..u16::MAX).map(Slot)
    }
}

/// A model, or a LoRA adapter, by a hash of the name that requests ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u32);

impl ModelId {
    /// The model of this name, in the spelling in which requests are compared ([`crate::request::json`]).
    pub fn of(name: &[u8]) -> ModelId {
        ModelId(xxhash_rust::xxh3::xxh3_64(name) as u32)
    }
}

impl From<Slot> for usize {
    fn from(slot: Slot) -> usize {
        usize::from(slot.0)
    }
}

/// One second.
pub const SECOND: Micros = Micros(1_000_000);

/// One millisecond.
pub const MILLISECOND: Micros = Micros(1_000);

/// Canonical bytes per token before anything is learned: English text in common vocabularies.
pub const DEFAULT_BYTES_PER_TOKEN: f32 = 4.0;

impl Micros {
    /// The start of time, and the empty span.
    pub const ZERO: Micros = Micros(0);

    /// A span of whole seconds.
    pub const fn from_seconds(seconds: u64) -> Micros {
        Micros(seconds.saturating_mul(SECOND.0))
    }

    /// A span of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Micros {
        Micros(millis.saturating_mul(MILLISECOND.0))
    }

    /// The span from `earlier` until this point; zero if `earlier` is the later one.
    pub const fn since(self, earlier: Micros) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }

    /// The span in seconds.
    pub fn as_seconds(self) -> f32 {
        self.0 as f32 / 1e6
    }
}

stop_at_the_ends!(Micros);

impl Mul<Micros> for u64 {
    type Output = Micros;

    fn mul(self, span: Micros) -> Micros {
        Micros(self.saturating_mul(span.0))
    }
}

impl Div<u64> for Micros {
    type Output = Micros;

    /// A part of the span; the whole of it for zero parts.
    fn div(self, parts: u64) -> Micros {
        Micros(self.0 / parts.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_add_up_and_never_go_round() {
        assert_eq!(2 * SECOND + 5 * MILLISECOND, Micros(2_005_000));
        assert_eq!(Micros(7).since(Micros(3)), Micros(4));
        assert_eq!(Micros(3) - Micros(7), Micros::ZERO);
        assert_eq!(Micros(u64::MAX) + SECOND, Micros(u64::MAX));
        assert_eq!(u64::MAX * SECOND, Micros(u64::MAX));
        assert_eq!((SECOND / 4, SECOND / 0), (Micros(250_000), SECOND));
        assert_eq!(Micros::from_millis(1_500).as_seconds(), 1.5);
        assert_eq!(Micros::from_seconds(3), 3 * SECOND);
    }
}
