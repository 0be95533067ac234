//! Makes the gRPC service of Envoy Gateway's extension server. Its messages are ours: Envoy's resources stay
//! bytes.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let hook = |name: &str, route: &str, kind: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::hooks::messages::{kind}Request"))
            .output_type("crate::hooks::messages::Response")
            .codec_path("tonic_prost::ProstCodec")
            .build()
    };
    let service = Service::builder()
        .name("EnvoyGatewayExtension")
        .package("envoygateway.extension")
        .method(hook("route", "PostRouteModify", "Route"))
        .method(hook("endpoints", "PostEndpointsModify", "Endpoints"))
        .method(hook("cluster", "PostClusterModify", "Cluster"))
        .method(hook("listener", "PostHTTPListenerModify", "Listener"))
        .build();
    // The client is for the tests.
    Builder::new().compile(&[service]);
}
