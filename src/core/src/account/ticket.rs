//! A request's account in the ledger: what was booked, on which pod, and what has to be taken out again.
//!
//! A ticket changes a ledger that is handed to it, and itself only where the caller says that the ledger was
//! written.

mod end;
mod opened;
mod refused;
mod repair;

use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::account::pod_health::Observed;
use crate::account::rate::{self, Prefill};
use crate::account::refusal::{AT_ONCE, Cause, Causes, IN_A_ROW};
use crate::prefix::index::UseStamp;
use crate::shared::pod_table::{PodKey, PodTable};
use crate::shared::tenants::TenantShare;
use crate::{Bytes, Micros, ModelId, Slot, Tokens};
pub use end::End;
pub use opened::Opened;
pub(super) use opened::claim;
use opened::open;
pub use repair::Repair;

/// Pods that a decision names: the best one and two runners-up, one per destination header.
pub const PICKS: usize = 3;

/// A request's account in the ledger. It must be closed exactly once, whatever the end of the request is.
#[derive(Clone, Debug)]
#[must_use = "a dropped ticket leaves its request in the ledger until the collector reconciles it"]
pub struct Ticket {
    /// The pod that the request is booked on; [`PodKey::NONE`] when a pod answers that is not in the table.
    pod: PodKey,
    /// The pods of the decision, best first.
    picks: [Option<PodKey>; PICKS],
    /// Prompt tokens that the pod has to compute, as booked.
    tokens: Tokens,
    /// When it was sent to that pod, as far as that is known: after a failover, when the other pod's answer
    /// began.
    sent_at: Micros,
    /// When it was sent to the first pod.
    decided_at: Micros,
    /// Whether it probes its pod, which had failed before.
    probes: bool,
    /// Pods of the decision that did not serve it before the one that it is booked on.
    passed_over: usize,
    started: bool,
    /// Whether the time to its first token is that of its prompt.
    teaches_rate: bool,
    /// How long its prompt took, once its first token has come.
    prefill: Option<Prefill>,
    /// Its part in the outstanding work of its tenant, while it is counted there.
    share: Option<TenantShare>,
    prompt: PromptTrace,
    /// What the index believed of the pod when the request was sent.
    belief: Belief,
}

/// What the end of a request needs of its prompt; empty for a request without one.
#[derive(Clone, Debug, Default)]
pub struct PromptTrace {
    /// The model.
    pub model: ModelId,
    /// What the request may be refused for, besides its prompt.
    pub kind: Cause,
    /// Canonical bytes.
    pub bytes: Bytes,
    /// The chain of block hashes, to correct the index or to book the prompt on another pod.
    pub hashes: Box<[u32]>,
    /// Whether the answer teaches bytes per token: not for token ids, or for shapes that are not known.
    pub teaches_ratio: bool,
}

/// What is booked for a request.
#[derive(Debug)]
pub struct Booking {
    /// The pods of the decision, best first: the request is booked on the first one.
    pub picks: [Option<PodKey>; PICKS],
    /// Prompt tokens that it has to compute.
    pub tokens: Tokens,
    /// Leading blocks of the prompt that it is believed to hold.
    pub matched: u16,
    /// Whether the pod has to load the request's LoRA adapter first.
    pub loads_adapter: bool,
    /// `None` for a request without a prompt.
    pub prompt: Option<PromptTrace>,
}

/// What was believed of a pod when a request was sent to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Belief {
    /// Leading blocks of the prompt that the pod was believed to hold.
    pub matched: u16,
    /// When the pod used the prompt, and the blocks that it held of it, by the pod's clock.
    pub used: UseStamp,
    /// Requests that waited for a first token on the pod.
    pub ahead: u32,
}

