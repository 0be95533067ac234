//! Clients of many kinds. Each of their requests is counted exactly once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use warmpath_tests::{Opened, Random, Reply};

use crate::acts::{self, Act, Talk};
use crate::ground::Ground;
use crate::stored::{self, Thread};
use crate::truth::Oracle;

/// Longest wait for an answer: longer than several pods in turn may be silent. On a busy machine all are
/// slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long before a response was given its pod must have been well, for it to be found there: what was
/// known of the pod before is forgotten then.
const SETTLED: Duration = Duration::from_secs(3);

/// All clients, and the outcomes of their requests.
pub struct Clients {
    to: SocketAddr,
    oracle: Oracle,
    ground: Arc<Ground>,
    stop: AtomicBool,
    /// Requests so far.
    sent: AtomicU64,
    counts: Mutex<Counts>,
}

/// Requests by outcome.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Answered as expected; 400 is expected for a body that is not JSON.
    pub answered: BTreeMap<&'static str, u64>,
    /// The client went away on purpose.
    pub aborted: u64,
    /// Stored responses that could not be had, because the pod that has them had a fault, was off the list,
    /// or was full.
    pub gone: u64,
    /// Streams that broke off after they had begun, each with its time.
    pub broken: Vec<Instant>,
    /// Whole answers that broke off. A whole answer has no byte before its last token, so its request can go
    /// to another pod.
    pub torn: u64,
    /// Answered with other words than the pod would say by itself, or with another response than was asked
    /// for.
    pub wrong: u64,
    /// Answered with an unexpected status.
    pub refused: u64,
    /// No byte of an answer.
    pub lost: u64,
    /// The first few torn, wrong, refused and lost requests.
    pub complaints: Vec<Complaint>,
}

/// A request that was torn, wrong, refused or lost.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// Its `x-request-id`.
    pub request: String,
    /// What the client has seen, in words.
    pub seen: String,
}

enum Outcome {
    Answered(Box<Reply>),
    Aborted,
    Gone,
    Broken,
    Wrong(String),
    Refused(u16, String),
    Lost(String),
}

impl Clients {
    /// Clients that send to this address.
    pub fn new(to: SocketAddr, oracle: Oracle, ground: Arc<Ground>) -> Clients {
        let (stop, sent, counts) = Default::default();
        Clients { to, oracle, ground, stop, sent, counts }
    }

    pub fn start(self: &Arc<Clients>, clients: usize, seed: u64) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for number in 0..clients as u64 {
            let clients = Arc::clone(self);
            tasks.spawn(async move { clients.one(Random::new(seed * 1000 + number)).await });
        }
        tasks
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap().clone()
    }

    async fn one(&self, mut random: Random) {
        let mut talk = Talk::default();
        let mut thread = None;
        while !self.stop.load(Ordering::Relaxed) {
            if random.chance(8) {
                thread = self.go_on(&mut random, thread).await;
            } else {
                let act = acts::next(&mut random, &mut talk);
                let (id, outcome) = self.send(&act).await;
                self.count(&act, id, outcome);
            }
            tokio::time::sleep(Duration::from_millis(random.within(0, 200))).await;
        }
    }

    /// Does the next step with stored responses, and says where the client is then.
    async fn go_on(&self, random: &mut Random, thread: Option<Thread>) -> Option<Thread> {
        let (step, act) = stored::next(random, thread.as_ref());
        let (id, outcome) = self.send(&act).await;
        let (outcome, thread) = match outcome {
            Outcome::Answered(reply) => match stored::after(step, thread, &reply) {
                Ok(thread) => (Outcome::Answered(reply), thread),
                Err(why) => (Outcome::Wrong(why), None),
            },
            Outcome::Refused(status, _)
                if thread.as_ref().is_some_and(|thread| self.may_miss(thread, status)) =>
            {
                (Outcome::Gone, None)
            }
            outcome => (outcome, None),
        };
        self.count(&act, id, outcome);
        thread
    }

    /// Whether a request for a stored response may be answered with this status, for its pod has or had a
    /// fault, or is full.
    fn may_miss(&self, thread: &Thread, status: u16) -> bool {
        let full = matches!(status, 429 | 503) && self.ground.fills_soon(&thread.pod);
        full || !self.ground.well_since(&thread.pod, thread.since - SETTLED)
    }

    /// Sends a request; its id, and what became of it.
    async fn send(&self, act: &Act) -> (String, Outcome) {
        let id = format!("soak-{}", self.sent.fetch_add(1, Ordering::Relaxed));
        let request = act.request.clone().header("x-request-id", &id);
        let work = async {
            match request.try_open(self.to).await {
                Ok(opened) => self.finish(opened, act).await,
                Err(error) => Outcome::Lost(error.to_string()),
            }
        };
        let outcome = match act.leaves {
            Some(after) => {
                tokio::time::timeout(Duration::from_millis(after), work).await.unwrap_or(Outcome::Aborted)
            }
            None => tokio::time::timeout(PATIENCE, work)
                .await
                .unwrap_or_else(|_| Outcome::Lost(format!("nothing in {PATIENCE:?}"))),
        };
        (id, outcome)
    }

    async fn finish(&self, opened: Opened, act: &Act) -> Outcome {
        let status = opened.status.as_u16();
        let reply = match opened.finish().await {
            Ok(reply) if status != act.expected => {
                return Outcome::Refused(status, reply.text().chars().take(200).collect());
            }
            Ok(reply) if reply.body.ends_with(act.ends) => reply,
            Ok(_) | Err(_) => return Outcome::Broken,
        };
        if let Some(truth) = &act.truth
            && let Err(why) = self.oracle.judge(truth, &reply.body, act.streams).await
        {
            return Outcome::Wrong(why);
        }
        Outcome::Answered(Box::new(reply))
    }

    fn count(&self, act: &Act, request: String, outcome: Outcome) {
        let mut counts = self.counts.lock().unwrap();
        let name = act.name;
        let seen = match outcome {
            Outcome::Answered(_) => {
                *counts.answered.entry(name).or_default() += 1;
                return;
            }
            Outcome::Aborted => {
                counts.aborted += 1;
                return;
            }
            Outcome::Gone => {
                counts.gone += 1;
                return;
            }
            Outcome::Broken if act.streams => {
                counts.broken.push(Instant::now());
                return;
            }
            Outcome::Broken => {
                counts.torn += 1;
                format!("{name}: a whole answer broke off")
            }
            Outcome::Wrong(why) => {
                counts.wrong += 1;
                format!("{name}: {why}")
            }
            Outcome::Refused(status, text) => {
                counts.refused += 1;
                format!("{name}: {status} {text}")
            }
            Outcome::Lost(why) => {
                counts.lost += 1;
                format!("{name}: {why}")
            }
        };
        if counts.complaints.len() < 20 {
            counts.complaints.push(Complaint { request, seen });
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered: u64 = self.answered.values().sum();
        let Counts { aborted, gone, broken, torn, wrong, refused, lost, .. } = self;
        write!(
            f,
            "{answered} answered, {aborted} left, {gone} gone with their pods, {} streams broken off, {torn} whole answers \
             torn, {wrong} wrong, {refused} refused, {lost} lost",
            broken.len()
        )
    }
}
