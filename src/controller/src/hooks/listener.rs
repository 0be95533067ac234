//! PostHTTPListenerModify: the module in the listeners that have a route to a pool.

use super::HookError;
use super::messages::ListenerRequest;
use crate::plan::World;
use crate::xds;
use crate::xds::listener::Module;

/// Answers from the world.
pub fn answer(request: &ListenerRequest, world: &World, module: &Module) -> Result<Vec<u8>, HookError> {
    let identity = xds::listener::identity(&request.listener)?;
    let routed = identity.port.is_some_and(|port| world.routed_port(port));
    Ok(xds::listener::attach(&request.listener, routed.then_some(module))?)
}
