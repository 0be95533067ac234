//! Continuous load that accounts for every request.
//!
//! Each of many connections sends one chat after the other, every second one streamed, until the test stops
//! it. Each request is followed to its end, and is in the [`Account`] exactly once.

mod account;

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

pub use self::account::{Account, Ending, Met, Sent};
use crate::run::until;

/// How long a request may take before it counts as lost: above every time limit that the tests give Envoy.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long a client waits after a request that failed.
const AFTER_TROUBLE: Duration = Duration::from_millis(100);

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
