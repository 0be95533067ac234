//! The kinds that are watched.

use kube::core::{ApiResource, GroupVersionKind};

use crate::plan::{PoolGroup, view};

/// A kind that is watched. One whose CRD is not installed has no objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// InferencePool of a group.
    Pool(PoolGroup),
    /// Pod.
    Pod,
    /// HTTPRoute.
    Route,
    /// Gateway.
    Gateway,
    /// GatewayClass.
    Class,
    /// Service; watched only for the conformance tests.
    Service,
    /// BackendTLSPolicy.
    TlsPolicy,
    /// InferenceModel.
    Model,
    /// InferenceObjective.
    Objective,
    /// Our own RoutedPool.
    View,
}

impl Kind {
    /// Those that are watched always.
    pub const ALL: [Kind; 10] = [
        Kind::Pool(PoolGroup::Stable),
        Kind::Pool(PoolGroup::Experimental),
        Kind::Pod,
        Kind::Route,
        Kind::Gateway,
        Kind::Class,
        Kind::TlsPolicy,
        Kind::Model,
        Kind::Objective,
        Kind::View,
    ];

    /// Group, version, kind and plural.
    fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        const GATEWAY: &str = "gateway.networking.k8s.io";
        let old = PoolGroup::Experimental;
        match self {
            Kind::Pool(group) => (group.name(), group.version(), "InferencePool", "inferencepools"),
            Kind::Pod => ("", "v1", "Pod", "pods"),
            Kind::Route => (GATEWAY, "v1", "HTTPRoute", "httproutes"),
            Kind::Gateway => (GATEWAY, "v1", "Gateway", "gateways"),
            Kind::Class => (GATEWAY, "v1", "GatewayClass", "gatewayclasses"),
            Kind::Service => ("", "v1", "Service", "services"),
            Kind::TlsPolicy => (GATEWAY, "v1", "BackendTLSPolicy", "backendtlspolicies"),
            Kind::Model => (old.name(), old.version(), "InferenceModel", "inferencemodels"),
            Kind::Objective => (old.name(), old.version(), "InferenceObjective", "inferenceobjectives"),
            Kind::View => (view::GROUP, view::VERSION, view::KIND, view::PLURAL),
        }
    }

    /// For a client without types.
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// For metrics and log lines: `kind.group`.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Pool(PoolGroup::Stable) => "InferencePool.inference.networking.k8s.io",
            Kind::Pool(PoolGroup::Experimental) => "InferencePool.inference.networking.x-k8s.io",
            other => other.names().2,
        }
    }
}
