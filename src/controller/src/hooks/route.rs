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
    route: xds::route::Identity,
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
    Ok(Question {
        route: xds::route::identity(&request.route)?,
        pools: objects(&context.extension_resources).iter().filter_map(pool_identity).collect(),
        policies: objects(&context.extension_policies),
    })
}

/// Answers it from the world. `name_pods`: answers to clients name the pod that served them.
pub fn answer(
    request: &RouteRequest,
    question: &Question,
    world: &World,
    memory: &Memory,
    name_pods: bool,
) -> Result<Vec<u8>, HookError> {
    let route = &question.route;
    let Some(rule) = ClusterName::of_route(&route.name).filter(|_| route.sends && !question.pools.is_empty())
    else {
        return Ok(request.route.clone());
    };
    if let Some((pool, _)) = question.pools.iter().find(|(pool, generation)| !world.knows(pool, *generation))
    {
        return Err(HookError::Unknown(format!("InferencePool {pool}")));
    }
    let pools: Vec<PoolKey> = question.pools.iter().map(|(pool, _)| pool.clone()).collect();
    let binding = Binding::of(&pools, route.weighted, world.rule(&rule))?;
    let attachment = xds::route::Attachment {
        metadata: &world.route_metadata(&rule, &binding),
        max_body: world.max_body(&binding),
        clusters: &world.weighted_clusters(&rule, &binding),
        name_pods,
    };
    let edited = xds::route::attach(&request.route, attachment)?;
    let revisions = question.policies.iter().filter_map(view::identity).collect();
    memory.asked_about(Hook::Route, &pools);
    memory.bind(rule, Bound { binding, revisions }, world);
    Ok(edited)
}
