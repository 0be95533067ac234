//! The modes of a pod that people run.

use std::time::Duration;

use serde_json::{Value, json};
use warmpath_sim::engine::{EngineConfig, QueueLimits};
use warmpath_sim::pod::PodConfig;

use super::LONG;
use super::form::{chunks, json as parse};
use super::harness::{CHAT, TestPod, answer, cached, case, chat, gauges, open, streamed, stuck};

#[tokio::test]
async fn a_full_pod_refuses_whole_answers_with_503_and_streams_inside_a_200() {
    let pod = TestPod::with(PodConfig {
        queue: QueueLimits { requests: Some(2), prompt_tokens: None },
        ..stuck(1)
    })
    .await;
    let held = [pod.post(CHAT, &streamed("a", 5)).await, pod.post(CHAT, &streamed("b", 5)).await];
    let whole = pod.post(CHAT, &chat("c", 5)).await;
    assert_eq!(whole.status(), 503);
    let expected = parse(&String::from_utf8(case("B20/answer-503.json")).unwrap());
    assert_eq!(parse(&whole.text().await.unwrap()), expected);
    let stream = pod.post(CHAT, &streamed("d", 5)).await;
    assert_eq!(stream.status(), 200);
    let text = stream.text().await.unwrap();
    let events = chunks(&text);
    assert_eq!(parse(events[0])["error"]["type"], "Service Unavailable");
    assert_eq!((parse(events[0])["error"]["code"].as_u64(), events[1]), (Some(503), "[DONE]"));
    let rejections =
        "vllm:admission_rejections_total{model_name=\"/model/qwen\",reason=\"max_num_queued_reqs\"}";
    assert_eq!(pod.metrics().await.value(rejections), 2.0);
    drop(held);
    for _ in 0..100 {
        let stream = pod.post(CHAT, &streamed("e", 5)).await;
        if pod.get("/load").await.text().await.unwrap() == "{\"server_load\":1}" {
            assert_eq!(stream.content_length(), None, "it is taken");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still full after all have left");
}

#[tokio::test]
async fn prompt_tokens_in_the_queue_are_a_limit_of_their_own() {
    let pod = TestPod::with(PodConfig {
        queue: QueueLimits { requests: None, prompt_tokens: Some(100) },
        ..stuck(8)
    })
    .await;
    let _held = pod.post(CHAT, &streamed(&LONG.repeat(20), 5)).await;
    let refused = pod.post("/v1/messages", &chat("c", 5)).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(parse(&refused.text().await.unwrap())["type"], "error", "Anthropic's form");
    let mut body = chat("c", 5);
    body["stream"] = json!(true);
    let text = pod.post("/v1/messages", &body).await.text().await.unwrap();
    assert!(text.starts_with("event: error\ndata: {\"type\":\"error\""), "{text}");
}

#[tokio::test]
async fn each_rank_has_a_cache_of_its_own_and_the_header_chooses_it() {
    let pod = TestPod::with(PodConfig { engines: 2, ..TestPod::config() }).await;
    let ask = async |rank: &str| {
        let body = chat(&LONG.repeat(20), 2).to_string().into_bytes();
        let answer = pod.post_bytes(CHAT, body, ("X-data-parallel-rank", rank)).await;
        (answer.status().as_u16(), parse(&answer.text().await.unwrap()))
    };
    assert_eq!(cached(&ask("1").await.1), 0);
    assert!(cached(&ask("1").await.1) > 0);
    assert_eq!(cached(&ask("0").await.1), 0, "the other rank computes it anew");
    assert_eq!(ask("2").await.0, 400);
    let page = pod.metrics().await;
    let prompts = |rank| {
        page.value(&format!("vllm:request_success_total{{engine=\"{rank}\",finished_reason=\"length\""))
    };
    assert_eq!((prompts(0), prompts(1)), (1.0, 2.0));
    // Without the header the idle rank gets the next one.
    let pod = TestPod::with(PodConfig { engines: 2, ..stuck(8) }).await;
    let _held = [pod.post(CHAT, &streamed("a", 5)).await, pod.post(CHAT, &streamed("b", 5)).await];
    let page = pod.metrics().await;
    for rank in 0..2 {
        let of = |name: &str| page.value(&format!("vllm:num_requests_{name}{{engine=\"{rank}\""));
        assert_eq!(of("running") + of("waiting"), 1.0, "rank {rank}");
    }
}

#[tokio::test]
async fn several_server_processes_have_no_start_time_and_no_load_before_the_first_request() {
    let pod = TestPod::with(PodConfig { api_servers: 2, ..open() }).await;
    let fresh = pod.metrics().await.0;
    assert!(!fresh.contains("process_start_time_seconds") && !fresh.contains("vllm:num_requests_running"));
    assert!(fresh.contains("vllm:cache_config_info{") && fresh.contains("vllm:prompt_tokens_total{"));
    answer(&pod, CHAT, &chat(&LONG.repeat(20), 2)).await;
    let page = pod.metrics().await;
    assert_eq!(gauges(&page), (0.0, 0.0));
    assert!(page.value("vllm:prompt_tokens_total") > 0.0);
    pod.fault(json!({"restart": true})).await;
    assert_eq!(pod.metrics().await.value("vllm:prompt_tokens_total"), 0.0, "counters begin anew");
}

#[tokio::test]
async fn a_sleeping_pod_answers_when_it_wakes_and_has_forgotten_its_cache() {
    let pod = TestPod::start().await;
    let body = chat(&LONG.repeat(20), 2);
    answer(&pod, CHAT, &body).await;
    assert!(cached(&answer(&pod, CHAT, &body).await) > 0);
    for (level, state) in [(1, "weights_offloaded"), (2, "discard_all")] {
        assert_eq!(pod.post(&format!("/sleep?level={level}"), &json!({})).await.status(), 200);
        assert_eq!(pod.get("/is_sleeping").await.text().await.unwrap(), "{\"is_sleeping\":true}");
        let page = pod.metrics().await;
        let state_of = |state: &str| {
            let labels = format!("engine=\"0\",model_name=\"/model/qwen\",sleep_state=\"{state}\"");
            page.value(&format!("vllm:engine_sleep_state{{{labels}}}"))
        };
        assert_eq!((state_of("awake"), state_of(state)), (0.0, 1.0));
    }
    let mut stream = pod.post(CHAT, &streamed(&LONG.repeat(20), 2)).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), stream.chunk()).await.is_err(), "it sleeps");
    assert_eq!(pod.post("/wake_up", &json!({})).await.status(), 200);
    assert!(stream.text().await.unwrap().contains("[DONE]"));
    assert_eq!(
        pod.metrics()
            .await
            .value("vllm:engine_sleep_state{engine=\"0\",model_name=\"/model/qwen\",sleep_state=\"awake\""),
        1.0
    );
    let page = pod.metrics().await;
    let once = page.value("vllm:prefix_cache_hits_total");
    let prompt = page.value("vllm:prompt_tokens_total") / 3.0;
    assert!(once > 0.0 && once < prompt, "one of three prompts was cached: {once} of {prompt}");
}

