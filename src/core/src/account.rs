//! The requests in flight on each pod and its health, as all workers of one Envoy see them; and what answers
//! teach.

pub mod cache_tally;
pub mod learning;
pub mod ledger;
pub mod pod_account;
pub mod pod_health;
pub mod rate;
pub mod refusal;
pub mod refusals;
pub mod ticket;
pub mod told;
pub mod transaction;
