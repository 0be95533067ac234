//! What a failed pod costs, and for how long: failover, cool-down, probes and refusals.

use super::*;

#[test]
fn a_conversation_stays_where_it_failed_over_to() {
    let mut gateway = Gateway::new(&config(3, ""), 2);
    let mut prompt = text(1, 4000);
    let decision = gateway.decide(0, &prompt, Micros::ZERO);
    let dead = decision.ticket.slot();
    gateway.answer(0, decision.ticket, None, Micros::ZERO);
    // The dead pod had the first round; the second one is computed by the runner-up, the third one finds it
    // there.
    prompt.push_str(&text(2, 4000));
    let decision = gateway.decide(0, &prompt, SECOND);
    assert_eq!(decision.ticket.slot(), dead);
    let (mut ticket, other) = (decision.ticket, decision.picks.iter().nth(1).unwrap());
    gateway.workers[0].failed_over(&mut ticket, 1, Some(other), &mut gateway.shared, SECOND).unwrap();
    gateway.answer(0, ticket, None, SECOND);
    for worker in [0, 1] {
        let held = gateway.held(worker, &prompt);
        assert!(held[usize::from(other)] > 7800, "worker {worker}: {held:?}");
        assert!((3800..=4000).contains(&held[usize::from(dead)]), "worker {worker}: {held:?}");
    }
    // Long after the pause of the dead pod.
    prompt.push_str(&text(3, 1000));
    let decision = gateway.decide(1, &prompt, 60 * SECOND);
    assert_eq!(decision.ticket.slot(), other);
    assert!(decision.match_ratio() > 0.8);
}

#[test]
fn a_pod_that_refused_a_prompt_does_not_hold_it() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    let [prompt, shared] = [text(1, 4000), text(2, 2000)];
    let refused = gateway.decide(0, &prompt, Micros::ZERO);
    let slot = usize::from(refused.ticket.slot());
    assert!(gateway.held(1, &prompt)[slot] > 3900);
    gateway.close(0, refused.ticket, End::Aborted);
    for worker in [0, 1] {
        assert_eq!(gateway.held(worker, &prompt), [0, 0], "worker {worker}");
    }
    // What another request has used since is there, whatever became of the first.
    let first = gateway.decide(0, &shared, Micros(1));
    let slot = usize::from(first.ticket.slot());
    let second = gateway.decide(1, &shared, Micros(1));
    assert_eq!(usize::from(second.ticket.slot()), slot);
    gateway.answer(1, second.ticket, None, Micros(2));
    gateway.close(0, first.ticket, End::Aborted);
    for worker in [0, 1] {
        assert!(gateway.held(worker, &shared)[slot] > 1900, "worker {worker}");
    }
    // An answer that broke off had a computed prompt.
    let mut broken = gateway.decide(0, &prompt, Micros(3));
    let slot = usize::from(broken.ticket.slot());
    gateway.workers[0].start(&mut broken.ticket, &mut gateway.shared, Micros(4)).unwrap();
    gateway.close(0, broken.ticket, End::Aborted);
    assert!(gateway.held(1, &prompt)[slot] > 3900);
}

#[test]
fn a_failed_pod_is_left_alone_and_probed_by_one() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    let decision = gateway.decide(0, &text(1, 100), Micros::ZERO);
    let (mut ticket, picks) = (decision.ticket, decision.picks);
    let (bad, good) = (ticket.slot(), picks.iter().nth(1).unwrap());
    gateway.workers[0].failed_over(&mut ticket, 1, Some(good), &mut gateway.shared, Micros::ZERO).unwrap();
    assert_eq!(ticket.slot(), good);
    let accounts = gateway.accounts();
    assert_eq!((accounts[usize::from(bad)].in_flight, accounts[usize::from(good)].in_flight), (0, 1));
    gateway.answer(0, ticket, None, Micros::ZERO);
    for n in 0..10 {
        let decision = gateway.decide(1, &text(n, 100), SECOND / 2);
        assert_eq!(decision.ticket.slot(), good, "every worker keeps off");
        assert_eq!(decision.picks.iter().nth(1), Some(bad), "but as the last resort");
        gateway.answer(1, decision.ticket, None, SECOND / 2);
    }
    // The pause is over, and the good pod is busy: one request probes, the next one does not.
    let busy: Vec<Decision> = (0..5).map(|n| gateway.decide(0, &text(90 + n, 100), SECOND / 2)).collect();
    assert!(busy.iter().all(|d| d.ticket.slot() == good));
    assert_eq!(gateway.decide(0, &text(50, 100), 2 * SECOND).ticket.slot(), bad);
    assert_eq!(gateway.decide(1, &text(51, 100), 2 * SECOND).ticket.slot(), good);
}

