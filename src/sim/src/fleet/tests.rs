//! A fleet as a whole: repeatable, and every request is answered once.

mod classes;
mod equal_prompts;
mod short_prompts;

use super::*;
use crate::baselines;
use crate::engine::{EngineConfig, Profile, QueueLimits};
use crate::fleet::contender::Contender;
use crate::fleet::warmpath::Share;
use crate::workload::{self, Change, Role, Session, Traffic, Turn};

/// Runs that percentiles of few requests are taken over: enough to tell a fifth, and more where there is
/// time.
const SEEDS: u64 = if cfg!(debug_assertions) { 1 } else { 20 };

fn traffic(pods: usize, requests: usize) -> Traffic {
    Traffic { pods: vec![Profile::A10.config(); pods], requests, rate: None, seed: 3 }
}

fn simulate(policy: &str, workload: &Workload, pods: usize, gateways: usize) -> FleetRun {
    simulate_otherwise(policy, workload, pods, Share::All, |setup| setup.gateways = gateways)
}

/// A run whose setup is another one than usual.
fn simulate_otherwise(
    policy: &str,
    workload: &Workload,
    pods: usize,
    share: Share,
    change: impl FnOnce(&mut Setup<'_>),
) -> FleetRun {
    simulate_with(&contender(policy), workload, pods, share, change)
}

fn contender(policy: &str) -> Contender {
    Contender::parse(&[policy.to_owned()], &[]).unwrap().remove(0)
}

fn simulate_contender(contender: &Contender, workload: &Workload, pods: usize) -> FleetRun {
    simulate_with(contender, workload, pods, Share::All, |_| ())
}

fn simulate_with(
    contender: &Contender,
    workload: &Workload,
    pods: usize,
    share: Share,
    change: impl FnOnce(&mut Setup<'_>),
) -> FleetRun {
    simulate_on(contender, workload, &vec![Profile::A10.config(); pods], share, change)
}

fn simulate_on(
    contender: &Contender,
    workload: &Workload,
    pods: &[EngineConfig],
    share: Share,
    change: impl FnOnce(&mut Setup<'_>),
) -> FleetRun {
    let mut setup = Setup {
        pods,
        gateways: 1,
        workers: 4,
        seed: 5,
        connections: Connections::Sticky,
        holds_headers: false,
        workload,
        sample_seconds: 0.25,
    };
    change(&mut setup);
    run(&setup, |gateway, pods| contender.make(pods, 4, 5, gateway, true, share), |_| ()).unwrap()
}

fn policies() -> Vec<String> {
    let ours = ["warmpath", "warmpath-load-only"];
    ours.into_iter().chain(baselines::ALL.iter().map(|b| b.name)).map(str::to_owned).collect()
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let workload = workload::find("churn").unwrap().build(&traffic(4, 300));
    for policy in policies() {
        let runs = [(); 2].map(|()| simulate(&policy, &workload, 4, 2));
        assert_eq!(runs[0], runs[1], "{policy}");
    }
}

#[test]
fn every_request_is_over_once_under_every_policy() {
    for name in ["chats", "bursts", "churn", "hot-prefix"] {
        let workload = workload::find(name).unwrap().build(&traffic(4, 300));
        for policy in policies() {
            let run = simulate(&policy, &workload, 4, 1);
            let answered = run.records.iter().filter(|r| r.finished.is_some()).count();
            assert_eq!(run.records.len(), 300, "{name} {policy}");
            assert_eq!(answered + run.broken + run.failed, 300, "{name} {policy}");
            assert_eq!(run.failed, 0, "{name} {policy}");
            if name != "churn" {
                assert_eq!(run.broken, 0, "{name} {policy}");
            }
            for record in &run.records {
                assert!(record.cached_tokens < record.prompt_tokens, "{name} {policy}");
                assert!(record.ttft().is_none_or(|ttft| ttft > 2.0 * NETWORK_SECONDS), "{name} {policy}");
            }
        }
    }
}

#[test]
fn a_hot_prefix_does_not_melt_a_pod_down() {
    let workload = workload::find("hot-prefix").unwrap().build(&traffic(8, 1500));
    let mean = |policy: &str| summarize(&simulate(policy, &workload, 8, 1)).ttft.mean;
    let (ours, even, gate) = (mean("warmpath"), mean("round-robin"), mean("ratio-gate"));
    assert!(ours < 4.0 * even, "{ours} against {even}");
    assert!(gate > 20.0 * ours, "{gate}: the gate is known to melt down");
}

#[test]
fn conversations_stay_where_they_are_warm() {
    let workload = workload::find("chats").unwrap().build(&traffic(4, 400));
    let hits = |policy: &str| summarize(&simulate(policy, &workload, 4, 1)).hit_rate;
    assert!(hits("warmpath") > 0.8 && hits("round-robin") < 0.6);
}

/// One request at `starts`, 1,000 tokens of a prompt of its own and 200 of answer.
fn single(name: u64, starts: f64) -> Session {
    let adds = vec![Span { name, tokens: 1000, role: Role::User }];
    Session {
        starts,
        turns: vec![Turn { think: 0.0, adds, output_tokens: 200, answer: name + 1000 }],
        ..Session::default()
    }
}

#[test]
fn a_request_on_a_pod_that_dies_goes_on_elsewhere_before_its_headers_and_breaks_off_after() {
    let sessions = vec![single(1, 1.0), single(2, 1.0)];
    let dies = |at| {
        let changes = vec![Change { at, pod: 0, fate: Fate::Dies }];
        simulate(
            "round-robin",
            &Workload { sessions: sessions.clone(), changes, ..Workload::default() },
            2,
            1,
        )
    };
    let early = dies(1.0006);
    assert_eq!((early.broken, early.envoy_retries), (0, 1));
    assert!(early.records.iter().all(|record| record.finished.is_some()));
    // The headers are out long before the first token, and Envoy does not take them back.
    for late in [dies(1.1), dies(3.0)] {
        assert_eq!((late.broken, late.envoy_retries), (1, 0));
    }
    let refused = dies(0.9);
    assert_eq!((refused.broken, refused.envoy_retries, refused.client_retries), (0, 1, 0));
}

#[test]
fn clients_send_again_when_nobody_answers() {
    for policy in ["warmpath", "round-robin"] {
        let changes = vec![
            Change { at: 0.0, pod: 0, fate: Fate::Dies },
            Change { at: 5.0, pod: 0, fate: Fate::Returns },
        ];
        let run = simulate(
            policy,
            &Workload { sessions: vec![single(1, 1.0)], changes, ..Workload::default() },
            1,
            1,
        );
        assert!(run.client_retries > 0, "{policy}");
        let ttft = run.records[0].ttft().unwrap();
        assert!((4.0..8.0).contains(&ttft), "{policy}: {ttft}");
    }
}

#[test]
fn pods_that_leave_finish_what_they_have_and_get_no_more() {
    let changes =
        vec![Change { at: 1.5, pod: 0, fate: Fate::Leaves }, Change { at: 50.0, pod: 2, fate: Fate::Joins }];
    let sessions: Vec<Session> = (0..12).map(|n| single(n, if n < 4 { 1.0 } else { 10.0 })).collect();
    for policy in ["warmpath", "round-robin", "gie"] {
        let run = simulate(
            policy,
            &Workload { sessions: sessions.clone(), changes: changes.clone(), ..Workload::default() },
            3,
            1,
        );
        assert!(run.records.iter().all(|record| record.finished.is_some()), "{policy}");
        assert_eq!(run.computed[0], 2000.0, "{policy}: half of the first four");
        assert_eq!(run.computed[2], 0.0, "{policy}: was never there");
    }
}

#[test]
fn conversations_that_meet_any_worker_need_workers_that_share() {
    let workload = workload::find("chats").unwrap().build(&traffic(4, 600));
    let hits = |share| {
        let any = |setup: &mut Setup<'_>| setup.connections = Connections::Random;
        summarize(&simulate_otherwise("warmpath", &workload, 4, share, any)).hit_rate
    };
    let (all, ledger, none) = (hits(Share::All), hits(Share::Ledger), hits(Share::None));
    assert!(all > 1.2 * ledger.max(none), "{all} against {ledger} and {none}");
}

#[test]
fn full_pods_refuse_and_every_request_is_accounted_for() {
    let workload = workload::find("overload").unwrap().build(&traffic(8, 1200));
    for policy in ["warmpath", "round-robin", "least-request", "gie"] {
        let run = simulate(policy, &workload, 8, 1);
        let summary = summarize(&run);
        assert_eq!(summary.answered + summary.refused, 1200, "{policy}");
        assert_eq!(summary.failed + summary.broken, 0, "{policy}");
        assert!(summary.refusals >= 3 * summary.refused, "{policy}: up to three pods are tried");
        if policy == "least-request" {
            assert!(summary.refused > 100, "{summary:?}");
        }
        // All have left in the end.
        assert_eq!(run.records.iter().filter(|record| record.finished.is_some()).count(), summary.answered);
    }
}

#[test]
fn a_request_that_one_full_pod_refuses_is_answered_by_the_next() {
    let sessions = vec![single(1, 1.0), single(2, 1.0), single(3, 1.0)];
    let limits = vec![QueueLimits { requests: Some(1), prompt_tokens: None }];
    let workload = Workload { sessions, limits, ..Workload::default() };
    for policy in ["warmpath", "round-robin"] {
        let run = simulate(policy, &workload, 2, 1);
        assert!(run.records.iter().all(|record| record.finished.is_some()), "{policy}");
        assert_eq!((run.refused, run.client_retries), (0, 0), "{policy}");
    }
    assert!(simulate("round-robin", &workload, 2, 1).refusals > 0);
}

#[test]
fn a_stream_that_waits_for_its_first_token_goes_on_where_gateways_hold_headers() {
    let sessions = vec![single(1, 1.0), single(2, 1.0)];
    for policy in ["round-robin", "warmpath"] {
        for (at, lost) in [(1.1, false), (3.0, true)] {
            let changes = vec![Change { at, pod: 0, fate: Fate::Dies }];
            let workload = Workload { sessions: sessions.clone(), changes, ..Workload::default() };
            let hold = |setup: &mut Setup<'_>| setup.holds_headers = true;
            let run = simulate_otherwise(policy, &workload, 2, Share::All, hold);
            assert_eq!(run.broken, usize::from(lost), "{policy} at {at}");
            assert_eq!(run.envoy_retries, usize::from(!lost), "{policy} at {at}");
            let answered = run.records.iter().filter(|record| record.finished.is_some()).count();
            assert_eq!(answered, if lost { 1 } else { 2 }, "{policy} at {at}");
        }
    }
}

#[test]
fn adapters_stay_where_they_are_loaded() {
    let spec = workload::find("adapters").unwrap();
    let workload = spec.build(&traffic(spec.pods, spec.requests));
    let run = |sweep: &[&str]| {
        let sweeps: Vec<_> = sweep.iter().map(|text| text.parse().unwrap()).collect();
        let contender = Contender::parse(&["warmpath".to_owned()], &sweeps).unwrap().pop().unwrap();
        summarize(&simulate_contender(&contender, &workload, spec.pods))
    };
    let ours = run(&[]);
    let plain = run(&["adapter_load_seconds=0"]);
    println!(
        "p99 {:.3} s, mean {:.3} s; by prefix and load alone {:.3} s, {:.3} s",
        ours.ttft.p99, ours.ttft.mean, plain.ttft.p99, plain.ttft.mean
    );
    assert!(ours.ttft.p99 <= plain.ttft.p99 * 2.0 / 3.0);
    assert!(ours.ttft.mean < plain.ttft.mean);
}
