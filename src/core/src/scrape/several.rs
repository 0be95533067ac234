//! An address that several processes answer for, such as that of a Service: nobody can choose among the pods
//! behind it.
//!
//! A connection to such an address stays at one of the pods, and Envoy keeps its connections. So the only
//! host of a cluster is now and then asked for its page by a connection that is closed afterwards, and the
//! next page may come from another pod. What replaces a process is younger than that process: pages that go
//! back to an older one, again and again, are of several.

use crate::Micros;

/// Milliseconds by which two starts of one process may differ on its pages.
pub const SAME_PROCESS: u64 = 1000;
/// Time between two pages after which the connection is closed.
const CLOSES_EVERY: Micros = Micros::from_seconds(2);
/// For so long Envoy may send anywhere after a cluster has changed.
const ASTRAY: Micros = Micros::from_seconds(20);
/// Pages that go back to an older process so seldom have another cause each.
const SELDOM: Micros = Micros::from_seconds(60);

/// The processes that an address has answered for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Several {
    /// When a connection is to be closed next.
    close_at: Micros,
    /// Start of the process of the last page, milliseconds since the epoch; 0 before the first.
    started: u64,
    /// When the first and the last page came that went back to an older process, as long as they are not
    /// seldom.
    first: Option<Micros>,
    last: Micros,
    known: bool,
}

impl Several {
    /// Whether the connection of the page that is asked for at `now` is to be closed. It counts as closed.
    pub fn take_close(&mut self, now: Micros) -> bool {
        let due = !self.known && now >= self.close_at;
        if due {
            self.close_at = now + CLOSES_EVERY;
        }
        due
    }

    /// The page whose connection was to be closed has not come: the protocol may have no such thing.
    pub fn close_failed(&mut self, now: Micros) {
        self.close_at = now + SELDOM;
    }

    /// A page came at `now` of a process that started at `started`, milliseconds since the epoch, 0 where the
    /// page does not say; returns whether it is known by this page that the address has several.
    pub fn see(&mut self, started: u64, now: Micros) -> bool {
        if started == 0 || self.known {
            return false;
        }
        let before = std::mem::replace(&mut self.started, started);
        if before <= started.saturating_add(SAME_PROCESS) {
            return false;
        }
        if now.since(self.last) > SELDOM {
            self.first = None;
        }
        self.last = now;
        self.known = now.since(*self.first.get_or_insert(now)) > ASTRAY;
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;

    /// When it is known that an address has several processes, if every second the one at `started` answers.
    fn known(mut several: Several, seconds: u64, started: impl Fn(u64) -> u64) -> Option<u64> {
        (0..seconds).find(|&second| several.see(started(second), second * SECOND))
    }

    #[test]
    fn pages_that_go_back_to_older_processes_for_long_are_of_several() {
        let at = known(Several::default(), 60, |second| 100_000 * (1 + second / 2 % 3));
        assert!(at.is_some_and(|second| (20..=30).contains(&second)), "{at:?}");
    }

    #[test]
    fn one_process_and_its_successors_are_one_at_a_time() {
        assert_eq!(known(Several::default(), 600, |_| 100_000), None);
        assert_eq!(
            known(Several::default(), 600, |second| 100_000 * (1 + second)),
            None,
            "it crashes in a loop"
        );
        // The clock by which a process tells its start is not exact.
        assert_eq!(known(Several::default(), 600, |second| 100_000 - second % 2 * 900), None);
        assert_eq!(
            known(Several::default(), 600, |second| 100_000 * (second % 2)),
            None,
            "a page may not say"
        );
    }

    #[test]
    fn what_envoy_sends_astray_after_a_change_of_the_cluster_proves_nothing() {
        let astray = |second: u64| second % 120 < 15 && second.is_multiple_of(2);
        let started = |second: u64| if astray(second) { 900_000 } else { 100_000 };
        assert_eq!(known(Several::default(), 1200, started), None);
    }

    #[test]
    fn connections_are_closed_now_and_then_until_it_is_known() {
        let mut several = Several::default();
        let closed = (0..10).filter(|&second| several.take_close(second * SECOND)).count();
        assert_eq!(closed, 5);
        several.close_failed(10 * SECOND);
        assert!(!several.take_close(69 * SECOND) && several.take_close(70 * SECOND));
        (0..60).for_each(|second| _ = several.see(100_000 * (1 + second % 2), second * SECOND));
        assert!(!several.take_close(100 * SECOND));
    }
}
