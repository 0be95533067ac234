use super::*;
use proptest::prelude::*;

/// A pod with round numbers: 1,000 prompt tokens per second, 10 ms a step, 1 ms a decode.
fn config(usable_blocks: u32) -> EngineConfig {
    EngineConfig {
        block_size: 16,
        host_blocks: 0,
        host_tokens_per_second: 1e9,
        num_gpu_blocks: usable_blocks + 1,
        max_num_seqs: 8,
        max_num_batched_tokens: 512,
        step_seconds: 0.010,
        prefill_tokens_per_second: 1_000.0,
        decode_seconds_per_seq: 0.001,
        decode_seconds_per_context_token: 0.0,
    }
}

/// A prompt of one span, and its answer, which is the span `name + 1`.
fn request(id: u64, name: u64, prompt_tokens: u32, output_tokens: u32) -> EngineRequest {
    let mut chain = Chain::new(16, 0);
    chain.push_span(name, prompt_tokens);
    chain.push_span(name + 1, output_tokens);
    EngineRequest { id, blocks: chain.shared_blocks(), prompt_tokens, output_tokens }
}

/// Steps until idle and gives back all events.
fn drain(engine: &mut Engine) -> Vec<EngineEvent> {
    let mut events = Vec::new();
    while let Some(at) = engine.next_event() {
        assert!(engine.step(at, |event| events.push(event)));
    }
    events
}

fn time_of(events: &[EngineEvent], id: u64, what: EventKind) -> f64 {
    events.iter().find(|e| e.id == id && e.what == what).expect("the event happened").at
}