impl Ticket {
    /// Books a request.
    pub fn book(ledger: &mut Ledger, table: &PodTable, booking: Booking, now: Micros) -> Ticket {
        let Booking { picks, tokens, matched, loads_adapter, prompt } = booking;
        let pod = picks.iter().flatten().next().copied().unwrap_or(PodKey::NONE);
        let Opened { ahead, probes } = open(ledger, table, pod, tokens, now);
        ledger.count_routed();
        if prompt.is_some() {
            ledger.learn_mean_work(tokens);
        }
        let ticket = Ticket {
            pod,
            picks,
            tokens,
            sent_at: now,
            decided_at: now,
            probes,
            passed_over: 0,
            started: false,
            teaches_rate: !loads_adapter,
            prefill: None,
            share: None,
            prompt: prompt.unwrap_or_default(),
            belief: Belief { matched, ahead, used: UseStamp::default() },
        };
        ledger.note_sent(ticket.causes(), pod, now);
        ticket
    }

    fn causes(&self) -> Causes {
        Causes { kind: self.prompt.kind, prompt: Cause::prompt(&self.prompt.hashes) }
    }

    /// The pod that the request is booked on.
    pub fn pod(&self) -> PodKey {
        self.pod
    }

    /// The slot of the pod that the request is booked on.
    pub fn slot(&self) -> Slot {
        self.pod.slot
    }

    /// Whether the first byte of the answer is booked.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Prompt tokens that the pod has to compute, as booked.
    pub fn tokens(&self) -> Tokens {
        self.tokens
    }

    /// When the request was sent to the first pod.
    pub fn decided_at(&self) -> Micros {
        self.decided_at
    }

    /// When the request was sent to its pod.
    pub fn sent_at(&self) -> Micros {
        self.sent_at
    }

    /// The chain of block hashes of the prompt; empty without one.
    pub fn hashes(&self) -> &[u32] {
        &self.prompt.hashes
    }

    /// What was believed of the pod when the request was sent to it.
    pub fn belief(&self) -> Belief {
        self.belief
    }

    /// Counts the request in the outstanding work of its tenant.
    pub fn set_share(&mut self, share: Option<TenantShare>) {
        self.share = share;
    }

    /// The request is no longer outstanding: what is to be released.
    pub fn take_share(&mut self) -> Option<TenantShare> {
        self.share.take()
    }

    // --- what happens to the request: changes the ledger alone ---

    /// The first byte of the answer has come: releases the outstanding tokens, and learns how long they took,
    /// which it returns, if the ledger has an account of the pod.
    pub fn start(&self, ledger: &mut Ledger, now: Micros) -> Option<Prefill> {
        let mut prefill = None;
        self.note_served(ledger, now, |account| {
            if self.teaches_rate {
                let took = Prefill::ends(account, self.sent_at, now);
                rate::learn(account, self.tokens, took);
                prefill = Some(took);
            }
            account.start(self.tokens, self.observed(now));
            account.first_tokens = account.first_tokens.wrapping_add(1);
            let waited = now.since(self.decided_at).0 / 1000;
            account.first_token_ms = account.first_token_ms.wrapping_add(waited as u32);
        });
        prefill
    }

    /// The first `attempts` pods of the decision have failed, but for `except`, which answers after all. With
    /// an engine fail the others at its address: one server answers for them.
    pub fn fail(
        &self,
        ledger: &mut Ledger,
        table: &PodTable,
        attempts: usize,
        except: Option<PodKey>,
        now: Micros,
    ) {
        let tried = self.picks.iter().take(attempts).flatten().copied();
        for pod in tried.filter(|&pod| Some(pod) != except) {
            for engine in table.engines_with(pod) {
                claim(ledger, table, engine);
                ledger.change(engine, |account| match engine == pod {
                    true => account.fail(self.failure(now)),
                    false => account.health.failed(self.failure(now)),
                });
            }
        }
    }

    /// All pods that were asked, `attempts` of them, take no more requests at the moment, as the last one
    /// says.
    pub fn refused_as_full(&self, ledger: &mut Ledger, table: &PodTable, attempts: usize, now: Micros) {
        for pod in self.picks.iter().take(attempts).flatten().flat_map(|&pod| table.engines_with(pod)) {
            claim(ledger, table, pod);
            ledger.change(pod, |account| account.health.refused_as_full(now));
        }
    }

