//! Prompts of a few hundred tokens teach the speed of pods, and pods that are equal stay equal.

use super::{Share, Span, contender, simulate_on};
use crate::engine::Hardware;
use crate::fleet::{FleetRun, summarize};
use crate::workload::{Dice, Role, Session, Turn, Workload};

/// Requests of 200 to 600 prompt tokens that share nothing, so many per second.
fn short_prompts(requests: usize, per_second: f64) -> Workload {
    let mut dice = Dice::new(7, 1);
    let mut now = 0.0;
    let sessions = (0..requests)
        .map(|_| {
            now += dice.wait(1.0 / per_second);
            let adds = vec![Span { name: dice.name(), tokens: dice.between(200, 600), role: Role::User }];
            let turn = Turn { think: 0.0, adds, output_tokens: dice.skewed(30, 200), answer: dice.name() };
            Session { starts: now, turns: vec![turn], ..Session::default() }
        })
        .collect();
    Workload { sessions, ..Workload::default() }
}

fn run(hardware: Hardware, workload: &Workload) -> FleetRun {
    simulate_on(&contender("warmpath"), workload, &hardware.pods(4), Share::All, |_| ())
}

#[test]
fn fast_pods_take_most_of_what_is_short() {
    // H100s compute almost five times as many tokens per second as A10s, and have room for all of it.
    let run = run(Hardware::Mixed, &short_prompts(2_000, 40.0));
    println!("{:.3?}", summarize(&run).ttft);
    let [slow, fast] = [0, 1].map(|first| run.computed.iter().skip(first).step_by(2).sum::<f64>());
    assert!(fast > 20.0 * slow, "{:?}", run.computed);
}

#[test]
fn equal_pods_share_what_is_short_evenly() {
    // From hardly any load to more than they can do.
    for per_second in [5.0, 20.0, 35.0] {
        let run = run(Hardware::A10, &short_prompts(2_000, per_second));
        let mean = run.computed.iter().sum::<f64>() / run.computed.len() as f64;
        assert!(run.computed.iter().all(|of_pod| (of_pod / mean - 1.0).abs() < 0.05), "{:?}", run.computed);
    }
}
