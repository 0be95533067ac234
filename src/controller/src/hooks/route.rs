//! PostRouteModify: learns which cluster is which pools; enables the filter; tells the module.

use serde_json::Value as Json;

use super::HookError;
use super::memory::{Bound, Memory};
use super::messages::{ExtensionResource, RouteRequest};
use crate::plan::binding::Binding;
use crate::plan::facts::pool_identity;
use crate::plan::wiring::Hook;
use crate::plan::{ClusterName, PoolKey, World, view};
use crate::xds;

/// What a route's question says, read once.
pub struct Question {
    clusters: Vec<ClusterName>,
    /// The pools, in the order of the rule, with their generations.
    pub pools: Vec<(PoolKey, i64)>,
    policies: Vec<Json>,
}

/// Reads the question. A resource that is no JSON or no pool is not ours.
pub fn read(request: &RouteRequest) -> Result<Question, HookError> {
    let context = request.context.clone().unwrap_or_default();
    let objects = |resources: &[ExtensionResource]| {
        resources
            .iter()
            .filter_map(|r| serde_json::from_slice(&r.unstructured_bytes).ok())
            .collect::<Vec<Json>>()
    };
    let names = xds::route::clusters(&request.route)?;
    Ok(Question {
        clusters: names.iter().filter_map(|name| ClusterName::parse(name)).collect(),
        pools: objects(&context.extension_resources).iter().filter_map(pool_identity).collect(),
        policies: objects(&context.extension_policies),
    })
}

/// Answers it from the world.
pub fn answer(
    request: &RouteRequest,
    question: &Question,
    world: &World,
    memory: &Memory,
) -> Result<Vec<u8>, HookError> {
    let Some(first) = question.clusters.first() else { return Ok(request.route.clone()) };
    if question.pools.is_empty() {
        return Ok(request.route.clone());
    }
    if let Some((pool, _)) = question.pools.iter().find(|(pool, generation)| !world.knows(pool, *generation))
    {
        return Err(HookError::Unknown(format!("InferencePool {pool}")));
    }
    let rule = first.of_rule();
    let pools: Vec<PoolKey> = question.pools.iter().map(|(pool, _)| pool.clone()).collect();
    let binding = Binding::of(&pools, first.backend.is_some(), world.rule(&rule))?;
    let metadata = world.route_metadata(&rule, &binding);
    let edited = xds::route::attach(&request.route, &metadata, world.max_body(&binding))?;
    let revisions = question.policies.iter().filter_map(view::identity).collect();
    memory.asked_about(Hook::Route, &pools);
    memory.bind(rule, Bound { binding, revisions }, world);
    Ok(edited)
}
