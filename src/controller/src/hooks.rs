//! Envoy Gateway's extension server: asked about each resource of a translation, answers from memory.
//!
//! A translation asks about a route first, then about the endpoints of its clusters and the clusters
//! themselves, then about the listeners. What is not known is an error and never an empty answer: an empty
//! list of endpoints would be delivered.

mod cluster;
mod endpoints;
mod listener;
pub mod memory;
pub mod messages;
mod route;
pub mod server;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::plan::binding::Disagreement;
use crate::xds::WireError;

/// Why a hook gives no answer. Envoy Gateway keeps what it has.
#[derive(Debug, Error)]
pub enum HookError {
    /// The resource cannot be read.
    #[error("the resource cannot be read: {0}")]
    Wire(#[from] WireError),
    /// The caches are behind; asking again helps.
    #[error("{0} is not known yet")]
    Unknown(String),
    /// The copy of the route is another; asking again helps.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    /// The time is over.
    #[error("no answer within the deadline")]
    Deadline,
}
