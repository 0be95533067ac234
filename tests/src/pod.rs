//! A vLLM pod for tests, which decide every answer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::run::until;

/// What a pod's `/metrics` page says.
#[derive(Clone, Debug)]
pub struct Load {
    /// `vllm:num_requests_running` beyond the requests that the pod really works on; those are added.
    pub running: u32,
    /// `vllm:num_requests_waiting`.
    pub waiting: u32,
    /// `vllm:kv_cache_usage_perc`, 0 to 1.
    pub cache_used: f64,
    /// `num_gpu_blocks` of `vllm:cache_config_info`.
    pub blocks: u32,
    /// `block_size` of `vllm:cache_config_info`, in tokens.
    pub block_size: u32,
    /// `process_start_time_seconds`.
    pub started: f64,
    /// Bytes of comments after the metrics.
    pub padding: usize,
}

impl Default for Load {
    /// An idle pod with a cache of 16,384 blocks of 16 tokens.
    fn default() -> Self {
        Self {
            running: 0,
            waiting: 0,
            cache_used: 0.0,
            blocks: 16_384,
            block_size: 16,
            started: 1_795_224_676.25,
            padding: 0,
        }
    }
}

impl Load {
    /// The page, in the form that vLLM 0.32 writes (the lines that matter; `tests/fixtures` has whole ones).
    pub fn page(&self) -> String {
        let Self { running, waiting, cache_used, blocks, block_size, started, padding } = self;
        let padding = "# and so on\n".repeat(padding / 11);
        let of = r#"engine="0",model_name="/model/qwen""#;
        format!(
            "# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.\n\
             # TYPE process_start_time_seconds gauge\n\
             process_start_time_seconds {started:?}\n\
             # HELP vllm:num_requests_running Number of requests in model execution batches.\n\
             # TYPE vllm:num_requests_running gauge\n\
             vllm:num_requests_running{{{of}}} {running}.0\n\
             # HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n\
             # TYPE vllm:num_requests_waiting gauge\n\
             vllm:num_requests_waiting{{{of}}} {waiting}.0\n\
             # HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.\n\
             # TYPE vllm:kv_cache_usage_perc gauge\n\
             vllm:kv_cache_usage_perc{{{of}}} {cache_used:?}\n\
             # HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n\
             # TYPE vllm:cache_config_info gauge\n\
             vllm:cache_config_info{{block_size=\"{block_size}\",cache_dtype=\"auto\",enable_prefix_caching=\"True\",\
             engine=\"0\",num_gpu_blocks=\"{blocks}\"}} 1.0\n\
             {padding}"
        )
    }
}

/// How a `/metrics` page ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageEnd {
    /// Properly.
    Whole,
    /// The connection is cut after so many bytes of it.
    CutAfter(usize),
    /// Nothing follows after so many bytes of it, and the connection stays open.
    StallsAfter(usize),
}

/// A request that reached a pod.
#[derive(Clone, Debug)]
pub struct Received {
    /// When it was there with its whole body.
    pub at: Instant,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// What a pod does with a request.
#[derive(Debug)]
pub enum Answer {
    /// 200 and a small chat completion with usage.
    Completion,
    /// A status with headers and a body.
    Whole(u16, Vec<(&'static str, String)>, Bytes),
    /// 200 and a `text/event-stream` whose pieces the test releases; from [`Stream::new`].
    Stream(StreamEnd),
    /// Like a model: the first of so many `tokens` after `first`, the others `each` apart. Streamed if the
    /// request asks for it.
    Tokens {
        /// Time until the first token.
        first: Duration,
        /// Time between two tokens.
        each: Duration,
        /// Number of tokens.
        tokens: u32,
        /// The pod breaks the connection off after so many tokens. A whole answer then breaks off before its
        /// first byte.
        cut: Option<u32>,
    },
    /// 101, and then the same bytes come back. To a proxy this is a WebSocket.
    Echo,
    /// Waits, then gives the other answer.
    After(Duration, Box<Answer>),
    /// Ends the connection before the first byte of an answer.
    Reset,
    /// Never answers, and keeps the connection open.
    Silence,
}

/// The pod's end of a [`Stream`].
#[derive(Debug)]
pub struct StreamEnd(mpsc::UnboundedReceiver<io::Result<Frame<Bytes>>>);

/// The test's end of a streamed answer. Dropping it completes the answer.
#[derive(Debug)]
pub struct Stream(mpsc::UnboundedSender<io::Result<Frame<Bytes>>>);

impl Stream {
    /// A stream, and the answer that carries it.
    pub fn new() -> (Self, Answer) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Answer::Stream(StreamEnd(receiver)))
    }

