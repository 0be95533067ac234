//! Envoy's messages as bytes: edited in place, so that every field that this program does not know stays as
//! it came.
//!
//! [`wire`] reads and writes protocol buffers without a schema; [`build`] makes the messages that are ours;
//! [`canon`] gives maps one order. The other files each edit one kind of resource, and nothing here knows
//! Kubernetes or gRPC.

pub mod build;
pub mod canon;
pub mod cluster;
pub mod endpoints;
pub mod listener;
pub mod route;
pub mod wire;

pub use wire::WireError;

/// The request header in which the module names pods, `ip:port,ip:port`, for `override_host`.
pub const DESTINATION_HEADER: &str = "x-warmpath-destination";
/// The header by which vLLM is told which of its engines computes a request.
pub const ENGINE_HEADER: &str = "x-data-parallel-rank";

/// The name of the filter in a listener, of its configuration on a route, and of our key in
/// `filter_metadata`.
pub const FILTER: &str = "warmpath";
