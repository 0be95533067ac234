//! What a row of metrics pages of one pod shows, and no single page does: a restart, an engine that hangs, and gauges that
//! count requests which have ended.
//!
//! vLLM sets its gauges after each step. An engine that makes no step, because it hangs or because all its requests were
//! aborted at once, leaves them as they were, while its server goes on serving the page. Its counters of computed tokens
//! tell the difference between an engine that works and one that stands still.

use crate::account::learning::DEFAULT_RATE;
use crate::account::pod_account::PodAccount;
use crate::scrape::vllm::PodLoad;
use crate::{Micros, SECOND};

/// A process that started this much later, in seconds, is another one; less is rounding.
const RESTART_SECONDS: f64 = 1.0;
/// How long an engine may stand still with requests of ours, beyond the time that their prompts need. A step takes less than
/// a second; loading an adapter takes a few.
const STANDSTILL: Micros = Micros::from_seconds(5);
/// How many times the estimated time for outstanding prompts an engine may stand still: a long prompt is computed without
/// moving a counter until it is done.
const PREFILL_PATIENCE: f32 = 3.0;
/// How long an engine that hangs is left. Then requests are sent to it again, and it is watched anew.
const LEFT_FOR: Micros = Micros::from_seconds(60);

/// What earlier pages of a pod showed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageHistory {
    last: Option<Seen>,
    /// When the pod was listed first, since the epoch, where that is known.
    listed_at: Option<Micros>,
    /// A scrape has failed since the last page.
    failed: bool,
    standstill: Option<Standstill>,
}

/// What is kept of the last page.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Micros,
    started: Option<f64>,
    computed_tokens: Option<f64>,
}

/// A time in which the pod had requests and computed nothing.
#[derive(Clone, Copy, Debug)]
struct Standstill {
    /// How long requests of this Envoy were in flight in it.
    ours_waited: Micros,
    /// Requests of this Envoy in flight, and ever sent, when it began.
    in_flight: u32,
    opened: u32,
    /// Since when the engine counts as hanging.
    hangs_since: Option<Micros>,
}

/// What a page shows together with those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signs {
    /// The process is another one than on the last page: its cache is empty, and its requests are gone.
    pub restarted: bool,
    /// The engine has had requests of ours for too long without computing a token.
    pub hangs: bool,
    /// Requests that the page still counts though they have ended.
    pub ended: f32,
}

impl PageHistory {
    /// The history of a pod that is listed for the first time, and has shown no page yet; `at` is since the epoch.
    pub fn of_listed(at: Option<Micros>) -> PageHistory {
        PageHistory { listed_at: at, ..PageHistory::default() }
    }

    /// The history of a pod whose process started at `started`, in seconds since the epoch, by its last page at `at`.
    pub fn of_process(started: Option<f64>, at: Micros) -> PageHistory {
        let last = started.map(|_| Seen { at, started, computed_tokens: None });
        PageHistory { last, ..PageHistory::default() }
    }

    /// A scrape has brought no page.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// A page has come at `now`, while the ledger has `account` for the pod.
    pub fn see(&mut self, load: &PodLoad, account: Option<&PodAccount>, now: Micros) -> Signs {
        let before =
            self.last.replace(Seen { at: now, started: load.started, computed_tokens: load.computed_tokens });
        let failed = std::mem::take(&mut self.failed);
        let Some(before) = before else {
            return Signs { restarted: self.had_a_predecessor(load, account), ..Signs::default() };
        };
        if restarted(&before, load, failed) {
            self.standstill = None;
            return Signs { restarted: true, ..Signs::default() };
        }
        let stands_still = load.running + load.waiting > 0.0
            && load.computed_tokens.is_some()
            && load.computed_tokens == before.computed_tokens;
        let Some(account) = account.filter(|_| stands_still) else {
            self.standstill = None;
            return Signs::default();
        };
        let standstill = self.standstill.get_or_insert_with(|| Standstill::begin(account));
        standstill.go_on(account, now.since(before.at), now);
        Signs {
            restarted: false,
            hangs: standstill.hangs_since.is_some(),
            ended: standstill.ended(account) as f32,
        }
    }

    /// Whether requests may have gone to this address before the process of its first page had started: then they met another
    /// one, which was replaced before anybody read its page. Where clocks differ, what was learnt of a young pod before its first
    /// page is forgotten, and no more.
    fn had_a_predecessor(&self, load: &PodLoad, account: Option<&PodAccount>) -> bool {
        let started = load.started.map(|seconds| Micros((seconds * SECOND.0 as f64) as u64));
        let started_later = self.listed_at.zip(started).is_some_and(|(listed, started)| listed < started);
        started_later && account.is_some_and(|account| account.opened > 0)
    }
}

