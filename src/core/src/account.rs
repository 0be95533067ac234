//! Work in flight and the health of each pod, as all workers of one Envoy see them; and what answers teach of a pod.

pub mod learning;
pub mod ledger;
