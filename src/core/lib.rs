//! Every decision of Warmpath, and nothing else: no clock, no I/O, no log, no host call, no panic.
//! Time and chance come in as arguments, so the same code runs in Envoy, in tests and in a fleet on virtual time.
//!
//! The path of a request: [`body`] (bytes -> model, prompt parts) -> [`prompt`] (canonical bytes, in the order that
//! vLLM's chat template sees) -> [`blocks`] (boundaries and chained hashes) -> [`index`] (which pod holds which
//! block) -> [`ledger`] (work in flight on every pod, all workers) -> [`cost`] (seconds a pod will need) -> [`pick`]
//! (the best pod and its runners-up) -> [`response`] (first byte, usage) -> [`feedback`] (release, repair, learn).
//! [`router`] tells that story in one place.
//!
//! The path of a metric: [`announce`] (which pods there are) -> [`pods`] (when to scrape each) -> [`exposition`]
//! (Prometheus text) -> [`engine`] (vLLM's names -> pod load) -> [`table`] (versioned bytes in shared data) -> the
//! router's snapshot.
//! [`collector`] tells that one.
//!
//! [`json`] is how a body is scanned, [`beginnings`] spares it what was read before, [`shared`] says what workers share and
//! under which keys, `recall` which reads of it are spared, [`wire`] how numbers become bytes, and [`config`] what a user may
//! set.

pub mod announce;
pub mod beginnings;
pub mod blocks;
pub mod body;
pub mod collector;
pub mod config;
pub mod cost;
pub mod engine;
pub mod exposition;
pub mod feedback;
pub mod index;
pub mod json;
pub mod lease;
pub mod ledger;
pub mod log;
pub mod pick;
pub mod pods;
pub mod prompt;
mod recall;
pub mod refusal;
pub mod response;
pub mod router;
pub mod shared;
mod slab;
mod specials;
pub mod table;
pub mod wire;

/// A point in time: microseconds since the Unix epoch, or since the start of a simulation.
pub type Micros = u64;

/// The position of a pod in the table and in the ledger.
pub type Slot = u16;

/// One second, in [`Micros`].
pub const SECOND: Micros = 1_000_000;

/// One millisecond, in [`Micros`].
pub const MILLISECOND: Micros = 1_000;
