//! Continuous load that accounts for every request.
//!
//! Each of many connections sends one chat after the other, every second one streamed, until the test stops
//! it. Each request is followed to its end, and is in the [`Account`] exactly once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::envoy::Envoy;
use crate::run::until;

/// How long a request may take before it counts as lost: above every time limit that the tests give Envoy.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long Envoy may take to write its log.
const LOGGED: Duration = Duration::from_secs(5);

/// How long a client waits after a request that failed.
const AFTER_TROUBLE: Duration = Duration::from_millis(100);

/// How a request ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// 2xx, to the last byte: a JSON document, or a stream up to `[DONE]`.
    Whole,
    /// Another status with its whole body.
    Error(u16),
    /// 2xx, then the end before any byte of body: the pod had begun to answer.
    BrokenAtHeaders,
    /// 2xx and a part of the body.
    Broken,
    /// No byte, or none in time. The text says why.
    Lost(String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its `x-request-id`.
    pub id: String,
    /// Whether a stream was asked for.
    pub streamed: bool,
    /// When it was sent, since the traffic started.
    pub at: Duration,
    /// How long it took to its end.
    pub took: Duration,
    /// Its end.
    pub ending: Ending,
    /// The [`crate::TestPod`] that answered, if one did.
    pub pod: Option<String>,
    /// Whether it was sent twice, because Envoy closed the idle connection as it was sent. Every HTTP/1.1
    /// client must do so.
    pub resent: bool,
}

/// Load that is running.
pub struct Traffic {
    shared: Arc<Shared>,
    connections: JoinSet<Vec<Sent>>,
}

struct Shared {
    to: SocketAddr,
    path: String,
    start: Instant,
    /// Time between two requests, where they are paced.
    pace: Option<Duration>,
    begun: AtomicU64,
    stop: AtomicBool,
    ended: AtomicU64,
}

impl Traffic {
    /// Starts to send to `to` from so many connections, each as fast as it is answered.
    pub fn start(to: SocketAddr, connections: usize) -> Traffic {
        Traffic::begin(to, "", connections, None)
    }

    /// Starts to send so many requests per second, from as many connections at most. What is late is made up
    /// for, as long as a connection is free.
    pub fn paced(to: SocketAddr, connections: usize, per_second: u32) -> Traffic {
        Traffic::paced_below(to, "", connections, per_second)
    }

    /// The same with paths that begin with `prefix`.
    pub fn paced_below(to: SocketAddr, prefix: &str, connections: usize, per_second: u32) -> Traffic {
        Traffic::begin(to, prefix, connections, Some(Duration::from_secs(1) / per_second))
    }

