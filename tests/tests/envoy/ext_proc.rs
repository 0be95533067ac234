//! Another filter in Warmpath's chain that streams bodies through a server of its own (`ext_proc`, full
//! duplex), as gateways have them for guardrails: bodies arrive as they were sent (B29).

mod processor;

use serde_json::json;
use warmpath_tests::{Envoy, Protocol, Request, TestPod};

use self::processor::{Answers, Processor};

/// Bytes of a message, above what Envoy buffers for a connection (1 MiB).
const LARGE: usize = 1_600_000;

/// Where the other filter stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Before,
    After,
}

/// The configuration with the other filter in the chain of the routed port.
fn with_filter(configuration: &str, place: Place, server: u16) -> String {
    const WARMPATH: &str = "                  - name: envoy.filters.http.wasm\n";
    const ROUTER: &str = "                  - name: envoy.filters.http.router\n";
    const CLUSTERS: &str = "\n  clusters:\n";
    let filter = include_str!("../../fixtures/ext-proc/filter.yaml").replace("TIMEOUT", "20s");
    let cluster = include_str!("../../fixtures/ext-proc/cluster.yaml").replace("PORT", &server.to_string());
    let (head, routed) = configuration.split_once("    - name: routed\n").unwrap();
    let (warmpath, rest) = routed.split_once(WARMPATH).unwrap();
    let (module, rest) = rest.split_once(ROUTER).unwrap();
    let routed = match place {
        Place::Before => [warmpath, &filter, WARMPATH, module, ROUTER, rest].concat(),
        Place::After => [warmpath, WARMPATH, module, &filter, ROUTER, rest].concat(),
    };
    let (listeners, clusters) = routed.split_once(CLUSTERS).unwrap();
    [head, "    - name: routed\n", listeners, CLUSTERS, &cluster, clusters].concat()
}

/// A chat whose body has about `size` bytes, of which no stretch is like another.
fn chat(size: usize) -> Vec<u8> {
    let words: String = (0..size / 10).map(|n| format!("{n:<10}")).collect();
    json!({"model": "/model/qwen", "messages": [{"role": "user", "content": words}]}).to_string().into_bytes()
}

#[tokio::test]
async fn bodies_arrive_as_they_were_sent_beside_a_full_duplex_filter() {
    for answers in [Answers::AtOnce, Answers::AtTheEnd] {
        let processor = Processor::start(answers).await;
        for place in [Place::Before, Place::After] {
            let pods = TestPod::several(3).await;
            let port = processor.port();
            let envoy = Envoy::of(&pods)
                .edit(move |configuration| with_filter(&configuration, place, port))
                .start()
                .await;
            envoy.sees(&pods).await;
            let before = processor.streams();
            let sizes = [100, 900_000, LARGE];
            for size in sizes {
                for protocol in [Protocol::Http1, Protocol::Http2] {
                    let body = chat(size);
                    let request = Request::new("POST", "/v1/chat/completions")
                        .header("content-type", "application/json");
                    let reply = request.body(body.clone()).over(protocol).send(envoy.routed).await;
                    let what = format!("{answers:?} {place:?} {size} bytes over {protocol:?}");
                    assert_eq!(reply.status, 200, "{what}: {}", reply.text());
                    let pod = pods.iter().find(|pod| pod.address() == reply.pod()).unwrap();
                    let got = pod.received().pop().unwrap();
                    assert!(got.body == body, "{what}: {} bytes came, or other ones", got.body.len());
                    assert!(got.headers.contains_key("x-warmpath-destination-0"), "{what}: no pod was named");
                }
            }
            assert_eq!(processor.streams() - before, 2 * sizes.len(), "the other filter saw every request");
            envoy.accounts_for_nothing().await;
        }
    }
}
