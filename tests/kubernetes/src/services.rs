//! What kube-proxy does, in this process: whoever connects to the address of a Service is connected to a
//! ready endpoint of it.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use tokio::net::{TcpListener, TcpStream};

use crate::sandbox::run;

const LOOK: Duration = Duration::from_millis(200);

/// Serves the addresses of these Services, for ever.
pub async fn serve(client: kube::Client, these: impl Fn(&Service) -> bool) {
    let all: Api<Service> = Api::all(client.clone());
    let mut served = BTreeSet::new();
    loop {
        let services = all.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        for service in services.into_iter().filter(&these) {
            let spec = service.spec.clone().unwrap_or_default();
            let address = spec.cluster_ip.filter(|address| address != "None").unwrap_or_default();
            if address.is_empty() || !served.insert(address.clone()) {
                continue;
            }
            run("ip", &["addr", "replace", &format!("{address}/32"), "dev", "lo"]);
            for port in spec.ports.unwrap_or_default() {
                let listener = TcpListener::bind((address.as_str(), port.port as u16)).await.unwrap();
                tokio::spawn(forward(client.clone(), service.clone(), port, listener));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Connects each who comes to an endpoint; one without an endpoint is cut off.
async fn forward(client: kube::Client, service: Service, port: ServicePort, listener: TcpListener) {
    let mut turn = 0;
    while let Ok((mut from, _)) = listener.accept().await {
        let endpoints = endpoints(&client, &service, &port).await;
        if endpoints.is_empty() {
            continue;
        }
        turn += 1;
        let to = endpoints[turn % endpoints.len()].clone();
        tokio::spawn(async move {
            if let Ok(mut to) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

/// The ready endpoints behind a port of a Service.
async fn endpoints(client: &kube::Client, service: &Service, port: &ServicePort) -> Vec<(String, u16)> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let label = format!("kubernetes.io/service-name={name}");
    let slices = api.list(&ListParams::default().labels(&label)).await.map(|list| list.items);
    let mut found = Vec::new();
    for slice in slices.unwrap_or_default() {
        let ports = slice.ports.unwrap_or_default();
        let same_name =
            |name: &Option<String>| name.clone().unwrap_or_default() == port.name.clone().unwrap_or_default();
        let Some(number) = ports.iter().find(|each| same_name(&each.name)).and_then(|each| each.port) else {
            continue;
        };
        for endpoint in slice.endpoints {
            if endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true) {
                found.extend(endpoint.addresses.into_iter().map(|address| (address, number as u16)));
            }
        }
    }
    found
}
