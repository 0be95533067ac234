//! What a row of metrics pages of one pod shows, and no single page does: a restart, an engine that hangs,
//! and gauges that count requests which have ended.
//!
//! vLLM sets its gauges after each step. An engine that makes no step, because it hangs or because all its
//! requests were aborted at once, leaves them as they were, while its server goes on serving the page: an
//! engine that was idle when it hung goes on to look idle. Its counters of computed tokens tell the
//! difference between an engine that works and one that stands still, and the ledger whether it has prompts
//! to compute.

use crate::account::pod_account::PodAccount;
use crate::account::rate::DEFAULT_RATE;
use crate::scrape::vllm::PodLoad;
use crate::{Micros, SECOND};

/// A process that started this much later, in seconds, is another one; less is rounding.
const RESTART_SECONDS: f64 = 1.0;
/// How long an engine may stand still with requests of ours, beyond the time that their prompts need. A step
/// takes less than a second; loading an adapter takes a few.
const STANDSTILL: Micros = Micros::from_seconds(5);
/// How many times the estimated time for outstanding prompts an engine may stand still: a long prompt is
/// computed without moving a counter until it is done.
const PREFILL_PATIENCE: f32 = 3.0;
/// How long it may have had nothing to do in between: clients that give up come again.
const PAUSE: Micros = Micros::from_seconds(30);
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
    stale: Option<StaleGauges>,
}

/// What is kept of the last page.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Micros,
    started: Option<f64>,
    computed_tokens: Option<f64>,
}

/// A time in which the pod computed nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Standstill {
    /// How long requests of this Envoy were to be computed in it.
    ours_waited: Micros,
    /// How long there have been none.
    pause: Micros,
    /// Whether the last page met one.
    had_work: bool,
    /// Since when the engine counts as hanging.
    hangs_since: Option<Micros>,
}

/// A time in which the gauges counted requests and nothing was computed.
#[derive(Clone, Copy, Debug)]
struct StaleGauges {
    /// Requests of this Envoy in flight, and ever sent, when it began.
    in_flight: u32,
    opened: u32,
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
    /// The history of a pod that is listed for the first time, and has shown no page yet; `at` is since the
    /// epoch.
    pub fn of_listed(at: Option<Micros>) -> PageHistory {
        PageHistory { listed_at: at, ..PageHistory::default() }
    }

    /// The history of a pod whose process started at `started`, in seconds since the epoch, by its last page
    /// at `at`.
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
            (self.standstill, self.stale) = (None, None);
            return Signs { restarted: true, ..Signs::default() };
        }
        let stands_still = load.computed_tokens.is_some() && load.computed_tokens == before.computed_tokens;
        let Some(account) = account.filter(|_| stands_still) else {
            (self.standstill, self.stale) = (None, None);
            return Signs::default();
        };
        let counts = load.running + load.waiting > 0.0;
        let standstill = self.standstill.get_or_insert_default();
        standstill.go_on(account, counts, now.since(before.at), now);
        if standstill.pause >= PAUSE {
            self.standstill = None;
        }
        self.stale = counts.then(|| self.stale.unwrap_or_else(|| StaleGauges::begin(account)));
        Signs {
            restarted: false,
            hangs: self.standstill.is_some_and(|standstill| standstill.hangs_since.is_some()),
            ended: self.stale.map_or(0, |stale| stale.ended(account)) as f32,
        }
    }

    /// Whether requests may have gone to this address before the process of its first page had started: then
    /// they met another one, which was replaced before anybody read its page. Where clocks differ, what was
    /// learnt of a young pod before its first page is forgotten, and no more.
    fn had_a_predecessor(&self, load: &PodLoad, account: Option<&PodAccount>) -> bool {
        let started = load.started.map(|seconds| Micros((seconds * SECOND.0 as f64) as u64));
        let started_later = self.listed_at.zip(started).is_some_and(|(listed, started)| listed < started);
        started_later && account.is_some_and(|account| account.opened > 0)
    }
}

impl Standstill {
    /// A page has come `passed` after the last one, on which the gauges count requests or not.
    fn go_on(&mut self, account: &PodAccount, counts: bool, passed: Micros, now: Micros) {
        // What has no prompt, as a WebSocket, counts as one token.
        let prompts_wait = account.waiting > 0 && account.outstanding.0 > account.waiting;
        let has_work = if counts { account.in_flight > 0 } else { prompts_wait && self.had_work };
        self.had_work = counts || prompts_wait;
        if self.hangs_since.is_some_and(|since| now.since(since) >= LEFT_FOR) {
            *self = Standstill { had_work: self.had_work, ..Standstill::default() };
        } else if self.hangs_since.is_none() && has_work {
            self.pause = Micros::ZERO;
            self.ours_waited = self.ours_waited + passed;
            let rate = if account.samples > 0 { account.rate } else { DEFAULT_RATE };
            let prefill = PREFILL_PATIENCE * account.outstanding.as_f32() / rate.max(1.0);
            if self.ours_waited >= STANDSTILL + Micros((prefill * SECOND.0 as f32) as u64) {
                self.hangs_since = Some(now);
            }
        } else if self.hangs_since.is_none() {
            self.pause = self.pause + passed;
        }
    }
}

impl StaleGauges {
    fn begin(account: &PodAccount) -> StaleGauges {
        StaleGauges { in_flight: account.in_flight, opened: account.opened }
    }

    /// Requests of this Envoy that have ended since: the gauges have them still.
    fn ended(&self, account: &PodAccount) -> u32 {
        let sent = account.opened.wrapping_sub(self.opened);
        self.in_flight.saturating_add(sent).saturating_sub(account.in_flight)
    }
}

/// Whether a page is of another process than the one before. A server with several API processes does not
/// tell when it started: there a counter that has fallen shows it, counters that are gone, or, where there
/// are none, a scrape that failed in between.
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
mod tests;