    /// Releases one piece of the body.
    pub fn chunk(&self, text: impl Into<Bytes>) {
        let _ = self.0.send(Ok(Frame::data(text.into())));
    }

    /// Releases trailers, which end the body.
    pub fn trailers(self, name: &'static str, value: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().unwrap());
        let _ = self.0.send(Ok(Frame::trailers(trailers)));
    }

    /// Breaks the connection off in the middle of the body.
    pub fn break_off(self) {
        let _ = self.0.send(Err(io::Error::other("the test breaks the answer off")));
    }

    /// Whether the connection to the pod has ended, because the client went away or Envoy gave up.
    pub fn is_cut(&self) -> bool {
        self.0.is_closed()
    }
}

struct State {
    load: Load,
    page: Option<String>,
    metrics_status: u16,
    page_end: PageEnd,
    scrapes: usize,
    scrape_headers: Option<HeaderMap>,
    begun: usize,
    working: u32,
    received: Vec<Received>,
    next: VecDeque<Answer>,
    usual: Usual,
}

/// The answer to a request that has none of its own.
type Usual = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

/// A scripted pod on a free port of loopback. Its answers carry its address in `x-test-pod`.
pub struct TestPod {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: Option<JoinHandle<()>>,
    /// Closes the listener.
    listens: Option<oneshot::Sender<()>>,
}

impl TestPod {
    /// Starts an idle pod that answers everything with [`Answer::Completion`].
    pub async fn start() -> Self {
        Self::with(Load::default()).await
    }

    /// Starts a pod with this load.
    pub async fn with(load: Load) -> Self {
        Self::listening("127.0.0.1:0", load).await
    }

    /// Starts an idle pod at this address, whose process is younger than that of any pod before it.
    pub async fn at(address: &str) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Self::listening(address, Load { started: now.as_secs_f64(), ..Load::default() }).await
    }

