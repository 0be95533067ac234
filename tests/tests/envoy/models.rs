//! InferenceModel: another name for the pod, drawn by weight, refused names, the list of models, and the name
//! in answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use warmpath_tests::{Answer, Envoy, Random, Request, SimPod, Stream, TestPod};

use crate::SIMULATOR;

fn rollout() -> Value {
    json!({
        "models": [
            {"name": "chat", "criticality": "Critical", "targets": [{"name": "base-v1", "weight": 70}, {"name": "base-v2", "weight": 30}]},
            {"name": "alias", "targets": [{"name": "/models/a-rather-long-name-of-a-model", "weight": 100}]},
            {"name": "/model/qwen", "criticality": "Critical", "targets": [{"name": "/model/qwen", "weight": 100}]},
            {"name": "reserved", "targets": [{"name": "nowhere", "weight": 0}]},
        ],
        "unknown_models": "refuse", "list_models": true, "restore_model_names": true,
    })
}

fn chat(model: &str, messages: &[Value]) -> Request {
    Request::post("/v1/chat/completions", &json!({"model": model, "messages": messages}))
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// The bodies that came to the pods, in order of arrival at each.
fn bodies(pods: &[TestPod]) -> Vec<String> {
    let received = pods.iter().flat_map(TestPod::received);
    received.map(|request| String::from_utf8(request.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn the_name_alone_is_another_in_the_body_and_its_length_is_right() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).settings(&rollout()).start().await;
    envoy.sees_ready(1).await;
    let long = Random::text(7, 3000);
    for (body, expected) in [
        (
            format!("{{ \"model\" : \"alias\",\n \"messages\": [{}], \"n\": 1e0 }}", user(&long)),
            format!(
                "{{ \"model\" : \"/models/a-rather-long-name-of-a-model\",\n \"messages\": [{}], \"n\": 1e0 }}",
                user(&long)
            ),
        ),
        (
            format!("{{\"messages\":[{}],\"model\":\"\\u0061lias\"}}", user("é € \\u00e9")),
            format!(
                "{{\"messages\":[{}],\"model\":\"/models/a-rather-long-name-of-a-model\"}}",
                user("é € \\u00e9")
            ),
        ),
        // The name of the pods: nothing is changed.
        (
            "{\"model\":\"\\/model/qwen\",\"messages\":[]}".to_owned(),
            "{\"model\":\"\\/model/qwen\",\"messages\":[]}".to_owned(),
        ),
        // With a byte order mark.
        (
            "\u{feff}{\"model\":\"alias\",\"messages\":[]}".to_owned(),
            "\u{feff}{\"model\":\"/models/a-rather-long-name-of-a-model\",\"messages\":[]}".to_owned(),
        ),
    ] {
        for chunk in [None, Some(7)] {
            let request = Request::new("POST", "/v1/chat/completions").body(body.clone());
            let request = match chunk {
                None => request,
                Some(size) => request.chunked(size),
            };
            assert_eq!(request.send(envoy.routed).await.status, 200);
            let received = pods[0].received().pop().unwrap();
            assert_eq!(String::from_utf8_lossy(&received.body), expected);
            if let Some(length) = received.headers.get("content-length") {
                assert_eq!(length.to_str().unwrap(), expected.len().to_string());
            }
        }
    }
    // In UTF-16 the text is the same, and so is all of it but the name.
    let utf16: Vec<u8> =
        "{\"model\":\"alias\",\"messages\":[]}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let reply = Request::new("POST", "/v1/chat/completions").body(utf16).send(envoy.routed).await;
    assert_eq!(reply.status, 200);
    let expected = "{\"model\":\"/models/a-rather-long-name-of-a-model\",\"messages\":[]}";
    assert_eq!(bodies(&pods).pop().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_keeps_its_target_in_every_gateway_and_finds_its_pod() {
    const CONVERSATIONS: u64 = 60;
    let pods = TestPod::several(4).await;
    let gateways = [
        Envoy::of(&pods).settings(&rollout()).concurrency(2).start().await,
        Envoy::of(&pods).settings(&rollout()).start().await,
    ];
    for gateway in &gateways {
        gateway.sees_ready(4).await;
    }
    let system = json!({"role": "system", "content": Random::text(1, 600)});
    let mut drawn = BTreeMap::<String, u64>::new();
    for conversation in 0..CONVERSATIONS {
        let mut messages = vec![system.clone(), user(&Random::text(100 + conversation, 40))];
        let (mut home, mut target) = (String::new(), String::new());
        for round in 0..4 {
            // The second gateway shares nothing with the first one.
            let gateway = &gateways[usize::from(round == 3)];
            let reply = chat("chat", &messages).send(gateway.routed).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let pod = pods.iter().find(|pod| pod.address() == reply.pod()).unwrap();
            let body: Value = serde_json::from_slice(&pod.received().pop().unwrap().body).unwrap();
            let asked = body["model"].as_str().unwrap().to_owned();
            assert!(
                round == 0 || asked == target,
                "conversation {conversation} moved from {target} to {asked}"
            );
            assert!(round == 0 || round == 3 || home == reply.pod(), "it left its pod");
            (home, target) = (reply.pod().to_owned(), asked);
            messages.extend([json!({"role": "assistant", "content": "Yes."}), user("And then?")]);
        }
        *drawn.entry(target).or_default() += 1;
    }
    let new = drawn["base-v2"];
    assert_eq!(drawn["base-v1"] + new, CONVERSATIONS);
    assert!((6..=32).contains(&new), "{new} of {CONVERSATIONS}, where 18 are expected");
}

#[tokio::test]
async fn unknown_and_reserved_names_are_refused_and_the_list_has_the_others() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).settings(&rollout()).start().await;
    envoy.sees_ready(1).await;
    for (count, model, reason, says) in [
        (1, "gpt-x", "unknown_model", "The model `gpt-x` does not exist."),
        (2, "a \"b\"\\\n\u{1}é", "unknown_model", "The model `a \"b\"\\\n\u{1}é` does not exist."),
        (
            1,
            "reserved",
            "no_target",
            "The model `reserved` is reserved: no valid target model is found for it.",
        ),
    ] {
        let reply = chat(model, &[user("hello")]).send(envoy.routed).await;
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status.as_u16(), &error["type"], &error["param"], &error["code"]),
            (404, &json!("NotFoundError"), &json!("model"), &json!(404))
        );
        assert_eq!(error["message"], says);
        let name = format!("wasmcustom.warmpath_rejected_total.reason={reason};.pool=default;");
        assert_eq!(envoy.stat(&name).await, count);
    }
    assert_eq!(pods[0].received().len(), 0);
    let list = Request::get("/v1/models?x=1").send(envoy.routed).await;
    assert_eq!(list.header("content-type"), Some("application/json"));
    let list = list.json();
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["/model/qwen", "alias", "chat"]);
    assert_eq!(Request::get("/v1/models/x").send(envoy.routed).await.status, 200, "a pod answers");
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn names_that_the_settings_do_not_know_pass_by_default() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods)
        .settings(&json!({"models": [{"name": "a", "targets": [{"name": "b"}]}]}))
        .start()
        .await;
    envoy.sees_ready(1).await;
    for (asked, sent) in [("c", "c"), ("a", "b"), ("b", "b")] {
        assert_eq!(chat(asked, &[user("hello")]).send(envoy.routed).await.status, 200);
        let body: Value = serde_json::from_str(&bodies(&pods).pop().unwrap()).unwrap();
        assert_eq!(body["model"], sent);
    }
    assert_eq!(Request::get("/v1/models").send(envoy.routed).await.pod(), pods[0].address());
}

