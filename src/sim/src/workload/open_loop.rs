//! Open loops: requests come when they come, however late answers are. Sessions have one turn.

use super::capacity::{Need, Traffic};
use super::dice::{Dice, Zipf};
use super::{Role, Session, Span, Turn, Workload};
use crate::engine::QueueLimits;

pub(super) fn documents(traffic: &Traffic, dice: &mut Dice) -> Workload {
    const DOCUMENTS: usize = 60;
    let zipf = Zipf::new(DOCUMENTS, 1.0);
    let documents: Vec<Span> =
        (0..DOCUMENTS).map(|_| span(Role::System, dice.name(), dice.between(8_000, 30_000))).collect();
    // What a fleet cannot hold must be computed again and again: the share of questions whose document is
    // among the most asked that fit.
    let mean = documents.iter().map(|d| f64::from(d.tokens)).sum::<f64>() / DOCUMENTS as f64;
    let held: f64 =
        traffic.pods.iter().map(|pod| f64::from(pod.capacity_tokens())).sum::<f64>() * 0.75 / mean;
    let harmonic = |n: f64| if n < 1.0 { n } else { n.ln() + 0.58 };
    let hits = (harmonic(held) / harmonic(DOCUMENTS as f64)).min(0.97);
    let need = Need { computed: mean * (1.0 - hits) + 60.0, context: mean, output: 60.0 };
    let rate = traffic.rate(0.7, need);
    open_loop(traffic, rate, dice, |dice| {
        let document = documents.get(zipf.draw(dice)).copied().unwrap_or(span(Role::System, 0, 8_000));
        let question = span(Role::User, dice.name(), dice.skewed(20, 150));
        (vec![document, question], dice.skewed(20, 150))
    })
}

pub(super) fn hot_prefix(traffic: &Traffic, dice: &mut Dice) -> Workload {
    // 60 per second on eight A10; a fleet of another size or make gets as much for its prefill rate.
    let power: f64 = traffic.pods.iter().map(|pod| pod.prefill_tokens_per_second / 5_500.0).sum();
    let rate = traffic.rate.unwrap_or(60.0 / 8.0 * power);
    let prefix = span(Role::System, dice.name(), 6_000);
    open_loop(traffic, rate, dice, |dice| {
        (vec![prefix, span(Role::User, dice.name(), dice.skewed(30, 200))], dice.skewed(20, 80))
    })
}

pub(super) fn groups(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let prefixes: Vec<Span> = (0..150).map(|_| span(Role::System, dice.name(), 6_000)).collect();
    // Beyond what the fleet can hold and compute, on purpose.
    let held = traffic.pods.iter().map(|pod| f64::from(pod.capacity_tokens())).sum::<f64>() * 0.7;
    let hits = (held / (150.0 * 6_000.0)).min(0.98);
    let need = Need { computed: 6_000.0 * (1.0 - hits) + 600.0, context: 6_800.0, output: 150.0 };
    let rate = traffic.rate(1.6, need);
    open_loop(traffic, rate, dice, |dice| {
        let prefix = prefixes.get(dice.below(150)).copied().unwrap_or(span(Role::System, 0, 6_000));
        let question = span(Role::User, dice.name(), dice.between(300, 900));
        (vec![prefix, question], dice.between(50, 250))
    })
}

pub(super) fn random(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let need = Need { computed: 1_000.0, context: 1_100.0, output: 120.0 };
    let rate = traffic.rate(0.5, need);
    open_loop(traffic, rate, dice, |dice| {
        (vec![span(Role::User, dice.name(), dice.skewed(100, 4_000))], dice.skewed(30, 300))
    })
}

pub(super) fn bursts(traffic: &Traffic, dice: &mut Dice) -> Workload {
    const SIZE: usize = 300;
    let prefixes: Vec<Span> =
        (0..40).map(|_| span(Role::System, dice.name(), dice.between(500, 3_000))).collect();
    let zipf = Zipf::new(prefixes.len(), 0.8);
    let need = Need { computed: 700.0, context: 2_500.0, output: 80.0 };
    // A burst's work is done in half of the time until the next.
    let gap = SIZE as f64 / traffic.rate(0.5, need);
    let sessions = (0..traffic.requests)
        .map(|n| {
            let starts = (n / SIZE) as f64 * gap + dice.unit() * 0.25;
            let prefix = prefixes.get(zipf.draw(dice)).copied().unwrap_or(span(Role::System, 0, 500));
            let question = span(Role::User, dice.name(), dice.skewed(30, 800));
            let output = dice.skewed(30, 180);
            once(dice, starts, vec![prefix, question], output)
        })
        .collect();
    Workload { sessions, ..Workload::default() }
}

