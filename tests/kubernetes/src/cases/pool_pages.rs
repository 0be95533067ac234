//! Warmpath's metrics page and console in Envoys whose pools the controller serves.

use std::net::SocketAddr;

use serde_json::Value;
use warmpath_tests::Request;

use crate::api::{DEPLOYMENT, ENVOY_PROXY, SERVICE};
use crate::objects::envoy_proxy;
use crate::pools::pages_values;
use crate::sandbox::address;
use crate::wait::until;
use crate::world::{OF_EG, World, plain, routed};

const SYSTEM: &str = "envoy-gateway-system";
const METRICS: (&str, u16) = (address::ENVOY, 9902);
const CONSOLE: (&str, u16) = ("127.0.0.1", 9903);

pub async fn pages_show_the_pools_pods_and_no_client_of_the_gateway_reaches_them(world: &mut World) {
    world.spoilt();
    // As docs/kubernetes.md has it: the module as a file, then the values, here in the EnvoyProxy of the
    // Gateway.
    let module = world.publish(&world.module).1;
    let made = world.script("scripts/kubernetes-install", &["--pages", module.to_str().unwrap()]).await;
    assert!(
        made.code == 0 && made.err.contains("envoy-gateway-pages-values.yaml"),
        "{}{}",
        made.out,
        made.err
    );
    world.cluster().replace(ENVOY_PROXY, &envoy_proxy(pages_values()["envoyProxy"].clone())).await;
    until("Envoy's Deployment mounts the module", async || {
        let deployments = world.cluster().list(DEPLOYMENT, SYSTEM, OF_EG).await;
        deployments.first()?.to_string().contains("warmpath-module").then_some(())
    })
    .await;
    world.start_envoy().await;
    world.is_routed().await;
    world.is_seen().await;
    let home = Request::chat("Who shows this?").send(routed()).await.pod().to_owned();
    until("the page has the request of its pod", async || {
        let page = page(METRICS, "/metrics").await;
        let of_pod = format!("warmpath_pod_requests_total{{pod=\"{home}\",pool=\"default\"}} ");
        page.lines().any(|line| line.strip_prefix(&of_pod).is_some_and(|count| count != "0")).then_some(())
    })
    .await;
    let metrics = page(METRICS, "/metrics").await;
    for pod in world.pods.values() {
        let ready =
            format!("warmpath_pod_status{{pod=\"{}\",status=\"ready\",pool=\"default\"}} 1", pod.address());
        assert!(metrics.contains(&ready), "{ready}: {metrics}");
    }
    let console: Value = serde_json::from_str(&page(CONSOLE, "/console.json").await).unwrap();
    assert_eq!(console["pods"].as_array().map(Vec::len), Some(3), "{console}");
    assert!(page(CONSOLE, "/").await.contains("<title>Warmpath</title>"));
    // What clients reach: the ports of the Gateway's Service, and there the pods.
    let services = world.cluster().list(SERVICE, SYSTEM, OF_EG).await;
    let ports: Vec<&Value> =
        services.iter().flat_map(|service| service["spec"]["ports"].as_array().unwrap()).collect();
    assert!(!ports.is_empty());
    for port in ports {
        let number = port["port"].as_u64().unwrap();
        assert!(number != 9902 && number != 9903, "{port}");
    }
    for to in [plain(), routed()] {
        for path in ["/metrics", "/console.json"] {
            let reply = Request::get(path).send(to).await;
            assert!(
                !reply.text().contains("warmpath_") && !reply.text().contains("\"decisions\""),
                "{to}{path}"
            );
        }
    }
    // Whoever reaches Envoy's pod reads the metrics, and neither the console nor Envoy's own pages.
    assert!(
        tokio::net::TcpStream::connect((address::ENVOY, CONSOLE.1)).await.is_err(),
        "the console is open"
    );
    assert_eq!(Request::get("/").authority("console.example.com").send(to(CONSOLE)).await.status, 403);
    for path in ["/", "/stats", "/config_dump", "/console.json"] {
        assert_eq!(Request::get(path).send(to(METRICS)).await.status, 404, "{path}");
    }
}

fn to((host, port): (&str, u16)) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

/// A page of one of Warmpath's own listeners.
async fn page(at: (&str, u16), path: &str) -> String {
    let reply = Request::get(path).send(to(at)).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.text()
}