#[test]
fn a_pod_that_errs_at_once_gets_probes_alone_until_it_answers_well() {
    let mut gateway = Gateway::new(&config(3, ""), 2);
    let (mut now, mut bad) = (SECOND, None);
    let mut sent = [0; 3];
    // A request each 10 ms, from either worker; the pod that gets the first one errs at once, the others take
    // 50 ms.
    let mut open = std::collections::VecDeque::new();
    for n in 0..3000 {
        now = now + 10 * MILLISECOND;
        while let Some((worker, ticket)) =
            open.pop_front_if(|(_, ticket): &mut (usize, Ticket)| ticket.sent_at() + 50 * MILLISECOND <= now)
        {
            gateway.answer(worker, ticket, None, now);
        }
        let worker = n % 2;
        let ticket = gateway.decide(worker, &text(n as u64, 400), now).ticket;
        let slot = ticket.slot();
        sent[usize::from(slot)] += 1;
        if n < 2000 && slot == *bad.get_or_insert(slot) {
            gateway.close(worker, ticket, End::UpstreamError { at: now });
        } else {
            open.push_back((worker, ticket));
        }
        if n == 1999 {
            // Three in a row, and probes after pauses of 1, 2, 4 and 8 seconds.
            assert_eq!(sent[usize::from(bad.unwrap())], 7, "{sent:?}");
        }
    }
    // Well since the twentieth second; the probe after the pause of 16 seconds finds out.
    assert_eq!(sent[usize::from(bad.unwrap())], 7, "{sent:?}");
    for n in 3000..4000 {
        now = now + 10 * MILLISECOND;
        let decision = gateway.decide(0, &text(n, 400), now);
        sent[usize::from(decision.ticket.slot())] += 1;
        gateway.answer(0, decision.ticket, None, now + MILLISECOND);
    }
    assert!(sent[usize::from(bad.unwrap())] > 200, "{sent:?}");
}

#[test]
fn a_prompt_that_no_pod_can_compute_takes_no_pod_from_others() {
    let mut gateway = Gateway::new(&config(3, ""), 1);
    let err = |gateway: &mut Gateway, now| {
        let ticket = gateway.decide(0, &text(666, 2000), now).ticket;
        gateway.close(0, ticket, End::UpstreamError { at: now });
    };
    // Among many others it does nothing: theirs end the row.
    for now in 0..100 {
        err(&mut gateway, Micros(now));
        for n in 0..12 {
            let decision = gateway.decide(0, &text(now * 100 + n, 500), Micros(now));
            assert!(gateway.workers[0].candidates().iter().all(|s| s.rank == Rank::Ready));
            gateway.answer(0, decision.ticket, None, Micros(now));
        }
    }
    // Nothing else comes: the prompt is tried on one pod after the other, and each of the others still takes
    // any request.
    (100..130).for_each(|now| err(&mut gateway, Micros(now)));
    let [first, second] = [1, 2].map(|seed| gateway.decide(0, &text(seed << 40, 4000), Micros(200)).ticket);
    assert!(gateway.workers[0].candidates().iter().all(|s| s.rank == Rank::Ready));
    assert_ne!(first.slot(), second.slot(), "the busier one costs more");
}

#[test]
fn every_pod_that_was_tried_has_failed_and_a_stranger_heals_nobody() {
    let mut gateway = Gateway::new(&config(3, ""), 1);
    let decision = gateway.decide(0, "x", Micros(10));
    let (mut ticket, picks) = (decision.ticket, decision.picks);
    // Neither runner-up was ever sent to before.
    gateway.workers[0].failed_over(&mut ticket, 3, None, &mut gateway.shared, Micros(20)).unwrap();
    gateway.answer(0, ticket, None, Micros(30));
    let accounts = gateway.accounts();
    for slot in picks.iter() {
        let entry = accounts[usize::from(slot)];
        assert_eq!(
            (entry.health.failures, entry.in_flight, entry.waiting, entry.outstanding.0),
            (1, 0, 0, 0),
            "{slot:?}"
        );
    }
}

#[test]
fn what_a_pod_failed_before_it_restarted_is_not_held_against_it() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let decision = gateway.decide(0, "x", Micros(10));
    let mut table = gateway.workers[0].table().clone();
    let slot = decision.ticket.slot();
    table.pods[usize::from(slot)].id = 77;
    table.generation += 1;
    let key = Keys::of("default", 2).table;
    gateway.shared.set(&key, &table.encode(), None).unwrap();
    gateway.workers[0].refresh(&gateway.shared).unwrap();
    gateway.workers[0].unanswered(&decision.ticket, 1, &mut gateway.shared, Micros(30)).unwrap();
    gateway.close(0, decision.ticket, End::Aborted);
    drop(gateway.decide(0, "y", Micros(40)));
    assert!(gateway.workers[0].candidates().iter().all(|candidate| candidate.rank == Rank::Ready));
}
