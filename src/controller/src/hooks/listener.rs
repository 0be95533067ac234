//! PostHTTPListenerModify: the module in the listeners that have a route to a pool.

use super::HookError;
use super::memory::Memory;
use super::messages::ListenerRequest;
use crate::plan::World;
use crate::xds;
use crate::xds::listener::Module;

/// Answers from the world.
pub fn answer(
    request: &ListenerRequest,
    world: &World,
    memory: &Memory,
    module: &Module,
) -> Result<Vec<u8>, HookError> {
    memory.asked_about_listeners();
    let identity = xds::listener::identity(&request.listener)?;
    let routed = identity.port.is_some_and(|port| world.routed_port(port));
    Ok(xds::listener::attach(&request.listener, routed.then_some(module))?)
}
