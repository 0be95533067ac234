//! A fleet on virtual time: clients, gateways and pods as discrete events. Nothing in it looks at a clock, so
//! the same seed gives the same run, and a minute of traffic takes a second.
//!
//! A request goes: a client's turn -> a gateway and one of its workers -> the policy chooses -> the network
//! -> the pod's engine -> first token -> answer -> the client thinks. A client keeps its connection, so all
//! it sends meets the same worker, which is drawn from the seed alone and so the same under every policy.
//! When a pod refuses, or dies before the headers of its answer are out, Envoy goes on to the next choice;
//! when none is left, the client tries again, unless every pod was full: then it leaves it at that. The
//! headers of a stream come as soon as the pod has the request, as vLLM's do, long before the first token:
//! what breaks after them is broken for the client too, unless gateways hold them until the first token.

#![expect(clippy::indexing_slicing, reason = "requests, pods and sessions are numbered by the fleet itself")]

mod client;
pub mod contender;
mod events;
mod pods;
mod stats;
#[cfg(test)]
mod tests;
mod text;
pub mod tuning;
pub mod warmpath;

use std::sync::Arc;

pub use events::{EventQueue, FleetEvent};
pub use stats::{FleetRun, FleetSample, FleetSummary, RequestRecord, Spread, summarize};
pub use warmpath::{Warmpath, WarmpathOptions};

use crate::engine::{Chain, Engine, EngineConfig, Queued};
use crate::policy::{FleetAdapters, FleetPod, Policy, World};
use crate::workload::{Fate, Span, Workload};

/// One way through the network, in seconds: two hops in a data centre.
const NETWORK_SECONDS: f64 = 0.000_5;
/// Between a failed try and the next: the mean of Envoy's first back-off.
const RETRY_SECONDS: f64 = 0.012;
/// How long a client waits before it sends again what nobody answered.
const CLIENT_RETRY_SECONDS: f64 = 0.5;
/// How often a client sends before it gives up.
const CLIENT_TRIES: u32 = 240;
/// How long Envoy's health checks take to notice.
const HEALTH_SECONDS: f64 = 1.0;

/// Which of a client's requests share a connection, and so a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Connections {
    /// All: connections are kept alive.
    #[default]
    Sticky,
    /// None: every request meets any worker.
    Random,
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The pods' engines; all must have the same block size.
    pub pods: &'a [EngineConfig],
    /// Gateways that know nothing of each other.
    pub gateways: usize,
    /// Worker threads of each.
    pub workers: usize,
    /// Which gateway and worker a request comes to.
    pub seed: u64,
    /// Which of a client's requests share a connection.
    pub connections: Connections,
    /// Whether gateways hold the headers of a stream until its first event, and so may go on to another pod
    /// until then.
    pub holds_headers: bool,
    /// What is asked.
    pub workload: &'a Workload,
    /// Seconds between two looks at every pod.
    pub sample_seconds: f64,
}

/// A request under way.
#[derive(Debug)]
struct InFlight {
    session: usize,
    gateway: usize,
    worker: usize,
    picks: Vec<usize>,
    /// How many of the picks were tried before the one it is at.
    attempt: usize,
    /// What it adds to its pod's backlog.
    uncached: u64,
    /// How many of those tried were full.
    refusals: usize,
    at_pod: bool,
    /// Whether the headers of an answer have come: Envoy does not try again after them.
    begun: bool,
    open: bool,
    record: usize,
    tries: u32,
}

/// A client under way.
#[derive(Debug)]
struct FleetClient {
    turn: usize,
    spans: Vec<Span>,
    chain: Chain,
    prompt_tokens: u32,
    /// Of the prompt and the answer.
    blocks: Arc<[u64]>,
}

/// The state of a run.
struct Fleet<'a> {
    setup: &'a Setup<'a>,
    now: f64,
    queue: EventQueue,
    pods: Vec<FleetPod>,
    /// When each pod's next step is in the queue for.
    steps: Vec<Option<f64>>,
    policies: Vec<Box<dyn Policy + 'a>>,
    clients: Vec<Option<FleetClient>>,
    requests: Vec<InFlight>,
    run: FleetRun,
    block_size: u32,
    unanswered: usize,
}

