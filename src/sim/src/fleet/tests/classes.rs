//! Requests of two classes: what one of them sees of the other.

use super::*;
use crate::workload::RequestClass;
use crate::workload::classes::{SMALL_TENANT, burst_of_another, overload_of_others};

/// Times to first token of the answered requests of a class, and how many of the class were refused.
fn times(run: &FleetRun, of: impl Fn(&RequestClass) -> bool) -> (Vec<f64>, usize) {
    let records = run.records.iter().filter(|record| of(&record.class));
    let times: Vec<f64> = records.clone().filter_map(|r| Some(r.first_token? - r.arrived)).collect();
    let refused = records.count() - times.len();
    (times, refused)
}

#[test]
fn the_critical_see_little_of_an_overload_of_what_may_be_shed() {
    let critical = |class: &RequestClass| !class.sheddable;
    for gateways in 1..=3 {
        // Several runs, for the slowest percent of one are three requests.
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let (mut served, mut all) = (0, 0);
        for seed in 0..SEEDS {
            let few = Traffic { seed, ..traffic(8, 300) };
            let idle = simulate("warmpath", &overload_of_others(&few, 0.0), 8, gateways);
            let busy = simulate("warmpath", &overload_of_others(&few, 3.0), 8, gateways);
            for (run, into) in [(&idle, &mut alone), (&busy, &mut beside)] {
                let (times, refused) = times(run, critical);
                assert_eq!(refused, 0);
                into.extend(times);
            }
            let (answered, refused) = times(&busy, |class| class.sheddable);
            assert_eq!(refused, busy.refused);
            (served, all) = (served + answered.len(), all + answered.len() + refused);
        }
        let [alone, beside] = [alone, beside].map(|times| Spread::of(times).p99);
        println!(
            "{gateways} gateways: p99 of the critical {alone:.3} s alone, {beside:.3} s under three times the capacity; {served} of {all} others served"
        );
        assert!(beside <= 1.2 * alone);
    }
}

#[test]
fn a_tenant_sees_little_of_a_burst_of_another() {
    let is_small = |class: &RequestClass| class.tenant == Some(SMALL_TENANT);
    let (mut alone, mut beside, mut unfair) = (Vec::new(), Vec::new(), Vec::new());
    let (mut small_refused, mut served, mut all) = (0, 0, 0);
    for seed in 0..SEEDS {
        let few = Traffic { seed, ..traffic(8, 300) };
        alone.extend(times(&simulate("warmpath", &burst_of_another(&few, 0.0), 8, 1), is_small).0);
        let busy = simulate("warmpath", &burst_of_another(&few, 100.0), 8, 1);
        let (small, refused) = times(&busy, is_small);
        beside.extend(small);
        let (large, large_refused) = times(&busy, |class| !is_small(class));
        assert_eq!(refused + large_refused, busy.refused);
        small_refused += refused;
        (served, all) = (served + large.len(), all + large.len() + large_refused);
        let mut nobodys = burst_of_another(&few, 100.0);
        let is_small: Vec<bool> = nobodys.sessions.iter().map(|session| is_small(&session.class)).collect();
        nobodys.sessions.iter_mut().for_each(|session| session.class.tenant = None);
        let records = simulate("warmpath", &nobodys, 8, 1).records;
        let small = is_small.iter().zip(&records).filter(|(is_small, _)| **is_small);
        unfair.extend(small.map(|(_, record)| record.ttft().unwrap()));
    }
    let asked = alone.len();
    let [alone, beside, unfair] = [alone, beside, unfair].map(|times| Spread::of(times).p99);
    println!(
        "p99 of the small tenant {alone:.3} s alone, {beside:.3} s beside bursts, {unfair:.3} s without shares; {small_refused} of its {asked} refused, {served} of {all} long prompts served"
    );
    assert!(beside <= 1.2 * alone);
    assert!(unfair > 2.0 * alone, "the bursts are heavy");
    assert_eq!(small_refused, 0, "it never has more than a moment's work");
    assert!(served > 0);
}

/// A tenant whose first requests have been answered sends eight at the same time to eight idle pods.
fn eight_at_once(is_small: impl Fn(&RequestClass) -> bool) -> (usize, usize) {
    const AT: f64 = 8.0;
    let mut sessions = burst_of_another(&traffic(8, 300), 100.0).sessions;
    sessions.sort_by_key(|session| !is_small(&session.class));
    let others = sessions.partition_point(|session| is_small(&session.class));
    let first = Session { starts: 0.0, ..sessions[others].clone() };
    sessions.truncate(8);
    sessions.iter_mut().for_each(|session| session.starts = AT);
    sessions.insert(0, first);
    let workload = Workload { sessions, ..Workload::default() };
    let run = simulate("warmpath", &workload, 8, 1);
    let before = run.records.iter().filter(|record| record.arrived < AT);
    assert!(before.clone().all(|record| record.finished.is_some_and(|at| at < AT)), "the pods are idle");
    assert_eq!(before.count(), 1);
    let (answered, refused) = times(&run, is_small);
    (answered.len(), refused)
}

#[test]
fn short_prompts_take_all_idle_pods_and_long_ones_leave_some() {
    let is_small = |class: &RequestClass| class.tenant == Some(SMALL_TENANT);
    assert_eq!(eight_at_once(is_small), (8, 0));
    let (answered, refused) = eight_at_once(|class| !is_small(class));
    // Three of eight are kept for the other one.
    assert_eq!((answered, refused), (5, 3));
}