/// An answer of a pod that runs the target of `alias`.
fn completion() -> Answer {
    let text = json!({"id": "1", "object": "chat.completion", "model": "/models/a-rather-long-name-of-a-model",
        "choices": [{"message": {"role": "assistant", "content": "\"model\":\"/models/a-rather-long-name-of-a-model\""}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}});
    let text = text.to_string();
    Answer::Whole(
        200,
        vec![("content-length", text.len().to_string()), ("content-type", "application/json".into())],
        text.into(),
    )
}

#[tokio::test]
async fn answers_have_the_name_that_the_client_asked_for() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).settings(&rollout()).switch("--restore-model-names").start().await;
    envoy.sees_ready(1).await;
    pods[0].answer_next(completion());
    let reply = chat("alias", &[user("hello")]).send(envoy.routed).await.json();
    assert_eq!(reply["model"], "alias");
    let said = reply["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(said, "\"model\":\"/models/a-rather-long-name-of-a-model\"", "what the model says stays");
    assert_eq!(reply["usage"]["total_tokens"], 11);

    // A stream that is cut inside of key and name.
    let (stream, answer) = Stream::new();
    pods[0].answer_next(answer);
    let body = json!({"model": "alias", "stream": true, "messages": [user("hello")]});
    let sent = tokio::spawn(Request::post("/v1/chat/completions", &body).open(envoy.routed));
    let event = "data: {\"id\":\"1\",\"model\":\"/models/a-rather-long-name-of-a-model\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    stream.chunk(event);
    let mut opened = sent.await.unwrap();
    let mut text = opened.chunk().await.unwrap().unwrap().to_vec();
    for cut in
        [event.find("odel").unwrap(), event.find("rather").unwrap(), event.find("\",\"choices").unwrap()]
    {
        stream.chunk(event[..cut].to_owned());
        // So that the pieces come one by one.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        stream.chunk(event[cut..].to_owned());
    }
    stream.chunk("data: [DONE]\n\n");
    drop(stream);
    text.extend_from_slice(&opened.finish().await.unwrap().body);
    let expected =
        event.replace("/models/a-rather-long-name-of-a-model", "alias").repeat(4) + "data: [DONE]\n\n";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    envoy.accounts_for_nothing().await;
}

