//! What clients and gateways do: a turn is sent, a policy chooses, and a request goes from pick to pick.

use std::sync::Arc;

use warmpath::request::blocks::mix;

use super::events::FleetEvent;
use super::stats::RequestRecord;
use super::{
    CLIENT_RETRY_SECONDS, CLIENT_TRIES, Connections, Fleet, FleetClient, InFlight, NETWORK_SECONDS,
    RETRY_SECONDS,
};
use crate::engine::Chain;
use crate::policy::{RequestEnd, RouteRequest, World};
use crate::workload::{Dice, Role, Span};

impl Fleet<'_> {
    /// A client sends its next turn.
    pub(super) fn turn(&mut self, session: usize) {
        let block_size = self.block_size;
        let adapter = self.setup.workload.sessions[session].class.adapter;
        let mut client = self.clients[session].take().unwrap_or_else(|| FleetClient {
            turn: 0,
            spans: Vec::new(),
            // What one adapter computes is of no use to another.
            chain: Chain::new(block_size, 1 + adapter.map_or(0, |adapter| 1 + u64::from(adapter))),
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
            class: self.setup.workload.sessions[session].class,
            ..RequestRecord::default()
        });
        self.clients[session] = Some(client);
        let request = self.open(session, self.run.records.len() - 1, 0);
        self.choose(request);
    }

    /// A request that is to come to a gateway.
    pub(super) fn open(&mut self, session: usize, record: usize, tries: u32) -> usize {
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
            refusals: 0,
            uncached: 0,
            at_pod: false,
            begun: false,
            open: true,
            record,
            tries,
        });
        self.requests.len() - 1
    }

    pub(super) fn choose(&mut self, request: usize) {
        let InFlight { session, gateway, worker, .. } = self.requests[request];
        let Some(client) = &self.clients[session] else { return };
        let ask = RouteRequest {
            id: request as u64,
            worker,
            spans: &client.spans,
            blocks: &client.blocks[..(client.prompt_tokens / self.block_size) as usize],
            block_size: self.block_size,
            prompt_tokens: client.prompt_tokens,
            class: self.setup.workload.sessions[session].class,
        };
        let world = World { now: self.now, pods: &self.pods };
        let picks = self.policies[gateway].choose(&world, &ask);
        if picks.is_empty() && self.policies[gateway].has_shed(request as u64) {
            self.requests[request].open = false;
            self.run.refused += 1;
            return self.over(session);
        }
        self.requests[request].picks = picks;
        self.go(request, NETWORK_SECONDS);
    }

    /// Sends a request to its current pick.
    pub(super) fn go(&mut self, request: usize, delay: f64) {
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

    /// No pick is left. When every pod that was tried was full the client hears so and leaves it at that;
    /// after any other failure it tries again.
    pub(super) fn give_up(&mut self, request: usize) {
        let state = &mut self.requests[request];
        state.open = false;
        if state.attempt > 0 && state.refusals == state.attempt {
            let (gateway, session) = (state.gateway, state.session);
            self.run.refused += 1;
            self.ask(gateway, |policy, world| policy.on_end(world, request as u64, RequestEnd::Refused));
            return self.over(session);
        }
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
    pub(super) fn over(&mut self, session: usize) {
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

    /// Envoy goes on to the next pick.
    pub(super) fn next_pick(&mut self, request: usize) {
        self.leave_backlog(request);
        let state = &mut self.requests[request];
        state.at_pod = false;
        state.attempt += 1;
        self.run.envoy_retries += 1;
        self.go(request, RETRY_SECONDS + 2.0 * NETWORK_SECONDS);
    }

    pub(super) fn leave_backlog(&mut self, request: usize) {
        let state = &mut self.requests[request];
        if let Some(&pod) = state.picks.get(state.attempt) {
            self.pods[pod].backlog = self.pods[pod].backlog.saturating_sub(state.uncached);
        }
        state.uncached = 0;
    }
}
