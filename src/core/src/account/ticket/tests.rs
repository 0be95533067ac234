use super::*;
use crate::SECOND;
use crate::account::pod_account::PodAccount;
use crate::answer::usage::Usage;
use crate::answer::verdict::Decline;
use crate::shared::pod_table::Pod;

const POD: PodKey = PodKey { slot: Slot(0), id: 5 };

fn table() -> PodTable {
    let pods = [5, 6].map(|id| Pod { id, first_id: id, ..Pod::default() });
    PodTable { pods: pods.into(), ..PodTable::default() }
}

fn book(ledger: &mut Ledger, hashes: &[u32]) -> Ticket {
    ledger.grow(2);
    let prompt = PromptTrace {
        bytes: Bytes(4096),
        hashes: hashes.into(),
        teaches_ratio: true,
        ..PromptTrace::default()
    };
    let picks = [Some(POD), Some(PodKey { slot: Slot(1), id: 6 }), None];
    Ticket::book(
        ledger,
        &table(),
        Booking { picks, tokens: Tokens(1000), matched: 64, loads_adapter: false, prompt: Some(prompt) },
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
    let by_load = Booking { picks, tokens: Tokens(1), matched: 0, loads_adapter: false, prompt: None };
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
                let prefill = ticket.start(&mut ledger, 2 * SECOND);
                ticket.set_started(prefill);
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
    assert_eq!((ledger.account(Slot(0)).health.failures, ledger.account(Slot(1)).health.failures), (1, 0));
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
    ticket.set_started(None);
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
        Booking { picks, tokens: Tokens(9), matched: 0, loads_adapter: false, prompt: None },
        SECOND,
    );
    assert_eq!(ledger.account(Slot(0)), PodAccount::default());
    ticket.close(&mut ledger, End::Aborted);
    assert_eq!(ledger.account(Slot(0)), PodAccount::default());
}

#[test]
fn a_prompt_that_waits_for_its_adapter_teaches_no_rate() {
    for loads_adapter in [false, true] {
        let mut ledger = Ledger::default();
        ledger.grow(1);
        let picks = [Some(POD), None, None];
        let booking = Booking { picks, tokens: Tokens(2_000), matched: 0, loads_adapter, prompt: None };
        let mut ticket = Ticket::book(&mut ledger, &table(), booking, SECOND);
        let prefill = ticket.start(&mut ledger, 2 * SECOND);
        ticket.set_started(prefill);
        let usage = Usage { prompt_tokens: Tokens(9_000), cached_tokens: Some(Tokens(0)) };
        ticket.close(&mut ledger, End::Answered { usage: Some(usage), at: 3 * SECOND });
        assert_eq!(ledger.account(POD.slot).samples > 0, !loads_adapter);
    }
}
