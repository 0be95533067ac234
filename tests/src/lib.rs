//! The harness of the tests against a real Envoy.
//!
//! A test has three actors, and each ends when it is dropped: [`TestPod`] is a scripted vLLM pod inside the
//! test's process. [`Envoy`] is a real Envoy with the configuration that `scripts/envoy-config` prints.
//! [`Request::send`] is the client.
//!
//! Every wait has a condition and a time limit ([`until`]), and a failure says which condition was not met.

// When the harness cannot do something, it ends the test at the line that asked for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod client;
mod distance;
mod envoy;
mod flood;
mod pod;
mod random;
mod reload;
mod run;
mod sim;
mod stopwatch;
mod traffic;

pub use client::{Opened, Protocol, Reply, Request, raw};
pub use distance::Distance;
pub use envoy::{Envoy, EnvoyBuilder, falls_back, filters_share_a_vm, form, is_1_40};
pub use flood::Flood;
pub use pod::{Answer, Load, PageEnd, Received, Stream, TestPod};
pub use random::Random;
pub use run::{Finished, command, repository, target, until, until_resting, within};
pub use sim::SimPod;
pub use stopwatch::Stopwatch;
pub use traffic::{Account, Ending, Met, Sent, Traffic};
