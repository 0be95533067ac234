//! Which pods are due for a scrape, what their metrics pages say, and what they show of cached
//! prompts and of requests that no pod has.

pub mod adapters;
pub mod cache_check;
pub mod exposition;
pub mod history;
pub mod leaks;
pub mod model_list;
pub mod schedule;
pub mod several;
pub mod vllm;
