//! What answers teach: misses, tokens, capacities and rates.

use super::*;

#[test]
fn a_miss_shows_that_all_that_is_older_went_too_but_not_the_prompt_itself() {
    let mut gateway = Gateway::new(&config(1, ""), 2);
    let [old, prompt, young] = [1, 2, 3].map(|seed| text(seed, 8000));
    for text in [&old, &prompt, &young] {
        let decision = gateway.decide(0, text, Micros::ZERO);
        gateway.answer(0, decision.ticket, None, Micros::ZERO);
    }
    let again = gateway.decide(1, &prompt, Micros::ZERO);
    assert!(again.match_ratio() > 0.95);
    gateway.answer(1, again.ticket, MISS, Micros::ZERO);
    for worker in [1, 0] {
        assert_eq!(gateway.held(worker, &old), [0], "worker {worker}");
        assert!(gateway.held(worker, &prompt)[0] > 7800, "worker {worker}: it was computed just now");
        assert!(gateway.held(worker, &young)[0] > 7800, "worker {worker}");
    }
}

#[test]
fn a_miss_says_nothing_while_the_prefix_is_still_computed() {
    let mut gateway = Gateway::new(&config(1, ""), 2);
    let [old, prompt] = [1, 2].map(|seed| text(seed, 8000));
    let decision = gateway.decide(0, &old, Micros::ZERO);
    gateway.answer(0, decision.ticket, None, Micros::ZERO);
    let first = gateway.decide(0, &prompt, Micros::ZERO);
    let second = gateway.decide(1, &prompt, Micros::ZERO);
    assert!(second.match_ratio() > 0.95);
    gateway.answer(0, first.ticket, MISS, Micros::ZERO);
    gateway.answer(1, second.ticket, MISS, Micros::ZERO);
    for worker in [0, 1] {
        assert!(gateway.held(worker, &old)[0] > 7800, "worker {worker}");
        assert!(gateway.held(worker, &prompt)[0] > 7800, "worker {worker}");
    }
}

#[test]
fn capacity_in_bytes_follows_what_the_model_taught() {
    let mut gateway = Gateway::new(&config(1, ""), 1);
    // 65,536 tokens.
    gateway.scrape(|_| page(0, 0, 1.0), SECOND);
    let held = |gateway: &mut Gateway, usage| {
        for n in 0..60 {
            let decision = gateway.decide(0, &text(n, 9_000), 2 * SECOND);
            gateway.answer(0, decision.ticket, usage, 2 * SECOND);
        }
        gateway.workers[0].index().held(Slot(0)).0
    };
    let plain = held(&mut gateway, None);
    assert!((250_000..=275_251).contains(&plain), "{plain}");
    let dense = held(&mut gateway, Some(Usage { prompt_tokens: Tokens(4_500), cached_tokens: None }));
    assert!((125_000..=152_000).contains(&dense), "{dense}");
}

#[test]
fn tokens_are_counted_by_what_the_model_taught() {
    let mut gateway = Gateway::new(&config(1, ""), 1);
    let first = gateway.decide(0, &text(1, 4000), Micros::ZERO);
    assert_eq!(gateway.accounts()[0].outstanding, Tokens(1001));
    gateway.answer(
        0,
        first.ticket,
        Some(Usage { prompt_tokens: Tokens(2003), cached_tokens: None }),
        Micros::ZERO,
    );
    let second = gateway.decide(0, &text(2, 4000), Micros::ZERO);
    assert_eq!(gateway.accounts()[0].outstanding, Tokens(2003));
    gateway.answer(0, second.ticket, None, Micros::ZERO);
}

#[test]
fn rates_are_learned_and_unequal_pods_get_unequal_shares() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let mut counts = [0u32; 2];
    let mut now = Micros::ZERO;
    for n in 0..200 {
        now = now + SECOND;
        // Pairs of requests, so that each pod gets some; pod 0 computes 10,000 tokens per second, pod 1
        // 2,000.
        let decisions =
            [gateway.decide(0, &text(n * 2, 8000), now), gateway.decide(0, &text(n * 2 + 1, 8000), now)];
        let mut ahead = [0.0; 2];
        for decision in decisions {
            let slot = usize::from(decision.ticket.slot());
            counts[slot] += u32::from(n >= 100);
            ahead[slot] += 2000.0;
            let took = ahead[slot] / [10_000.0, 2_000.0][slot];
            gateway.answer(0, decision.ticket, None, now + Micros((took * 1e6) as u64));
        }
    }
    let rates: Vec<f32> = gateway.accounts().iter().map(|e| e.rate).collect();
    assert!((rates[0] / 10_000.0 - 1.0).abs() < 0.2 && (rates[1] / 2_000.0 - 1.0).abs() < 0.2, "{rates:?}");
    assert!(counts[0] > 3 * counts[1], "{counts:?}");
}

