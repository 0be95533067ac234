//! The server as Envoy Gateway meets it: over gRPC, in the order of a translation.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::{Channel, Server};

use super::memory::Memory;
use super::messages::*;
use super::server::{EnvoyGatewayExtensionClient, Features, Hooks};
use crate::plan::{Facts, World, testing};
use crate::telemetry::Metrics;
use crate::xds;
use crate::xds::listener::Module;
use crate::xds::wire::Message;

const CLUSTER: &str = "httproute/default/pooled/rule/0";

struct Lab {
    client: EnvoyGatewayExtensionClient<Channel>,
    world: watch::Sender<Arc<World>>,
    memory: Arc<Memory>,
}

fn world_of(facts: &Facts) -> Arc<World> {
    Arc::new(World::of(facts, &World::default(), |_| None))
}

async fn lab(world: Arc<World>) -> Lab {
    let (sender, receiver) = watch::channel(world);
    let memory = Arc::new(Memory::default());
    let module = Arc::new(Module::new(b"\0asm".to_vec(), "{}"));
    let hooks =
        Hooks::new(receiver, memory.clone(), module, Features::default(), Arc::new(Metrics::default()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(Server::builder().add_service(hooks.service()).serve_with_incoming(incoming));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let client = EnvoyGatewayExtensionClient::new(channel);
    Lab { client, world: sender, memory }
}

fn route_request(pool: &Json, policies: &[Json]) -> RouteRequest {
    let mut action = Message::new();
    action.set_bytes(1, CLUSTER.as_bytes());
    let mut route = Message::new();
    route
        .set_bytes(2, action.encode())
        .set_bytes(14, format!("{CLUSTER}/match/0/*").into_bytes())
        .set_varint(9999, 4);
    let resource = |object: &Json| ExtensionResource { unstructured_bytes: object.to_string().into_bytes() };
    RouteRequest {
        route: route.encode(),
        context: Some(RouteContext {
            extension_resources: vec![resource(pool)],
            extension_policies: policies.iter().map(resource).collect(),
        }),
    }
}

fn pool_object(generation: i64) -> Json {
    json!({"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
           "metadata": {"name": "pool", "namespace": "default", "generation": generation}})
}

fn endpoints_request(name: &str) -> EndpointsRequest {
    let mut region = Message::new();
    region.set_bytes(1, format!("{name}/backend/0").into_bytes());
    let mut locality = Message::new();
    locality.set_bytes(1, region.encode());
    let mut assignment = Message::new();
    assignment.set_bytes(1, name.as_bytes().to_vec()).push(2, locality.encode());
    EndpointsRequest { assignment: assignment.encode() }
}

fn cluster_request(name: &str) -> ClusterRequest {
    let mut cluster = Message::new();
    cluster.set_bytes(1, name.as_bytes().to_vec());
    ClusterRequest { cluster: cluster.encode() }
}

/// The number of endpoints in an answer.
fn count(assignment: &[u8]) -> usize {
    let assignment = Message::parse(assignment).unwrap();
    assignment.all(2).map(|locality| Message::parse(locality.unwrap()).unwrap().all(2).count()).sum()
}

#[tokio::test]
async fn a_translation_serves_the_pools_pods() {
    let mut lab = lab(world_of(&testing::facts())).await;
    let view = json!({"kind": "RoutedPool", "spec": {"revision": 7, "pool":
        {"group": "inference.networking.k8s.io", "kind": "InferencePool", "namespace": "default", "name": "pool"}}});
    let route =
        lab.client.route(route_request(&pool_object(1), &[view])).await.unwrap().into_inner().resource;
    assert_eq!(Message::parse(&route).unwrap().varint(9999), Ok(4));
    let endpoints = lab.client.endpoints(endpoints_request(CLUSTER)).await.unwrap().into_inner().resource;
    assert_eq!(count(&endpoints), 2);
    let mut revision = Message::new();
    revision.set_double(2, 7.0);
    let revision = revision.encode();
    assert!(endpoints.windows(revision.len()).any(|window| window == revision));
    let cluster = lab.client.cluster(cluster_request(CLUSTER)).await.unwrap().into_inner().resource;
    assert!(Message::parse(&cluster).unwrap().has(41));
    // The same questions again have the same answers, to the byte.
    let again = lab.client.endpoints(endpoints_request(CLUSTER)).await.unwrap().into_inner().resource;
    assert_eq!(again, endpoints);
}

#[tokio::test]
async fn what_is_not_ours_is_given_back() {
    let mut lab = lab(world_of(&testing::facts())).await;
    for name in ["prometheus_stats", "httproute/default/plain/rule/0"] {
        let request = endpoints_request(name);
        let answer = lab.client.endpoints(request.clone()).await.unwrap().into_inner().resource;
        assert_eq!(answer, request.assignment);
    }
}

#[tokio::test]
async fn an_unknown_pool_is_an_error_and_no_empty_list() {
    let mut lab = lab(Arc::new(World::default())).await;
    let status = lab.client.route(route_request(&pool_object(1), &[])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    // Our copy of the route has the pool, which is gone.
    let mut facts = testing::facts();
    facts.pools.clear();
    lab.world.send_replace(world_of(&facts));
    let status = lab.client.endpoints(endpoints_request(CLUSTER)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    // Envoy Gateway does not ask again by itself, so the pool's revision has to be raised, once.
    lab.world.send_replace(world_of(&testing::facts()));
    let world = lab.world.borrow().clone();
    assert_eq!(lab.memory.behind(&world).len(), 1);
    assert_eq!(lab.memory.behind(&world).len(), 0);
}

#[tokio::test]
async fn a_translation_whose_route_another_replica_was_asked_about_goes_on_here() {
    let mut lab = lab(world_of(&testing::facts())).await;
    let endpoints = lab.client.endpoints(endpoints_request(CLUSTER)).await.unwrap().into_inner().resource;
    assert_eq!(count(&endpoints), 2);
}

#[tokio::test]
async fn a_call_waits_for_a_cache_that_is_behind() {
    let mut facts = testing::facts();
    let mut lab = lab(world_of(&facts)).await;
    let world = lab.world.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Some(Ok(pool)) = facts.pools.values_mut().next() {
            pool.generation = 2;
        }
        world.send_replace(world_of(&facts));
    });
    assert!(lab.client.route(route_request(&pool_object(2), &[])).await.is_ok());
}

#[tokio::test]
async fn a_change_that_envoy_gateway_did_not_ask_about_is_noticed() {
    let mut facts = testing::facts();
    let mut lab = lab(world_of(&facts)).await;
    lab.client.route(route_request(&pool_object(1), &[])).await.unwrap();
    lab.client.endpoints(endpoints_request(CLUSTER)).await.unwrap();
    let world = lab.world.borrow().clone();
    assert!(lab.memory.behind(&world).is_empty());
    facts.pods.values_mut().for_each(|pod| pod.ready = false);
    assert_eq!(lab.memory.behind(&world_of(&facts)).len(), 1);
}

#[tokio::test]
async fn only_a_listener_with_a_route_to_a_pool_gets_the_module() {
    let mut lab = lab(world_of(&testing::facts())).await;
    for (port, routed) in [(8081, true), (8080, false)] {
        let mut socket = Message::new();
        socket.set_varint(3, port);
        let mut address = Message::new();
        address.set_bytes(1, socket.encode());
        let manager = xds::build::any(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            &[],
        );
        let mut filter = Message::new();
        filter.set_bytes(4, manager);
        let mut chain = Message::new();
        chain.push(3, filter.encode());
        let mut listener = Message::new();
        listener.set_bytes(2, address.encode()).push(3, chain.encode());
        let request = ListenerRequest { listener: listener.encode() };
        let answer = lab.client.listener(request).await.unwrap().into_inner().resource;
        assert_eq!(answer.windows(4).any(|window| window == b"\0asm"), routed, "port {port}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let mut lab = lab(world_of(&testing::facts())).await;
    let status = lab.client.endpoints(EndpointsRequest { assignment: vec![0xff] }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

/// With the certificates that `certgen` makes: Envoy Gateway is answered, and nobody else. It names the
/// server with its port.
#[tokio::test]
async fn only_a_client_with_envoy_gateways_certificate_is_answered() {
    use openssl::pkey::PKey;
    use openssl::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode};
    use openssl::x509::X509;
    let name = "warmpath-controller.warmpath-system.svc.cluster.local";
    let made = crate::certgen::certificates(vec![name.into()]).unwrap();
    let stranger = crate::certgen::certificates(vec![name.into()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |file: &str, text: &str| {
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        path
    };
    let files = crate::tls::Files {
        certificate: file("tls.crt", &made.controller.0),
        key: file("tls.key", &made.controller.1),
        client_authority: Some(file("ca.crt", &made.authority)),
    };
    let (_sender, receiver) = watch::channel(world_of(&testing::facts()));
    let module = Arc::new(Module::new(b"\0asm".to_vec(), "{}"));
    let hooks =
        Hooks::new(receiver, Arc::default(), module, Features::default(), Arc::new(Metrics::default()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(hooks.service());
    tokio::spawn(server.serve_with_incoming(crate::tls::incoming(listener, files)));

    let ask = async |identity: Option<&(String, String)>| {
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        context.cert_store_mut().add_cert(X509::from_pem(made.authority.as_bytes()).unwrap()).unwrap();
        context.set_verify(SslVerifyMode::PEER);
        context.set_alpn_protos(b"\x02h2").unwrap();
        if let Some((certificate, key)) = identity {
            context.set_certificate(&X509::from_pem(certificate.as_bytes()).unwrap()).unwrap();
            context.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
        }
        let mut ssl = Ssl::new(&context.build()).unwrap();
        ssl.param_mut().set_host(name).unwrap();
        ssl.set_hostname(&format!("{name}:9443")).unwrap();
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut stream = tokio_openssl::SslStream::new(ssl, socket).unwrap();
        std::pin::Pin::new(&mut stream).connect().await.map_err(|error| error.to_string())?;
        let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
        let connector = tower::service_fn(move |_| {
            std::future::ready(stream.take().ok_or_else(|| std::io::Error::other("connected once")))
        });
        let endpoint = Channel::from_static("http://controller");
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| error.to_string())?;
        let mut client = EnvoyGatewayExtensionClient::new(channel);
        client.endpoints(endpoints_request("other")).await.map_err(|status| status.to_string())
    };
    ask(Some(&made.envoy_gateway)).await.unwrap();
    ask(None).await.unwrap_err();
    ask(Some(&stranger.envoy_gateway)).await.unwrap_err();
    // Of the same authority, but no client's.
    ask(Some(&made.controller)).await.unwrap_err();
}
