//! The harness of the tests against a real Envoy.
//!
//! A test has three actors, and each ends when it is dropped:
//! [`TestPod`], a scripted vLLM pod inside the test's process; [`Envoy`], a real one with the configuration that
//! `scripts/envoy-config` prints; and the client, [`Request::send`].
//!
//! Nothing waits for luck: every wait has a condition and a time limit ([`until`]), and a failure says what was missing.

// A harness fails loudly: what it cannot do ends the test at the line that asked for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod client;
mod envoy;
mod pod;
mod random;
mod reload;
mod run;
mod sim;
mod traffic;

pub use client::{Opened, Protocol, Reply, Request, raw};
pub use envoy::{Envoy, EnvoyBuilder};
pub use pod::{Answer, Load, PageEnd, Received, Stream, TestPod};
pub use random::Random;
pub use run::{Finished, command, repository, target, until, within};
pub use sim::SimPod;
pub use traffic::{Account, Ending, Met, Sent, Traffic};
