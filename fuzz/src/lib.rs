//! Fuzz targets: one function for each kind of bytes that comes from outside.
//!
//! Each function takes bytes, and panics when a property does not hold. Two drivers call them: cargo-fuzz
//! (`fuzz/targets`), and, on a stable compiler, `fuzz/tests/corpus.rs`, which replays and mutates the
//! corpora.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod answers;
mod config;
mod metrics;
mod pool;
mod requests;
mod shared;

pub use answers::{first_token, usage};
pub use config::config;
pub use metrics::metrics;
pub use requests::{body, conversation, json};
pub use shared::shared;

/// A fuzz target: panics when a property does not hold for these bytes.
pub type Target = fn(&[u8]);

/// All targets, by the names of their corpora.
pub const TARGETS: [(&str, Target); 8] = [
    ("body", body),
    ("config", config),
    ("conversation", conversation),
    ("first_token", first_token),
    ("json", json),
    ("metrics", metrics),
    ("shared", shared),
    ("usage", usage),
];
