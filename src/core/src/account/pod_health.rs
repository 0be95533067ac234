//! Whether a pod is sent to: how failures are counted, and how long a pod is left alone after them.
//!
//! A failure starts a cool-down in which no worker sends to the pod. Each further failure doubles it. After
//! it, one request probes the pod while the others still keep off. An answer to a request that was sent after
//! the last failure ends it all.
//!
//! A pod that takes no more requests at the moment and says so is not failing: it is believed to be busier
//! until its next page tells how busy it is, and nothing is held against it.

use crate::{Micros, SECOND};

/// The cool-down after the first failure; doubles with each further one.
const FIRST_COOL_DOWN: Micros = SECOND;
/// The longest cool-down: a pod that is back is found within half a minute, even when it cannot be scraped.
const LONGEST_COOL_DOWN: Micros = Micros::from_seconds(30);
/// Doublings of the cool-down after which it no longer grows.
const MOST_DOUBLINGS: u32 = 10;
/// How long a refusal counts when no page follows it.
const FULL_WITHOUT_PAGE: Micros = SECOND;
/// Errors in a row, with no good answer between them, that are a failure of the pod. One or two may be caused
/// by their requests.
const ERRORS_THAT_FAIL: u16 = 3;

/// An event of a request: when the request was sent, and when the event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// When the request was sent to the pod.
    pub sent_at: Micros,
    /// When the event happened.
    pub at: Micros,
}

/// The failures of one pod, as all workers of one Envoy see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodHealth {
    /// Failures since the last good answer.
    pub failures: u16,
    /// Errors that the pod has answered since its last good answer; 0 when its last failure was of another
    /// kind.
    pub errors: u16,
    /// When the last failure was seen.
    pub failed_at: Micros,
    /// Until when nobody sends to the pod.
    pub cool_until: Micros,
    /// Probes under way: requests that were sent to the pod after a failure.
    pub probes: u16,
    /// When the pod last refused a request because it takes no more at the moment.
    pub full_at: Micros,
    /// When the pod last refused a request that was then sent to another one.
    pub declined_at: Micros,
}

impl PodHealth {
    /// Whether requests should go elsewhere. `recovered_at` is when scrapes last began to succeed after they
    /// had failed: a pod that was gone and has come back since its failure need not wait.
    pub fn cooling_down(&self, now: Micros, recovered_at: Micros) -> bool {
        self.failures > 0 && now < self.cool_until && recovered_at <= self.failed_at
    }

    /// Whether the pod is believed to take no more requests. `scraped_at` is when its last page was read,
    /// which tells better how busy it is. Without a page, as when it cannot be scraped, the refusal counts
    /// for a second.
    pub fn full(&self, now: Micros, scraped_at: Micros) -> bool {
        self.full_at > scraped_at && now.since(self.full_at) < FULL_WITHOUT_PAGE
    }

    /// The pod has refused a request because it takes no more at the moment. So it answers: a cool-down that
    /// followed a pod which did not is over.
    pub fn refused_as_full(&mut self, now: Micros) {
        self.full_at = now;
        if self.errors == 0 {
            self.failures = 0;
            self.cool_until = Micros::ZERO;
        }
    }

    /// The pod has refused a request, and another one is asked. Whether the pod is at fault is known when
    /// that one answers ([`refusals`](crate::account::refusals)).
    pub fn declined(&mut self, now: Micros) {
        self.declined_at = now;
    }

    /// A request is sent to the pod. After a failure it is a probe: other requests keep off until it has
    /// ended, or the longest cool-down has passed. Only a failure moves `failed_at`, so an answer that takes
    /// longer than the cool-down still shows that the pod serves. Returns whether the request is a probe;
    /// each probe ends once, by [`probe_ended`](Self::probe_ended).
    pub fn request_sent(&mut self, now: Micros) -> bool {
        let probes = self.failures > 0;
        if probes {
            self.cool_until = now + LONGEST_COOL_DOWN;
            self.probes = self.probes.saturating_add(1);
        }
        probes
    }

    /// The pod has begun an answer. An answer to a request that was sent before the last failure does not
    /// show that the pod still serves.
    pub fn answered(&mut self, sent_at: Micros) {
        if sent_at >= self.failed_at {
            self.failures = 0;
            self.errors = 0;
            self.cool_until = Micros::ZERO;
        }
    }