    async fn listening(address: &str, load: Load) -> Self {
        let state = State {
            load,
            page: None,
            metrics_status: 200,
            page_end: PageEnd::Whole,
            scrapes: 0,
            scrape_headers: None,
            begun: 0,
            working: 0,
            received: Vec::new(),
            next: VecDeque::new(),
            usual: Arc::new(|_| Answer::Completion),
        };
        let listener = TcpListener::bind(address).await.unwrap_or_else(|e| panic!("{address}: {e}"));
        let mut pod = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(state)),
            server: None,
            listens: None,
        };
        pod.serve(listener);
        pod
    }

    /// Starts `count` idle pods.
    pub async fn several(count: usize) -> Vec<Self> {
        let mut pods = Vec::new();
        for _ in 0..count {
            pods.push(Self::start().await);
        }
        pods
    }

    /// Its address, `ip:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes what `/metrics` says from the next scrape on.
    pub fn set_load(&self, load: Load) {
        let mut state = self.state.lock().unwrap();
        (state.load, state.page) = (load, None);
    }

    /// Lets `/metrics` say exactly this, whatever the pod works on, from the next scrape on.
    pub fn set_page(&self, page: impl Into<String>) {
        self.state.lock().unwrap().page = Some(page.into());
    }

    /// Changes the status of `/metrics`; 200 is healthy.
    pub fn set_metrics_status(&self, status: u16) {
        self.state.lock().unwrap().metrics_status = status;
    }

    /// Changes how `/metrics` ends from the next scrape on.
    pub fn set_page_end(&self, end: PageEnd) {
        self.state.lock().unwrap().page_end = end;
    }

    /// Decides the answer to the next request that has none yet; requests to `/metrics` do not count.
    pub fn answer_next(&self, answer: Answer) {
        self.state.lock().unwrap().next.push_back(answer);
    }

    /// Decides the answer to every request that has no answer of its own.
    pub fn answer_all(&self, answer: fn() -> Answer) {
        self.answer_by(move |_| answer());
    }

    /// The same, for answers that depend on the request. It must not ask the pod for anything.
    pub fn answer_by(&self, answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        self.state.lock().unwrap().usual = Arc::new(answer);
    }

    /// Takes back the answers of [`TestPod::answer_next`] that no request has met.
    pub fn forget_answers(&self) {
        self.state.lock().unwrap().next.clear();
    }

    /// The requests so far, without those to `/metrics`.
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    /// How many requests it works on now.
    pub fn working(&self) -> usize {
        self.state.lock().unwrap().working as usize
    }

    /// How many requests have arrived so far with their headers, whether or not their body is whole.
    pub fn begun(&self) -> usize {
        self.state.lock().unwrap().begun
    }

    /// How often `/metrics` was read so far.
    pub fn scrapes(&self) -> usize {
        self.state.lock().unwrap().scrapes
    }

    /// The headers of the last scrape.
    pub fn scrape_headers(&self) -> Option<HeaderMap> {
        self.state.lock().unwrap().scrape_headers.clone()
    }

    /// Waits until `/metrics` was read `more` times from now on.
    pub async fn scraped(&self, more: usize) {
        let goal = self.scrapes() + more;
        let what = format!("{} was scraped {more} times more", self.address);
        until(&what, async || (self.scrapes() >= goal).then_some(())).await;
    }

    /// Stops listening and cuts open connections.
    pub async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    /// Refuses new connections. Open connections stay and are served.
    pub async fn refuse(&mut self) {
        if let Some(close) = self.listens.take() {
            let _ = close.send(());
        }
        let what = format!("{} refuses connections", self.address);
        until(&what, async || TcpStream::connect(self.address).await.is_err().then_some(())).await;
    }

    /// Comes back on the same port after [`TestPod::kill`] or [`TestPod::refuse`].
    pub async fn revive(&mut self) {
        self.kill().await;
        let listener =
            until("the pod's port is free again", async || TcpListener::bind(self.address).await.ok()).await;
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (address, state) = (self.address, Arc::clone(&self.state));
        let (listens, mut close) = oneshot::channel();
        self.listens = Some(listens);
        self.server = Some(tokio::spawn(async move {
            // When this task is dropped, every connection is dropped too.
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = &mut close => break,
                };
                let Ok((socket, _)) = accepted else { continue };
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    let service = service_fn(move |request| respond(address, Arc::clone(&state), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .with_upgrades()
                        .await;
                });
            }
            drop(listener);
            connections.join_all().await;
        }));
    }
}

impl Drop for TestPod {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

type Body = BoxBody<Bytes, io::Error>;

fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A body with one piece, after which the connection is cut or stays silent.
fn broken(first: io::Result<Frame<Bytes>>, cut: bool) -> Body {
    let rest = futures::stream::once(async move {
        if !cut {
            std::future::pending::<()>().await;
        }
        // Gives the first piece time to be sent before the connection ends.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Err(io::Error::other("the test cuts the page"))
    });
    let pieces = futures::StreamExt::chain(futures::stream::once(async move { first }), rest);
    StreamBody::new(pieces).boxed()
}

async fn respond(
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    mut request: hyper::Request<Incoming>,
) -> io::Result<hyper::Response<Body>> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    if head.uri.path() == "/metrics" {
        let mut state = state.lock().unwrap();
        state.scrapes += 1;
        state.scrape_headers = Some(head.headers);
        let response = hyper::Response::builder()
            .status(state.metrics_status)
            .header("content-type", "text/plain; version=0.0.4; charset=utf-8");
        let load = Load { running: state.load.running + state.working, ..state.load.clone() };
        let page = state.page.clone().unwrap_or_else(|| load.page());
        return Ok(match state.page_end {
            PageEnd::Whole => response.body(whole(page)).unwrap(),
            PageEnd::CutAfter(size) | PageEnd::StallsAfter(size) => {
                let first = Ok(Frame::data(Bytes::from(page.as_bytes()[..size].to_vec())));
                let cut = state.page_end == PageEnd::CutAfter(size);
                // The length is that of the whole page, so the client notices that a part is missing.
                let response = response.header("content-length", page.len());
                response.body(broken(first, cut)).unwrap()
            }
        });
    }

