//! Requests that the ledger counts and no pod has: their worker trapped, or could not write that they ended.
//!
//! The ledger and a metrics page are never of the same moment, so a single page that has fewer requests than
//! the ledger proves nothing. An excess that lasts without a break does, except for the requests that are
//! between Envoy and the pod.

use crate::account::pod_account::PodAccount;
use crate::{Micros, SECOND};

/// How long the ledger must count more requests than a pod has before it is reconciled.
pub const RECONCILE_AFTER: Micros = Micros::from_seconds(10);
/// Transit allowance: how long a request may be with Envoy and not with the pod, on its way there and back
/// together. At a rate r, r * TRANSIT requests are in the ledger and not in the pod's metrics; they are no
/// leak.
///
/// A request that takes longer than this without a break is taken out all the same: a WebSocket that asks for
/// nothing, or an answer that its client reads long after it was computed. Its own end then takes out one
/// more, and what is missing in the ledger counts as foreign, so the load of the pod is right even so.
const TRANSIT: Micros = Micros(SECOND.0 / 4);

/// Requests that the ledger counts and that do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// How many there are.
    pub requests: u32,
    /// Those of them that the ledger has as waiting. If one of them is real, the counts are right again as
    /// soon as nothing waits; one too few would stay until the pod is idle.
    pub waiting: u32,
}

/// Looks for leaks of one pod, page by page.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeakDetector {
    window: Option<Window>,
}

/// A time in which the ledger counted more than the pod had, without a break.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Micros,
    /// The smallest excess in the window.
    least_excess: u32,
    /// Fewest waiting requests of the ledger in the window: upper bound for the waiting part of a leak.
    least_waiting: u32,
    /// Requests that the pod had ever been sent, at the last page.
    opened: u32,
    /// Requests that it was sent in the window.
    flow: u32,
}

impl LeakDetector {
    /// A page has come from a pod that has `at_pod` requests, while the ledger has `account`; returns the
    /// leak, once an excess has lasted.
    pub fn see(&mut self, account: &PodAccount, at_pod: f32, now: Micros) -> Option<Leak> {
        let excess = (account.in_flight as f32 - at_pod) as u32;
        if excess == 0 {
            self.window = None;
            return None;
        }
        let window = self.window.get_or_insert_with(|| Window::begin(account, now));
        window.see(excess, account);
        if now.since(window.since) < RECONCILE_AFTER {
            return None;
        }
        let leak = window.leak(now);
        self.window = None;
        (leak.requests > 0).then_some(leak)
    }
}

impl Window {
    fn begin(account: &PodAccount, now: Micros) -> Window {
        Window {
            since: now,
            least_excess: u32::MAX,
            least_waiting: u32::MAX,
            opened: account.opened,
            flow: 0,
        }
    }

    fn see(&mut self, excess: u32, account: &PodAccount) {
        self.least_excess = self.least_excess.min(excess);
        self.least_waiting = self.least_waiting.min(account.waiting);
        self.flow = self.flow.saturating_add(account.opened.wrapping_sub(self.opened));
        self.opened = account.opened;
    }

    /// The requests that must have leaked by `now`.
    fn leak(&self, now: Micros) -> Leak {
        let length = now.since(self.since).0.max(1);
        let in_transit = u64::from(self.flow) * TRANSIT.0 / length;
        let requests = self.least_excess.saturating_sub(u32::try_from(in_transit).unwrap_or(u32::MAX));
        Leak { requests, waiting: self.least_waiting.min(requests) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(in_flight: u32, waiting: u32) -> PodAccount {
        PodAccount { in_flight, waiting, ..PodAccount::new(1) }
    }

    #[test]
    fn an_excess_that_lasts_is_a_leak_of_its_smallest_size() {
        let mut detector = LeakDetector::default();
        assert_eq!(detector.see(&account(9, 4), 2.0, Micros::ZERO), None);
        assert_eq!(detector.see(&account(5, 1), 2.0, 5 * SECOND), None);
        let leak = Leak { requests: 3, waiting: 1 };
        assert_eq!(detector.see(&account(9, 4), 2.0, 10 * SECOND), Some(leak));
        assert_eq!(detector.see(&account(9, 4), 2.0, 11 * SECOND), None, "the next window begins");
    }

    #[test]
    fn a_break_ends_the_window() {
        let mut detector = LeakDetector::default();
        for second in 0..60 {
            let at_pod = if second % 9 == 8 { 5.0 } else { 2.0 };
            assert_eq!(detector.see(&account(5, 0), at_pod, second * SECOND), None, "{second}");
        }
    }

    #[test]
    fn requests_in_transit_are_no_leak() {
        let mut detector = LeakDetector::default();
        let mut own = account(30, 0);
        // 100 requests per second, so that 25 may be under way.
        let leaks: Vec<Leak> = (0..=10)
            .filter_map(|second| {
                own.opened = own.opened.wrapping_add(100);
                detector.see(&own, 0.0, second * SECOND)
            })
            .collect();
        assert_eq!(leaks, [Leak { requests: 5, waiting: 0 }]);
    }
}
