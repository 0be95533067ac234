//! Which pods are due for a scrape, what their metrics pages say, and which requests of the ledger no page has.

pub mod exposition;
pub mod history;
pub mod leaks;
pub mod schedule;
pub mod vllm;
