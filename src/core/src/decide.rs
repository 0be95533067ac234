//! From what is known of each pod to the pods that a request tries, best first.

pub mod adapters;
pub mod candidates;
pub mod cost;
pub mod pick;
pub mod reason;
pub mod shedding;
