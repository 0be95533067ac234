//! What pods do, and what becomes of them.

use super::events::FleetEvent;
use super::stats::{FleetRun, FleetSample};
use super::{Fleet, HEALTH_SECONDS, NETWORK_SECONDS};
use crate::engine::{EngineRequest, EventKind, Queued};
use crate::policy::{AnswerReport, FleetAdapters, FleetPod, RequestEnd};
use crate::workload::Fate;

impl Fleet<'_> {
    pub(super) fn deliver(&mut self, request: usize, attempt: usize) {
        let state = &self.requests[request];
        let pod = state.picks[attempt];
        let Some(client) = &self.clients[state.session] else { return };
        let record = &self.run.records[state.record];
        let adapter = self.setup.workload.sessions[state.session].class.adapter_name();
        let FleetPod { engine, up, limits, queued, adapters, .. } = &mut self.pods[pod];
        if !*up {
            return self.next_pick(request);
        }
        if limits.refuses(*queued).is_some() {
            return self.refused(request, pod);
        }
        let asked = EngineRequest {
            id: request as u64,
            blocks: client.blocks.clone(),
            prompt_tokens: client.prompt_tokens,
            output_tokens: record.output_tokens,
        };
        match (adapters, adapter) {
            (Some(adapters), Some(adapter)) => adapters.push(asked, adapter),
            _ if engine.submit(self.now, asked).is_err() => return self.next_pick(request),
            _ => {}
        }
        queued.requests += 1;
        queued.prompt_tokens += u64::from(record.prompt_tokens);
        self.requests[request].at_pod = true;
        self.queue.push(self.now + NETWORK_SECONDS, FleetEvent::Headers { request, attempt });
        self.schedule(pod);
    }

    /// A full pod has refused a request: Envoy goes on, and the policy hears of it.
    fn refused(&mut self, request: usize, pod: usize) {
        let gateway = self.requests[request].gateway;
        self.requests[request].refusals += 1;
        self.run.refusals += 1;
        self.ask(gateway, |policy, world| policy.on_refused(world, request as u64, pod));
        self.next_pick(request);
    }

    /// Hands the engine the requests whose adapter is there, and queues what the pod does next.
    pub(super) fn schedule(&mut self, pod: usize) {
        let FleetPod { engine, adapters, .. } = &mut self.pods[pod];
        if let Some(adapters) = adapters {
            for request in adapters.load(self.now) {
                // Workloads are checked to fit.
                let submitted = engine.submit(self.now, request);
                debug_assert_eq!(submitted, Ok(()));
            }
            if let Some(at) = adapters.next_look() {
                self.queue.push(at, FleetEvent::AdapterReady { pod });
            }
        }
        let next = engine.next_event();
        if next != self.steps[pod] {
            self.steps[pod] = next;
            if let Some(at) = next {
                self.queue.push(at.max(self.now), FleetEvent::Step { pod });
            }
        }
    }

    pub(super) fn step(&mut self, pod: usize) {
        // A step that was put off or that a crash took away.
        if self.steps[pod].is_none_or(|at| at > self.now) {
            return;
        }
        self.steps[pod] = None;
        let (queue, requests, run) = (&mut self.queue, &self.requests, &mut self.run);
        let sessions = &self.setup.workload.sessions;
        let FleetPod { engine, queued, adapters, .. } = &mut self.pods[pod];
        engine.step(self.now, |event| {
            let request = event.id as usize;
            let state = &requests[request];
            let (at, attempt) = (event.at + NETWORK_SECONDS, state.attempt);
            match event.what {
                EventKind::Scheduled { cached_tokens } => {
                    run.records[state.record].cached_tokens = cached_tokens;
                    run.computed[pod] += f64::from(run.records[state.record].prompt_tokens - cached_tokens);
                }
                EventKind::FirstToken => {
                    queued.prompt_tokens -= u64::from(run.records[state.record].prompt_tokens);
                    queue.push(at, FleetEvent::FirstToken { request, attempt });
                }
                EventKind::Finished => {
                    let adapter = sessions[state.session].class.adapter_name();
                    if let (Some(adapters), Some(adapter)) = (&mut *adapters, adapter) {
                        adapters.ended(&adapter);
                    }
                    queued.requests -= 1;
                    if run.records[state.record].output_tokens == 0 {
                        queued.prompt_tokens -= u64::from(run.records[state.record].prompt_tokens);
                    }
                    queue.push(at, FleetEvent::Finish { request, attempt });
                }
                EventKind::Preempted | EventKind::Token { .. } => {}
            }
        });
        self.schedule(pod);
    }

    pub(super) fn headers(&mut self, request: usize, attempt: usize) {
        let state = &mut self.requests[request];
        if !state.open || state.attempt != attempt {
            return;
        }
        state.begun = !self.setup.holds_headers;
        if attempt > 0 {
            let (gateway, to) = (state.gateway, state.picks[attempt]);
            self.ask(gateway, |policy, world| policy.on_moved(world, request as u64, to));
        }
    }

    pub(super) fn first_token(&mut self, request: usize, attempt: usize) {
        let state = &self.requests[request];
        if !state.open || state.attempt != attempt {
            return;
        }
        let (gateway, record) = (state.gateway, &mut self.run.records[state.record]);
        record.first_token.get_or_insert(self.now);
        self.requests[request].begun = true;
        self.leave_backlog(request);
        self.ask(gateway, |policy, world| policy.on_first_token(world, request as u64));
    }

    pub(super) fn finish(&mut self, request: usize, attempt: usize) {
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

    pub(super) fn timer(&mut self, gateway: usize) {
        if let Some(next) = self.ask(gateway, |policy, world| policy.on_timer(world)) {
            // At least a microsecond on, so that a policy cannot hold the time.
            self.queue.push(next.max(self.now + 1e-6), FleetEvent::Timer { gateway });
        }
    }

    pub(super) fn change(&mut self, number: usize) {
        let change = self.setup.workload.changes[number];
        let Some(pod) = self.pods.get_mut(change.pod) else { return };
        match change.fate {
            Fate::Dies => {
                pod.up = false;
                pod.engine.restart();
                pod.queued = Queued::default();
                pod.adapters.iter_mut().for_each(FleetAdapters::clear);
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

    /// What a pod had when it died: what had no answer's headers goes on to the next pick, the rest is
    /// broken.
    pub(super) fn lose(&mut self, pod: usize) {
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

    pub(super) fn sample(&mut self) {
        let pods = self.pods.iter().map(|pod| pod.engine.load()).collect();
        let listed = self.pods.iter().map(|pod| pod.listed && pod.up).collect();
        self.run.samples.push(FleetSample { at: self.now, pods, listed });
        self.queue.push(self.now + self.setup.sample_seconds, FleetEvent::Sample);
    }

    pub(super) fn end(mut self) -> FleetRun {
        self.run.ended = self.now;
        self.run
    }
}