/// vLLM answers with its first name, and other engines with the one that they were asked for.
#[tokio::test]
async fn a_target_that_is_a_second_name_of_the_pods_model_is_restored_too() {
    let pod = SimPod::start(SIMULATOR, &["--profile", "h100", "--served-model-name", "first,second"]);
    let settings = json!({
        "models": [{"name": "chat", "targets": [{"name": "second"}]}], "restore_model_names": true,
    });
    let envoy = Envoy::at(vec![pod.address()]).settings(&settings).start().await;
    envoy.sees_ready(1).await;
    let stream = |path: &str, mut body: Value| {
        body["stream"] = true.into();
        Request::post(path, &body).send(envoy.routed)
    };
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": "chat", "max_tokens": 3, "messages": [user("hello")]})),
        ("/v1/completions", json!({"model": "chat", "max_tokens": 3, "prompt": "hello"})),
        ("/v1/responses", json!({"model": "chat", "max_output_tokens": 3, "input": "hello"})),
        ("/v1/messages", json!({"model": "chat", "max_tokens": 3, "messages": [user("hello")]})),
    ] {
        let whole = Request::post(path, &body).send(envoy.routed).await;
        assert_eq!((whole.status.as_u16(), &whole.json()["model"]), (200, &json!("chat")), "{path}");
        let streamed = stream(path, body).await.text();
        assert!(streamed.contains("\"model\":\"chat\""), "{path}: {streamed}");
        assert!(!streamed.contains("\"model\":\"first\""), "{path}: {streamed}");
    }
    // The pod is known by the first name, as any other way to it shows.
    let plain = Request::post(
        "/v1/chat/completions",
        &json!({"model": "second", "max_tokens": 3, "messages": [user("hello")]}),
    );
    assert_eq!(plain.send(envoy.routed).await.json()["model"], "first");
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn without_the_callback_names_stay_and_the_log_says_so() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::of(&pods).settings(&rollout()).switch("--no-answer-filter").start().await;
    envoy.sees_ready(1).await;
    for _ in 0..2 {
        pods[0].answer_next(completion());
        let reply = chat("alias", &[user("hello")]).send(envoy.routed).await.json();
        assert_eq!(reply["model"], "/models/a-rather-long-name-of-a-model");
    }
    envoy.logs(&["`restore_model_names` has no effect"]).await;
    assert_eq!(envoy.log().matches("has no effect").count(), 1);
}
