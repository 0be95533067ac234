//! What a person on call, or a Prometheus, wants to know of a pool: how long things take, how each pod is,
//! and both as text.

pub mod console;
pub mod decisions;
pub mod held;
pub mod histogram;
pub mod json_text;
pub mod left_alone;
pub mod models;
pub mod page;
pub mod pod_status;
pub mod pods;
