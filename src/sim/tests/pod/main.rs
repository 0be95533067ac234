//! A pod in this process, driven by a real HTTP client: its answers have the recorded forms of vLLM 0.32, and
//! its cache, limits and faults behave.

#[cfg(test)]
mod faults;
#[cfg(test)]
mod form;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod responses;

use std::time::Duration;

use form::{assert_same_form, chunks, json};
use harness::{TestPod, chat, fixture};
use serde_json::json;
use warmpath_sim::engine::EngineConfig;
use warmpath_sim::pod::PodConfig;

const LONG: &str = "the quick brown fox jumps over the lazy dog and ";

#[tokio::test]
async fn whole_answers_have_the_recorded_form() {
    let pod = TestPod::start().await;
    for (path, file, body) in [
        (
            "/v1/chat/completions",
            "chat.json",
            json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}),
        ),
        ("/v1/completions", "completion.json", json!({"prompt": "Once upon", "max_tokens": 5})),
        ("/v1/responses", "responses.json", json!({"input": "hello there", "max_output_tokens": 5})),
        (
            "/v1/messages",
            "messages.json",
            json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}),
        ),
    ] {
        let mut body = body;
        body["model"] = json!("/model/qwen");
        let answer = pod.post(path, &body).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_same_form(&answer.text().await.unwrap(), &fixture(file), path);
    }
    let models = pod.get("/v1/models").await.text().await.unwrap();
    assert_same_form(&models, &fixture("models.json"), "models");
}

#[tokio::test]
async fn streams_have_the_recorded_form() {
    let pod = TestPod::start().await;
    let mut body = chat("hi", 5);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let ids = json!({"model": "/model/qwen", "prompt": [1, 2, 3], "max_tokens": 5, "stream": true});
    for (path, file, body) in [
        ("/v1/chat/completions", "chat-stream.sse", body),
        ("/v1/completions", "completion-tokens-stream.sse", ids),
    ] {
        let answer = pod.post(path, &body).await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
        let ours = answer.text().await.unwrap();
        let recorded = fixture(file);
        let (ours, recorded) = (chunks(&ours), chunks(&recorded));
        assert_eq!(ours.len(), recorded.len(), "{path}");
        assert_eq!(ours.last(), Some(&"[DONE]"));
        for (ours, recorded) in ours.iter().zip(&recorded).filter(|(chunk, _)| **chunk != "[DONE]") {
            assert_same_form(ours, recorded, path);
        }
    }
}

#[tokio::test]
async fn errors_have_the_recorded_form() {
    let pod = TestPod::start().await;
    let broken = pod.post_text("/v1/chat/completions", "{\"model\":").await;
    assert_eq!(broken.status(), 400);
    assert_eq!(broken.text().await.unwrap(), fixture("error-400-json.json"));
    let unknown = pod.post("/v1/chat/completions", &json!({"model": "nope", "messages": []})).await;
    assert_eq!(unknown.status(), 404);
    assert_eq!(json(&unknown.text().await.unwrap()), json(&fixture("error-404-model.json")));
    for (body, param) in [
        (json!({"model": "/model/qwen"}), "body.messages"),
        (json!({"model": "/model/qwen", "messages": 3}), "body"),
        (chat("hi", 0), "max_tokens"),
        (chat("hi", 20_000), "input_tokens"),
        (chat(&LONG.repeat(2_000), 1), "input_tokens"),
    ] {
        let answer = pod.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status(), 400);
        assert_eq!(json(&answer.text().await.unwrap())["error"]["param"], param);
    }
    assert_eq!(pod.get("/nothing").await.status(), 404);
    assert_eq!(pod.get("/v1/chat/completions").await.status(), 405);
}

#[tokio::test]
async fn a_conversation_that_comes_back_finds_its_prefix_and_its_answers() {
    let pod = TestPod::start().await;
    let mut messages = vec![json!({"role": "system", "content": LONG.repeat(20)})];
    let mut known = 0;
    for round in 0..4 {
        messages.push(json!({"role": "user", "content": format!("question {round} {}", LONG.repeat(3))}));
        let body = json!({"messages": messages, "tools": [{"type": "function"}], "max_tokens": 100, "stream": false});
        let answer = json(&pod.post("/v1/chat/completions", &body).await.text().await.unwrap());
        let usage = &answer["usage"];
        let count = |value: &serde_json::Value| value.as_u64().unwrap();
        let cached = count(&usage["prompt_tokens_details"]["cached_tokens"]);
        // All of the round before but its last, unfinished block, or the block of the token never written.
        assert!(cached <= known && cached + 32 > known, "round {round}: {cached} of {known}");
        known = count(&usage["total_tokens"]);
        messages.push(answer["choices"][0]["message"].clone());
    }
    let page = pod.metrics().await;
    assert!(page.value("vllm:prefix_cache_hits_total") > 500.0);
    assert_eq!(page.value("vllm:request_success_total{engine=\"0\",finished_reason=\"length\""), 4.0);
}

