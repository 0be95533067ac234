//! A compare-and-swap that is lost at every try has no effect at all.

use super::*;

/// Shared data in which another worker always writes first.
struct Losing<'a>(&'a Map);

impl SharedData for Losing<'_> {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.0.get(key)
    }

    fn set(&mut self, _: &str, _: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        assert!(cas.is_some(), "a segment of a ledger that is not written");
        Err(Conflict)
    }
}

#[test]
fn a_decision_that_loses_every_race_books_nothing() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    let prompt = text(1, 4000);
    let lost = with_request(&prompt, |request| {
        gateway.workers[0].decide(RouteBy::Prompt(request), &mut Losing(&gateway.shared), SECOND)
    });
    assert_eq!(lost.unwrap_err(), NoPod::Contended);
    assert_eq!(gateway.held(0, &prompt), [0, 0]);
    assert_eq!(gateway.shared.get("warmpath/default/ledger"), None);
}

#[test]
fn a_start_that_loses_every_race_is_taken_out_at_the_end() {
    let mut gateway = Gateway::new(&config(1, ""), 1);
    let mut ticket = gateway.decide(0, "x", Micros::ZERO).ticket;
    let lost = gateway.workers[0].start(&mut ticket, &mut Losing(&gateway.shared), Micros(1));
    assert_eq!((lost, ticket.started()), (Err(Contended), false));
    gateway.close(0, ticket, End::Aborted);
    let account = gateway.accounts()[0];
    assert_eq!((account.in_flight, account.waiting, account.outstanding.0), (0, 0, 0));
}

#[test]
fn a_failover_that_loses_every_race_leaves_the_request_where_it_is_booked() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    let prompt = text(1, 4000);
    let decision = gateway.decide(0, &prompt, Micros::ZERO);
    let (mut ticket, other) = (decision.ticket, decision.picks.iter().nth(1));
    let (pod, held, accounts) = (ticket.pod(), gateway.held(0, &prompt), gateway.accounts());
    let lost = gateway.workers[0].failed_over(&mut ticket, 1, other, &mut Losing(&gateway.shared), SECOND);
    assert_eq!((lost, ticket.pod(), ticket.sent_at()), (Err(Contended), pod, Micros::ZERO));
    for worker in [0, 1] {
        assert_eq!(gateway.held(worker, &prompt), held, "worker {worker}");
    }
    assert_eq!(gateway.accounts(), accounts);
    gateway.answer(0, ticket, None, SECOND);
    assert!(gateway.accounts().iter().all(|account| account.in_flight + account.waiting == 0));
}

#[test]
fn failures_that_lose_every_race_are_not_counted() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let ticket = gateway.decide(0, "x", Micros::ZERO).ticket;
    let accounts = gateway.accounts();
    let router = &mut gateway.workers[0];
    assert_eq!(router.unanswered(&ticket, 2, &mut Losing(&gateway.shared), SECOND), Err(Contended));
    assert_eq!(router.failed_upstream(&ticket, &mut Losing(&gateway.shared), SECOND), Err(Contended));
    assert_eq!(gateway.accounts(), accounts);
}

#[test]
fn a_close_that_loses_every_race_corrects_no_index() {
    let mut gateway = Gateway::new(&config(1, ""), 2);
    let [old, prompt] = [1, 2].map(|seed| text(seed, 8000));
    for text in [&old, &prompt] {
        let decision = gateway.decide(0, text, Micros::ZERO);
        gateway.answer(0, decision.ticket, None, Micros::ZERO);
    }
    let [missed, refused] = [0, 0].map(|worker| gateway.decide(worker, &prompt, Micros::ZERO).ticket);
    let (held, accounts) = (gateway.held(0, &old), gateway.accounts());
    let router = &mut gateway.workers[0];
    let miss = End::Answered { usage: MISS, at: SECOND };
    assert_eq!(router.close(missed, miss, &mut Losing(&gateway.shared)), Err(Contended));
    assert_eq!(router.close(refused, End::Aborted, &mut Losing(&gateway.shared)), Err(Contended));
    for worker in [0, 1] {
        assert_eq!(gateway.held(worker, &old), held, "worker {worker}");
        assert!(gateway.held(worker, &prompt)[0] > 7800, "worker {worker}");
    }
    assert_eq!(gateway.accounts(), accounts, "the collector reconciles it");
}