/// Tokens of the prompt that all requests of a burst of [`equal_prompts`] have. The other prompts are
/// shorter.
pub const EQUAL_PROMPT_TOKENS: u32 = 2_000;
/// Requests of such a burst.
pub const EQUAL_PROMPTS: usize = 64;

pub(super) fn equal_prompts(traffic: &Traffic, dice: &mut Dice) -> Workload {
    // Others before a prompt comes for the first time, and up to its second burst.
    const BEFORE: usize = 200;
    const BETWEEN: usize = 50;
    let need = Need { computed: 520.0, context: 620.0, output: 80.0 };
    let rate = traffic.rate(0.3, need);
    let mut prompt = span(Role::User, 0, EQUAL_PROMPT_TOKENS);
    let (mut sessions, mut now) = (Vec::new(), 0.0);
    for others in 1.. {
        if sessions.len() >= traffic.requests {
            break;
        }
        now += dice.wait(1.0 / rate);
        let other = span(Role::User, dice.name(), dice.skewed(100, 1_500));
        let output = dice.skewed(30, 180);
        sessions.push(once(dice, now, vec![other], output));
        let within = others % (BEFORE + BETWEEN);
        if within == BEFORE {
            prompt.name = dice.name();
        }
        if within == BEFORE || within == 0 {
            for _ in 0..EQUAL_PROMPTS {
                let (starts, output) = (now + dice.unit() * 0.05, dice.skewed(20, 80));
                sessions.push(once(dice, starts, vec![prompt], output));
            }
        }
    }
    sessions.truncate(traffic.requests);
    Workload { sessions, ..Workload::default() }
}

pub(super) fn overload(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let prefixes: Vec<Span> =
        (0..40).map(|_| span(Role::System, dice.name(), dice.between(500, 3_000))).collect();
    // What requests of one prefix share is in a cache once, and is computed once.
    let need = Need { computed: 350.0, context: 1_400.0, output: 80.0 };
    let rate = traffic.rate(1.3, need);
    let workload = open_loop(traffic, rate, dice, |dice| {
        let prefix = prefixes.get(dice.below(40)).copied().unwrap_or(span(Role::System, 0, 500));
        (vec![prefix, span(Role::User, dice.name(), dice.skewed(30, 800))], dice.skewed(30, 180))
    });
    // As operators set them: some more requests than the KV cache holds, and prompts for three seconds of
    // prefill.
    let limits = traffic.pods.iter().map(|pod| QueueLimits {
        requests: Some(pod.capacity_tokens() / 1_200),
        prompt_tokens: Some((3.0 * pod.prefill_tokens_per_second) as u64),
    });
    Workload { limits: limits.collect(), ..workload }
}

/// `requests` single requests by Poisson arrivals of `rate` per second.
fn open_loop(
    traffic: &Traffic,
    rate: f64,
    dice: &mut Dice,
    mut one: impl FnMut(&mut Dice) -> (Vec<Span>, u32),
) -> Workload {
    let mut now = 0.0;
    let sessions = (0..traffic.requests)
        .map(|_| {
            now += dice.wait(1.0 / rate);
            let (adds, output) = one(dice);
            once(dice, now, adds, output)
        })
        .collect();
    Workload { sessions, ..Workload::default() }
}

/// A session of one request.
pub(super) fn once(dice: &mut Dice, starts: f64, adds: Vec<Span>, output_tokens: u32) -> Session {
    let answer = dice.name();
    Session { starts, turns: vec![Turn { think: 0.0, adds, output_tokens, answer }], ..Session::default() }
}

pub(super) fn span(role: Role, name: u64, tokens: u32) -> Span {
    Span { name, tokens, role }
}
