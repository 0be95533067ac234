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

/// Shows the same page every tenth of a second, up to and without `until`; returns when the engine first
/// counts as hanging.
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
        hung = hung
            .or_else(|| hangs_at(&mut history, &page, &account(1, n + 1, 100), start, start + 4 * SECOND));
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
fn a_pod_without_prompts_or_without_counters_never_hangs() {
    let minute = |page: &PodLoad, own: &PodAccount| {
        hangs_at(&mut PageHistory::default(), page, own, SECOND, 60 * SECOND)
    };
    // A WebSocket, and an answer that is streamed while the page is older than its tokens.
    assert_eq!(minute(&load(0.0, 7.0), &account(1, 1, 1)), None);
    assert_eq!(minute(&load(0.0, 7.0), &PodAccount { waiting: 0, ..account(1, 1, 0) }), None);
    assert_eq!(minute(&load(2.0, 7.0), &account(0, 1, 0)), None);
    let older = PodLoad { computed_tokens: None, ..load(2.0, 0.0) };
    assert_eq!(minute(&older, &account(1, 1, 100)), None);
}

#[test]
fn an_engine_that_was_idle_when_it_hung_looks_idle() {
    let (mut history, page) = (PageHistory::default(), load(0.0, 7.0));
    let mut hung = None;
    for n in 0..6u32 {
        let start = SECOND + u64::from(n) * Micros::from_seconds(5);
        for (own, from, to) in [(account(1, n + 1, 100), 0, 4), (account(0, n + 1, 0), 4, 5)] {
            let (from, to) = (start + from * SECOND, start + to * SECOND);
            hung = hung.or_else(|| hangs_at(&mut history, &page, &own, from, to));
        }
    }
    assert!(hung.unwrap() < SECOND + Micros::from_seconds(10), "in the second try: {hung:?}");
    let signs = history.see(&page, Some(&account(0, 6, 0)), 40 * SECOND);
    assert_eq!((signs.hangs, signs.ended), (true, 0.0));
    assert!(!history.see(&load(0.0, 8.0), Some(&account(0, 6, 0)), 41 * SECOND).hangs, "it goes on");
}

#[test]
fn prompts_that_clients_gave_up_long_ago_do_not_add_up() {
    let (mut history, page) = (PageHistory::default(), load(0.0, 7.0));
    for n in 0..60u32 {
        let start = SECOND + u64::from(n) * Micros::from_seconds(60);
        let waits = hangs_at(&mut history, &page, &account(1, n + 1, 100), start, start + SECOND);
        let idle = hangs_at(&mut history, &page, &account(0, n + 1, 0), start + SECOND, start + 60 * SECOND);
        assert_eq!((waits, idle), (None, None));
    }
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
    assert_eq!(history.see(&fresh, Some(&own), 70 * SECOND), Signs { restarted: true, ..Signs::default() });
}
