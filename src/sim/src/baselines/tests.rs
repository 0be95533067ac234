//! Each baseline's rule on a case small enough to work out by hand.

use super::*;
use crate::engine::{Chain, Engine, EngineRequest, Profile};
use crate::policy::{AnswerReport, RequestEnd, RouteRequest, World};
use crate::workload::{Role, Span};

fn pods(count: usize) -> Vec<FleetPod> {
    (0..count)
        .map(|_| FleetPod {
            engine: Engine::new(Profile::A10.config()),
            up: true,
            listed: true,
            healthy: true,
            started_at: 0.0,
            backlog: 0,
            limits: Default::default(),
            queued: Default::default(),
            adapters: None,
        })
        .collect()
}

/// A prompt of one span, and a request for it.
struct Prompt {
    spans: Vec<Span>,
    blocks: Vec<u64>,
    tokens: u32,
}

fn prompt(parts: &[(u64, u32)]) -> Prompt {
    let mut chain = Chain::new(16, 1);
    let spans: Vec<Span> =
        parts.iter().map(|&(name, tokens)| Span { name, tokens, role: Role::User }).collect();
    spans.iter().for_each(|span| chain.push_span(span.name, span.tokens));
    Prompt { spans, blocks: chain.blocks().to_vec(), tokens: chain.tokens() }
}

impl Prompt {
    fn ask(&self, id: u64) -> RouteRequest<'_> {
        let (spans, blocks) = (&self.spans[..], &self.blocks[..]);
        RouteRequest {
            id,
            worker: 0,
            spans,
            blocks,
            block_size: 16,
            prompt_tokens: self.tokens,
            class: Default::default(),
        }
    }

    /// Puts it onto a pod: it runs there, or waits.
    fn submit(&self, pod: &mut FleetPod, id: u64) {
        let request = EngineRequest {
            id,
            blocks: self.blocks.clone().into(),
            prompt_tokens: self.tokens,
            output_tokens: 100,
        };
        pod.engine.submit(0.0, request).unwrap();
    }
}

fn world(pods: &[FleetPod]) -> World<'_> {
    World { now: 0.0, pods }
}

fn choose(policy: &mut dyn Policy, pods: &[FleetPod], prompt: &Prompt, id: u64) -> usize {
    policy.choose(&world(pods), &prompt.ask(id))[0]
}

fn dice() -> Dice {
    Dice::new(1, 1)
}

const ANSWERED: RequestEnd = RequestEnd::Answered(AnswerReport { prompt_tokens: 1, cached_tokens: 0 });

#[test]
fn round_robin_goes_round_and_skips_the_dead() {
    let mut pods = pods(3);
    let mut policy = RoundRobin::new(0);
    let ask = prompt(&[(1, 100)]);
    let picks: Vec<usize> = (0..4).map(|n| choose(&mut policy, &pods, &ask, n)).collect();
    assert_eq!(picks, [0, 1, 2, 0]);
    pods[1].healthy = false;
    assert!((0..6).all(|n| choose(&mut policy, &pods, &ask, n) != 1));
}

#[test]
fn least_request_takes_the_less_busy_of_two() {
    let pods = pods(2);
    let mut policy = LeastRequest::new(2, dice());
    let ask = prompt(&[(1, 100)]);
    let mut counts = [0; 2];
    for id in 0..1000 {
        counts[choose(&mut policy, &pods, &ask, id)] += 1;
    }
    assert!(counts.iter().all(|count| (480..=520).contains(count)), "{counts:?}");
    (0..1000).for_each(|id| policy.on_end(&world(&pods), id, ANSWERED));
    policy.on_moved(&world(&pods), 0, 1);
}

#[test]
fn gie_adds_queue_cache_and_prefix() {
    let mut pods = pods(2);
    let mut policy = Gie::new(&pods, dice());
    let shared = prompt(&[(1, 6400)]);
    let home = choose(&mut policy, &pods, &shared, 0);
    let other = 1 - home;
    // All of it matches at home: 3 points more, and queues are equal.
    assert!((1..20).all(|id| choose(&mut policy, &pods, &shared, id) == home));
    // Queue 2 and KV cache 2 * 0.4 less at home still leave it ahead by 0.2; the cache all in use does not.
    shared.submit(&mut pods[home], 1);
    prompt(&[(2, 20_000)]).submit(&mut pods[home], 2);
    pods[home].engine.step(0.0, |_| ());
    pods[home].engine.step(10.0, |_| ());
    policy.on_timer(&world(&pods));
    let load = pods[home].engine.load();
    assert!(load.waiting > 0 && load.kv_usage < 0.5, "{load:?}");
    assert_eq!(choose(&mut policy, &pods, &shared, 3), home);
    for _ in 0..40 {
        let next = pods[home].engine.next_event().unwrap();
        pods[home].engine.step(next, |_| ());
    }
    prompt(&[(3, 20_000)]).submit(&mut pods[home], 4);
    let next = pods[home].engine.next_event().unwrap();
    pods[home].engine.step(next, |_| ());
    assert!(pods[home].engine.load().kv_usage > 0.7 && pods[home].engine.load().waiting > 0);
    assert_eq!(choose(&mut policy, &pods, &shared, 5), home, "it does not see what it has not scraped");
    policy.on_timer(&world(&pods));
    assert_eq!(choose(&mut policy, &pods, &shared, 6), other);
}

