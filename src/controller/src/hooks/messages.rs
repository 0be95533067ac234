//! The messages of `proto/extension/service.proto` of Envoy Gateway 1.9. Envoy's resource in each is bytes
//! here: on the wire a message and bytes are the same.

/// A resource that Envoy Gateway shows beside Envoy's: an object of Kubernetes as JSON.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExtensionResource {
    /// The object.
    #[prost(bytes = "vec", tag = "1")]
    pub unstructured_bytes: Vec<u8>,
}

/// What is shown of a route.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RouteContext {
    /// The route's backends that are ours, in order.
    #[prost(message, repeated, tag = "1")]
    pub extension_resources: Vec<ExtensionResource>,
    /// Policies of ours that target the route.
    #[prost(message, repeated, tag = "3")]
    pub extension_policies: Vec<ExtensionResource>,
}

/// `PostRouteModifyRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RouteRequest {
    /// `envoy.config.route.v3.Route`
    #[prost(bytes = "vec", tag = "1")]
    pub route: Vec<u8>,
    /// What is shown beside.
    #[prost(message, optional, tag = "2")]
    pub context: Option<RouteContext>,
}

/// `PostEndpointsModifyRequest`; its context is empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndpointsRequest {
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    #[prost(bytes = "vec", tag = "1")]
    pub assignment: Vec<u8>,
}

/// `PostClusterModifyRequest`. Its context names the pools of the whole rule, also for the cluster of a
/// Service beside them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterRequest {
    /// `envoy.config.cluster.v3.Cluster`
    #[prost(bytes = "vec", tag = "1")]
    pub cluster: Vec<u8>,
}

/// `PostHTTPListenerModifyRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListenerRequest {
    /// `envoy.config.listener.v3.Listener`
    #[prost(bytes = "vec", tag = "1")]
    pub listener: Vec<u8>,
}

/// The answer of each hook: its resource.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Response {
    /// The resource as Envoy shall have it.
    #[prost(bytes = "vec", tag = "1")]
    pub resource: Vec<u8>,
}
