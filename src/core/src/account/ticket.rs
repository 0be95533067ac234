//! A request's account in the ledger: what was booked, on which pod, and what has to be taken out again.
//!
//! A ticket changes a ledger that is handed to it, and itself only where the caller says that the ledger was written.

use crate::account::learning;
use crate::account::ledger::{Ledger, ModelId};
use crate::account::pod_account::PodAccount;
use crate::account::pod_health::Observed;
use crate::account::refusals::{AT_ONCE, Cause, Causes, IN_A_ROW};
use crate::answer::usage::Usage;
use crate::answer::verdict::Decline;
use crate::prefix::index::UseStamp;
use crate::request::blocks::bytes_of;
use crate::shared::pod_table::{PodKey, PodTable};
use crate::{Bytes, Micros, Slot, Tokens};

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
    /// When it was sent to that pod, as far as that is known: after a failover, when the other pod's answer began.
    sent_at: Micros,
    /// When it was sent to the first pod.
    decided_at: Micros,
    /// Whether it probes its pod, which had failed before.
    probes: bool,
    /// Pods of the decision that did not serve it before the one that it is booked on.
    passed_over: usize,
    started: bool,
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

/// How the index has to be corrected when a request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The pod has evicted all that it used last at this time of its clock or before.
    EvictUpTo(u32),
    /// The pod has not computed the prompt.
    Retract,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer, which may have reported its usage. An answer that came whole, its first byte with its last, need not
    /// have been started: both are booked at once.
    Answered {
        /// What the answer reported.
        usage: Option<Usage>,
        /// When it ended.
        at: Micros,
    },
    /// With an error of the pod's own: 500, 502 or 504. Other errors concern the request (4xx), or are failures at once
    /// (503).
    UpstreamError {
        /// When it ended.
        at: Micros,
    },
    /// The pod refused the request in a way that another pod may not.
    Declined {
        /// How.
        how: Decline,
        /// When it ended.
        at: Micros,
    },
    /// Without an answer: the client went away, the stream was reset, or the request itself was at fault.
    Aborted,
}

