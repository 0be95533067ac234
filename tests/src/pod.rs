//! A vLLM pod for tests, which decide every answer.

mod script;
mod server;
mod state;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::run::until;
pub use script::{Answer, Load, PageEnd, Received, Stream};
use server::respond;
use state::State;

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
        let listener = TcpListener::bind(address).await.unwrap_or_else(|e| panic!("{address}: {e}"));
        let mut pod = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State::new(load))),
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

    /// Lets the pod tell gateways this list of models; without it, it keeps it to itself. A client that asks
    /// for the list gets an answer as to any request.
    pub fn set_models(&self, list: impl Into<String>) {
        self.state.lock().unwrap().models = Some(list.into());
    }

    /// How often a gateway has asked for the list of models.
    pub fn lists(&self) -> usize {
        self.state.lock().unwrap().lists
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

    /// The requests so far, without those of gateways for pages of metrics and lists of models.
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