/// Runs a fleet to the end of its workload. `make` gives the policy of each gateway, by its number;
/// `progress` hears how many requests are over.
///
/// # Errors
/// What `make` says.
pub fn run<'a, E>(
    setup: &'a Setup<'a>,
    mut make: impl FnMut(usize, &[FleetPod]) -> Result<Box<dyn Policy + 'a>, E>,
    mut progress: impl FnMut(usize),
) -> Result<FleetRun, E> {
    let workload = setup.workload;
    let joins_later =
        |pod| workload.changes.iter().find(|change| change.pod == pod).is_some_and(|c| c.fate == Fate::Joins);
    let pods: Vec<FleetPod> = setup
        .pods
        .iter()
        .enumerate()
        .map(|(number, config)| FleetPod {
            engine: Engine::new(config.clone()),
            up: true,
            listed: !joins_later(number),
            healthy: true,
            started_at: 0.0,
            backlog: 0,
            limits: workload.limits.get(number).copied().unwrap_or_default(),
            queued: Queued::default(),
            adapters: workload.adapters.map(FleetAdapters::new),
        })
        .collect();
    let gateways = setup.gateways.max(1);
    let policies = (0..gateways).map(|n| make(n, &pods)).collect::<Result<Vec<_>, E>>()?;
    let mut fleet = Fleet {
        setup,
        now: 0.0,
        queue: EventQueue::default(),
        steps: vec![None; pods.len()],
        block_size: setup.pods.first().map_or(16, |pod| pod.block_size),
        run: FleetRun::new(pods.len(), workload.requests()),
        pods,
        policies,
        clients: workload.sessions.iter().map(|_| None).collect(),
        requests: Vec::new(),
        unanswered: workload.requests(),
    };
    fleet.begin();
    let mut told = 0;
    while fleet.unanswered > 0
        && let Some((at, event)) = fleet.queue.pop()
    {
        fleet.now = at;
        fleet.handle(event);
        let done = workload.requests() - fleet.unanswered;
        if done >= told + 50 {
            told = done;
            progress(done);
        }
    }
    Ok(fleet.end())
}

impl Fleet<'_> {
    fn begin(&mut self) {
        for (session, client) in self.setup.workload.sessions.iter().enumerate() {
            let first = client.turns.first().map_or(0.0, |turn| turn.think);
            self.queue.push(client.starts + first, FleetEvent::Turn { session });
        }
        for (number, change) in self.setup.workload.changes.iter().enumerate() {
            self.queue.push(change.at, FleetEvent::Change { number });
        }
        for gateway in 0..self.policies.len() {
            self.queue.push(0.0, FleetEvent::Timer { gateway });
        }
        self.queue.push(0.0, FleetEvent::Sample);
    }

    fn handle(&mut self, event: FleetEvent) {
        match event {
            FleetEvent::Turn { session } => self.turn(session),
            FleetEvent::Again { request } => self.choose(request),
            FleetEvent::Deliver { request, attempt } => self.deliver(request, attempt),
            FleetEvent::AdapterReady { pod } => self.schedule(pod),
            FleetEvent::Step { pod } => self.step(pod),
            FleetEvent::Headers { request, attempt } => self.headers(request, attempt),
            FleetEvent::FirstToken { request, attempt } => self.first_token(request, attempt),
            FleetEvent::Finish { request, attempt } => self.finish(request, attempt),
            FleetEvent::Timer { gateway } => self.timer(gateway),
            FleetEvent::Change { number } => self.change(number),
            FleetEvent::Health { pod } => self.pods[pod].healthy = self.pods[pod].up,
            FleetEvent::Sample => self.sample(),
        }
    }

    /// Asks the policy of a gateway something, with the fleet as it is now.
    fn ask<T>(&mut self, gateway: usize, with: impl FnOnce(&mut dyn Policy, &World<'_>) -> T) -> T {
        let world = World { now: self.now, pods: &self.pods };
        with(&mut *self.policies[gateway], &world)
    }
}
