//! Requests of two classes at once: a few that are to notice nothing, and others that are more than the pods
//! can do.

use super::open_loop::{once, span};
use super::{Dice, RequestClass, Role, Session, Traffic, Workload};

/// Bounds of the short prompts, in tokens.
const SHORT: (u32, u32) = (600, 1_200);
/// Bounds of the long prompts of a burst, in tokens.
const LONG: (u32, u32) = (4_000, 8_000);
/// What the few bring, as a share of what the pods can do.
const FEW: f64 = 0.1;
/// Seconds from one burst to the next, and within one.
const BETWEEN_BURSTS: f64 = 10.0;
const BURST: f64 = 0.25;
/// The tenant with short prompts, and the one that sends bursts.
pub const SMALL_TENANT: u32 = 1;
const LARGE_TENANT: u32 = 2;

/// Short prompts at a tenth of what the pods can do, as many as the traffic has requests, and beside them
/// others that may be shed, at so many `times` what the pods can do.
pub fn overload_of_others(traffic: &Traffic, times: f64) -> Workload {
    let dice = &mut Dice::new(traffic.seed, 1);
    let few = few(traffic, dice, RequestClass::default());
    let sheddable = RequestClass { sheddable: true, ..RequestClass::default() };
    let others = arrivals(dice, times * capacity(traffic), (0.0, end(&few)), SHORT, sheddable);
    workload_of([few, others].concat())
}

/// A tenant with short prompts at a tenth of what the pods can do, as many as the traffic has requests, and
/// beside it one that sends a `burst` of so many long prompts at once, every ten seconds.
pub fn burst_of_another(traffic: &Traffic, burst: f64) -> Workload {
    let dice = &mut Dice::new(traffic.seed, 2);
    let tenant = |number| RequestClass { tenant: Some(number), ..RequestClass::default() };
    let mut sessions = few(traffic, dice, tenant(SMALL_TENANT));
    let (mut from, end) = (BETWEEN_BURSTS / 2.0, end(&sessions));
    while from < end {
        let long = arrivals(dice, burst / BURST, (from, from + BURST), LONG, tenant(LARGE_TENANT));
        sessions.extend(long);
        from += BETWEEN_BURSTS;
    }
    workload_of(sessions)
}

/// Whether a request is one of the few that are to notice nothing of the others.
pub fn is_of_the_few(class: &RequestClass) -> bool {
    !class.sheddable && class.tenant != Some(LARGE_TENANT)
}

/// What the pods can do, in requests per second: half of their time goes into short prompts, for answers take
/// as much again.
fn capacity(traffic: &Traffic) -> f64 {
    let mean = f64::from(SHORT.0 + SHORT.1) / 2.0;
    traffic.pods.iter().map(|pod| pod.prefill_tokens_per_second / mean / 2.0).sum()
}

fn few(traffic: &Traffic, dice: &mut Dice, class: RequestClass) -> Vec<Session> {
    let rate = FEW * capacity(traffic);
    let mut few = arrivals(dice, rate, (0.0, 2.0 * traffic.requests as f64 / rate), SHORT, class);
    few.truncate(traffic.requests);
    few
}

fn end(sessions: &[Session]) -> f64 {
    sessions.last().map_or(0.0, |session| session.starts)
}

/// Clients of one request each, by Poisson arrivals of `rate` per second in `from..until`.
fn arrivals(
    dice: &mut Dice,
    rate: f64,
    (from, until): (f64, f64),
    tokens: (u32, u32),
    class: RequestClass,
) -> Vec<Session> {
    let mut sessions = Vec::new();
    if rate <= 0.0 {
        return sessions;
    }
    let mut now = from + dice.wait(1.0 / rate);
    while now < until {
        let tokens = dice.between(tokens.0, tokens.1);
        let adds = vec![span(Role::User, dice.name(), tokens)];
        let output_tokens = dice.between(40, 160);
        sessions.push(Session { class, ..once(dice, now, adds, output_tokens) });
        now += dice.wait(1.0 / rate);
    }
    sessions
}

fn workload_of(mut sessions: Vec<Session>) -> Workload {
    sessions.sort_by(|a, b| a.starts.total_cmp(&b.starts));
    Workload { sessions, ..Workload::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Profile;

    #[test]
    fn the_few_are_the_same_whatever_is_beside_them() {
        let traffic = Traffic { pods: vec![Profile::A10.config(); 8], requests: 200, rate: None, seed: 3 };
        for (build, others) in
            [(overload_of_others as fn(&Traffic, f64) -> Workload, 3.0), (burst_of_another, 100.0)]
        {
            let (alone, beside) = (build(&traffic, 0.0), build(&traffic, others));
            assert_eq!(alone.sessions.len(), 200);
            assert!(
                beside.sessions.iter().filter(|session| is_of_the_few(&session.class)).eq(&alone.sessions)
            );
            assert!(beside.sessions.is_sorted_by(|a, b| a.starts <= b.starts));
            let (end, number) = (end(&alone.sessions), (beside.sessions.len() - 200) as f64);
            let expected = if others < 10.0 { 3.0 * capacity(&traffic) * end } else { end / 10.0 * others };
            assert!((number / expected - 1.0).abs() < 0.15, "{number} against {expected}");
        }
    }
}
