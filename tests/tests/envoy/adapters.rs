//! LoRA adapters: a request goes where its adapter runs, else where there is room for it, and never to a pod
//! that does not have it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use warmpath_tests::{Answer, Envoy, Load, Random, Received, Reply, Request, SimPod, TestPod, until};

use crate::SIMULATOR;

fn question(model: &str, seed: u64) -> Request {
    let messages = json!([{"role": "user", "content": Random::text(seed, 700)}]);
    Request::post("/v1/chat/completions", &json!({"model": model, "messages": messages, "max_tokens": 4}))
}

fn model_of(received: &Received) -> String {
    let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
    body["model"].as_str().unwrap_or_default().to_owned()
}

/// Lets a pod have these adapters, of which `active` have requests, and of which it can compute `slots` at a
/// time. It refuses all others, as vLLM does.
fn serve(pod: &TestPod, adapters: &[&str], active: &str, slots: usize) {
    pod.set_page(format!(
        "{}# TYPE vllm:lora_requests_info gauge\nvllm:lora_requests_info{{max_lora=\"{slots}\",running_lora_adapters=\"{active}\",\
         waiting_lora_adapters=\"\"}} 1.79e9\n",
        Load::default().page()
    ));
    let parent = |name: &str| if name == "/model/qwen" { Value::Null } else { json!("/model/qwen") };
    let names = ["/model/qwen"].into_iter().chain(adapters.iter().copied());
    let cards: Vec<Value> = names.map(|name| json!({"id": name, "parent": parent(name)})).collect();
    pod.set_models(json!({"object": "list", "data": cards}).to_string());
    let adapters: Vec<String> = adapters.iter().map(|&name| name.to_owned()).collect();
    pod.answer_by(move |received| {
        let asked = model_of(received);
        if asked == "/model/qwen" || adapters.contains(&asked) {
            return Answer::Completion;
        }
        let message = format!("The model `{asked}` does not exist.");
        let error = json!({"message": message, "type": "NotFoundError", "param": "model", "code": 404});
        Answer::json(404, json!({"error": error}).to_string())
    });
}

/// Requests for a model that came to a pod.
fn asked(pod: &TestPod, model: &str) -> usize {
    pod.received().iter().filter(|received| model_of(received) == model).count()
}