    /// A probe has ended. If the last one has shown nothing, as when its client goes away, the next probe may
    /// follow as soon as the cool-down after the failure is over.
    pub fn probe_ended(&mut self) {
        self.probes = self.probes.saturating_sub(1);
        if self.failures > 0 && self.probes == 0 {
            self.cool_until = self.cool_until.min(self.failed_at + self.cool_down());
        }
    }

    /// The pod failed a request. All requests that were under way when it failed the first one fail with it,
    /// and count as one failure; a probe that fails is the next one.
    pub fn failed(&mut self, failure: Observed) {
        if self.count_failure(failure) {
            self.errors = 0;
        }
    }

    /// The pod answered a request with an error of its own. A pod that does so at once always looks least
    /// busy and would draw all traffic to it, so several errors in a row are a failure; as the answer to a
    /// probe, one error is.
    ///
    /// A prompt that no pod can compute looks the same. Among many others it does nothing, since their
    /// answers end the row. A client that sends it faster than a pod answers others can make pod after pod
    /// cool down, each until its next good answer or for a second at first. When all of them do, the cost
    /// decides between them as if none did, and nobody is refused for it.
    pub fn upstream_error(&mut self, error: Observed) {
        self.errors = self.errors.saturating_add(1);
        if self.failures > 0 || self.errors >= ERRORS_THAT_FAIL {
            self.count_failure(error);
        }
    }