#[tokio::test]
async fn a_reset_empties_the_prefix_cache_of_a_pod_that_lives_on() {
    let pod = TestPod::start().await;
    let body = chat(&LONG.repeat(20), 2);
    answer(&pod, CHAT, &body).await;
    assert!(cached(&answer(&pod, CHAT, &body).await) > 0);
    let started = pod.metrics().await.value("process_start_time_seconds");
    assert_eq!(pod.post("/reset_prefix_cache", &json!({})).await.status(), 200);
    assert_eq!(cached(&answer(&pod, CHAT, &body).await), 0);
    assert_eq!(pod.metrics().await.value("process_start_time_seconds"), started);
}

#[tokio::test]
async fn adapters_are_models_with_prefixes_of_their_own() {
    let adapters = vec!["sql".to_owned(), "chat".to_owned()];
    let pod = TestPod::with(PodConfig { adapters, max_loras: 2, ..TestPod::config() }).await;
    let ask = |model: &str| {
        let mut body = chat(&LONG.repeat(20), 2);
        body["model"] = json!(model);
        body
    };
    let first = answer(&pod, CHAT, &ask("sql")).await;
    assert_eq!((&first["model"], cached(&first)), (&json!("sql"), 0));
    assert!(cached(&answer(&pod, CHAT, &ask("sql")).await) > 0);
    assert_eq!(cached(&answer(&pod, CHAT, &ask("chat")).await), 0);
    let refused = pod.post(CHAT, &ask("adapter-blue")).await;
    assert_eq!(refused.status(), 404);
    let (ours, recorded) = (refused.text().await.unwrap(), case("B11/answer-404.json"));
    let recorded = parse(&String::from_utf8(recorded).unwrap());
    for field in ["type", "param", "code"] {
        assert_eq!(parse(&ours)["error"][field], recorded["error"][field], "{field}");
    }
    let page = pod.metrics().await.0;
    for adapters in ["sql", "chat", ""] {
        let line = format!("vllm:lora_requests_info{{max_lora=\"2\",running_lora_adapters=\"{adapters}\"");
        assert!(page.contains(&line), "{line}");
    }
    assert_eq!(pod.post("/v1/load_lora_adapter", &json!({"lora_name": "adapter-blue"})).await.status(), 200);
    assert_eq!(pod.post(CHAT, &ask("adapter-blue")).await.status(), 200);
    assert_eq!(pod.post("/v1/unload_lora_adapter", &json!({"lora_name": "sql"})).await.status(), 200);
    assert_eq!(pod.post(CHAT, &ask("sql")).await.status(), 404);
}

