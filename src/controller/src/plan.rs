//! What Kubernetes says, and what follows from it: no clock, no network, no Kubernetes client.
//!
//! [`facts`] are the objects as they are, reduced to what counts. [`World`] is what follows from all of them
//! at one moment; the hooks answer from it, and the writers write the difference between it and what is
//! there.

pub mod binding;
pub mod condition;
pub mod facts;
pub mod members;
pub mod models;
pub mod names;
pub mod settings;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod view;
pub mod wiring;
pub mod world;
pub mod writes;

pub use facts::Facts;
pub use names::{ClusterName, ObjectKey, PoolGroup, PoolKey};
pub use world::World;
