//! Units that every room uses.

/// A point in time: microseconds since the Unix epoch, or since the start of a simulation.
pub type Micros = u64;

/// The position of a pod in the table and in the ledger.
pub type Slot = u16;

/// One second, in [`Micros`].
pub const SECOND: Micros = 1_000_000;

/// One millisecond, in [`Micros`].
pub const MILLISECOND: Micros = 1_000;