#[tokio::test]
async fn text_that_is_continued_finds_its_completion() {
    let pod = TestPod::start().await;
    let prompt = LONG.repeat(10);
    let body = json!({"prompt": prompt, "max_tokens": 64});
    let answer = json(&pod.post("/v1/completions", &body).await.text().await.unwrap());
    let known = answer["usage"]["total_tokens"].as_u64().unwrap();
    let more = format!("{prompt}{} and then", answer["choices"][0]["text"].as_str().unwrap());
    let body = json!({"prompt": more, "max_tokens": 1});
    let answer = json(&pod.post("/v1/completions", &body).await.text().await.unwrap());
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached + 32 > known, "{cached} of {known}");
}

#[tokio::test]
async fn an_answer_stops_by_itself_unless_told_not_to() {
    let config = PodConfig { default_output_tokens: 8, max_model_len: 100, ..TestPod::config() };
    let pod = TestPod::with(config).await;
    let ask = async |body: serde_json::Value| {
        json(&pod.post("/v1/chat/completions", &body).await.text().await.unwrap())
    };
    let free = ask(json!({"messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!(free["choices"][0]["finish_reason"], "stop");
    assert_eq!(free["usage"]["completion_tokens"], 8);
    let words = free["choices"][0]["message"]["content"].as_str().unwrap().split(' ').count();
    assert_eq!(words, 7, "the end-of-sequence token has no text");
    let on =
        ask(json!({"messages": [{"role": "user", "content": "hi"}], "ignore_eos": true, "max_tokens": 20}))
            .await;
    assert_eq!(
        (&on["choices"][0]["finish_reason"], &on["usage"]["completion_tokens"]),
        (&json!("length"), &json!(20))
    );
    let all = ask(json!({"messages": [{"role": "user", "content": "hi"}], "ignore_eos": true})).await;
    assert_eq!(all["usage"]["total_tokens"], 100);
}

#[tokio::test]
async fn several_prompts_are_several_choices() {
    let pod = TestPod::start().await;
    let body = json!({"prompt": ["one", "two", "three"], "max_tokens": 3});
    let answer = json(&pod.post("/v1/completions", &body).await.text().await.unwrap());
    assert_eq!(answer["choices"].as_array().unwrap().len(), 3);
    assert_eq!(answer["usage"]["completion_tokens"], 9);
    let body = json!({"prompt": [[1, 2], [3, 4]], "max_tokens": 3, "stream": true, "stream_options": {"include_usage": true}});
    let text = pod.post("/v1/completions", &body).await.text().await.unwrap();
    let chunks = chunks(&text);
    assert_eq!(chunks.len(), 8, "six tokens, usage, the end");
    assert!(chunks[6].contains("\"completion_tokens\":6"));
    let body = json!({"input": ["one", "two"]});
    let answer = json(&pod.post("/v1/embeddings", &body).await.text().await.unwrap());
    assert_eq!(answer["data"].as_array().unwrap().len(), 2);
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn the_responses_and_messages_streams_have_their_events() {
    let pod = TestPod::start().await;
    let events = async |path: &str, body: serde_json::Value| {
        let text = pod.post(path, &body).await.text().await.unwrap();
        for data in chunks(&text) {
            json(data);
        }
        let mut names: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect();
        names.dedup();
        (names, text)
    };
    let (names, text) =
        events("/v1/responses", json!({"input": "hi", "max_output_tokens": 4, "stream": true})).await;
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
    );
    let (_, last) = chunks(&text).last().unwrap().split_once("\"response\":").unwrap();
    assert_same_form(last.strip_suffix('}').unwrap(), &fixture("responses.json"), "responses stream");
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 200, "stream": true});
    let (names, text) = events("/v1/messages", body).await;
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert!(text.contains("\"stop_reason\":\"end_turn\"") && text.contains("\"output_tokens\":128"));
}

#[tokio::test]
async fn the_headers_of_a_stream_come_before_its_first_token() {
    // A step of ten minutes: no token comes in this test.
    let engine = EngineConfig { step_seconds: 600.0, ..EngineConfig::default() };
    let pod = TestPod::with(PodConfig { engine, ..PodConfig::default() }).await;
    let mut body = chat("hi", 5);
    body["stream"] = json!(true);
    let mut answer =
        tokio::time::timeout(Duration::from_secs(5), pod.post("/v1/chat/completions", &body)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(tokio::time::timeout(Duration::from_millis(50), answer.chunk()).await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let engine = EngineConfig { step_seconds: 600.0, max_num_seqs: 1, ..EngineConfig::default() };
    let pod = TestPod::with(PodConfig { engine, ..PodConfig::default() }).await;
    let mut streamed = chat("hi", 5);
    streamed["stream"] = json!(true);
    let first = pod.post("/v1/chat/completions", &streamed).await;
    // The second waits for a whole answer, and gives up.
    let whole = chat("ho", 5);
    let second = pod.post("/v1/chat/completions", &whole);
    assert!(tokio::time::timeout(Duration::from_millis(100), second).await.is_err());
    drop(first);
    for _ in 0..100 {
        let page = pod.metrics().await;
        if page.value("vllm:num_requests_running") + page.value("vllm:num_requests_waiting{") == 0.0 {
            assert_eq!(page.value("vllm:request_success_total{engine=\"0\",finished_reason=\"abort\""), 2.0);
            assert_eq!(page.value("vllm:kv_cache_usage_perc"), 0.0);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the requests are still there");
}

#[tokio::test]
async fn the_load_shows_in_the_metrics() {
    let engine = EngineConfig { step_seconds: 600.0, max_num_seqs: 2, ..EngineConfig::default() };
    let pod = TestPod::with(PodConfig { engine, ..PodConfig::default() }).await;
    let mut body = chat(&LONG.repeat(40), 5);
    body["stream"] = json!(true);
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(pod.post("/v1/chat/completions", &body).await);
    }
    let page = pod.metrics().await;
    // The first one's step has begun; what came later waits for the next.
    assert_eq!(page.value("vllm:num_requests_running") + page.value("vllm:num_requests_waiting{"), 5.0);
    assert!(page.value("vllm:num_requests_waiting{") >= 3.0);
    assert!(page.value("vllm:kv_cache_usage_perc") > 0.0);
    assert_eq!(json(&pod.get("/load").await.text().await.unwrap()), json!({"server_load": 5}));
    assert_eq!(form::series(&page.0).len(), form::series(&fixture("metrics-loaded.txt")).len());
}

#[tokio::test]
async fn the_metrics_count_in_virtual_seconds() {
    let pod = TestPod::start().await;
    pod.post("/v1/chat/completions", &chat(&LONG.repeat(200), 11)).await.text().await.unwrap();
    let page = pod.metrics().await;
    let prompt = page.value("vllm:prompt_tokens_total");
    let ttft = page.value("vllm:time_to_first_token_seconds_sum");
    let config = TestPod::config().engine;
    let least = prompt / config.prefill_tokens_per_second;
    assert!(ttft > least && ttft < least + 3.0 * config.step_seconds, "{ttft} for {prompt} tokens");
    assert_eq!(page.value("vllm:generation_tokens_total"), 11.0);
    assert_eq!(page.value("vllm:inter_token_latency_seconds_count"), 10.0);
    assert_eq!(page.value("vllm:iteration_tokens_total_sum"), prompt + 11.0);
    assert_eq!(page.value("vllm:request_success_total{engine=\"0\",finished_reason=\"length\""), 1.0);
    assert_eq!(page.value("http_requests_total{handler=\"/v1/chat/completions\""), 1.0);
    assert!(page.value("process_start_time_seconds") > 1.7e9);
}

#[tokio::test]
async fn an_instant_pod_answers_without_an_engine() {
    let pod = TestPod::with(PodConfig { instant: true, ..PodConfig::default() }).await;
    let answer = json(&pod.post("/v1/chat/completions", &chat("hi", 5)).await.text().await.unwrap());
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let mut body = chat("hi", 5);
    body["stream"] = json!(true);
    let text = pod.post("/v1/chat/completions", &body).await.text().await.unwrap();
    assert_eq!(chunks(&text).last(), Some(&"[DONE]"));
    assert_eq!(pod.metrics().await.value("vllm:num_requests_running"), 0.0);
}

#[tokio::test]
async fn small_endpoints_answer() {
    let pod = TestPod::start().await;
    for path in ["/health", "/ping"] {
        assert_eq!(pod.get(path).await.status(), 200);
    }
    assert_eq!(json(&pod.get("/version").await.text().await.unwrap()), json!({"version": "0.32.0"}));
    let answer = pod.request_with_id("/v1/chat/completions", &chat("hi", 2), "abc-1").await;
    assert_eq!(json(&answer.text().await.unwrap())["id"], "chatcmpl-abc-1");
}
