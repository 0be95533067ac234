//! What all workers of one Envoy know of one pod: its requests in flight, its learned rate and its health.
//!
//! Counts stop at zero: a close that comes twice or too late can make a pod look idle for a moment, never
//! negative.

use crate::account::cache_tally::CacheTally;
use crate::account::pod_health::{Observed, PodHealth};
use crate::shared::pod_table::Pod;
use crate::{Micros, Tokens};

/// The account of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PodAccount {
    /// The pod's identity in the table; an account with another identity is of a pod that is gone.
    pub id: u32,
    /// Requests that were sent and have not ended.
    pub in_flight: u32,
    /// Those of them that wait for the first byte of their answer's body.
    pub waiting: u32,
    /// Prompt tokens that the waiting requests have still to be computed.
    pub outstanding: Tokens,
    /// Learned prefill rate in prompt tokens per second; 0 when nothing is learned.
    pub rate: f32,
    /// First-token times that the rate was learned from.
    pub samples: u16,
    /// The next one tells whether it still is as slow as it was.
    pub on_trial: bool,
    /// When it was last sent a prompt that is long enough to teach its rate, in whole seconds.
    pub tried_at: u32,
    /// Requests that were ever sent to the pod. It wraps; only differences count.
    pub opened: u32,
    /// Requests that it has failed, so that another pod answered them or none: refused, reset, broken off, or
    /// answered 503. It wraps.
    pub failed: u32,
    /// Requests that it has answered with an error of its own. It wraps.
    pub erred: u32,
    /// Streams whose first token has come. It wraps.
    pub first_tokens: u32,
    /// Milliseconds that clients waited for them, all together. It wraps.
    pub first_token_ms: u32,
    /// When the pod began its oldest waiting request: its latest first token, or the arrival that ended
    /// idleness.
    pub since: Micros,
    /// What it was believed to hold of the prompts that it has answered.
    pub cache: CacheTally,
    /// Its failures.
    pub health: PodHealth,
}

impl PodAccount {
    /// The account of a pod that has just appeared in a slot.
    pub fn new(id: u32) -> PodAccount {
        PodAccount { id, ..PodAccount::default() }
    }

    /// The account of `pod`, given the one that stands in its slot: that one, if it is the pod's own. The
    /// requests of another pod in the slot died with that pod. Only its rate is kept, and only when both are
    /// processes of one machine.
    pub fn of(pod: &Pod, in_slot: PodAccount) -> PodAccount {
        if in_slot.id == pod.id {
            in_slot
        } else if in_slot.id >= pod.first_id {
            PodAccount { rate: in_slot.rate, samples: in_slot.samples, ..PodAccount::new(pod.id) }
        } else {
            PodAccount::new(pod.id)
        }
    }

    /// A request with `tokens` prompt tokens to compute is sent; returns whether it probes a pod that has
    /// failed.
    pub fn open(&mut self, tokens: Tokens, now: Micros) -> bool {
        if self.waiting == 0 {
            self.since = now;
        }
        self.in_flight = self.in_flight.saturating_add(1);
        self.waiting = self.waiting.saturating_add(1);
        self.outstanding = self.outstanding + tokens;
        self.opened = self.opened.wrapping_add(1);
        self.health.request_sent(now)
    }

    /// The first byte of an answer's body has come to a request with `tokens` prompt tokens: its prompt is
    /// computed, and the pod serves.
    pub fn start(&mut self, tokens: Tokens, first_byte: Observed) {
        self.since = first_byte.at;
        self.leave(1, tokens);
        self.health.answered(first_byte.sent_at);
    }

    /// A request has ended; `unstarted` are its prompt tokens, if its answer never began.
    pub fn close(&mut self, unstarted: Option<Tokens>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.leave(u32::from(unstarted.is_some()), unstarted.unwrap_or_default());
    }

    /// The pod has failed a request.
    pub fn fail(&mut self, failure: Observed) {
        self.failed = self.failed.wrapping_add(1);
        self.health.failed(failure);
    }

    /// The pod has answered a request with an error of its own.
    pub fn err(&mut self, error: Observed) {
        self.erred = self.erred.wrapping_add(1);
        self.health.upstream_error(error);
    }

    /// Takes leaked requests out of the counts, `waiting` of them from those that wait, each with the mean
    /// work.
    pub fn reconcile(&mut self, leaked: u32, waiting: u32) {
        let mean = self.outstanding / self.waiting;
        let waiting = waiting.min(leaked).min(self.waiting);
        self.in_flight = self.in_flight.saturating_sub(leaked);
        self.leave(waiting, waiting * mean);
    }