    fn begin(to: SocketAddr, prefix: &str, connections: usize, pace: Option<Duration>) -> Traffic {
        let shared = Arc::new(Shared {
            to,
            path: format!("{prefix}/v1/chat/completions"),
            start: Instant::now(),
            pace,
            begun: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            ended: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            tasks.spawn(Connection { shared: Arc::clone(&shared), number, sender: None }.run());
        }
        Traffic { shared, connections: tasks }
    }

    /// Time since the start, the clock of [`Sent::at`].
    pub fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Waits until so many more requests have ended.
    pub async fn more(&self, requests: u64) {
        let goal = self.shared.ended.load(Ordering::Relaxed) + requests;
        let what = format!("{requests} more requests ended");
        until(&what, async || (self.shared.ended.load(Ordering::Relaxed) >= goal).then_some(())).await;
    }

    /// Sends for so long.
    pub async fn lasts(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Stops new requests, and waits for the end of those in flight.
    pub async fn stop(self) -> Account {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut sent: Vec<Sent> = self.connections.join_all().await.into_iter().flatten().collect();
        sent.sort_by_key(|sent| sent.at);
        assert_eq!(sent.len() as u64, self.shared.ended.load(Ordering::Relaxed), "a request is missing");
        Account { sent }
    }
}

struct Connection {
    shared: Arc<Shared>,
    number: usize,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    async fn run(mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        // Shared words are a prefix that pods can hold; about 2 KB, a short conversation.
        let words: String = (0..220).map(|n| format!("{:x} ", (self.number + 1) * 7919 * (n + 3))).collect();
        loop {
            if let Some(pace) = self.shared.pace {
                let turn = self.shared.begun.fetch_add(1, Ordering::Relaxed);
                let due = self.shared.start + pace * turn as u32;
                tokio::time::sleep_until(due.into()).await;
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            let streamed = sent.len() % 2 == 0;
            let id = format!("load-{}-{}", self.number, sent.len());
            let body = json!({"model": "/model/qwen", "stream": streamed, "max_tokens": 8, "messages": [
                {"role": "system", "content": words}, {"role": "user", "content": id}
            ]});
            let ended = self.send(id, streamed, body.to_string().into()).await;
            if ended.ending != Ending::Whole {
                // Quick refusals must not become a flood.
                tokio::time::sleep(AFTER_TROUBLE).await;
            }
            sent.push(ended);
            self.shared.ended.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    async fn send(&mut self, id: String, streamed: bool, body: Bytes) -> Sent {
        let (at, start) = (self.shared.start.elapsed(), Instant::now());
        let (mut ending, mut pod, mut resent) = (Ending::Lost("never sent".into()), None, false);
        // An idle connection may be closing as the request is sent. Then it is sent once more.
        for _ in 0..2 {
            let used = self.sender.is_some();
            let exchange = self.exchange(&id, streamed, body.clone());
            (ending, pod) = match tokio::time::timeout(PATIENCE, exchange).await {
                Ok(ended) => ended,
                Err(_) => (Ending::Lost(format!("nothing within {PATIENCE:?}")), None),
            };
            if ending != Ending::Whole {
                self.sender = None;
            }
            if !used || !matches!(&ending, Ending::Lost(why) if why == CLOSED) {
                break;
            }
            resent = true;
        }
        Sent { id, streamed, at, took: start.elapsed(), ending, pod, resent }
    }

    async fn exchange(&mut self, id: &str, streamed: bool, body: Bytes) -> (Ending, Option<String>) {
        let lost = |why: &dyn fmt::Display| (Ending::Lost(why.to_string()), None);
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let socket = match TcpStream::connect(self.shared.to).await {
                Ok(socket) => socket,
                Err(error) => return lost(&error),
            };
            let _ = socket.set_nodelay(true);
            match hyper::client::conn::http1::handshake(TokioIo::new(socket)).await {
                Ok((sender, connection)) => {
                    // The task ends when its sender is dropped.
                    tokio::spawn(connection);
                    self.sender = Some(sender);
                }
                Err(error) => return lost(&error),
            }
        }
        let Some(sender) = &mut self.sender else { return lost(&"no connection") };
        let request = hyper::Request::post(&self.shared.path)
            .header("host", self.shared.to.to_string())
            .header("content-type", "application/json")
            .header("x-request-id", id)
            .body(Full::new(body))
            .unwrap();
        let sending = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let reply = match sending.await {
            Ok(reply) => reply,
            Err(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {
                return lost(&CLOSED);
            }
            Err(error) => return lost(&error),
        };
        let pod = reply.headers().get("x-test-pod").and_then(|pod| pod.to_str().ok()).map(str::to_owned);
        let status = reply.status().as_u16();
        (ending(status, streamed, reply.into_body()).await, pod)
    }
}

/// The reason when Envoy closed the connection before any byte of an answer.
const CLOSED: &str = "the connection was closed without a byte";

/// Follows an answer to its end.
async fn ending(status: u16, streamed: bool, mut body: hyper::body::Incoming) -> Ending {
    let mut text = Vec::new();
    loop {
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Some(Err(_)) if text.is_empty() => return Ending::BrokenAtHeaders,
            Some(Err(_)) => return Ending::Broken,
        }
    }
    match status {
        200..300 if streamed && text.ends_with(b"data: [DONE]\n\n") => Ending::Whole,
        200..300 if !streamed && serde_json::from_slice::<Value>(&text).is_ok() => Ending::Whole,
        200..300 => Ending::Broken,
        _ => Ending::Error(status),
    }
}

/// All requests of a [`Traffic`], in the order they were sent.
#[derive(Clone, Debug)]
pub struct Account {
    /// The requests.
    pub sent: Vec<Sent>,
}

/// How many requests of an [`Account`] met the fault, by Envoy's access log.
#[derive(Clone, Debug)]
pub struct Met {
    /// Requests that needed more than one attempt.
    pub moved: usize,
    /// Requests that needed more than one attempt or did not end whole.
    pub fault: usize,
}

impl Account {
    /// How many requests ended like this.
    pub fn count(&self, like: impl Fn(&Ending) -> bool) -> usize {
        self.sent.iter().filter(|sent| like(&sent.ending)).count()
    }

    /// Requests that got no byte of an answer.
    pub fn lost(&self) -> Vec<&Sent> {
        self.sent.iter().filter(|sent| matches!(sent.ending, Ending::Lost(_))).collect()
    }

    /// Requests that were answered with an error.
    pub fn errors(&self) -> Vec<&Sent> {
        self.sent.iter().filter(|sent| matches!(sent.ending, Ending::Error(_))).collect()
    }

    /// Requests that broke off after the answer had begun.
    pub fn broken(&self) -> usize {
        self.count(|ending| matches!(ending, Ending::Broken | Ending::BrokenAtHeaders))
    }

    /// Requests that were sent twice because Envoy closed the connection. Only draining may cause any:
    /// elsewhere, a closed connection is a lost request that the client repaired.
    pub fn resent(&self) -> usize {
        self.sent.iter().filter(|sent| sent.resent).count()
    }

    /// The slowest request that ended whole.
    pub fn slowest(&self) -> Duration {
        let whole = self.sent.iter().filter(|sent| sent.ending == Ending::Whole);
        whole.map(|sent| sent.took).max().unwrap_or_default()
    }

    /// Prints the account under `name`, with the share of requests that met the fault.
    pub async fn print(&self, name: &str, envoy: &Envoy) -> Met {
        let attempts = attempts(envoy, &self.sent).await;
        let moved = |sent: &&Sent| attempts.get(&sent.id).is_some_and(|&attempts| attempts > 1);
        let met = Met {
            moved: self.sent.iter().filter(moved).count(),
            fault: self.sent.iter().filter(|sent| moved(sent) || sent.ending != Ending::Whole).count(),
        };
        let share = met.fault as f64 * 100.0 / self.sent.len().max(1) as f64;
        println!(
            "{name}: {self}; {} went on to another pod; {} ({share:.1} %) met the fault",
            met.moved, met.fault
        );
        met
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} whole (slowest {:.2} s), {} errors, {} broken off after the headers and {} later, {} resent, {} lost",
            self.sent.len(),
            self.count(|ending| *ending == Ending::Whole),
            self.slowest().as_secs_f64(),
            self.errors().len(),
            self.count(|ending| *ending == Ending::BrokenAtHeaders),
            self.count(|ending| *ending == Ending::Broken),
            self.resent(),
            self.lost().len(),
        )
    }
}

/// How many attempts Envoy made for each request; waits until its log has them all.
async fn attempts(envoy: &Envoy, sent: &[Sent]) -> BTreeMap<String, u64> {
    let start = Instant::now();
    loop {
        let lines = envoy.access_lines();
        let of_load = lines.iter().filter_map(|line| {
            let id = line["request"].as_str().filter(|id| id.starts_with("load-"))?;
            Some((id.to_owned(), line["attempts"].as_u64().unwrap_or(0)))
        });
        let found: BTreeMap<String, u64> = of_load.collect();
        let missing: Vec<&Sent> = sent.iter().filter(|sent| !found.contains_key(&sent.id)).collect();
        if missing.is_empty() {
            return found;
        }
        assert!(start.elapsed() < LOGGED, "Envoy's log has nothing of {missing:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