    /// The pod that the request is booked on has failed it.
    pub fn fail_own_pod(&self, ledger: &mut Ledger, now: Micros) {
        ledger.change(self.pod, |account| account.fail(self.failure(now)));
    }

    /// Takes the request from its pod and books it on `to`, if there is one.
    pub fn move_to(&self, ledger: &mut Ledger, table: &PodTable, to: Option<PodKey>, now: Micros) -> Opened {
        self.leave(ledger, Some(self.tokens));
        to.map_or_else(Opened::default, |pod| open(ledger, table, pod, self.tokens, now))
    }

    /// Takes the request out of its pod's account; `unstarted` are its prompt tokens, if its answer never
    /// began.
    fn leave(&self, ledger: &mut Ledger, unstarted: Option<Tokens>) {
        ledger.change(self.pod, |account| self.leave_account(account, unstarted));
    }

    fn leave_account(&self, account: &mut PodAccount, unstarted: Option<Tokens>) {
        account.close(unstarted);
        if self.probes {
            account.health.probe_ended();
        }
    }

    /// The request has ended: takes it out of the ledger, and learns from the answer. Returns the bytes per
    /// token of its model, if the answer taught them.
    pub fn close(&self, ledger: &mut Ledger, end: End) -> Option<f32> {
        let unstarted = (!self.started).then_some(self.tokens);
        match end {
            End::Answered { at, .. } => {
                if unstarted.is_none() {
                    ledger.change(self.pod, |account| {
                        self.leave_account(account, None);
                        if let (Some(prefill), Some(computed)) = (self.prefill, end.computed()) {
                            rate::correct(account, self.tokens, computed, prefill);
                        }
                    });
                } else {
                    // A whole answer: its first byte tells nothing of when the prompt was computed.
                    self.note_served(ledger, at, |account| {
                        account.start(self.tokens, self.observed(at));
                        self.leave_account(account, None);
                    });
                }
            }
            End::UpstreamError { at } => {
                let Causes { kind, prompt } = self.causes();
                // That the same prompt fails again tells nothing new of the pod.
                if !ledger.has_refused(prompt, self.pod) {
                    ledger.note_refusal(kind, self.pod, IN_A_ROW, self.failure(at));
                    ledger.change(self.pod, |account| account.err(self.failure(at)));
                }
                ledger.note_refusal(prompt, self.pod, AT_ONCE, self.failure(at));
                self.leave(ledger, unstarted);
            }
            End::Declined { how, at } => {
                self.note_declined(ledger, how, at);
                self.leave(ledger, unstarted);
            }
            End::Aborted => self.leave(ledger, unstarted),
        }
        let usage = end.usage().filter(|_| self.prompt.teaches_ratio)?;
        ledger.learn_bytes_per_token(self.prompt.model, self.prompt.bytes, usage.prompt_tokens);
        Some(ledger.bytes_per_token(self.prompt.model))
    }

    // --- what the ticket remembers once the ledger is written ---

    /// The start of the answer is written to the ledger, and its prompt took so long.
    pub fn set_started(&mut self, prefill: Option<Prefill>) {
        self.started = true;
        self.prefill = prefill;
    }

    /// The request is booked on `pod` since `now`, after `passed_over` others: the time before was not this
    /// pod's.
    pub fn set_pod(&mut self, pod: Option<PodKey>, passed_over: usize, probes: bool, now: Micros) {
        self.passed_over = passed_over;
        self.pod = pod.unwrap_or(PodKey::NONE);
        self.probes = probes;
        self.sent_at = now;
    }

    /// What is believed of the pod that the request is booked on.
    pub fn set_belief(&mut self, belief: Belief) {
        self.belief = belief;
    }

    fn observed(&self, at: Micros) -> Observed {
        Observed { sent_at: self.sent_at, at }
    }

    /// A failure of any pod that the request was sent to. When it was sent to a runner-up is not known; if
    /// the runner-up has failed since the decision, this is the same failure.
    fn failure(&self, at: Micros) -> Observed {
        Observed { sent_at: self.decided_at, at }
    }
}

#[cfg(test)]
mod tests;
