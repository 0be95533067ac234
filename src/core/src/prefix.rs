//! Which pod holds which block of a prompt, and the log by which workers tell each other.

pub mod log;
mod slab;
pub mod tree;
