//! Pods that sleep or hang, and requests that go by load or leave their pod.

use super::*;

/// A page with counters, of a pod that sleeps or not.
fn counted_page(running: u32, computed_tokens: u64, awake: bool) -> String {
    format!(
        "{}vllm:generation_tokens_total{{engine=\"0\"}} {computed_tokens}\n\
         vllm:engine_sleep_state{{engine=\"0\",sleep_state=\"awake\"}} {}\n",
        page(running, 0, 1.0),
        u8::from(awake)
    )
}

#[test]
fn a_sleeping_pod_gets_nothing_and_holds_nothing_once_awake() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    let prompt = text(1, 4000);
    let decision = gateway.decide(0, &prompt, SECOND);
    let home = decision.ticket.slot();
    gateway.answer(0, decision.ticket, None, SECOND);
    assert!(gateway.held(1, &prompt)[usize::from(home)] > 3900);
    gateway.scrape(|slot| counted_page(0, 5, slot != home), 2 * SECOND);
    for n in 0..20 {
        let decision = gateway.decide(n % 2, &prompt, 2 * SECOND);
        assert!(decision.picks.iter().all(|slot| slot != home), "not even as a runner-up");
        gateway.answer(n % 2, decision.ticket, None, 2 * SECOND);
    }
    gateway.scrape(|_| counted_page(0, 5, true), 4 * SECOND);
    assert_eq!(gateway.held(0, &prompt)[usize::from(home)], 0);
    assert!(gateway.workers[0].candidates().iter().any(|candidate| candidate.rank == Rank::Asleep));
    drop(gateway.decide(0, &text(2, 100), 4 * SECOND));
    assert!(gateway.workers[0].candidates().iter().all(|candidate| candidate.rank == Rank::Ready));
}

#[test]
fn no_pod_is_named_when_all_sleep() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    gateway.scrape(|_| counted_page(0, 5, false), SECOND);
    let decided = with_request("x", |request| {
        gateway.workers[0].decide(RouteBy::Prompt(request), &mut gateway.shared, SECOND)
    });
    assert_eq!(decided.map(drop), Err(NoPod::AllCoolingDown));
}

#[test]
fn a_conversation_leaves_an_engine_that_hangs_although_its_page_is_served() {
    let mut gateway = Gateway::new(&config(3, ""), 1);
    let prompt = text(1, 20_000);
    let decision = gateway.decide(0, &prompt, SECOND);
    let home = decision.ticket.slot();
    gateway.answer(0, decision.ticket, None, SECOND);
    let mut now = SECOND;
    let mut met = Vec::new();
    // The client gives up after four seconds and tries again; others' pods compute.
    for attempt in 0..6 {
        let decision = gateway.decide(0, &prompt, now);
        met.push(decision.ticket.slot());
        for tick in 1..=40u64 {
            let count = 1000 * (attempt * 40 + tick);
            gateway.scrape(
                |slot| counted_page(2, if slot == home { 7 } else { count }, true),
                now + tick * 100 * MILLISECOND,
            );
        }
        now = now + 4 * SECOND;
        gateway.close(0, decision.ticket, End::Aborted);
    }
    assert_eq!(met.first(), Some(&home), "it holds the conversation");
    assert!(met.iter().skip(3).all(|&slot| slot != home), "from the fourth try on: {met:?}");
}

#[test]
fn a_sample_of_plain_routing_goes_by_load_and_is_known_to_lie_there() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let prompt = text(1, 4000);
    let first = gateway.decide(0, &prompt, MILLISECOND);
    let home = first.ticket.slot();
    gateway.answer(0, first.ticket, None, 2 * MILLISECOND);
    assert_eq!(gateway.decide(0, &prompt, 3 * MILLISECOND).reason, Reason::Prefix);
    // The pod that holds the prompt has a request in flight, and so the other one is less busy.
    let plain = with_request(&prompt, |request| {
        gateway.workers[0].decide(RouteBy::Plain(request), &mut gateway.shared, 4 * MILLISECOND).unwrap()
    });
    assert_ne!(plain.ticket.slot(), home);
    assert_eq!((plain.reason, plain.left, plain.matched_tokens.0), (Reason::Plain, None, 0));
    assert!(
        plain.tokens.0 > 900 && plain.ticket.tokens().0 > 900,
        "it is booked with all that the pod computes"
    );
    let held = gateway.held(0, &prompt);
    assert!(held.iter().all(|&bytes| bytes > 3000), "both pods hold it now: {held:?}");
}

#[test]
fn a_conversation_that_leaves_its_pod_names_it() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let prompt = text(1, 4000);
    let first = gateway.decide(0, &prompt, MILLISECOND);
    let home = first.ticket.slot();
    assert_eq!((first.reason, first.left), (Reason::Load, None));
    gateway.answer(0, first.ticket, None, 2 * MILLISECOND);
    let failed = gateway.decide(0, &prompt, 3 * MILLISECOND);
    assert_eq!((failed.ticket.slot(), failed.reason), (home, Reason::Prefix));
    gateway.workers[0].failed_upstream(&failed.ticket, &mut gateway.shared, 4 * MILLISECOND).unwrap();
    let next = gateway.decide(0, &prompt, 5 * MILLISECOND);
    assert_eq!((next.reason, next.left), (Reason::Away, Some(home)));
    let account = gateway.accounts()[usize::from(home)];
    assert_eq!((account.opened, account.failed, account.erred), (2, 1, 0));
}
