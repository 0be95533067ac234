//! Which pod holds which block of a prompt: the index, the log by which workers keep theirs equal, and one
//! worker's replica.

mod copies;
mod holdings;
pub mod index;
pub mod log;
mod popularity;
pub mod replica;
mod slab;
mod tree;
