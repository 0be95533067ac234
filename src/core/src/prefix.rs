//! Which pod holds which block of a prompt, and the log by which workers tell each other.

mod holdings;
pub mod index;
pub mod log;
mod popularity;
mod slab;
mod tree;
