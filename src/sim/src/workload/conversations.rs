//! Closed loops: a client sends its next turn when it has the answer to the last one.

use super::capacity::{Need, Traffic};
use super::dice::{Dice, Zipf};
use super::{AdapterSetup, Change, Fate, RequestClass, Role, Session, Span, Turn, Workload};

pub(super) fn chats(traffic: &Traffic, dice: &mut Dice) -> Workload {
    const ROUNDS: usize = 10;
    // A new conversation computes its history once, the rest only what is new.
    let need = Need { computed: 330.0, context: 2600.0, output: 110.0 };
    // Half of the memory is left to the caches of those who think.
    let rate = traffic.rate(0.5, need) / ROUNDS as f64;
    let system = dice.name();
    let mut now = 0.0;
    let sessions = (0..traffic.requests.div_ceil(ROUNDS))
        .map(|_| {
            now += dice.wait(1.0 / rate);
            let history = dice.between(500, 2500);
            conversation(dice, now, system, history, ROUNDS)
        })
        .collect();
    Workload { sessions, ..Workload::default() }
}

pub(super) fn adapters(traffic: &Traffic, dice: &mut Dice) -> Workload {
    const ROUNDS: usize = 6;
    const ADAPTERS: usize = 40;
    let need = Need { computed: 330.0, context: 1_700.0, output: 110.0 };
    let rate = traffic.rate(0.4, need) / ROUNDS as f64;
    let zipf = Zipf::new(ADAPTERS, 0.8);
    // The adapters of one base model; what they compute is not shared, whatever their prompts are.
    let system = dice.name();
    let mut now = 0.0;
    let sessions = (0..traffic.requests.div_ceil(ROUNDS))
        .map(|_| {
            now += dice.wait(1.0 / rate);
            let history = dice.between(300, 1_500);
            let adapter = Some(zipf.draw(dice) as u32);
            let class = RequestClass { adapter, ..RequestClass::default() };
            Session { class, ..conversation(dice, now, system, history, ROUNDS) }
        })
        .collect();
    let adapters = Some(AdapterSetup { slots: 8, load_seconds: 0.5, count: ADAPTERS as u32 });
    Workload { sessions, adapters, ..Workload::default() }
}

/// A conversation: a system prompt of 200 tokens that all share, a history of its own, then questions.
fn conversation(dice: &mut Dice, starts: f64, system: u64, history: u32, rounds: usize) -> Session {
    let turns = (0..rounds)
        .map(|round| {
            let mut adds = Vec::new();
            if round == 0 {
                adds.push(span(Role::System, system, 200));
                adds.push(span(Role::User, dice.name(), history));
            } else {
                adds.push(span(Role::User, dice.name(), dice.skewed(15, 300)));
            }
            Turn {
                think: if round == 0 { 0.0 } else { 1.0 + dice.wait(4.0) },
                adds,
                output_tokens: dice.skewed(40, 250),
                answer: dice.name(),
            }
        })
        .collect();
    Session { starts, turns, ..Session::default() }
}

pub(super) fn agents(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let tools = span(Role::Tools, dice.name(), 2_500);
    let system = span(Role::System, dice.name(), 700);
    let need = Need { computed: 700.0, context: 8_500.0, output: 90.0 };
    let rate = traffic.rate(0.6, need);
    let (mut now, mut left) = (0.0, traffic.requests);
    let mut sessions = Vec::new();
    while left > 0 {
        let calls = (dice.between(8, 30) as usize).min(left);
        left -= calls;
        now += dice.wait(calls as f64 / rate);
        let turns = (0..calls)
            .map(|call| {
                let adds = match call {
                    0 => vec![tools, system, span(Role::User, dice.name(), dice.skewed(50, 1_000))],
                    _ => vec![span(Role::Tool, dice.name(), dice.skewed(60, 2_000))],
                };
                Turn {
                    // A tool takes a tenth of a second, or a few.
                    think: if call == 0 { 0.0 } else { 0.1 + dice.wait(1.0) },
                    adds,
                    output_tokens: dice.skewed(30, 250),
                    answer: dice.name(),
                }
            })
            .collect();
        sessions.push(Session { starts: now, turns, ..Session::default() });
    }
    Workload { sessions, ..Workload::default() }
}

pub(super) fn churn(traffic: &Traffic, dice: &mut Dice) -> Workload {
    let mut workload = chats(traffic, dice);
    // Three quarters of the fleet is there on average: its own share of the capacity is of less. A rate is as
    // it was asked.
    let stretch = if traffic.rate.is_some() { 1.0 } else { 1.25 };
    for session in &mut workload.sessions {
        session.starts *= stretch;
    }
    let end = workload.sessions.last().map_or(1.0, |session| session.starts);
    let pods = traffic.pods.len();
    let mut at = |share: f64, pod: usize, fate: Fate| {
        if pod < pods && pods > 1 {
            workload.changes.push(Change { at: end * share, pod, fate });
        }
    };
    // The last quarter of the pods joins late; others crash one after another and come back; one leaves for
    // good.
    for (nth, pod) in (pods - pods / 4..pods).enumerate() {
        at(0.3 + 0.05 * nth as f64, pod, Fate::Joins);
        at(0.8 + 0.05 * nth as f64, pod, Fate::Leaves);
    }
    for (nth, pod) in [0, 2, 1, 0].into_iter().enumerate() {
        at(0.15 + 0.15 * nth as f64, pod, Fate::Dies);
        at(0.21 + 0.15 * nth as f64, pod, Fate::Returns);
    }
    workload
}

fn span(role: Role, name: u64, tokens: u32) -> Span {
    Span { name, tokens, role }
}