    /// Begins the next cool-down, unless the request was under way at the last failure.
    ///
    /// Envoy cannot tell a refusal from a failure. What a request meets that was on its way when the pod
    /// refused one is taken for a refusal.
    fn count_failure(&mut self, failure: Observed) -> bool {
        let refused_at = self.full_at.max(self.declined_at);
        if refused_at > failure.sent_at || (self.failures > 0 && failure.sent_at < self.failed_at) {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.failed_at = failure.at;
        self.cool_until = failure.at + self.cool_down();
        true
    }

    /// How long the pod is left alone after its last failure.
    fn cool_down(&self) -> Micros {
        let doublings = u32::from(self.failures.saturating_sub(1)).min(MOST_DOUBLINGS);
        ((1 << doublings) * FIRST_COOL_DOWN).min(LONGEST_COOL_DOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MILLISECOND;

    fn observed(sent_at: Micros, at: Micros) -> Observed {
        Observed { sent_at, at }
    }

    fn at(millis: u64) -> Micros {
        millis * MILLISECOND
    }

    #[test]
    fn cool_downs_double_and_one_request_probes() {
        let mut health = PodHealth::default();
        health.failed(observed(Micros::ZERO, Micros::ZERO));
        assert!(health.cooling_down(at(999), Micros::ZERO));
        assert!(!health.cooling_down(at(1000), Micros::ZERO));
        let _ = health.request_sent(at(1000));
        assert!(health.cooling_down(at(1000), Micros::ZERO), "while it is probed");
        health.failed(observed(at(1000), at(1000)));
        assert!(health.cooling_down(at(2999), Micros::ZERO));
        for _ in 0..20 {
            health.failed(observed(at(5000), at(5000)));
        }
        assert_eq!(health.cool_until, at(5000) + LONGEST_COOL_DOWN);
        health.answered(at(5000));
        assert!(!health.cooling_down(at(5000), Micros::ZERO));
    }

    #[test]
    fn an_answer_that_takes_longer_than_the_cool_down_ends_it() {
        let mut health = PodHealth::default();
        health.failed(observed(Micros::ZERO, Micros::ZERO));
        // Two prompts of five seconds, one sent after the other.
        for sent in [1000, 3000] {
            let _ = health.request_sent(at(sent));
        }
        assert!(health.cooling_down(at(5000), Micros::ZERO), "no second probe while one is unanswered");
        assert!(!health.cooling_down(at(3000) + LONGEST_COOL_DOWN, Micros::ZERO), "but not forever");
        health.answered(at(1000));
        assert_eq!((health.failures, health.cool_until), (0, Micros::ZERO));
    }

    #[test]
    fn a_full_pod_is_believed_until_its_next_page_and_nothing_is_held_against_it() {
        let mut health = PodHealth::default();
        health.refused_as_full(at(100));
        assert!(health.full(at(150), at(90)));
        assert!(!health.full(at(150), at(101)), "its page says more");
        assert!(!health.full(at(1100), at(90)), "no page has come");
        // Envoy reports the same refusal as a failed attempt, of each request that met it.
        (0..5).for_each(|_| health.failed(observed(at(99), at(101))));
        assert!(!health.cooling_down(at(102), Micros::ZERO));
        health.failed(observed(at(100), at(103)));
        assert!(
            health.cooling_down(at(104), Micros::ZERO),
            "a request that was sent later met something else"
        );
        health.refused_as_full(at(105));
        assert!(!health.cooling_down(at(105), Micros::ZERO), "it answers again");
    }

    #[test]
    fn an_abandoned_probe_lets_the_next_one_come() {
        let mut health = PodHealth::default();
        health.failed(observed(Micros::ZERO, Micros::ZERO));
        assert!(health.request_sent(at(2000)));
        assert!(health.request_sent(at(2000)));
        health.probe_ended();
        assert!(health.cooling_down(at(2000), Micros::ZERO), "the other one still probes");
        health.probe_ended();
        assert!(!health.cooling_down(at(2000), Micros::ZERO));
        assert!(health.request_sent(at(3000)));
        health.failed(observed(at(3000), at(4000)));
        health.probe_ended();
        assert_eq!((health.failures, health.cool_until), (2, at(6000)));
    }

    #[test]
    fn requests_under_way_fail_as_one_and_their_answers_end_nothing() {
        let mut health = PodHealth::default();
        (20..50).for_each(|now| health.failed(observed(Micros(10), Micros(now))));
        assert_eq!((health.failures, health.cool_until), (1, Micros(20) + SECOND));
        health.answered(Micros(10));
        assert!(health.cooling_down(Micros(60), Micros::ZERO));
        let _ = health.request_sent(at(2000));
        health.failed(observed(Micros(10), at(2001)));
        assert_eq!(health.failures, 1, "only the probe counts as the next failure");
        health.failed(observed(at(2000), at(2002)));
        assert_eq!(health.failures, 2);
    }

    #[test]
    fn errors_in_a_row_are_a_failure_and_a_good_answer_ends_the_row() {
        let mut health = PodHealth::default();
        let error = |health: &mut PodHealth, at| health.upstream_error(observed(Micros(at), Micros(at)));
        for sent in 0..10 {
            error(&mut health, sent);
            error(&mut health, sent);
            assert!(!health.cooling_down(Micros(sent), Micros::ZERO));
            health.answered(Micros(sent));
        }
        (10..13).for_each(|sent| error(&mut health, sent));
        assert_eq!((health.failures, health.cool_until), (1, Micros(12) + SECOND));
        // A request that was under way belongs to the same failure, and its answer ends nothing.
        health.upstream_error(observed(Micros(11), Micros(20)));
        health.answered(Micros(11));
        assert_eq!((health.failures, health.cool_until), (1, Micros(12) + SECOND));
        // A probe that is answered with an error is the next failure.
        let _ = health.request_sent(at(2000));
        health.upstream_error(observed(at(2000), at(2000)));
        assert_eq!((health.failures, health.cool_until), (2, at(4000)));
        let _ = health.request_sent(at(5000));
        health.answered(at(5000));
        assert_eq!((health.failures, health.errors, health.cool_until), (0, 0, Micros::ZERO));
    }

    #[test]
    fn the_kind_of_the_last_failure_is_kept() {
        let mut health = PodHealth::default();
        (0..3).for_each(|sent| health.upstream_error(observed(Micros(sent), Micros(sent))));
        health.failed(observed(at(1000), at(1000)));
        assert_eq!((health.failures, health.errors), (2, 0), "it cannot be reached now");
        health.upstream_error(observed(at(3000), at(3000)));
        assert_eq!((health.failures, health.errors), (3, 1), "and now it can");
    }

    #[test]
    fn a_pod_that_was_gone_and_has_come_back_need_not_wait() {
        let mut health = PodHealth::default();
        health.failed(observed(Micros(10), Micros(10)));
        assert!(health.cooling_down(Micros(20), Micros(10)));
        assert!(!health.cooling_down(Micros(20), Micros(11)));
    }
}