/// Waits until it is known which adapters so many pods have.
async fn lists_are_known(envoy: &Envoy, pods: usize) {
    envoy.says_of_pods("LoRA adapters", pods).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_only_some_pods_have_is_never_sent_elsewhere() {
    let mut pods = TestPod::several(4).await;
    pods[..2].iter().for_each(|pod| serve(pod, &["blue"], "", 2));
    pods[2..].iter().for_each(|pod| serve(pod, &["red"], "", 2));
    let envoy = Envoy::of(&pods).concurrency(2).start().await;
    envoy.sees_ready(4).await;
    lists_are_known(&envoy, 4).await;
    for (model, seed) in [("blue", 0), ("red", 1000)] {
        let all = (0..40).map(|n| question(model, seed + n).send(envoy.routed));
        assert!(futures::future::join_all(all).await.iter().all(|reply| reply.status == 200));
    }
    let counts = |model: &str| pods.iter().map(|pod| asked(pod, model)).collect::<Vec<_>>();
    let (blue, red) = (counts("blue"), counts("red"));
    assert_eq!((blue[0] + blue[1], blue[2] + blue[3]), (40, 0), "{blue:?}");
    assert_eq!((red[0] + red[1], red[2] + red[3]), (0, 40), "{red:?}");
    // A name that no pod has is for a pod to refuse, and the base model is everywhere.
    assert_eq!(question("green", 5000).send(envoy.routed).await.status, 404);
    assert_eq!(question("/model/qwen", 5001).send(envoy.routed).await.status, 200);

    // One that has it is gone: the other one answers. Both are gone: nobody else is asked, and nobody says
    // that there is no such model.
    pods[0].kill().await;
    for n in 0..6 {
        assert_eq!(question("blue", 6000 + n).send(envoy.routed).await.status, 200);
    }
    pods[1].kill().await;
    for n in 0..6 {
        let reply = question("blue", 7000 + n).send(envoy.routed).await;
        assert_eq!(reply.status, 503, "{}", reply.text());
    }
    assert_eq!((asked(&pods[2], "blue"), asked(&pods[3], "blue")), (0, 0));
    assert_eq!(question("red", 8000).send(envoy.routed).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_every_pod_that_has_the_adapter_sleeps_nobody_else_is_asked() {
    let pods = TestPod::several(2).await;
    serve(&pods[0], &["blue"], "", 2);
    serve(&pods[1], &["red"], "", 2);
    let envoy = Envoy::of(&pods).concurrency(2).start().await;
    envoy.sees_ready(2).await;
    lists_are_known(&envoy, 2).await;
    assert_eq!(question("blue", 0).send(envoy.routed).await.status, 200);
    let asleep = "# TYPE vllm:lora_requests_info gauge\nvllm:engine_sleep_state{engine=\"0\",sleep_state=\"awake\"} 0\n";
    pods[0].set_page(format!("{}{asleep}", Load::default().page()));
    let mut seed = 1;
    let refusal = until("a request is refused", async || {
        seed += 1;
        let reply = question("blue", seed).send(envoy.routed).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    assert!(refusal.text().contains("every pod that has the LoRA adapter is asleep"), "{}", refusal.text());
    assert_eq!(refusal.header("retry-after"), Some("1"));
    envoy
        .logs(&["requests without a pod", "answered 503: every pod that has the LoRA adapter is asleep"])
        .await;
    let counted = envoy.stat("wasmcustom.warmpath_unrouted_total.reason=adapter_asleep;.pool=default;").await;
    assert_eq!((counted, asked(&pods[1], "blue")), (1, 0));
    assert_eq!(question("red", 1).send(envoy.routed).await.status, 200);
}

#[tokio::test]
async fn a_request_goes_where_its_adapter_runs_then_where_there_is_room_then_where_one_is_idle() {
    let all = ["a", "b", "c", "d", "e", "f", "g"];
    let pods = TestPod::several(3).await;
    for (pod, active) in pods.iter().zip(["a,b", "c", "d,e"]) {
        serve(pod, &all, active, 2);
    }
    let envoy = Envoy::of(&pods).concurrency(2).start().await;
    envoy.sees_ready(3).await;
    lists_are_known(&envoy, 3).await;
    let of = |reply: Reply| pods.iter().position(|pod| pod.address() == reply.pod()).unwrap();
    let mut seed = 0;
    let mut ask = async |model: &str| {
        seed += 1;
        of(question(model, seed).send(envoy.routed).await)
    };
    for _ in 0..4 {
        assert_eq!([ask("a").await, ask("c").await, ask("e").await], [0, 1, 2], "where it runs");
    }
    // Every worker knows at once where it went, though no page shows it.
    for _ in 0..4 {
        assert_eq!(ask("f").await, 1, "where there is room");
    }
    let seen = pods[1].scrapes();
    until("a page came after it", async || (pods[1].scrapes() > seen + 2).then_some(())).await;
    for _ in 0..4 {
        assert_eq!(ask("g").await, 1, "in the place of one that has no requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_pods_keep_their_adapters() {
    let flags =
        ["--profile", "h100", "--lora-modules", "a,b,c,d", "--max-loras", "2", "--lora-load-ms", "200"];
    let pods: Vec<SimPod> = (0..2).map(|_| SimPod::start(SIMULATOR, &flags)).collect();
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect()).concurrency(2).start().await;
    envoy.sees_ready(2).await;
    lists_are_known(&envoy, 2).await;
    // A pod tells how many it can have with its first request for one.
    let mut rounds: Vec<BTreeMap<&str, String>> = Vec::new();
    while rounds.len() < 40 {
        let mut homes = BTreeMap::new();
        for model in ["a", "b", "c", "d"] {
            let seed = rounds.len() as u64;
            let id = format!("{model}-{seed}");
            let reply = question(model, seed).header("x-request-id", &id).send(envoy.routed).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            homes.insert(model, envoy.access(&id).await["pod"].as_str().unwrap().to_owned());
        }
        rounds.push(homes);
        if rounds.len() >= 4
            && rounds[rounds.len() - 4..].iter().all(|round| round == &rounds[rounds.len() - 1])
        {
            break;
        }
    }
    let homes = &rounds[rounds.len() - 1];
    println!("settled after {} rounds: {homes:?}", rounds.len());
    assert!(rounds.len() < 40, "the adapters move: {rounds:?}");
    let on_first = homes.values().filter(|home| **home == pods[0].address()).count();
    assert_eq!(on_first, 2, "two each, as the pods have places: {homes:?}");
}