#[test]
fn the_gate_opens_above_half_whatever_the_load() {
    let mut pods = pods(2);
    let mut policy = RatioGate::new(&pods, dice());
    let home = choose(&mut policy, &pods, &prompt(&[(1, 1600)]), 0);
    for id in 0..50 {
        prompt(&[(100 + id, 3000)]).submit(&mut pods[home], id);
    }
    policy.on_timer(&world(&pods));
    assert_eq!(choose(&mut policy, &pods, &prompt(&[(1, 1600), (2, 1500)]), 1), home);
    assert_ne!(choose(&mut policy, &pods, &prompt(&[(1, 1600), (3, 1700)]), 2), home);
}

#[test]
fn cache_aware_follows_the_match_until_out_of_balance() {
    let pods = pods(2);
    let mut policy = CacheAware::new(2, dice());
    let shared = prompt(&[(1, 1600)]);
    let home = choose(&mut policy, &pods, &shared, 0);
    // 65 in flight more than the other is too many; up to then it goes where the match is.
    for id in 1..65 {
        assert_eq!(choose(&mut policy, &pods, &shared, id), home, "{id}");
    }
    assert_eq!(choose(&mut policy, &pods, &shared, 65), 1 - home);
    assert_eq!(
        choose(&mut policy, &pods, &prompt(&[(1, 160), (2, 1600)]), 66),
        1 - home,
        "too short a match"
    );
}

#[test]
fn dynamo_adds_prefill_and_decode_blocks() {
    let mut pods = pods(2);
    let mut policy = Dynamo::new(2, dice());
    let (a, b) = (prompt(&[(1, 160)]), prompt(&[(2, 320)]));
    let first = choose(&mut policy, &pods, &a, 0);
    let second = 1 - first;
    assert_eq!(choose(&mut policy, &pods, &b, 1), second);
    // Prefill 10 and decode 10 on the first, 20 and 20 on the second.
    assert_eq!(choose(&mut policy, &pods, &prompt(&[(3, 32)]), 2), first);
    policy.on_first_token(&world(&pods), 1);
    // 12 + 12 on the first, 20 on the second.
    assert_eq!(choose(&mut policy, &pods, &prompt(&[(4, 32)]), 3), second);
    policy.on_end(&world(&pods), 0, ANSWERED);
    policy.on_end(&world(&pods), 2, ANSWERED);
    // A cached prompt costs its decode blocks only.
    b.submit(&mut pods[second], 9);
    pods[second].engine.step(0.0, |_| ());
    policy.on_end(&world(&pods), 1, ANSWERED);
    policy.on_end(&world(&pods), 3, ANSWERED);
    assert_eq!(choose(&mut policy, &pods, &b, 10), second);
}

#[test]
fn equals_are_told_apart_by_chance() {
    let pods = pods(2);
    let firsts = |make: &dyn Fn(Dice) -> Box<dyn Policy>| {
        (0..100)
            .map(|seed| choose(&mut *make(Dice::new(seed, 1)), &pods, &prompt(&[(1, 160)]), 0))
            .sum::<usize>()
    };
    let spread =
        [firsts(&|dice| Box::new(CacheAware::new(2, dice))), firsts(&|dice| Box::new(Dynamo::new(2, dice)))];
    assert!(spread.iter().all(|n| (30..70).contains(n)), "{spread:?}");
}

#[test]
fn higress_counts_what_it_sent_between_scrapes() {
    let pods = pods(2);
    let mut policy = EndpointPicker::new(&pods, 1, dice());
    let home = choose(&mut policy, &pods, &prompt(&[(1, 100)]), 0);
    assert_eq!(choose(&mut policy, &pods, &prompt(&[(2, 100)]), 1), 1 - home);
    policy.on_end(&world(&pods), 1, ANSWERED);
    assert_eq!(choose(&mut policy, &pods, &prompt(&[(3, 100)]), 2), 1 - home);
}

#[test]
fn higress_keeps_an_index_in_each_worker() {
    let pods = pods(4);
    let mut policy = EndpointPicker::new(&pods, 2, dice());
    let shared = prompt(&[(1, 4000)]);
    let home = choose(&mut policy, &pods, &shared, 0);
    assert!((1..20).all(|id| choose(&mut policy, &pods, &shared, id) == home));
    let elsewhere: Vec<usize> = (0..20)
        .map(|salt| {
            let mut policy = EndpointPicker::new(&pods, 2, Dice::new(salt, 1));
            let home = choose(&mut policy, &pods, &shared, 0);
            let ask = RouteRequest { worker: 1, ..shared.ask(1) };
            usize::from(policy.choose(&world(&pods), &ask)[0] != home)
        })
        .collect();
    assert!(elsewhere.iter().sum::<usize>() > 8, "the other worker draws anew: {elsewhere:?}");
}

#[test]
fn the_oracle_sees_queue_and_cache() {
    let mut pods = pods(2);
    let (a, b) = (prompt(&[(1, 1600)]), prompt(&[(2, 1600)]));
    a.submit(&mut pods[1], 0);
    pods[1].engine.step(0.0, |_| ());
    assert_eq!(choose(&mut Oracle, &pods, &a, 1), 1, "cached");
    assert_eq!(choose(&mut Oracle, &pods, &b, 1), 0, "idle");
    pods[1].backlog = 10_000;
    assert_eq!(choose(&mut Oracle, &pods, &a, 1), 0, "the queue is longer than the work");
    pods[0].up = false;
    assert_eq!(Oracle.choose(&world(&pods), &a.ask(1)), [1]);
}
