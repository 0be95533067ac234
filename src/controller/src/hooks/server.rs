//! The gRPC server: a deadline for each call, a short wait for caches that are behind, counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::memory::Memory;
use super::messages::{self, ClusterRequest, EndpointsRequest, ListenerRequest, RouteRequest};
use super::{HookError, cluster, endpoints, listener, route};
use crate::plan::World;
use crate::plan::wiring::Hook;
use crate::telemetry::Metrics;
use crate::xds;
use crate::xds::listener::Module;

#[allow(missing_docs, clippy::all, unused_qualifications)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoygateway.extension.EnvoyGatewayExtension.rs"));
}
#[cfg(test)]
pub use generated::envoy_gateway_extension_client::EnvoyGatewayExtensionClient;
use generated::envoy_gateway_extension_server::EnvoyGatewayExtension;
pub use generated::envoy_gateway_extension_server::EnvoyGatewayExtensionServer;

/// How long a call may take, all in all. Envoy Gateway has no time-out of its own: one hung call stops the
/// delivery of everything.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// How long a call waits for caches that are behind. Envoy Gateway asks again, four times in all, when it is
/// told to.
const WAIT: Duration = Duration::from_millis(700);

/// The largest message, bytes. A listener carries the module.
pub const MESSAGE_LIMIT: usize = 64 << 20;

/// What is not for everybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// The module reads the answers of each attempt, in the clusters of pools.
    pub answer_filter: bool,
    /// Answers name the pod that served them, for the conformance tests.
    pub name_pods: bool,
}

/// The extension server.
#[derive(Clone)]
pub struct Hooks {
    world: watch::Receiver<Arc<World>>,
    memory: Arc<Memory>,
    module: Arc<Module>,
    features: Features,
    metrics: Arc<Metrics>,
    in_flight: Arc<InFlight>,
}

impl Hooks {
    /// A server that answers from `world` and puts `module` into listeners.
    pub fn new(
        world: watch::Receiver<Arc<World>>,
        memory: Arc<Memory>,
        module: Arc<Module>,
        features: Features,
        metrics: Arc<Metrics>,
    ) -> Self {
        Hooks { world, memory, module, features, metrics, in_flight: Arc::default() }
    }

    /// The calls that are being answered.
    pub fn in_flight(&self) -> Arc<InFlight> {
        self.in_flight.clone()
    }

    /// The service for tonic, with room for large messages.
    pub fn service(self) -> EnvoyGatewayExtensionServer<Self> {
        EnvoyGatewayExtensionServer::new(self)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// Answers within the deadline. `answer` is tried on the world as it is, and again on each later one
    /// while the caches are behind and there is time.
    async fn call(
        &self,
        hook: Hook,
        answer: impl Fn(&World) -> Result<Vec<u8>, HookError>,
    ) -> Result<Response<messages::Response>, Status> {
        let started = Instant::now();
        let _guard = self.in_flight.enter(started);
        let answered =
            tokio::time::timeout(DEADLINE, self.answered(answer)).await.unwrap_or(Err(HookError::Deadline));
        self.metrics.hook(hook, answered.is_ok(), started.elapsed());
        match answered {
            Ok(resource) => Ok(Response::new(messages::Response { resource })),
            Err(error) => {
                tracing::warn!(hook = hook.name(), %error, "a hook gave no answer; Envoy Gateway keeps what it has");
                Err(match error {
                    HookError::Wire(_) => Status::invalid_argument(error.to_string()),
                    HookError::Deadline => Status::deadline_exceeded(error.to_string()),
                    HookError::Unknown(_) | HookError::Disagreement(_) => {
                        Status::unavailable(error.to_string())
                    }
                })
            }
        }
    }

    async fn answered(
        &self,
        answer: impl Fn(&World) -> Result<Vec<u8>, HookError>,
    ) -> Result<Vec<u8>, HookError> {
        let mut world = self.world.clone();
        let until = tokio::time::Instant::now() + WAIT;
        loop {
            let now = world.borrow_and_update().clone();
            let error = match answer(&now) {
                Err(error @ (HookError::Unknown(_) | HookError::Disagreement(_))) => error,
                answered => return answered,
            };
            match tokio::time::timeout_at(until, world.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(error),
            }
        }
    }
}

#[tonic::async_trait]
impl EnvoyGatewayExtension for Hooks {
    async fn route(&self, request: Request<RouteRequest>) -> Result<Response<messages::Response>, Status> {
        let request = request.into_inner();
        let question = route::read(&request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let name_pods = self.features.name_pods;
        let answer = self
            .call(Hook::Route, |world| route::answer(&request, &question, world, &self.memory, name_pods))
            .await;
        if answer.is_err() {
            self.memory.owe(question.pools.into_iter().map(|(pool, _)| pool));
        }
        answer
    }

    async fn endpoints(
        &self,
        request: Request<EndpointsRequest>,
    ) -> Result<Response<messages::Response>, Status> {
        let request = request.into_inner();
        let answer =
            self.call(Hook::Endpoints, |world| endpoints::answer(&request, world, &self.memory)).await;
        if answer.is_err() {
            let name = xds::endpoints::cluster_name(&request.assignment).unwrap_or_default();
            self.memory.owe_cluster(&name, &self.world.borrow());
        }
        answer
    }

    async fn cluster(
        &self,
        request: Request<ClusterRequest>,
    ) -> Result<Response<messages::Response>, Status> {
        let request = request.into_inner();
        let module = self.features.answer_filter.then_some(self.module.as_ref());
        let answer =
            self.call(Hook::Cluster, |world| cluster::answer(&request, world, &self.memory, module)).await;
        if answer.is_err() {
            let name = xds::cluster::name(&request.cluster).unwrap_or_default();
            self.memory.owe_cluster(&name, &self.world.borrow());
        }
        answer
    }

    async fn listener(
        &self,
        request: Request<ListenerRequest>,
    ) -> Result<Response<messages::Response>, Status> {
        let request = request.into_inner();
        self.call(Hook::Listener, |world| listener::answer(&request, world, &self.memory, &self.module)).await
    }
}

/// The calls that are being answered, for the liveness probe: a call that hangs stops Envoy Gateway.
#[derive(Debug, Default)]
pub struct InFlight {
    next: AtomicU64,
    started: Mutex<BTreeMap<u64, Instant>>,
}

impl InFlight {
    /// How long the oldest call has been running.
    pub fn oldest(&self) -> Option<Duration> {
        self.lock().values().min().map(Instant::elapsed)
    }

    fn enter(&self, started: Instant) -> impl Drop {
        struct Guard<'a>(&'a InFlight, u64);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.lock().remove(&self.1);
            }
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, started);
        Guard(self, id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.started.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