impl Ticket {
    /// Books a request.
    pub fn book(ledger: &mut Ledger, table: &PodTable, booking: Booking, now: Micros) -> Ticket {
        let Booking { picks, tokens, matched, prompt } = booking;
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

    // --- what happens to the request: changes the ledger alone ---

    /// The first byte of the answer has come: releases the outstanding tokens, and learns how long they took.
    pub fn start(&self, ledger: &mut Ledger, now: Micros) {
        ledger.change(self.pod, |account| {
            let began = account.since.max(self.sent_at);
            learning::learn_rate(account, self.tokens, now.since(began));
            account.start(self.tokens, self.observed(now));
            account.first_tokens = account.first_tokens.wrapping_add(1);
            let waited = now.since(self.decided_at).0 / 1000;
            account.first_token_ms = account.first_token_ms.wrapping_add(waited as u32);
        });
        self.note_served(ledger, now);
    }

    /// Pods that have refused the request are at fault, now that this one serves it; and what this one was believed to hold can
    /// be compared with what its page says.
    fn note_served(&self, ledger: &mut Ledger, now: Micros) {
        if self.belief.matched > 0 && self.was_computed() {
            let bytes_per_token = ledger.bytes_per_token(self.prompt.model);
            let tokens = bytes_of(usize::from(self.belief.matched)).as_f32() / bytes_per_token;
            ledger.change(self.pod, |account| account.cache.add(Tokens::estimated(tokens), self.sent_at));
        }
        ledger.note_served(self.causes(), self.pod, self.observed(now));
        for pod in self.declined_by(ledger).into_iter().flatten() {
            ledger.note_refusal(self.prompt.kind, pod, AT_ONCE, self.failure(now));
        }
    }

    /// All pods that were asked have refused the request: its prompt goes elsewhere, and requests for a model that they do not
    /// have. Otherwise they agree that the request is at fault, if there were several.
    fn note_declined(&self, ledger: &mut Ledger, how: Decline, at: Micros) {
        let Causes { kind, prompt } = self.causes();
        let declined = self.declined_by(ledger);
        let needed = match (how, self.passed_over) {
            (Decline::NoModel, _) => Some(AT_ONCE),
            (Decline::Other, 0) => Some(IN_A_ROW),
            (Decline::Other, _) => None,
        };
        for pod in declined.into_iter().flatten().chain([self.pod]) {
            if let Some(needed) = needed.filter(|_| !ledger.has_refused(prompt, pod)) {
                ledger.note_refusal(kind, pod, needed, self.failure(at));
            }
            ledger.note_refusal(prompt, pod, AT_ONCE, self.failure(at));
        }
    }

    /// The pods that have refused the request before it was sent to the one that it is booked on.
    fn declined_by(&self, ledger: &Ledger) -> [Option<PodKey>; PICKS] {
        let mut pods = self.picks;
        for (nth, place) in pods.iter_mut().enumerate() {
            *place = place.filter(|pod| {
                let account = ledger.account(pod.slot);
                nth < self.passed_over
                    && *pod != self.pod
                    && account.id == pod.id
                    && account.health.declined_at > self.decided_at
            });
        }
        pods
    }

    /// The first `attempts` pods of the decision have failed, but for `except`, which answers after all.
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
            claim(ledger, table, pod);
            ledger.change(pod, |account| account.fail(self.failure(now)));
        }
    }

    /// All pods that were asked, `attempts` of them, take no more requests at the moment, as the last one says.
    pub fn refused_as_full(&self, ledger: &mut Ledger, table: &PodTable, attempts: usize, now: Micros) {
        for pod in self.picks.iter().take(attempts).flatten().copied() {
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

    /// Takes the request out of its pod's account; `unstarted` as in [`PodAccount::close`].
    fn leave(&self, ledger: &mut Ledger, unstarted: Option<Tokens>) {
        ledger.change(self.pod, |account| {
            account.close(unstarted);
            if self.probes {
                account.health.probe_ended();
            }
        });
    }

    /// The request has ended: takes it out of the ledger, and learns from the answer. Returns the bytes per token of its
    /// model, if the answer taught them.
    pub fn close(&self, ledger: &mut Ledger, end: End) -> Option<f32> {
        let unstarted = (!self.started).then_some(self.tokens);
        match end {
            End::Answered { at, .. } => {
                if unstarted.is_some() {
                    // A whole answer: its first byte tells nothing of when the prompt was computed.
                    ledger.change(self.pod, |account| account.start(self.tokens, self.observed(at)));
                    self.note_served(ledger, at);
                }
                self.leave(ledger, None);
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

    /// How the index has to be corrected, given the end of the request. Of a prompt whose answer never began, the pod is
    /// believed to hold what it held before: it may have refused the prompt, or dropped it half computed.
    pub fn repair(&self, end: End) -> Option<Repair> {
        if let Some(usage) = end.usage() {
            return self.evicted_up_to(&usage).map(Repair::EvictUpTo);
        }
        let unanswered = !matches!(end, End::Answered { .. }) && !self.started;
        (unanswered && !self.hashes().is_empty()).then_some(Repair::Retract)
    }

    /// If the answer proves a miss: the time of the pod's clock up to which all that it used last is evicted.
    ///
    /// The pod evicts the least recently used blocks first, so with the missing blocks went all that it used no later than
    /// them. The prompt itself is computed by now, and the pod holds it. A miss proves nothing while the prompt that was to
    /// fill the blocks may not have been computed: vLLM computes in order of arrival, so that can only be one of the
    /// requests that waited there when this one was sent.
    fn evicted_up_to(&self, usage: &Usage) -> Option<u32> {
        let Belief { matched, used, .. } = self.belief;
        let missed = learning::missed(usage, self.prompt.bytes, usize::from(matched));
        used.previous.filter(|_| missed && self.was_computed())
    }

    /// Whether the pod must have computed what it was believed to hold of the prompt before it came to this request.
    fn was_computed(&self) -> bool {
        let Belief { used, ahead, .. } = self.belief;
        used.previous.is_some_and(|previous| used.at.wrapping_sub(previous) > ahead)
    }

    // --- what the ticket remembers once the ledger is written ---

    /// The start of the answer is written to the ledger.
    pub fn set_started(&mut self) {
        self.started = true;
    }

    /// The request is booked on `pod` since `now`, after `passed_over` others: the time before was not this pod's.
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

    /// A failure of any pod that the request was sent to. When it was sent to a runner-up is not known; if the runner-up has
    /// failed since the decision, this is the same failure.
    fn failure(&self, at: Micros) -> Observed {
        Observed { sent_at: self.decided_at, at }
    }
}

impl End {
    /// What the answer reported.
    fn usage(&self) -> Option<Usage> {
        match *self {
            End::Answered { usage, .. } => usage,
            End::UpstreamError { .. } | End::Declined { .. } | End::Aborted => None,
        }
    }
}

/// What a request met on the pod that it was booked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Requests that waited there.
    pub ahead: u32,
    /// Whether it probes the pod, which had failed before.
    pub probes: bool,
}

/// Books a request on a pod.
fn open(ledger: &mut Ledger, table: &PodTable, pod: PodKey, tokens: Tokens, now: Micros) -> Opened {
    claim(ledger, table, pod);
    let mut opened = Opened::default();
    ledger.change(pod, |account| {
        opened.ahead = account.waiting;
        opened.probes = account.open(tokens, now);
    });
    opened
}

/// Resets the account in the pod's slot to the pod, if the slot was reassigned to it; its requests died with the pod
/// before. No-op if the pod has left the table, or if the account is of a later pod: then this replica of the table is the
/// one that is out of date.
pub(super) fn claim(ledger: &mut Ledger, table: &PodTable, key: PodKey) {
    let in_slot = ledger.account(key.slot);
    if in_slot.id < key.id
        && let Some(pod) = table.get(key)
    {
        ledger.set_account(key.slot, &PodAccount::of(pod, in_slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::shared::pod_table::Pod;

    const POD: PodKey = PodKey { slot: Slot(0), id: 5 };

    fn table() -> PodTable {
        let pods = [5, 6].map(|id| Pod { id, first_id: id, ..Pod::default() });
        PodTable { pods: pods.into(), ..PodTable::default() }
    }

    fn book(ledger: &mut Ledger, hashes: &[u32]) -> Ticket {
        ledger.grow(2);
        let prompt =
            PromptTrace { bytes: Bytes(4096), hashes: hashes.into(), teaches_ratio: true, ..PromptTrace::default() };
        let picks = [Some(POD), Some(PodKey { slot: Slot(1), id: 6 }), None];
        Ticket::book(
            ledger,
            &table(),
            Booking { picks, tokens: Tokens(1000), matched: 64, prompt: Some(prompt) },
            SECOND,
        )
    }

    fn counts(ledger: &Ledger, slot: Slot) -> (u32, u32, u32) {
        let account = ledger.account(slot);
        (account.in_flight, account.waiting, account.outstanding.0)
    }

    #[test]
    fn a_failure_that_remains_after_a_failover_is_no_new_one() {
        let mut ledger = Ledger::default();
        let to = PodKey { slot: Slot(1), id: 6 };
        let mut tickets: Vec<Ticket> = (0..3).map(|_| book(&mut ledger, &[1])).collect();
        // Both pods say 503 to all three: each has failed once.
        for (nth, ticket) in (1..).zip(&mut tickets) {
            let now = SECOND + Micros(nth);
            ticket.fail(&mut ledger, &table(), 1, Some(to), now);
            let opened = ticket.move_to(&mut ledger, &table(), Some(to), now);
            ticket.set_pod(Some(to), 1, opened.probes, now);
            ticket.fail_own_pod(&mut ledger, now);
            let _ = ticket.close(&mut ledger, End::Aborted);
        }
        assert_eq!([Slot(0), Slot(1)].map(|slot| ledger.account(slot).health.failures), [1, 1]);
    }

    #[test]
    fn a_probe_that_shows_nothing_lets_the_next_one_come_while_older_requests_wait() {
        let mut ledger = Ledger::default();
        let waits = book(&mut ledger, &[]);
        ledger.change(POD, |account| account.health.failed(Observed { sent_at: SECOND, at: SECOND }));
        let cools = |ledger: &Ledger, at| ledger.account(POD.slot).health.cooling_down(at, Micros::ZERO);
        let probe = book(&mut ledger, &[]);
        assert!(cools(&ledger, 3 * SECOND), "it is probed");
        let _ = probe.close(&mut ledger, End::Aborted);
        assert!(!cools(&ledger, 3 * SECOND));
        let _ = waits.close(&mut ledger, End::Aborted);
        assert_eq!(ledger.account(POD.slot).health.probes, 0);
    }

    #[test]
    fn requests_without_a_prompt_count_as_traffic_and_not_in_the_mean_of_work() {
        let mut ledger = Ledger::default();
        ledger.grow(2);
        let picks = [Some(POD), None, None];
        let by_load = Booking { picks, tokens: Tokens(1), matched: 0, prompt: None };
        let ticket = Ticket::book(&mut ledger, &table(), by_load, SECOND);
        assert_eq!((ledger.routed(), ledger.prompts(), ledger.mean_work()), (1, 0, 0.0));
        assert_eq!(ticket.repair(End::Aborted), None);
        let prompt = book(&mut ledger, &[1]);
        assert_eq!((ledger.routed(), ledger.prompts(), ledger.mean_work()), (2, 1, 1000.0));
        for ticket in [ticket, prompt] {
            ticket.close(&mut ledger, End::Aborted);
        }
        assert_eq!(counts(&ledger, Slot(0)), (0, 0, 0));
    }

    #[test]
    fn every_end_takes_out_what_was_booked() {
        let ends = [
            End::Aborted,
            End::UpstreamError { at: 2 * SECOND },
            End::Declined { how: Decline::NoModel, at: 2 * SECOND },
            End::Answered { usage: None, at: 2 * SECOND },
        ];
        for end in ends {
            for started in [false, true] {
                let mut ledger = Ledger::default();
                let mut ticket = book(&mut ledger, &[1, 2]);
                assert_eq!(counts(&ledger, Slot(0)), (1, 1, 1000));
                if started {
                    ticket.start(&mut ledger, 2 * SECOND);
                    ticket.set_started();
                    assert_eq!(counts(&ledger, Slot(0)), (1, 0, 0));
                }
                ticket.close(&mut ledger, end);
                assert_eq!(counts(&ledger, Slot(0)), (0, 0, 0), "{end:?}");
            }
        }
    }

    #[test]
    fn a_request_that_moves_is_counted_on_one_pod() {
        let mut ledger = Ledger::default();
        let mut ticket = book(&mut ledger, &[1, 2]);
        let to = PodKey { slot: Slot(1), id: 6 };
        ticket.fail(&mut ledger, &table(), 1, Some(to), 2 * SECOND);
        let opened = ticket.move_to(&mut ledger, &table(), Some(to), 2 * SECOND);
        assert_eq!(opened, Opened::default());
        ticket.set_pod(Some(to), 1, opened.probes, 2 * SECOND);
        assert_eq!((counts(&ledger, Slot(0)), counts(&ledger, Slot(1))), ((0, 0, 0), (1, 1, 1000)));
        assert_eq!(
            (ledger.account(Slot(0)).health.failures, ledger.account(Slot(1)).health.failures),
            (1, 0)
        );
        ticket.close(&mut ledger, End::Aborted);
        assert_eq!(counts(&ledger, Slot(1)), (0, 0, 0));
    }

    #[test]
    fn only_a_prompt_whose_answer_never_began_is_retracted() {
        let mut ledger = Ledger::default();
        let mut ticket = book(&mut ledger, &[1, 2]);
        let error = End::UpstreamError { at: SECOND };
        assert_eq!(ticket.repair(End::Aborted), Some(Repair::Retract));
        assert_eq!(ticket.repair(error), Some(Repair::Retract));
        assert_eq!(ticket.repair(End::Answered { usage: None, at: SECOND }), None);
        ticket.set_started();
        assert_eq!((ticket.repair(End::Aborted), ticket.repair(error)), (None, None));
    }

    #[test]
    fn a_miss_proves_an_eviction_unless_the_blocks_may_still_have_been_queued() {
        let mut ledger = Ledger::default();
        let mut ticket = book(&mut ledger, &[1, 2]);
        let miss = Usage { prompt_tokens: Tokens(1000), cached_tokens: Some(Tokens(0)) };
        let end = End::Answered { usage: Some(miss), at: SECOND };
        let belief = |previous, ahead| Belief { matched: 64, ahead, used: UseStamp { at: 9, previous } };
        for (belief, repair) in [
            (belief(None, 0), None),
            (belief(Some(6), 2), Some(Repair::EvictUpTo(6))),
            (belief(Some(6), 3), None),
        ] {
            ticket.set_belief(belief);
            assert_eq!(ticket.repair(end), repair, "{belief:?}");
        }
    }

    #[test]
    fn a_pod_that_has_left_the_table_gets_no_account() {
        let mut ledger = Ledger::default();
        ledger.grow(2);
        let picks = [Some(PodKey { slot: Slot(0), id: 99 }), None, None];
        let ticket = Ticket::book(
            &mut ledger,
            &table(),
            Booking { picks, tokens: Tokens(9), matched: 0, prompt: None },
            SECOND,
        );
        assert_eq!(ledger.account(Slot(0)), PodAccount::default());
        ticket.close(&mut ledger, End::Aborted);
        assert_eq!(ledger.account(Slot(0)), PodAccount::default());
    }
}