fn cached(events: &[EngineEvent], id: u64) -> u32 {
    let scheduled = events.iter().find_map(|e| match e.what {
        EventKind::Scheduled { cached_tokens } if e.id == id => Some(cached_tokens),
        _ => None,
    });
    scheduled.expect("it was scheduled")
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

impl Engine {
    fn check(&self) {
        let mut refs = vec![0; self.pool.total() as usize];
        for sequence in self.slots.iter().flatten() {
            for &block in &sequence.table {
                refs[block as usize] += 1;
            }
        }
        self.pool.check(&refs);
        let queued = self.running.len() + self.waiting.len();
        assert_eq!(queued, self.by_id.len());
        assert_eq!(queued + self.empty_slots.len(), self.slots.len());
    }
}

#[test]
fn a_cold_prompt_takes_its_tokens_over_the_rate() {
    let mut engine = Engine::new(config(200));
    engine.submit(5.0, request(1, 10, 1_000, 3)).unwrap();
    let events = drain(&mut engine);
    // 512 and 488 tokens: two steps.
    assert!(close(time_of(&events, 1, EventKind::FirstToken), 5.0 + 1.0 + 2.0 * 0.010));
    assert!(close(time_of(&events, 1, EventKind::Finished), 5.0 + 1.020 + 2.0 * 0.011));
    assert_eq!(cached(&events, 1), 0);
    assert_eq!(engine.load(), EngineLoad::default());
    assert_eq!(engine.counters().generation_tokens, 3);
    assert_eq!(engine.counters().steps, 4);
}

#[test]
fn a_repeat_is_nearly_free_and_says_what_was_cached() {
    let mut engine = Engine::new(config(200));
    engine.submit(0.0, request(1, 10, 1_000, 1)).unwrap();
    drain(&mut engine);
    assert_eq!(engine.cached_tokens(&request(2, 10, 1_000, 1).blocks, 1_000), 992);
    engine.submit(10.0, request(2, 10, 1_000, 1)).unwrap();
    let events = drain(&mut engine);
    assert_eq!(cached(&events, 2), 992);
    assert!(close(time_of(&events, 2, EventKind::FirstToken), 10.0 + 0.010 + 0.008));
    assert_eq!(engine.counters().prefix_queries, 2_000);
    assert_eq!(engine.counters().prefix_hits, 992);
}

#[test]
fn a_full_hit_still_computes_the_last_block() {
    let mut engine = Engine::new(config(200));
    engine.submit(0.0, request(1, 10, 160, 1)).unwrap();
    drain(&mut engine);
    engine.submit(1.0, request(2, 10, 160, 1)).unwrap();
    assert_eq!(cached(&drain(&mut engine), 2), 144);
}

#[test]
fn the_next_round_finds_the_answer_too() {
    let mut engine = Engine::new(config(200));
    let mut chat = Chain::new(16, 0);
    chat.push_span(1, 100);
    let prompt_tokens = chat.tokens();
    chat.push_span(2, 60);
    let blocks = chat.shared_blocks();
    engine.submit(0.0, EngineRequest { id: 1, blocks, prompt_tokens, output_tokens: 60 }).unwrap();
    drain(&mut engine);
    chat.push_span(3, 50);
    let next =
        EngineRequest { id: 2, blocks: chat.shared_blocks(), prompt_tokens: chat.tokens(), output_tokens: 1 };
    engine.submit(9.0, next).unwrap();
    // The KV of the 160th token was never written, so its block is not full.
    assert_eq!(cached(&drain(&mut engine), 2), 144);
}

#[test]
fn a_chunked_prefill_slows_the_decodes_but_does_not_stop_them() {
    let mut engine = Engine::new(config(400));
    engine.submit(0.0, request(1, 10, 16, 40)).unwrap();
    let mut events = Vec::new();
    for _ in 0..3 {
        engine.step(engine.next_event().unwrap(), |e| events.push(e));
    }
    let now = events.last().unwrap().at;
    engine.submit(now, request(2, 20, 2_000, 1)).unwrap();
    events.extend(drain(&mut engine));
    let mut gaps = Vec::new();
    let tokens: Vec<f64> = events
        .iter()
        .filter(|e| e.id == 1 && matches!(e.what, EventKind::FirstToken | EventKind::Token { .. }))
        .map(|e| e.at)
        .collect();
    gaps.extend(tokens.windows(2).map(|w| w[1] - w[0]));
    // 511 prompt tokens next to each decode: 0.511 s + 10 ms + 1 ms, until the prompt is through.
    let slow = gaps.iter().filter(|&&gap| close(gap, 0.522)).count();
    assert_eq!(slow, 3);
    assert!(gaps.iter().any(|&gap| close(gap, 0.467 + 0.011)), "the last chunk is shorter");
    assert!(gaps.iter().filter(|&&gap| close(gap, 0.011)).count() > 30);
}

#[test]
fn a_request_waits_when_the_blocks_run_out() {
    let mut engine = Engine::new(config(20));
    engine.submit(0.0, request(1, 10, 160, 100)).unwrap();
    engine.submit(0.0, request(2, 20, 200, 5)).unwrap();
    let mut events = Vec::new();
    engine.step(0.0, |e| events.push(e));
    assert_eq!(engine.load(), EngineLoad { running: 1, waiting: 1, kv_usage: 0.5 });
    events.extend(drain(&mut engine));
    let first_done = time_of(&events, 1, EventKind::Finished);
    assert!(time_of(&events, 2, EventKind::FirstToken) > first_done);
    assert_eq!(engine.counters().preemptions, 0);
}

#[test]
fn growth_preempts_the_newest_which_then_still_finishes() {
    let mut engine = Engine::new(config(20));
    engine.submit(0.0, request(1, 10, 144, 150)).unwrap();
    engine.submit(0.0, request(2, 20, 144, 150)).unwrap();
    let events = drain(&mut engine);
    let preempted: Vec<u64> =
        events.iter().filter(|e| e.what == EventKind::Preempted).map(|e| e.id).collect();
    assert_eq!(preempted, [2]);
    for id in [1, 2] {
        let tokens = events
            .iter()
            .filter(|e| e.id == id && matches!(e.what, EventKind::FirstToken | EventKind::Token { .. }))
            .count();
        assert_eq!(tokens, 150, "no token of {id} is lost or given twice");
        assert_eq!(
            events.iter().filter(|e| e.id == id && matches!(e.what, EventKind::Scheduled { .. })).count(),
            1
        );
    }
    assert!(time_of(&events, 1, EventKind::Finished) < time_of(&events, 2, EventKind::Finished));
}

#[test]
fn tails_are_evicted_before_heads() {
    let mut engine = Engine::new(config(20));
    engine.submit(0.0, request(1, 10, 160, 1)).unwrap();
    drain(&mut engine);
    // 10 of 20 blocks are cached; this takes the 10 empty ones and 5 of the others.
    engine.submit(1.0, request(2, 20, 240, 1)).unwrap();
    drain(&mut engine);
    assert_eq!(engine.cached_tokens(&request(3, 10, 160, 1).blocks, 160), 80);
}

#[test]
fn what_was_used_again_outlives_what_was_not() {
    let mut engine = Engine::new(config(20));
    for (id, name) in [(1, 10), (2, 20), (3, 10)] {
        engine.submit(id as f64, request(id, name, 160, 1)).unwrap();
        drain(&mut engine);
    }
    engine.submit(9.0, request(4, 40, 160, 1)).unwrap();
    drain(&mut engine);
    assert_eq!(engine.cached_tokens(&request(5, 10, 160, 1).blocks, 161), 160);
    assert_eq!(engine.cached_tokens(&request(5, 20, 160, 1).blocks, 161), 0);
}

#[test]
fn an_abort_releases_blocks_and_lets_the_next_one_in() {
    let mut engine = Engine::new(config(20));
    engine.submit(0.0, request(1, 10, 300, 20)).unwrap();
    engine.submit(0.0, request(2, 20, 300, 20)).unwrap();
    let mut events = Vec::new();
    engine.step(0.0, |e| events.push(e));
    assert!(engine.abort(1));
    assert!(!engine.abort(1));
    assert_eq!(engine.load(), EngineLoad { running: 0, waiting: 1, kv_usage: 0.0 });
    // The step in flight is not cut short.
    let end = engine.next_event().unwrap();
    assert!(close(end, 0.310));
    events.extend(drain(&mut engine));
    assert!(close(time_of(&events, 2, EventKind::FirstToken), end + 0.310));
    assert!(!events.iter().any(|e| e.id == 1 && e.what == EventKind::Finished));
}

#[test]
fn a_request_without_output_ends_with_its_prefill() {
    let mut engine = Engine::new(config(20));
    engine.submit(0.0, request(1, 10, 100, 0)).unwrap();
    let whats: Vec<EventKind> = drain(&mut engine).into_iter().map(|e| e.what).collect();
    assert_eq!(whats, [EventKind::Scheduled { cached_tokens: 0 }, EventKind::Finished]);
}

#[test]
fn what_can_never_run_is_refused() {
    let mut engine = Engine::new(config(10));
    let refused = engine.submit(0.0, request(1, 1, 160, 1));
    assert_eq!(refused, Err(SubmitError::TooLong { tokens: 161, capacity: 160 }));
    assert_eq!(engine.submit(0.0, request(1, 1, 0, 1)), Err(SubmitError::Empty));
    engine.submit(0.0, request(1, 1, 10, 1)).unwrap();
    assert_eq!(engine.submit(0.0, request(1, 1, 10, 1)), Err(SubmitError::DuplicateId(1)));
}

#[test]
fn a_restart_empties_everything() {
    let mut engine = Engine::new(config(40));
    engine.submit(0.0, request(1, 10, 160, 4)).unwrap();
    drain(&mut engine);
    engine.submit(1.0, request(2, 10, 160, 4)).unwrap();
    engine.restart();
    assert_eq!(engine.next_event(), None);
    assert_eq!(engine.cached_tokens(&request(3, 10, 160, 1).blocks, 160), 0);
    assert_eq!(engine.counters(), &Counters::default());
}

#[test]
fn the_profiles_hold_what_they_say() {
    assert_eq!(Profile::A10.config().capacity_tokens(), 2_047 * 16);
    for profile in [Profile::A10, Profile::H100] {
        let mut engine = Engine::new(profile.config());
        engine.submit(0.0, request(1, 1, 4_000, 1)).unwrap();
        let ttft = time_of(&drain(&mut engine), 1, EventKind::FirstToken);
        let least = 4_000.0 / profile.config().prefill_tokens_per_second;
        assert!(ttft > least && ttft < least * 1.1, "{profile:?}: {ttft}");
    }
}

/// One move of a client.
#[derive(Clone, Debug)]
enum Move {
    Submit { name: u64, prompt: u32, output: u32 },
    Abort(u64),
    BatchStep(u8),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (0u64..6, 1u32..400, 0u32..120).prop_map(|(name, prompt, output)| Move::Submit { name, prompt, output }),
        1 => (0u64..40).prop_map(Move::Abort),
        4 => (1u8..40).prop_map(Move::BatchStep),
    ];
    prop::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever clients do: every block is free or held by those that list it, everyone that is not aborted
    /// gets every token once and in order, time never runs backwards, and in the end nothing is held.
    #[test]
    fn blocks_never_leak_and_everyone_is_served(blocks in 33u32..120, seqs in 1u32..6, budget in 8u32..200, moves in moves()) {
        let mut engine = Engine::new(EngineConfig { max_num_seqs: seqs, max_num_batched_tokens: budget, ..config(blocks) });
        let mut now = 0.0;
        let mut next_id = 0;
        let mut expected: HashMap<u64, (u32, u32)> = HashMap::new();
        let mut finished = 0;
        let mut aborted = 0;
        let advance = |engine: &mut Engine, now: &mut f64, expected: &mut HashMap<u64, (u32, u32)>, finished: &mut u64| {
            let Some(at) = engine.next_event() else { return false };
            assert!(at >= *now);
            *now = at;
            engine.step(at, |event| {
                let (given, wanted) = expected.get_mut(&event.id).expect("a live request");
                match event.what {
                    EventKind::FirstToken => { assert_eq!(*given, 0); *given = 1; }
                    EventKind::Token { generated } => { *given += 1; assert_eq!(*given, generated); }
                    EventKind::Finished => {
                        assert_eq!(given, wanted);
                        *finished += 1;
                        expected.remove(&event.id);
                    }
                    EventKind::Scheduled { .. } | EventKind::Preempted => {}
                }
            });
            engine.check();
            assert!(engine.load().running <= engine.config().max_num_seqs);
            true
        };
        for step in moves {
            match step {
                Move::Submit { name, prompt, output } => {
                    engine.submit(now, request(next_id, name * 2, prompt, output)).unwrap();
                    expected.insert(next_id, (0, output));
                    next_id += 1;
                }
                Move::Abort(id) => {
                    let there = expected.remove(&id).is_some();
                    prop_assert_eq!(engine.abort(id), there);
                    aborted += u64::from(there);
                    engine.check();
                }
                Move::BatchStep(times) => for _ in 0..times {
                    advance(&mut engine, &mut now, &mut expected, &mut finished);
                },
            }
        }
        let mut steps = 0;
        while advance(&mut engine, &mut now, &mut expected, &mut finished) {
            steps += 1;
            prop_assert!(steps < 200_000, "no progress");
        }
        prop_assert_eq!(finished + aborted, next_id);
        prop_assert_eq!(engine.load(), EngineLoad::default());
        prop_assert!(expected.is_empty());
    }
}