#[tokio::test]
async fn a_request_whose_adapter_is_on_its_way_waits_as_deferred() {
    let adapters = vec!["sql".to_owned()];
    let config = PodConfig { adapters, adapter_load_seconds: 600.0, ..PodConfig::default() };
    let pod = TestPod::with(config).await;
    let mut body = streamed("a", 2);
    body["model"] = json!("sql");
    let _held = pod.post(CHAT, &body).await;
    let page = pod.metrics().await;
    let by_reason = |reason: &str| {
        let labels = format!("engine=\"0\",model_name=\"/model/qwen\",reason=\"{reason}\"");
        page.value(&format!("vllm:num_requests_waiting_by_reason{{{labels}}}"))
    };
    assert_eq!((gauges(&page).1, by_reason("deferred"), by_reason("capacity")), (1.0, 1.0, 0.0));
}

#[tokio::test]
async fn two_served_names_are_one_model() {
    let served_names = vec!["a".to_owned(), "b".to_owned()];
    let pod = TestPod::with(PodConfig { served_names, ..TestPod::config() }).await;
    let ask = |model: Value| {
        let mut body = chat(&LONG.repeat(20), 2);
        body["model"] = model;
        body
    };
    assert_eq!(cached(&answer(&pod, CHAT, &ask(json!("a"))).await), 0);
    let second = answer(&pod, CHAT, &ask(json!("b"))).await;
    assert!(cached(&second) > 0 && second["model"] == "a");
    assert_eq!(pod.post(CHAT, &ask(json!("/model/qwen"))).await.status(), 404);
    let models = parse(&pod.get("/v1/models").await.text().await.unwrap());
    let roots: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|card| &card["root"]).collect();
    assert_eq!(roots, ["/model/qwen", "/model/qwen"]);
}

#[tokio::test]
async fn bodies_are_read_as_python_reads_them() {
    let pod = TestPod::start().await;
    let none = ("x-none", "none");
    for (path, file, status) in [
        (CHAT, "B06/model-absent.json", 200),
        (CHAT, "B06/model-null.json", 200),
        (CHAT, "B06/model-empty.json", 200),
        (CHAT, "B07/utf8-bom.json", 200),
        (CHAT, "B07/utf16le-bom.json", 200),
        (CHAT, "B09/nan.json", 200),
        ("/v1/completions", "B09/minus-infinity.json", 200),
        (CHAT, "B31/lone-surrogate.json", 400),
    ] {
        assert_eq!(pod.post_bytes(path, case(file), none).await.status(), status, "{file}");
    }
    // All spellings of one request are one prompt.
    let mut loose = chat("x", 3);
    loose["max_tokens"] = json!("3");
    loose["stream"] = json!("false");
    assert_eq!(answer(&pod, CHAT, &loose).await["usage"]["completion_tokens"], 3);
    let tools = |file: &str| pod.post_bytes(CHAT, case(file), none);
    assert_eq!(cached(&parse(&tools("B26/tools-compact.json").await.text().await.unwrap())), 0);
    let again = tools("B26/tools-spaced-and-reordered.json").await.text().await.unwrap();
    assert!(cached(&parse(&again)) > 1000, "the tools are printed alike: {again}");
}

#[tokio::test]
async fn attribution_lines_are_left_out_of_the_prompt() {
    let pod = TestPod::start().await;
    let ask = async |file: &str| {
        let text = pod.post_bytes("/v1/messages", case(file), ("x-none", "none")).await.text().await.unwrap();
        let start =
            chunks(&text).into_iter().map(parse).find(|event| event["type"] == "message_start").unwrap();
        start["message"]["usage"]["cache_read_input_tokens"].as_u64().unwrap()
    };
    assert_eq!(ask("B03/turn1.json").await, 0);
    let (same, another) = (ask("B03/turn2-same-line.json").await, ask("B03/turn2.json").await);
    assert!(same > 1000 && another >= same, "{same} and {another}");
}

#[tokio::test]
async fn answers_can_keep_silent_about_the_cache() {
    let pod = TestPod::with(PodConfig { reports_cached: false, ..TestPod::config() }).await;
    for _ in 0..2 {
        let answer = answer(&pod, CHAT, &chat(&LONG.repeat(20), 2)).await;
        assert_eq!(answer["usage"]["prompt_tokens_details"], Value::Null);
    }
    assert!(pod.metrics().await.value("vllm:prefix_cache_hits_total") > 0.0);
}

#[tokio::test]
async fn host_memory_keeps_what_the_gpu_has_no_room_for() {
    let engine = EngineConfig { num_gpu_blocks: 64, host_blocks: 1000, ..EngineConfig::default() };
    let config = PodConfig { engine, max_model_len: 900, ..TestPod::config() };
    let pod = TestPod::with(config).await;
    let body = |n: u32| chat(&format!("{n} {}", LONG.repeat(40)), 2);
    for n in 0..6 {
        answer(&pod, CHAT, &body(n)).await;
    }
    assert!(cached(&answer(&pod, CHAT, &body(0)).await) > 300, "the GPU holds the last two");
    let page = pod.metrics().await;
    assert!(page.value("vllm:external_prefix_cache_hits_total") > 300.0);
    assert!(page.0.contains(",kv_offloading_size=\"1000\""));
}
