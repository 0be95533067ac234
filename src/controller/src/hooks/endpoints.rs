//! PostEndpointsModify: the pods of a pool's cluster, by locality.

use super::HookError;
use super::memory::Memory;
use super::messages::EndpointsRequest;
use crate::plan::wiring::Hook;
use crate::plan::{ClusterName, PoolKey, World};
use crate::xds;
use crate::xds::endpoints::Fill;

/// Answers from the world.
pub fn answer(request: &EndpointsRequest, world: &World, memory: &Memory) -> Result<Vec<u8>, HookError> {
    let name = xds::endpoints::cluster_name(&request.assignment)?;
    let Some(cluster) = ClusterName::parse(&name) else { return Ok(request.assignment.clone()) };
    let Some(bound) = memory.bound(&cluster.of_rule(), world) else { return Ok(request.assignment.clone()) };
    // A locality that Envoy Gateway filled is a Service's.
    let filled = xds::endpoints::regions(&request.assignment)?;
    let pool_of = |region: &str| -> Option<&PoolKey> {
        let backend =
            ClusterName::parse(region).and_then(|region| region.backend).or(cluster.backend).unwrap_or(0);
        let taken = filled.iter().any(|(other, full)| other == region && *full);
        bound.binding.pool(backend).filter(|_| !taken)
    };
    for pool in bound.binding.pools() {
        if !world.pools.contains_key(pool) {
            return Err(HookError::Unknown(format!("InferencePool {pool}")));
        }
    }
    let fill = |region: &str| {
        let pool = pool_of(region)?;
        let state = world.pools.get(pool)?;
        Some(Fill { places: &state.places, revision: bound.revisions.get(pool).copied().unwrap_or(0) })
    };
    let edited = xds::endpoints::fill(&request.assignment, fill)?;
    memory.asked_about(Hook::Endpoints, bound.binding.pools());
    for pool in bound.binding.pools() {
        if let Some(state) = world.pools.get(pool) {
            memory.serve(pool, &state.digest);
        }
    }
    Ok(edited)
}
