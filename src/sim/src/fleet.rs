//! A fleet on virtual time: clients, gateways and pods as discrete events. Nothing in it looks at a clock, so the same
//! seed gives the same run, and a minute of traffic takes a second.
//!
//! A request goes: a client's turn -> a gateway and one of its workers -> the policy chooses -> the network -> the pod's
//! engine -> first token -> answer -> the client thinks. A client keeps its connection, so all it sends meets the same
//! worker, which is drawn from the seed alone and so the same under every policy. When a pod refuses, or dies before the
//! headers of its answer are out, Envoy goes on to the next choice; when none is left, the client tries again. The headers
//! of a stream come as soon as the pod has the request, as vLLM's do, long before the first token: what breaks after them
//! is broken for the client too.

#![expect(clippy::indexing_slicing, reason = "requests, pods and sessions are numbered by the fleet itself")]

pub mod contender;
mod events;
mod stats;
#[cfg(test)]
mod tests;
mod text;
pub mod warmpath;

use std::sync::Arc;

pub use events::{EventQueue, FleetEvent};
pub use stats::{FleetRun, FleetSample, FleetSummary, RequestRecord, Spread, summarize};
pub use warmpath::{Warmpath, WarmpathOptions};

use ::warmpath::request::blocks::mix;

use crate::engine::{self, Chain, Engine, EngineConfig, EventKind};
use crate::policy::{AnswerReport, FleetPod, Policy, RequestEnd, RouteRequest, World};
use crate::workload::{Dice, Fate, Role, Span, Workload};

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
    /// Gateways, each with a mind of its own.
    pub gateways: usize,
    /// Worker threads of each.
    pub workers: usize,
    /// Which gateway and worker a request comes to.
    pub seed: u64,
    /// Which of a client's requests share a connection.
    pub connections: Connections,
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