    let working = Working::new(&state);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let streams = serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|body| body["stream"] == true);
    let mut answer = {
        let received = Received {
            at: Instant::now(),
            method: head.method.to_string(),
            path: head.uri.to_string(),
            headers: head.headers,
            body,
        };
        let mut state = state.lock().unwrap();
        state.received.push(received.clone());
        let usual = Arc::clone(&state.usual);
        state.next.pop_front().unwrap_or_else(|| usual(&received))
    };
    while let Answer::After(time, then) = answer {
        tokio::time::sleep(time).await;
        answer = *then;
    }
    let response = hyper::Response::builder().header("x-test-pod", address.to_string());
    let response = match answer {
        Answer::Completion => {
            response.header("content-type", "application/json").body(whole(completion())).unwrap()
        }
        Answer::Whole(status, headers, body) => {
            let response =
                headers.into_iter().fold(response.status(status), |r, (name, value)| r.header(name, value));
            response.body(whole(body)).unwrap()
        }
        Answer::Stream(StreamEnd(mut receiver)) => {
            let frames =
                StreamBody::new(futures::stream::poll_fn(move |context| receiver.poll_recv(context)));
            response.header("content-type", "text/event-stream").body(frames.boxed()).unwrap()
        }
        Answer::Echo => {
            tokio::spawn(async move {
                let _working = working;
                if let Ok(connection) = upgrade.await {
                    let (mut from, mut to) = tokio::io::split(TokioIo::new(connection));
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                }
            });
            let headers = [("connection", "upgrade"), ("upgrade", "websocket")];
            let response =
                headers.iter().fold(response.status(101), |r, (name, value)| r.header(*name, *value));
            response.body(whole("")).unwrap()
        }
        Answer::Tokens { first, each, tokens, cut } => {
            if streams {
                let events = events(first, each, tokens, cut, working);
                response.header("content-type", "text/event-stream").body(events).unwrap()
            } else {
                tokio::time::sleep(first + each * cut.unwrap_or(tokens)).await;
                if cut.is_some() {
                    return Err(io::Error::other("the test breaks the answer off"));
                }
                response.header("content-type", "application/json").body(whole(completion())).unwrap()
            }
        }
        // An error of the service makes hyper close the connection without an answer.
        Answer::Reset => return Err(io::Error::other("the test resets the connection")),
        Answer::Silence | Answer::After(..) => std::future::pending().await,
    };
    Ok(response)
}

/// Counts a request that the pod works on, until the answer or the connection is dropped.
struct Working(Arc<Mutex<State>>);

impl Working {
    fn new(state: &Arc<Mutex<State>>) -> Working {
        let mut counts = state.lock().unwrap();
        counts.begun += 1;
        counts.working += 1;
        Working(Arc::clone(state))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.lock().unwrap().working -= 1;
    }
}

/// Server-sent events, one per token, each sent when its time has come.
fn events(first: Duration, each: Duration, tokens: u32, cut: Option<u32>, working: Working) -> Body {
    let stream = futures::stream::unfold((0, working), move |(n, working)| async move {
        let frame = match n {
            n if n > tokens => return None,
            n if n == tokens => Ok(Frame::data(Bytes::from("data: [DONE]\n\n"))),
            n => {
                tokio::time::sleep(if n == 0 { first } else { each }).await;
                let token =
                    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{n} \"}}}}]}}\n\n");
                match cut {
                    Some(cut) if cut == n => Err(io::Error::other("the test breaks the answer off")),
                    _ => Ok(Frame::data(token.into())),
                }
            }
        };
        Some((frame, (n + 1, working)))
    });
    StreamBody::new(stream).boxed()
}

fn completion() -> String {
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_795_224_855, "model": "/model/qwen",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 15, "total_tokens": 17, "completion_tokens": 2},
    })
    .to_string()
}