    /// Prompt tokens that are still to be computed at `now`, at `rate` tokens per second: the booked tokens
    /// minus the progress since the last first token, `elapsed * rate - lag`. The progress counts for one
    /// request of mean work at most, since a pod that waits for KV memory makes none.
    pub fn remaining(&self, rate: f32, now: Micros, lag: Tokens) -> f32 {
        let booked = self.outstanding.as_f32();
        let elapsed = now.since(self.since).as_seconds();
        booked - (rate * elapsed - lag.as_f32()).max(0.0).min(booked / self.waiting.max(1) as f32)
    }

    /// So many requests wait no longer, with `tokens` prompt tokens together. Waiting requests are in flight,
    /// so a count that a trapped worker left behind is gone at the latest when the pod is idle.
    fn leave(&mut self, requests: u32, tokens: Tokens) {
        let mean = self.outstanding / self.waiting;
        let left = self.waiting.saturating_sub(requests);
        let lost = left.saturating_sub(self.in_flight);
        self.waiting = left - lost;
        let rest = self.outstanding - (tokens + lost * mean);
        self.outstanding = if self.waiting == 0 { Tokens::NONE } else { rest };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;

    const START: Observed = Observed { sent_at: Micros::ZERO, at: Micros::ZERO };

    fn counts(account: &PodAccount) -> (u32, u32, u32) {
        (account.in_flight, account.waiting, account.outstanding.0)
    }

    #[test]
    fn a_request_leaves_nothing_behind() {
        let mut account = PodAccount::new(1);
        let _ = account.open(Tokens(100), Micros::ZERO);
        let _ = account.open(Tokens(50), Micros::ZERO);
        assert_eq!(counts(&account), (2, 2, 150));
        account.start(Tokens(100), START);
        assert_eq!(counts(&account), (2, 1, 50));
        account.close(None);
        account.close(Some(Tokens(50)));
        assert_eq!(account, PodAccount { opened: 2, ..PodAccount::new(1) });
        account.close(Some(Tokens(50)));
        assert_eq!(account, PodAccount { opened: 2, ..PodAccount::new(1) }, "never negative");
    }

    #[test]
    fn an_idle_pod_has_no_waiting_requests() {
        let mut account = PodAccount::new(1);
        (0..3).for_each(|_| _ = account.open(Tokens(100), Micros::ZERO));
        // Their starts were never written.
        account.close(None);
        assert_eq!(counts(&account), (2, 2, 200));
        account.close(None);
        account.close(None);
        assert_eq!(counts(&account), (0, 0, 0));
    }

    #[test]
    fn leaks_are_taken_from_the_waiting_requests_as_far_as_they_wait() {
        let mut account = PodAccount::new(1);
        (0..10).for_each(|_| _ = account.open(Tokens(100), Micros::ZERO));
        (0..6).for_each(|_| account.start(Tokens(100), START));
        account.reconcile(3, 2);
        assert_eq!(counts(&account), (7, 2, 200));
        account.reconcile(9, 0);
        assert_eq!(counts(&account), (0, 0, 0));
    }

    #[test]
    fn progress_counts_for_one_request_of_mean_work_at_most() {
        let mut account = PodAccount::new(1);
        let _ = account.open(Tokens(1000), Micros::ZERO);
        let _ = account.open(Tokens(3000), Micros::ZERO);
        assert_eq!(account.remaining(1000.0, SECOND, Tokens(150)), 4000.0 - 850.0);
        assert_eq!(account.remaining(1000.0, SECOND / 10, Tokens(150)), 4000.0, "within the lag");
        assert_eq!(account.remaining(1000.0, 60 * SECOND, Tokens(150)), 2000.0);
    }

    #[test]
    fn the_rate_of_a_machine_is_kept_and_nothing_of_another_pod_is() {
        let in_slot = PodAccount { rate: 900.0, samples: 5, in_flight: 7, ..PodAccount::new(4) };
        let pod = |id, first_id| Pod { id, first_id, ..Pod::default() };
        assert_eq!(PodAccount::of(&pod(4, 2), in_slot), in_slot);
        let restarted = PodAccount { rate: 900.0, samples: 5, ..PodAccount::new(6) };
        assert_eq!(PodAccount::of(&pod(6, 2), in_slot), restarted);
        assert_eq!(PodAccount::of(&pod(6, 6), in_slot), PodAccount::new(6));
    }
}