/// Runs a fleet to the end of its workload. `make` gives the mind of each gateway, by its number; `progress` hears how
/// many requests are over.
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

    // === the client and the gateway ===

    /// A client sends its next turn.
    fn turn(&mut self, session: usize) {
        let block_size = self.block_size;
        let mut client = self.clients[session].take().unwrap_or_else(|| FleetClient {
            turn: 0,
            spans: Vec::new(),
            chain: Chain::new(block_size, 1),
            prompt_tokens: 0,
            blocks: Arc::from([]),
        });
        let turn = &self.setup.workload.sessions[session].turns[client.turn];
        for span in &turn.adds {
            client.chain.push_span(span.name, span.tokens);
            client.spans.push(*span);
        }
        client.prompt_tokens = client.chain.tokens();
        client.chain.push_span(turn.answer, turn.output_tokens);
        client.blocks = client.chain.shared_blocks();
        self.run.records.push(RequestRecord {
            arrived: self.now,
            prompt_tokens: client.prompt_tokens,
            output_tokens: turn.output_tokens,
            ..RequestRecord::default()
        });
        self.clients[session] = Some(client);
        let request = self.open(session, self.run.records.len() - 1, 0);
        self.choose(request);
    }

    /// A request that is to come to a gateway.
    fn open(&mut self, session: usize, record: usize, tries: u32) -> usize {
        let connection = match self.setup.connections {
            Connections::Sticky => mix(session as u64),
            Connections::Random => mix(mix(session as u64) ^ (record as u64) << 16 ^ u64::from(tries)),
        };
        let mut dice = Dice::new(self.setup.seed, 1 << 32 | connection >> 32);
        self.requests.push(InFlight {
            session,
            gateway: dice.below(self.policies.len()),
            worker: dice.below(self.setup.workers.max(1)),
            picks: Vec::new(),
            attempt: 0,
            uncached: 0,
            at_pod: false,
            begun: false,
            open: true,
            record,
            tries,
        });
        self.requests.len() - 1
    }

    fn choose(&mut self, request: usize) {
        let InFlight { session, gateway, worker, .. } = self.requests[request];
        let Some(client) = &self.clients[session] else { return };
        let ask = RouteRequest {
            id: request as u64,
            worker,
            spans: &client.spans,
            blocks: &client.blocks[..(client.prompt_tokens / self.block_size) as usize],
            block_size: self.block_size,
            prompt_tokens: client.prompt_tokens,
        };
        let world = World { now: self.now, pods: &self.pods };
        let picks = self.policies[gateway].choose(&world, &ask);
        self.requests[request].picks = picks;
        self.go(request, NETWORK_SECONDS);
    }

    /// Sends a request to its current pick.
    fn go(&mut self, request: usize, delay: f64) {
        let state = &self.requests[request];
        let Some(&pod) = state.picks.get(state.attempt) else { return self.give_up(request) };
        let attempt = state.attempt;
        let Some(client) = &self.clients[state.session] else { return };
        let cached = self.pods[pod].engine.cached_tokens(&client.blocks, client.prompt_tokens);
        let uncached = u64::from(client.prompt_tokens - cached);
        self.pods[pod].backlog += uncached;
        self.requests[request].uncached = uncached;
        self.queue.push(self.now + delay, FleetEvent::Deliver { request, attempt });
    }

    /// No pick is left: the client hears 503, and tries again.
    fn give_up(&mut self, request: usize) {
        let state = &mut self.requests[request];
        state.open = false;
        let (gateway, attempts, session, record, tries) =
            (state.gateway, state.attempt, state.session, state.record, state.tries + 1);
        self.ask(gateway, |policy, world| {
            policy.on_end(world, request as u64, RequestEnd::Failed { attempts })
        });
        self.run.client_retries += 1;
        if tries >= CLIENT_TRIES {
            self.run.failed += 1;
            self.run.records[record].gave_up = Some(self.now);
            return self.over(session);
        }
        let again = FleetEvent::Again { request: self.open(session, record, tries) };
        self.queue.push(self.now + CLIENT_RETRY_SECONDS, again);
    }

    /// A turn is over; the client thinks about the next.
    fn over(&mut self, session: usize) {
        self.unanswered -= 1;
        let Some(client) = self.clients[session].as_mut() else { return };
        let turns = &self.setup.workload.sessions[session].turns;
        let said = &turns[client.turn];
        client.spans.push(Span { name: said.answer, tokens: said.output_tokens, role: Role::Assistant });
        client.turn += 1;
        match turns.get(client.turn) {
            Some(next) => self.queue.push(self.now + next.think, FleetEvent::Turn { session }),
            None => self.clients[session] = None,
        }
    }

    // === the pod ===

    fn deliver(&mut self, request: usize, attempt: usize) {
        let state = &self.requests[request];
        let pod = state.picks[attempt];
        let Some(client) = &self.clients[state.session] else { return };
        let record = &self.run.records[state.record];
        let submitted = self.pods[pod].up
            && self.pods[pod]
                .engine
                .submit(
                    self.now,
                    engine::EngineRequest {
                        id: request as u64,
                        blocks: client.blocks.clone(),
                        prompt_tokens: client.prompt_tokens,
                        output_tokens: record.output_tokens,
                    },
                )
                .is_ok();
        if !submitted {
            return self.next_pick(request);
        }
        self.requests[request].at_pod = true;
        self.queue.push(self.now + NETWORK_SECONDS, FleetEvent::Headers { request, attempt });
        self.schedule(pod);
    }

    /// Envoy goes on to the next pick.
    fn next_pick(&mut self, request: usize) {
        self.leave_backlog(request);
        let state = &mut self.requests[request];
        state.at_pod = false;
        state.attempt += 1;
        self.run.envoy_retries += 1;
        self.go(request, RETRY_SECONDS + 2.0 * NETWORK_SECONDS);
    }

    fn leave_backlog(&mut self, request: usize) {
        let state = &mut self.requests[request];
        if let Some(&pod) = state.picks.get(state.attempt) {
            self.pods[pod].backlog = self.pods[pod].backlog.saturating_sub(state.uncached);
        }
        state.uncached = 0;
    }

    fn schedule(&mut self, pod: usize) {
        let next = self.pods[pod].engine.next_event();
        if next != self.steps[pod] {
            self.steps[pod] = next;
            if let Some(at) = next {
                self.queue.push(at.max(self.now), FleetEvent::Step { pod });
            }
        }
    }

    fn step(&mut self, pod: usize) {
        // A step that was put off or that a crash took away.
        if self.steps[pod].is_none_or(|at| at > self.now) {
            return;
        }
        self.steps[pod] = None;
        let (queue, requests, run) = (&mut self.queue, &self.requests, &mut self.run);
        self.pods[pod].engine.step(self.now, |event| {
            let request = event.id as usize;
            let state = &requests[request];
            let (at, attempt) = (event.at + NETWORK_SECONDS, state.attempt);
            match event.what {
                EventKind::Scheduled { cached_tokens } => {
                    run.records[state.record].cached_tokens = cached_tokens;
                    run.computed[pod] += f64::from(run.records[state.record].prompt_tokens - cached_tokens);
                }
                EventKind::FirstToken => queue.push(at, FleetEvent::FirstToken { request, attempt }),
                EventKind::Finished => queue.push(at, FleetEvent::Finish { request, attempt }),
                EventKind::Preempted | EventKind::Token { .. } => {}
            }
        });
        self.schedule(pod);
    }

    fn headers(&mut self, request: usize, attempt: usize) {
        let state = &mut self.requests[request];
        if !state.open || state.attempt != attempt {
            return;
        }
        state.begun = true;
        if attempt > 0 {
            let (gateway, to) = (state.gateway, state.picks[attempt]);
            self.ask(gateway, |policy, world| policy.on_moved(world, request as u64, to));
        }
    }

    fn first_token(&mut self, request: usize, attempt: usize) {
        let state = &self.requests[request];
        if !state.open || state.attempt != attempt {
            return;
        }
        let (gateway, record) = (state.gateway, &mut self.run.records[state.record]);
        record.first_token.get_or_insert(self.now);
        self.leave_backlog(request);
        self.ask(gateway, |policy, world| policy.on_first_token(world, request as u64));
    }

    fn finish(&mut self, request: usize, attempt: usize) {
        let state = &self.requests[request];
        if !state.open || state.attempt != attempt {
            return;
        }
        // An answer without tokens has no first one.
        if self.run.records[state.record].first_token.is_none() {
            self.first_token(request, attempt);
        }
        let state = &mut self.requests[request];
        state.open = false;
        let (gateway, session) = (state.gateway, state.session);
        let record = &mut self.run.records[state.record];
        record.finished = Some(self.now);
        let answer =
            AnswerReport { prompt_tokens: record.prompt_tokens, cached_tokens: record.cached_tokens };
        self.ask(gateway, |policy, world| policy.on_end(world, request as u64, RequestEnd::Answered(answer)));
        self.over(session);
    }

    // === the fleet ===

    fn timer(&mut self, gateway: usize) {
        if let Some(next) = self.ask(gateway, |policy, world| policy.on_timer(world)) {
            // At least a microsecond on, so that a policy cannot hold the time.
            self.queue.push(next.max(self.now + 1e-6), FleetEvent::Timer { gateway });
        }
    }

    fn change(&mut self, number: usize) {
        let change = self.setup.workload.changes[number];
        let Some(pod) = self.pods.get_mut(change.pod) else { return };
        match change.fate {
            Fate::Dies => {
                pod.up = false;
                pod.engine.restart();
                self.steps[change.pod] = None;
                self.queue.push(self.now + HEALTH_SECONDS, FleetEvent::Health { pod: change.pod });
                self.lose(change.pod);
            }
            Fate::Returns => {
                pod.up = true;
                pod.started_at = self.now;
                self.queue.push(self.now + HEALTH_SECONDS, FleetEvent::Health { pod: change.pod });
            }
            Fate::Leaves => pod.listed = false,
            Fate::Joins => pod.listed = true,
        }
    }

    /// What a pod had when it died: what had no answer's headers goes on to the next pick, the rest is broken.
    fn lose(&mut self, pod: usize) {
        for request in 0..self.requests.len() {
            let state = &self.requests[request];
            if !state.open || !state.at_pod || state.picks[state.attempt] != pod {
                continue;
            }
            if !state.begun {
                self.next_pick(request);
                continue;
            }
            let (gateway, session) = (state.gateway, state.session);
            self.leave_backlog(request);
            self.requests[request].open = false;
            self.run.broken += 1;
            self.ask(gateway, |policy, world| policy.on_end(world, request as u64, RequestEnd::Broken));
            self.over(session);
        }
    }

    fn sample(&mut self) {
        let pods = self.pods.iter().map(|pod| pod.engine.load()).collect();
        let listed = self.pods.iter().map(|pod| pod.listed && pod.up).collect();
        self.run.samples.push(FleetSample { at: self.now, pods, listed });
        self.queue.push(self.now + self.setup.sample_seconds, FleetEvent::Sample);
    }

    fn end(mut self) -> FleetRun {
        self.run.ended = self.now;
        self.run
    }
}
