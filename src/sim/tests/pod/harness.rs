//! A pod on a free port of this machine, and a client for it. Dropping it kills the pod.

use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use warmpath_sim::engine::EngineConfig;
use warmpath_sim::pod::{PodConfig, serve};

pub struct TestPod {
    base: String,
    client: Client,
    task: JoinHandle<std::io::Result<()>>,
}

/// A metrics page.
pub struct Page(pub String);

impl Page {
    /// The value of the first line that starts like this.
    pub fn value(&self, start: &str) -> f64 {
        let line =
            self.0.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

impl TestPod {
    /// The default pod, 200 times as fast.
    pub fn config() -> PodConfig {
        PodConfig { speed_up: 200.0, ..PodConfig::default() }
    }

    pub async fn start() -> TestPod {
        TestPod::with(TestPod::config()).await
    }

    pub async fn with(config: PodConfig) -> TestPod {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(serve(listener, config));
        // A kept connection would hide resets behind the client's own retry.
        let client = Client::builder().pool_max_idle_per_host(0).no_proxy().build().unwrap();
        TestPod { base, client, task }
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).send().await.unwrap()
    }

    pub async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<Response> {
        self.client.post(format!("{}{path}", self.base)).json(body).send().await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.try_post(path, body).await.unwrap()
    }

    pub async fn post_text(&self, path: &str, body: &'static str) -> Response {
        self.client.post(format!("{}{path}", self.base)).body(body).send().await.unwrap()
    }

    /// Posts these very bytes, with a header more.
    pub async fn post_bytes(&self, path: &str, body: Vec<u8>, header: (&str, &str)) -> Response {
        let request = self.client.post(format!("{}{path}", self.base)).header(header.0, header.1);
        request.header("content-type", "application/json").body(body).send().await.unwrap()
    }

    /// Sets faults.
    pub async fn fault(&self, faults: Value) {
        assert_eq!(self.post("/sim/faults", &faults).await.status(), 200, "{faults}");
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    pub async fn request_with_id(&self, path: &str, body: &Value, id: &str) -> Response {
        let request = self.client.post(format!("{}{path}", self.base)).header("x-request-id", id);
        request.json(body).send().await.unwrap()
    }

    pub async fn metrics(&self) -> Page {
        Page(self.get("/metrics").await.text().await.unwrap())
    }
}

impl Drop for TestPod {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A chat of one message.
pub fn chat(content: &str, max_tokens: u32) -> Value {
    json!({"model": "/model/qwen", "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens})
}

/// The same as a stream.
pub fn streamed(content: &str, max_tokens: u32) -> Value {
    let mut body = chat(content, max_tokens);
    body["stream"] = json!(true);
    body
}

/// Bytes of `tests/fixtures/cases`.
pub fn case(file: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/fixtures/cases/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A recorded answer.
pub fn fixture(file: &str) -> String {
    let path = format!("{}/../../tests/fixtures/vllm-0.32/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The path of chats.
pub const CHAT: &str = "/v1/chat/completions";

/// Steps of ten minutes: no token comes in a test.
pub fn stuck(max_num_seqs: u32) -> PodConfig {
    let engine = EngineConfig { step_seconds: 600.0, max_num_seqs, ..EngineConfig::default() };
    PodConfig { engine, faults_endpoint: true, ..PodConfig::default() }
}

/// A pod that takes faults.
pub fn open() -> PodConfig {
    PodConfig { faults_endpoint: true, ..TestPod::config() }
}

/// The whole answer to a request, which must be served.
pub async fn answer(pod: &TestPod, path: &str, body: &Value) -> Value {
    let answer = pod.post(path, body).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 200, "{text}");
    super::form::json(&text)
}

/// Tokens of the prompt that came from the cache.
pub fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

/// Requests that run and that wait, as a page says.
pub fn gauges(page: &Page) -> (f64, f64) {
    (page.value("vllm:num_requests_running{"), page.value("vllm:num_requests_waiting{"))
}
