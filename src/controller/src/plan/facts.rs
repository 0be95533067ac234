//! The objects of Kubernetes, reduced to what counts here: read once, so that what follows cannot meet a
//! wrong value.

mod gateway;
mod pod;
mod pool;
mod route;

use std::collections::{BTreeMap, BTreeSet};

pub use gateway::Gateway;
pub use pod::PodFact;
pub use pool::{Picker, Pool, pool_identity};
pub use route::{Backend, ParentRef, Route, RouteStatus, Rule};
use serde_json::Value as Json;

use super::names::{ObjectKey, PoolKey};

/// All that is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// InferencePools of both groups. One that cannot be read is an error that says why.
    pub pools: BTreeMap<PoolKey, Result<Pool, String>>,
    /// Pods.
    pub pods: BTreeMap<ObjectKey, PodFact>,
    /// HTTPRoutes.
    pub routes: BTreeMap<ObjectKey, Route>,
    /// Gateways.
    pub gateways: BTreeMap<ObjectKey, Gateway>,
    /// GatewayClasses: the name of each, and of its controller.
    pub classes: BTreeMap<String, String>,
    /// InferenceModels.
    pub models: BTreeMap<ObjectKey, Json>,
    /// InferenceObjectives.
    pub objectives: BTreeMap<ObjectKey, Json>,
    /// Pools that a BackendTLSPolicy targets.
    pub tls: BTreeSet<PoolKey>,
    /// Services, where pools without their endpoint picker are refused.
    pub services: Option<BTreeSet<ObjectKey>>,
    /// Our own RoutedPools.
    pub views: BTreeMap<ObjectKey, Json>,
}
