//! Which pods are due for a scrape, and what their metrics pages say.

pub mod exposition;
pub mod schedule;
pub mod vllm;