#[test]
fn a_rate_is_learned_from_what_was_computed_and_not_from_the_cache() {
    let usage = |cached| Some(Usage { prompt_tokens: Tokens(2_000), cached_tokens: Some(Tokens(cached)) });
    let mut gateway = Gateway::new(&config(1, ""), 1);
    // The pod has the prompt from another gateway, or from before this one was started.
    let known = gateway.decide(0, &text(1, 8000), SECOND);
    gateway.answer(0, known.ticket, usage(1_984), SECOND + 30 * MILLISECOND);
    assert_eq!(gateway.accounts()[0].samples, 0);
    // It is believed to have a prompt that it has lost.
    let lost = gateway.decide(0, &text(1, 8000), 2 * SECOND);
    assert!(lost.matched_tokens > Tokens(1_900));
    gateway.answer(0, lost.ticket, usage(0), 3 * SECOND);
    let account = gateway.accounts()[0];
    assert_eq!((account.samples, (account.rate / 2_000.0 - 1.0).abs() < 0.1), (1, true), "{}", account.rate);
}

/// Sends a prompt of 1,200 tokens every four seconds, in this time, to two pods that compute so many tokens
/// per second; the prompts that each got.
fn seldom(gateway: &mut Gateway, seconds: std::ops::Range<u64>, rates: [f64; 2]) -> [u32; 2] {
    let mut counts = [0; 2];
    for second in seconds.step_by(4) {
        let now = second * SECOND;
        let decision = gateway.decide(0, &text(second, 4800), now);
        let slot = usize::from(decision.ticket.slot());
        counts[slot] += 1;
        gateway.answer(0, decision.ticket, None, now + Micros((1200.0 / rates[slot] * 1e6) as u64));
    }
    counts
}

#[test]
fn a_pod_that_was_slow_gets_its_share_again() {
    // Slow for its first prompts, as a server that has just started, and slow for long.
    for (slow, bound) in [(40, 240), (600, 500)] {
        let mut gateway = Gateway::new(&config(2, ""), 1);
        seldom(&mut gateway, 0..slow, [500.0, 5_000.0]);
        let healthy = slow + bound;
        seldom(&mut gateway, slow..healthy, [5_000.0; 2]);
        let counts = seldom(&mut gateway, healthy..healthy + 400, [5_000.0; 2]);
        assert!(counts.iter().all(|&count| count > 25), "slow for {slow} s: {counts:?}");
    }
}

#[test]
fn a_slow_pod_is_seldom_tried_while_others_can_take_all() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    seldom(&mut gateway, 0..400, [1_000.0, 5_000.0]);
    let counts = seldom(&mut gateway, 400..2_400, [1_000.0, 5_000.0]);
    assert!((5..=30).contains(&counts[0]), "{counts:?}");
}

#[test]
fn a_rate_is_kept_over_a_restart_and_not_for_another_machine() {
    let mut gateway = Gateway::new(&config(1, ""), 1);
    gateway.scrape(|_| page(0, 0, 100.0), Micros::ZERO);
    let decision = gateway.decide(0, &text(1, 8000), Micros::ZERO);
    gateway.answer(0, decision.ticket, None, SECOND);
    let rate = gateway.accounts()[0].rate;
    assert!(rate > 1_000.0);
    gateway.scrape(|_| page(0, 0, 200.0), 2 * SECOND);
    let decision = gateway.decide(0, "x", 2 * SECOND);
    gateway.answer(0, decision.ticket, None, 2 * SECOND);
    assert_eq!(gateway.accounts()[0].rate, rate);
    gateway.collector.set_pods(&["10.0.0.9:8000".into()], 3 * SECOND);
    gateway.scrape(|_| page(0, 0, 300.0), 3 * SECOND);
    drop(gateway.decide(0, "x", 3 * SECOND));
    assert_eq!((gateway.accounts()[0].rate, gateway.accounts()[0].samples), (0.0, 0));
}
