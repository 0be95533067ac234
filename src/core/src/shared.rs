//! What the workers of one Envoy share: the store, the values that lie there, and how numbers become bytes.

pub mod adapters;
pub mod clusters;
pub mod codec;
pub mod documents;
pub mod lease;
pub mod membership;
pub mod model_names;
pub mod pod_table;
pub mod responses;
pub mod store;
pub mod tenants;
pub mod wanted;
