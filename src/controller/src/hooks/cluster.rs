//! PostClusterModify: `override_host`, the pool's protocol, the filter that reads answers.

use super::HookError;
use super::memory::Memory;
use super::messages::ClusterRequest;
use crate::plan::wiring::Hook;
use crate::plan::{ClusterName, PoolKey, World};
use crate::xds;
use crate::xds::listener::Module;

/// Answers from the world. `module` reads the answers of each attempt, where it is given.
pub fn answer(
    request: &ClusterRequest,
    world: &World,
    memory: &Memory,
    module: Option<&Module>,
) -> Result<Vec<u8>, HookError> {
    let name = xds::cluster::name(&request.cluster)?;
    let Some(cluster) = ClusterName::parse(&name) else { return Ok(request.cluster.clone()) };
    let Some(bound) = memory.bound(&cluster.of_rule(), world) else { return Ok(request.cluster.clone()) };
    let pools: Vec<&PoolKey> = match cluster.backend {
        Some(backend) => bound.binding.pool(backend).into_iter().collect(),
        None => bound.binding.pools(),
    };
    if pools.is_empty() {
        return Ok(request.cluster.clone());
    }
    memory.asked_about(Hook::Cluster, pools.iter().copied());
    let h2c = pools.iter().any(|pool| world.pools.get(*pool).is_some_and(|state| state.h2c));
    Ok(xds::cluster::attach(&request.cluster, h2c, module)?)
}
