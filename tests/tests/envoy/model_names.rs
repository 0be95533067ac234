//! Names of one model share prefixes, as they do in the pods that serve it.

use serde_json::{Value, json};
use warmpath_tests::{Envoy, Random, Reply, Request, SimPod, TestPod, until};

use crate::discovery::{Endpoints, attached_at};

use crate::SIMULATOR;

fn question(model: &str, seed: u64) -> Request {
    let messages = json!([{"role": "user", "content": Random::text(seed, 6000)}]);
    Request::post("/v1/chat/completions", &json!({"model": model, "messages": messages, "max_tokens": 2}))
}

/// Simulated pods, each with a model that has these names.
fn pods(names: &[&str]) -> Vec<SimPod> {
    let start = |names: &&str| SimPod::start(SIMULATOR, &["--profile", "h100", "--served-model-name", names]);
    names.iter().map(start).collect()
}

fn addresses(pods: &[SimPod]) -> Vec<String> {
    pods.iter().map(SimPod::address).collect()
}

/// Waits until the workers know the names of so many pods that have several.
async fn names_are_known(envoy: &Envoy, pods: usize) {
    envoy.says_of_pods("names for its model", pods).await;
}

/// Tokens of a prompt, and those of them that were cached.
fn tokens(reply: &Reply) -> (u64, u64) {
    let body: Value = serde_json::from_str(&reply.text()).unwrap();
    let of = |path: &str| body.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    (of("/usage/prompt_tokens"), of("/usage/prompt_tokens_details/cached_tokens"))
}

/// Each prompt is asked under the first name and then under the second one, which meets its cache.
async fn share(envoy: &Envoy, first: &str, second: &str, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let before = question(first, seed).send(envoy.routed).await;
        assert_eq!(before.status, 200, "{}", before.text());
        assert_eq!(tokens(&before).1, 0);
        let after = question(second, seed).send(envoy.routed).await;
        let (prompt, cached) = tokens(&after);
        assert!(cached * 10 > prompt * 9, "{first}, then {second}: {cached} of {prompt} tokens were cached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_meets_its_cache_under_every_name_of_its_model() {
    let pods = pods(&["gpt,qwen", "gpt,qwen", "qwen,gpt"]);
    let envoy = Envoy::at(addresses(&pods)).concurrency(2).start().await;
    envoy.sees_ready(3).await;
    names_are_known(&envoy, 3).await;
    share(&envoy, "gpt", "qwen", 0..8).await;
    share(&envoy, "qwen", "gpt", 100..108).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_where_pods_are_named_in_a_list() {
    let pods = pods(&["gpt,qwen"; 3]);
    let endpoints = Endpoints::at(&addresses(&pods));
    let envoy = attached_at(addresses(&pods), &endpoints, true).await;
    assert_eq!(
        question("gpt", 1000).send(envoy.routed).await.status,
        200,
        "the cluster is known from now on"
    );
    envoy.sees_ready(3).await;
    names_are_known(&envoy, 3).await;
    share(&envoy, "qwen", "gpt", 0..8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_may_have_other_names_than_their_neighbours() {
    let pods = pods(&["gpt,qwen", "qwen", "qwen,chat"]);
    let envoy = Envoy::at(addresses(&pods)).concurrency(2).start().await;
    envoy.sees_ready(3).await;
    names_are_known(&envoy, 2).await;
    // Wherever the prompt lies, it is answered where the name is known.
    for (seed, [first, second]) in (0..).zip([["qwen", "gpt"], ["qwen", "chat"], ["gpt", "chat"]].repeat(8)) {
        for name in [first, second] {
            let reply = question(name, seed).send(envoy.routed).await;
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        }
    }
    share(&envoy, "gpt", "qwen", 100..108).await;
    share(&envoy, "chat", "qwen", 200..208).await;
    let unknown = question("other", 300).send(envoy.routed).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
}

/// A pod is asked once, and what it says instead of a list costs nothing.
#[tokio::test]
async fn a_pod_that_keeps_its_list_to_itself_is_asked_once_and_stays_in_use() {
    let pods = TestPod::several(3).await;
    pods[1].set_models("{\"data\": [{\"id\": 7, \"root\": []}, {\"id\": \"\", \"root\": \"\"}");
    pods[2].set_models("[".repeat(100_000));
    let envoy = Envoy::ready(&pods).await;
    until("every pod was asked", async || pods.iter().all(|pod| pod.lists() == 1).then_some(())).await;
    for n in 0..30 {
        assert_eq!(question("m", n).send(envoy.routed).await.status, 200);
    }
    for pod in &pods {
        pod.scraped(3).await;
        assert_eq!(pod.lists(), 1);
    }
    let log = envoy.log();
    assert!(!log.contains("names for its model") && !log.contains("LoRA adapters"), "{log}");
}
