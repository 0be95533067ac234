//! More requests than the pods can serve, of which Warmpath refuses some, and who met them at the pods.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::Request;
use crate::envoy::Envoy;
use crate::pod::{Answer, Received, TestPod};
use crate::run::until;

/// Time until the first token of [`Flood::answer`].
const FIRST: Duration = Duration::from_millis(500);

/// How long a client waits after a refusal.
const AFTER_REFUSAL: Duration = Duration::from_millis(50);

/// Clients that each send one request after the other until the test stops them. An answer must be 200, or a
/// refusal as clients expect it.
pub struct Flood {
    counts: Arc<Counts>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    served: AtomicU64,
    refused: AtomicU64,
}

impl Flood {
    /// Answers that take long enough for a flood to fill the pods.
    pub fn answer() -> Answer {
        Answer::tokens(FIRST, Duration::from_millis(2), 3)
    }

    /// Lets the workers of `envoy` learn how fast its pods are: six rounds of one request per pod, each made
    /// from a number that no other has.
    pub async fn prepare(envoy: &Envoy, pods: usize, request: impl Fn(u64) -> Request) {
        for n in 0..6 {
            let round = (0..pods as u64).map(|pod| request(90_000 + n * 100 + pod).send(envoy.routed));
            futures::future::join_all(round).await;
        }
    }

    /// Starts so many clients, whose requests are made from numbers; each client has a thousand of its own.
    /// Refusals must name `reason`. Returns once a good many were refused.
    pub async fn start(
        to: SocketAddr,
        clients: u64,
        reason: &'static str,
        request: impl Fn(u64) -> Request + Send + Sync + 'static,
    ) -> Flood {
        let mut flood = Flood { counts: Arc::default(), clients: JoinSet::new() };
        let request = Arc::new(request);
        for client in 0..clients {
            let (counts, request) = (Arc::clone(&flood.counts), Arc::clone(&request));
            flood.clients.spawn(async move {
                let mut sent = 0;
                while !counts.stop.load(Ordering::Relaxed) {
                    sent += 1;
                    let reply = request(client * 1000 + sent).send(to).await;
                    if reply.status == 429 {
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                        assert!((1..=60).contains(&seconds), "{seconds}");
                        assert_eq!(reply.header("x-llm-d-request-dropped-reason"), Some(reason));
                        assert_eq!(reply.json()["error"]["code"], 429);
                        tokio::time::sleep(AFTER_REFUSAL).await;
                    } else {
                        assert_eq!(reply.status, 200, "{}", reply.text());
                        counts.served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let refused = &flood.counts.refused;
        until("requests were refused", async || (refused.load(Ordering::Relaxed) > 20).then_some(())).await;
        flood
    }

    /// Stops the clients; how many of their requests were served, and how many refused.
    pub async fn stop(mut self) -> (u64, u64) {
        self.counts.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        (self.counts.served.load(Ordering::Relaxed), self.counts.refused.load(Ordering::Relaxed))
    }

    /// How many requests of the `flood` were still waiting for their first token at a pod when one of
    /// `others` came there.
    pub fn met(
        pods: &[TestPod],
        others: impl Fn(&Received) -> bool,
        flood: impl Fn(&Received) -> bool,
    ) -> usize {
        let mut met = 0;
        for pod in pods {
            let received = pod.received();
            for other in received.iter().filter(|request| others(request)) {
                let waiting = other.at - FIRST;
                met += received.iter().filter(|r| flood(r) && r.at > waiting && r.at < other.at).count();
            }
        }
        met
    }
}