impl Standstill {
    fn begin(account: &PodAccount) -> Standstill {
        Standstill {
            ours_waited: Micros::ZERO,
            in_flight: account.in_flight,
            opened: account.opened,
            hangs_since: None,
        }
    }

    fn go_on(&mut self, account: &PodAccount, passed: Micros, now: Micros) {
        if self.hangs_since.is_some_and(|since| now.since(since) >= LEFT_FOR) {
            *self = Standstill::begin(account);
        } else if self.hangs_since.is_none() && account.in_flight > 0 {
            self.ours_waited = self.ours_waited + passed;
            let rate = if account.samples > 0 { account.rate } else { DEFAULT_RATE };
            let prefill = PREFILL_PATIENCE * account.outstanding.as_f32() / rate.max(1.0);
            if self.ours_waited >= STANDSTILL + Micros((prefill * SECOND.0 as f32) as u64) {
                self.hangs_since = Some(now);
            }
        }
    }

    /// Requests of this Envoy that have ended since the standstill began: the gauges have them still.
    fn ended(&self, account: &PodAccount) -> u32 {
        let sent = account.opened.wrapping_sub(self.opened);
        self.in_flight.saturating_add(sent).saturating_sub(account.in_flight)
    }
}

/// Whether a page is of another process than the one before. A server with several API processes does not tell when it
/// started: there a counter that has fallen shows it, counters that are gone, or, where there are none, a scrape that failed
/// in between.
fn restarted(before: &Seen, load: &PodLoad, failed: bool) -> bool {
    if let (Some(before), Some(now)) = (before.started, load.started) {
        return (now - before).abs() > RESTART_SECONDS;
    }
    match (before.computed_tokens, load.computed_tokens) {
        (Some(before), Some(now)) => now < before,
        (Some(before), None) => before > 0.0,
        (None, _) => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokens;

    const TICK: Micros = Micros(SECOND.0 / 10);

    fn load(running: f32, computed_tokens: f64) -> PodLoad {
        PodLoad { running, computed_tokens: Some(computed_tokens), started: Some(1e9), ..PodLoad::default() }
    }

    fn account(in_flight: u32, opened: u32, outstanding: u32) -> PodAccount {
        PodAccount {
            in_flight,
            opened,
            outstanding: Tokens(outstanding),
            waiting: in_flight,
            ..PodAccount::new(1)
        }
    }

    /// Shows the same page every tenth of a second, up to and without `until`; returns when the engine first counts as hanging.
    fn hangs_at(
        history: &mut PageHistory,
        page: &PodLoad,
        own: &PodAccount,
        from: Micros,
        until: Micros,
    ) -> Option<Micros> {
        let mut now = from;
        while now < until {
            if history.see(page, Some(own), now).hangs {
                return Some(now);
            }
            now = now + TICK;
        }
        None
    }

    #[test]
    fn another_start_is_a_restart_and_rounding_is_none() {
        let mut history = PageHistory::default();
        let page = |started| PodLoad { started: Some(started), ..load(0.0, 5.0) };
        assert!(!history.see(&page(1e9), None, SECOND).restarted, "the first page");
        assert!(!history.see(&page(1e9 + 0.4), None, 2 * SECOND).restarted);
        assert!(history.see(&page(1e9 + 60.0), None, 3 * SECOND).restarted);
        assert!(!history.see(&page(1e9 + 60.0), None, 4 * SECOND).restarted);
    }

    #[test]
    fn a_first_page_of_a_process_that_is_younger_than_the_first_request_is_a_restart() {
        let first_page = |listed_at, started, opened| {
            let page = PodLoad { started: Some(started), ..load(0.0, 5.0) };
            let mut history = PageHistory::of_listed(listed_at);
            history.see(&page, Some(&account(0, opened, 0)), SECOND).restarted
        };
        assert!(first_page(Some(90 * SECOND), 95.0, 3));
        assert!(!first_page(Some(90 * SECOND), 95.0, 0), "nobody was asked before");
        assert!(!first_page(Some(90 * SECOND), 60.0, 3), "the process that was listed");
        assert!(!first_page(None, 95.0, 3), "taken over from another collector");
    }

    #[test]
    fn without_a_start_counters_that_fall_or_vanish_are_a_restart() {
        let page = |computed_tokens| PodLoad { started: None, computed_tokens, ..PodLoad::default() };
        let after = |before, now, failed| {
            let mut history = PageHistory::default();
            history.see(&page(before), None, SECOND);
            if failed {
                history.failed();
            }
            history.see(&page(now), None, 2 * SECOND).restarted
        };
        assert!(after(Some(884_210.0), Some(0.0), false));
        assert!(after(Some(884_210.0), None, false), "a fresh server has no samples");
        assert!(!after(Some(884_210.0), Some(884_211.0), true), "a scrape may fail for another reason");
        assert!(!after(Some(0.0), None, false), "nothing was computed, so nothing is lost");
        assert!(after(None, None, true), "no counter contradicts the refused scrape");
        assert!(!after(None, None, false));
    }

    #[test]
    fn an_engine_that_computes_nothing_for_requests_of_ours_hangs() {
        let (mut history, own) = (PageHistory::default(), account(1, 1, 100));
        let at = hangs_at(&mut history, &load(2.0, 7.0), &own, SECOND, 20 * SECOND).unwrap();
        assert!((at - SECOND) >= STANDSTILL && (at - SECOND) < STANDSTILL + SECOND, "{at:?}");
        assert!(
            history.see(&load(2.0, 7.0), Some(&account(0, 1, 0)), at + TICK).hangs,
            "also when the client has left"
        );
        assert!(!history.see(&load(2.0, 8.0), Some(&own), at + 2 * TICK).hangs, "it computes again");
    }

    #[test]
    fn clients_that_give_up_and_try_again_do_not_hide_that_an_engine_hangs() {
        let mut history = PageHistory::default();
        let page = load(2.0, 7.0);
        // Each try takes four seconds, and another second passes before the next one.
        let mut hung = None;
        for n in 0..6u32 {
            let start = SECOND + u64::from(n) * Micros::from_seconds(5);
            hung = hung.or_else(|| {
                hangs_at(&mut history, &page, &account(1, n + 1, 100), start, start + 4 * SECOND)
            });
            hung = hung.or_else(|| {
                hangs_at(&mut history, &page, &account(0, n + 1, 0), start + 4 * SECOND, start + 5 * SECOND)
            });
        }
        assert!(hung.unwrap() < SECOND + Micros::from_seconds(10), "in the second try: {hung:?}");
    }

    #[test]
    fn a_long_prompt_is_no_hang() {
        let own = PodAccount { rate: 5_000.0, samples: 9, ..account(1, 1, 100_000) };
        // 20 seconds of prefill, which moves no counter until its end.
        assert_eq!(hangs_at(&mut PageHistory::default(), &load(1.0, 7.0), &own, SECOND, 21 * SECOND), None);
    }

    #[test]
    fn a_pod_without_requests_or_without_counters_never_hangs() {
        let own = account(1, 1, 100);
        assert_eq!(hangs_at(&mut PageHistory::default(), &load(0.0, 7.0), &own, SECOND, 60 * SECOND), None);
        let older = PodLoad { computed_tokens: None, ..load(2.0, 0.0) };
        assert_eq!(hangs_at(&mut PageHistory::default(), &older, &own, SECOND, 60 * SECOND), None);
    }

    #[test]
    fn a_hanging_engine_is_tried_again_after_a_while() {
        let (mut history, own, page) = (PageHistory::default(), account(1, 1, 100), load(2.0, 7.0));
        let first = hangs_at(&mut history, &page, &own, SECOND, 60 * SECOND).unwrap();
        assert!(history.see(&page, Some(&own), first + LEFT_FOR - TICK).hangs);
        assert!(!history.see(&page, Some(&own), first + LEFT_FOR).hangs);
        let again = hangs_at(&mut history, &page, &own, first + LEFT_FOR + TICK, first + 2 * LEFT_FOR);
        assert!(again.unwrap() - (first + LEFT_FOR) >= STANDSTILL);
    }

    #[test]
    fn gauges_that_stay_up_after_a_mass_abort_are_seen_through() {
        let mut history = PageHistory::default();
        history.see(&load(64.0, 7.0), Some(&account(64, 64, 0)), SECOND);
        history.see(&load(64.0, 8.0), Some(&account(64, 64, 0)), 2 * SECOND);
        assert_eq!(history.see(&load(64.0, 8.0), Some(&account(64, 64, 0)), 3 * SECOND).ended, 0.0);
        assert_eq!(history.see(&load(64.0, 8.0), Some(&account(0, 64, 0)), 4 * SECOND).ended, 64.0);
        // Two more are sent there; one of them ends.
        assert_eq!(history.see(&load(66.0, 8.0), Some(&account(1, 66, 0)), 5 * SECOND).ended, 65.0);
        assert_eq!(history.see(&load(1.0, 9.0), Some(&account(1, 66, 0)), 6 * SECOND).ended, 0.0);
    }

    #[test]
    fn a_restart_ends_a_standstill() {
        let (mut history, own, page) = (PageHistory::default(), account(1, 1, 100), load(2.0, 7.0));
        hangs_at(&mut history, &page, &own, SECOND, 60 * SECOND).unwrap();
        let fresh = PodLoad { started: Some(2e9), ..page };
        assert_eq!(
            history.see(&fresh, Some(&own), 70 * SECOND),
            Signs { restarted: true, ..Signs::default() }
        );
    }
}
