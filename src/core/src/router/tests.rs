//! Several routers over one map: they must decide as one, whatever any of them writes in between.

use std::cell::RefCell;
use std::sync::LazyLock;

use super::*;
use crate::account::pod_account::PodAccount;
use crate::answer::usage::Usage;
use crate::collector::Collector;
use crate::decide::pick::Rank;
use crate::request::blocks::mix;
use crate::request::parse;
use crate::shared::store::{Conflict, Map};
use crate::{Bytes, MILLISECOND, Random, SECOND, Tokens};
use proptest::prelude::{ProptestConfig, Strategy, prop, prop_assert_eq, prop_oneof, proptest};

fn config(pods: usize, more: &str) -> Config {
    let pods: Vec<String> = (0..pods).map(|n| format!("\"10.0.0.{}:8000\"", n + 1)).collect();
    Config::parse(format!("{{\"pods\":[{}]{more}}}", pods.join(",")).as_bytes()).unwrap()
}

/// A gateway: shared data with a table of idle pods, and its workers.
struct Gateway {
    shared: Map,
    collector: Collector,
    workers: Vec<Router>,
}

impl Gateway {
    fn new(config: &Config, workers: u32) -> Gateway {
        let mut shared = Map::default();
        let mut collector = Collector::new(config, &shared, 1, Micros::ZERO);
        collector.publish(&mut shared, Micros::ZERO);
        let workers = (0..workers).map(|n| Router::new(config, n + 1)).collect();
        let mut gateway = Gateway { shared, collector, workers };
        gateway.refresh();
        gateway
    }

    fn refresh(&mut self) {
        self.workers.iter_mut().for_each(|w| w.refresh(&self.shared).unwrap());
    }

    fn decide(&mut self, worker: usize, text: &str, now: Micros) -> Decision {
        with_request(text, |r| {
            self.workers[worker].decide(RouteBy::Prompt(r), &mut self.shared, now).unwrap()
        })
    }

    fn answer(&mut self, worker: usize, mut ticket: Ticket, usage: Option<Usage>, now: Micros) {
        self.workers[worker].start(&mut ticket, &mut self.shared, now).unwrap();
        self.close(worker, ticket, End::Answered { usage, at: now });
    }

    fn close(&mut self, worker: usize, ticket: Ticket, end: End) {
        self.workers[worker].close(ticket, end, &mut self.shared).unwrap();
    }

    /// Canonical bytes of the prompt that each pod holds, as a worker believes once it has read all that others wrote.
    fn held(&mut self, worker: usize, text: &str) -> Vec<u64> {
        let router = &mut self.workers[worker];
        router.follow(&self.shared, 64);
        let blocks = with_request(text, |request| router.matched_blocks(request));
        blocks.into_iter().map(|blocks| bytes_of(usize::from(blocks)).0).collect()
    }

    /// Scrapes every pod: `page` gives each one's metrics.
    fn scrape(&mut self, page: impl Fn(Slot) -> String, now: Micros) {
        for due in self.collector.due(&self.shared, now) {
            self.collector.take(&due, page(due.slot).as_bytes(), &mut self.shared, now);
            self.collector.done(&due, None, now);
        }
        self.collector.publish(&mut self.shared, now);
        self.refresh();
    }

    fn ledger(&self) -> Ledger {
        Ledger::decode(self.shared.get("warmpath/default/ledger").unwrap().0).unwrap()
    }

    fn accounts(&self) -> Vec<PodAccount> {
        (0..self.ledger().slots()).map(|slot| self.ledger().account(Slot(slot as u16))).collect()
    }
}

fn with_request<T>(text: &str, with: impl FnOnce(&ParsedRequest<'_>) -> T) -> T {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    with(&parse(Api::Chat, body.as_bytes()).unwrap().into())
}

fn page(running: u32, waiting: u32, started: f64) -> String {
    format!(
        "vllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\nvllm:kv_cache_usage_perc 0.1\n\
         process_start_time_seconds {started}\nvllm:cache_config_info{{block_size=\"16\",num_gpu_blocks=\"4096\"}} 1\n"
    )
}

/// A text of `bytes` bytes that shares nothing with that of another seed.
fn text(seed: u64, bytes: usize) -> String {
    let mut state = seed;
    (0..bytes)
        .map(|_| {
            state = mix(state);
            char::from(b'a' + (state % 26) as u8)
        })
        .collect()
}

#[test]
fn a_conversation_finds_its_pod_from_any_worker() {
    let mut gateway = Gateway::new(&config(8, ""), 4);
    let mut now = Micros::ZERO;
    for conversation in 0..50 {
        let mut prompt = text(conversation, 1500);
        let mut home = None;
        for round in 0..6 {
            now = now + 10 * MILLISECOND;
            let worker = (conversation as usize + round * 3) % 4;
            let decision = gateway.decide(worker, &prompt, now);
            let slot = decision.ticket.slot();
            assert_eq!(*home.get_or_insert(slot), slot, "conversation {conversation}, round {round}");
            if round > 0 {
                assert!(decision.match_ratio() > 0.7, "{}", decision.match_ratio());
            }
            gateway.answer(worker, decision.ticket, None, now);
            prompt.push_str(&text(conversation * 100 + round as u64, 400));
        }
    }
}

#[test]
fn a_burst_over_all_workers_is_spread_as_if_one_had_seen_it_all() {
    let mut gateway = Gateway::new(&config(8, ""), 4);
    let mut counts = [0; 8];
    for n in 0..400 {
        let decision = gateway.decide(n % 4, &text(n as u64, 2000), Micros(1000 + n as u64));
        counts[usize::from(decision.ticket.slot())] += 1;
    }
    assert!(counts.iter().all(|&count| (49..=51).contains(&count)), "{counts:?}");
}

#[test]
fn default_looks_at_load_alone() {
    let mut gateway = Gateway::new(&config(3, r#","strategy":"DEFAULT""#), 1);
    let prompt = text(1, 4000);
    let first = gateway.decide(0, &prompt, Micros::ZERO);
    assert_eq!(first.matched_bytes, Bytes::NONE);
    let second = gateway.decide(0, &prompt, Micros::ZERO);
    assert_ne!(first.ticket.slot(), second.ticket.slot());
    assert_eq!((second.matched_bytes.0, second.bytes.0), (0, 4007));
}

#[test]
fn scraped_load_of_others_counts_and_ages_out() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    for tick in 1..=3 {
        gateway
            .scrape(|slot| if slot == Slot(0) { page(20, 30, 1.0) } else { page(0, 0, 1.0) }, tick * SECOND);
    }
    for n in 0..20 {
        let decision = gateway.decide(0, &text(n, 200), 3 * SECOND);
        assert_eq!(decision.ticket.slot(), Slot(1), "{:?}", gateway.workers[0].candidates());
        gateway.answer(0, decision.ticket, None, 3 * SECOND);
    }
    let slots: Vec<Slot> = (0..40)
        .map(|n| {
            let decision = gateway.decide(0, &text(n + 500, 200), 20 * SECOND);
            let slot = decision.ticket.slot();
            gateway.answer(0, decision.ticket, None, 20 * SECOND);
            slot
        })
        .collect();
    assert!(slots.contains(&Slot(0)), "old numbers say nothing any more");
}

#[test]
fn a_restarted_pod_holds_nothing_and_owes_nothing() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    gateway.scrape(|_| page(0, 0, 100.0), SECOND);
    let prompt = text(1, 4000);
    let first = gateway.decide(0, &prompt, SECOND);
    let slot = first.ticket.slot();
    gateway.scrape(|s| page(0, 0, if s == slot { 200.0 } else { 100.0 }), 3 * SECOND);
    assert_eq!(gateway.decide(1, &prompt, 3 * SECOND).matched_bytes, Bytes::NONE);
    assert_eq!(gateway.decide(0, &text(9, 10), 3 * SECOND).matched_bytes, Bytes::NONE);
    let before = gateway.accounts();
    gateway.close(0, first.ticket, End::Aborted);
    assert_eq!(gateway.accounts(), before, "its old account is void");
}

const MISS: Option<Usage> = Some(Usage { prompt_tokens: Tokens(2000), cached_tokens: Some(Tokens(0)) });

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
fn a_conversation_stays_where_it_failed_over_to() {
    let mut gateway = Gateway::new(&config(3, ""), 2);
    let mut prompt = text(1, 4000);
    let decision = gateway.decide(0, &prompt, Micros::ZERO);
    let dead = decision.ticket.slot();
    gateway.answer(0, decision.ticket, None, Micros::ZERO);
    // The dead pod had the first round; the second one is computed by the runner-up, the third one finds it there.
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
fn a_record_of_a_pod_that_is_new_fetches_the_table_first() {
    let mut gateway = Gateway::new(&config(1, ""), 2);
    gateway.scrape(|_| page(0, 0, 100.0), SECOND);
    // The pod has restarted, and only one worker has looked.
    for due in gateway.collector.due(&gateway.shared, 3 * SECOND) {
        gateway.collector.take(&due, page(0, 0, 200.0).as_bytes(), &mut gateway.shared, 3 * SECOND);
        gateway.collector.done(&due, None, 3 * SECOND);
    }
    gateway.collector.publish(&mut gateway.shared, 3 * SECOND);
    gateway.workers[0].refresh(&gateway.shared).unwrap();
    assert_ne!(gateway.workers[0].table(), gateway.workers[1].table());
    let prompt = text(1, 4000);
    let decision = gateway.decide(0, &prompt, 3 * SECOND);
    gateway.answer(0, decision.ticket, None, 3 * SECOND);
    assert!(gateway.held(1, &prompt)[0] > 3900);
    assert_eq!(gateway.workers[0].table(), gateway.workers[1].table());
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
    gateway.answer(0, first.ticket, Some(Usage { prompt_tokens: Tokens(2003), cached_tokens: None }), Micros::ZERO);
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
        // Pairs of requests, so that each pod gets some; pod 0 computes 10,000 tokens a second, pod 1 2,000.
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
    // A request each 10 ms, from either worker; the pod that gets the first one errs at once, the others take 50 ms.
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
    // Nothing else comes: the prompt is tried on one pod after the other, and each of the others still takes any request.
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

#[test]
fn no_key_is_added_whatever_comes_and_goes() {
    let mut random = Random::new(7);
    let mut below = |end| random.below(end);
    let ring = r#","index":{"log_segments":8}"#;
    let first = config(3, ring);
    let mut gateway = Gateway::new(&first, 3);
    let mut open = Vec::new();
    let mut settings = Vec::new();
    for n in 1..3000 {
        let now = n * 40 * MILLISECOND;
        let worker = below(3) as usize;
        match below(20) {
            // Prompts enough for the ring to go round.
            0..9 => {
                let text = text(below(4000), 2000);
                let decided = with_request(&text, |r| {
                    gateway.workers[worker].decide(RouteBy::Prompt(r), &mut gateway.shared, now)
                });
                open.extend(decided.map(|decision| decision.ticket));
            }
            9..16 if !open.is_empty() => {
                let ticket = open.swap_remove(below(open.len() as u64) as usize);
                match below(3) {
                    0 => gateway.close(worker, ticket, End::Aborted),
                    1 => gateway.answer(worker, ticket, None, now),
                    _ => {
                        gateway.workers[worker].unanswered(&ticket, 1, &mut gateway.shared, now).unwrap();
                        gateway.close(worker, ticket, End::Aborted);
                    }
                }
            }
            // Pods that restart, that say what they like, and that are gone.
            16 | 17 => {
                let (running, started) = (below(300) as u32, below(5) as f64 * 100.0);
                gateway
                    .scrape(|slot| if slot == Slot(1) { "?".into() } else { page(running, 3, started) }, now);
            }
            // Other pods, in a router that was configured anew, and another collector.
            18 => {
                let config = config(1 + below(40) as usize, ring);
                gateway.workers[worker] = Router::new(&config, n as u32 + 10);
                gateway.workers[worker].refresh(&gateway.shared).unwrap();
                settings.push(config);
            }
            _ => {
                let config = settings.last().unwrap_or(&first);
                gateway.collector = Collector::new(config, &gateway.shared, n, now);
                gateway.collector.publish(&mut gateway.shared, now);
                gateway.refresh();
            }
        }
    }
    assert!(gateway.ledger().log().number > 16, "{}", gateway.ledger().log().number);
    let keys = Keys::of(&first.pool, first.index.log_segments);
    let mut all: std::collections::BTreeSet<String> = (0..keys.segments).map(|n| keys.segment(n)).collect();
    all.extend([keys.table, keys.pods, keys.ledger, keys.lease]);
    let more: Vec<&str> = gateway.shared.keys().into_iter().filter(|&key| !all.contains(key)).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn without_a_pod_nothing_is_booked() {
    let mut gateway = Gateway::new(&config(1, ""), 1);
    let decision = gateway.decide(0, "x", Micros::ZERO);
    gateway.workers[0].unanswered(&decision.ticket, 1, &mut gateway.shared, Micros::ZERO).unwrap();
    gateway.close(0, decision.ticket, End::Aborted);
    let before = gateway.accounts();
    let refused =
        with_request("x", |r| gateway.workers[0].decide(RouteBy::Prompt(r), &mut gateway.shared, Micros(1)));
    assert_eq!(refused.unwrap_err(), NoPod::AllCoolingDown);
    assert_eq!(gateway.accounts(), before);
    let mut empty = Gateway::new(&config(0, ""), 1);
    let refused = empty.workers[0].decide(RouteBy::Load, &mut empty.shared, Micros::ZERO);
    assert_eq!(refused.unwrap_err(), NoPod::NoTable);
}

#[test]
fn a_worker_that_comes_late_reads_the_ring() {
    let config = config(4, r#","index":{"log_segments":512}"#);
    let mut gateway = Gateway::new(&config, 1);
    let prompts: Vec<String> = (0..300).map(|n| text(n, 2000)).collect();
    let homes: Vec<Slot> = prompts
        .iter()
        .map(|prompt| {
            let decision = gateway.decide(0, prompt, Micros::ZERO);
            let slot = decision.ticket.slot();
            gateway.answer(0, decision.ticket, None, Micros::ZERO);
            slot
        })
        .collect();
    assert!(gateway.ledger().log().number > 3);
    let mut late = Router::new(&config, 99);
    late.refresh(&gateway.shared).unwrap();
    late.follow(&gateway.shared, 512);
    gateway.workers.push(late);
    for (prompt, home) in prompts.iter().zip(homes) {
        let decision = gateway.decide(1, prompt, Micros::ZERO);
        assert_eq!(decision.ticket.slot(), home);
        assert!(decision.match_ratio() > 0.9);
        gateway.answer(1, decision.ticket, None, Micros::ZERO);
    }
    assert_eq!(gateway.workers[1].lost_segments(), 0);
}

#[test]
fn a_worker_that_falls_behind_the_ring_goes_on_from_the_oldest() {
    let config = config(2, r#","index":{"log_segments":2}"#);
    let mut gateway = Gateway::new(&config, 2);
    for n in 0..400 {
        let decision = gateway.decide(0, &text(n, 2000), Micros::ZERO);
        gateway.answer(0, decision.ticket, None, Micros::ZERO);
    }
    let decision = gateway.decide(1, &text(399, 2000), Micros::ZERO);
    assert!(decision.match_ratio() > 0.9);
    assert!(gateway.workers[1].lost_segments() > 0);
}

#[test]
fn gateways_that_share_nothing_send_a_cold_prompt_to_the_same_pod() {
    let config = config(5, "");
    let (mut one, mut two) = (Gateway::new(&config, 2), Gateway::new(&config, 3));
    let mut seen = [0; 5];
    for n in 0..200 {
        let prompt = text(n, 3000);
        let now = Micros(n);
        let (a, b) = (one.decide(0, &prompt, now), two.decide(1, &prompt, now));
        assert_eq!(a.ticket.slot(), b.ticket.slot());
        seen[usize::from(a.ticket.slot())] += 1;
        one.answer(0, a.ticket, None, now);
        two.answer(1, b.ticket, None, now);
    }
    assert!(seen.iter().all(|&n| n > 20), "{seen:?}");
}

#[test]
fn an_idle_fleet_takes_turns_whatever_the_worker() {
    let config = config(3, r#","strategy":"DEFAULT""#);
    let mut gateway = Gateway::new(&config, 2);
    let mut counts = [0u32; 3];
    let mut agreed = 0;
    for now in 0..300 {
        let [one, two] = [0, 1].map(|worker| {
            let decision = gateway.decide(worker, &text(now, 500), Micros(now));
            let slot = decision.ticket.slot();
            gateway.answer(worker, decision.ticket, None, Micros(now));
            slot
        });
        counts[usize::from(one)] += 1;
        agreed += u32::from(one == two);
    }
    assert!(counts.iter().all(|n| (80..=120).contains(n)), "{counts:?}");
    assert!((60..=140).contains(&agreed), "workers go in step: {agreed}");
}

/// Shared data in which another worker always writes first.
struct Losing<'a>(&'a Map);

impl SharedData for Losing<'_> {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.0.get(key)
    }

    fn set(&mut self, _: &str, _: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        assert!(cas.is_some(), "a segment of a ledger that is not written");
        Err(Conflict)
    }
}

#[test]
fn a_decision_that_loses_every_race_books_nothing() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    let prompt = text(1, 4000);
    let lost = with_request(&prompt, |request| {
        gateway.workers[0].decide(RouteBy::Prompt(request), &mut Losing(&gateway.shared), SECOND)
    });
    assert_eq!(lost.unwrap_err(), NoPod::Contended);
    assert_eq!(gateway.held(0, &prompt), [0, 0]);
    assert_eq!(gateway.shared.get("warmpath/default/ledger"), None);
}

#[test]
fn a_start_that_loses_every_race_is_taken_out_at_the_end() {
    let mut gateway = Gateway::new(&config(1, ""), 1);
    let mut ticket = gateway.decide(0, "x", Micros::ZERO).ticket;
    let lost = gateway.workers[0].start(&mut ticket, &mut Losing(&gateway.shared), Micros(1));
    assert_eq!((lost, ticket.started()), (Err(Contended), false));
    gateway.close(0, ticket, End::Aborted);
    let account = gateway.accounts()[0];
    assert_eq!((account.in_flight, account.waiting, account.outstanding.0), (0, 0, 0));
}

#[test]
fn a_failover_that_loses_every_race_leaves_the_request_where_it_is_booked() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    let prompt = text(1, 4000);
    let decision = gateway.decide(0, &prompt, Micros::ZERO);
    let (mut ticket, other) = (decision.ticket, decision.picks.iter().nth(1));
    let (pod, held, accounts) = (ticket.pod(), gateway.held(0, &prompt), gateway.accounts());
    let lost = gateway.workers[0].failed_over(&mut ticket, 1, other, &mut Losing(&gateway.shared), SECOND);
    assert_eq!((lost, ticket.pod(), ticket.sent_at()), (Err(Contended), pod, Micros::ZERO));
    for worker in [0, 1] {
        assert_eq!(gateway.held(worker, &prompt), held, "worker {worker}");
    }
    assert_eq!(gateway.accounts(), accounts);
    gateway.answer(0, ticket, None, SECOND);
    assert!(gateway.accounts().iter().all(|account| account.in_flight + account.waiting == 0));
}

#[test]
fn failures_that_lose_every_race_are_not_counted() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let ticket = gateway.decide(0, "x", Micros::ZERO).ticket;
    let accounts = gateway.accounts();
    let router = &mut gateway.workers[0];
    assert_eq!(router.unanswered(&ticket, 2, &mut Losing(&gateway.shared), SECOND), Err(Contended));
    assert_eq!(router.failed_upstream(&ticket, &mut Losing(&gateway.shared), SECOND), Err(Contended));
    assert_eq!(gateway.accounts(), accounts);
}

#[test]
fn a_close_that_loses_every_race_corrects_no_index() {
    let mut gateway = Gateway::new(&config(1, ""), 2);
    let [old, prompt] = [1, 2].map(|seed| text(seed, 8000));
    for text in [&old, &prompt] {
        let decision = gateway.decide(0, text, Micros::ZERO);
        gateway.answer(0, decision.ticket, None, Micros::ZERO);
    }
    let [missed, refused] = [0, 0].map(|worker| gateway.decide(worker, &prompt, Micros::ZERO).ticket);
    let (held, accounts) = (gateway.held(0, &old), gateway.accounts());
    let router = &mut gateway.workers[0];
    let miss = End::Answered { usage: MISS, at: SECOND };
    assert_eq!(router.close(missed, miss, &mut Losing(&gateway.shared)), Err(Contended));
    assert_eq!(router.close(refused, End::Aborted, &mut Losing(&gateway.shared)), Err(Contended));
    for worker in [0, 1] {
        assert_eq!(gateway.held(worker, &old), held, "worker {worker}");
        assert!(gateway.held(worker, &prompt)[0] > 7800, "worker {worker}");
    }
    assert_eq!(gateway.accounts(), accounts, "the collector reconciles it");
}

#[test]
fn a_worker_with_an_old_table_does_not_undo_a_newer_pods_entry() {
    let mut gateway = Gateway::new(&config(1, ""), 2);
    gateway.scrape(|_| page(0, 0, 100.0), Micros::ZERO);
    gateway.collector.publish(&mut gateway.shared, Micros::ZERO);
    let old = gateway.decide(1, "x", Micros::ZERO);
    // The pod restarts, and only worker 0 has heard of it.
    for due in gateway.collector.due(&gateway.shared, 2 * SECOND) {
        let page = page(0, 0, 200.0);
        gateway.collector.take(&due, page.as_bytes(), &mut gateway.shared, 2 * SECOND);
    }
    gateway.collector.publish(&mut gateway.shared, 2 * SECOND);
    gateway.workers[0].refresh(&gateway.shared).unwrap();
    let new = gateway.decide(0, "y", 2 * SECOND);
    let entry = gateway.accounts()[0];
    assert_eq!(entry.in_flight, 1);
    let lost = gateway.decide(1, "z", 2 * SECOND);
    assert_eq!(gateway.accounts()[0], entry);
    for (worker, decision) in [(1, old), (1, lost), (0, new)] {
        gateway.answer(worker, decision.ticket, None, 3 * SECOND);
    }
    assert_eq!(gateway.accounts()[0].in_flight, 0);
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

// --- the model test ---

/// Shared data into which another worker comes between a read and the write.
struct Interrupted<'a> {
    map: &'a RefCell<Map>,
    interrupt: RefCell<Option<Box<dyn FnOnce() + 'a>>>,
}

impl SharedData for Interrupted<'_> {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.map.borrow().get(key)
    }

    fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        if let Some(interrupt) = self.interrupt.borrow_mut().take() {
            interrupt();
        }
        self.map.borrow_mut().set(key, value, cas)
    }
}

const PODS: usize = 5;

#[derive(Clone, Debug)]
enum Step {
    Decide { prompt: u64 },
    Start(usize),
    Move(usize),
    Fail(usize),
    Close { nth: usize, end: u8 },
}

fn steps() -> impl Strategy<Value = (usize, Step)> {
    (
        0usize..4,
        prop_oneof![
            4 => (0u64..PROMPTS).prop_map(|prompt| Step::Decide { prompt }),
            2 => (0usize..50).prop_map(Step::Start),
            1 => (0usize..50).prop_map(Step::Move),
            1 => (0usize..50).prop_map(Step::Fail),
            4 => (0usize..50, 0u8..4).prop_map(|(nth, end)| Step::Close { nth, end }),
        ],
    )
}

struct World {
    map: RefCell<Map>,
    workers: Vec<RefCell<Router>>,
    open: RefCell<Vec<(Picks, Ticket)>>,
    now: Micros,
}

const PROMPTS: u64 = 12;

/// Prompts of three conversations, each of which goes on in two ways, and in each of them ends early or late.
fn prompt_of(nth: u64) -> &'static str {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
        let of = |nth| text(nth % 3, 700) + &text(100 + nth % 6, if nth < 6 { 300 } else { 700 });
        (0..PROMPTS).map(of).collect()
    });
    &ALL[nth as usize]
}

impl World {
    fn run(&self, worker: usize, step: &Step, shared: &mut impl SharedData) {
        let mut router = self.workers[worker].borrow_mut();
        let take = |nth: usize| {
            let mut open = self.open.borrow_mut();
            let len = open.len();
            (len > 0).then(|| open.swap_remove(nth % len))
        };
        match step {
            Step::Decide { prompt } => {
                let decided =
                    with_request(prompt_of(*prompt), |r| router.decide(RouteBy::Prompt(r), shared, self.now));
                if let Ok(decision) = decided {
                    self.open.borrow_mut().push((decision.picks, decision.ticket));
                }
            }
            Step::Start(nth) => {
                if let Some((picks, mut ticket)) = take(*nth) {
                    router.start(&mut ticket, shared, self.now + SECOND).unwrap();
                    self.open.borrow_mut().push((picks, ticket));
                }
            }
            Step::Move(nth) => {
                if let Some((picks, mut ticket)) = take(*nth) {
                    if !ticket.started()
                        && let Some(to) = picks.iter().find(|&slot| slot != ticket.slot())
                    {
                        router.failed_over(&mut ticket, 1, Some(to), shared, self.now).unwrap();
                    }
                    self.open.borrow_mut().push((picks, ticket));
                }
            }
            Step::Fail(nth) => {
                if let Some((picks, ticket)) = take(*nth) {
                    router.unanswered(&ticket, 1, shared, self.now).unwrap();
                    self.open.borrow_mut().push((picks, ticket));
                }
            }
            Step::Close { nth, end } => {
                if let Some((_, ticket)) = take(*nth) {
                    let usage = Usage { prompt_tokens: Tokens(200), cached_tokens: Some(Tokens(20)) };
                    let end = match end {
                        0 => End::Aborted,
                        1 => End::UpstreamError { at: self.now },
                        _ => End::Answered { usage: (*end == 2).then_some(usage), at: self.now },
                    };
                    router.close(ticket, end, shared).unwrap();
                }
            }
        }
    }

    /// In flight, waiting, and work of those that wait, pod by pod, as the ledger has it.
    fn counted(&self) -> Vec<(u32, u32, u32)> {
        let map = self.map.borrow();
        let ledger = map.get("warmpath/default/ledger").map(|(bytes, _)| Ledger::decode(bytes).unwrap());
        let entry = |slot| ledger.as_ref().map_or(PodAccount::new(0), |ledger| ledger.account(slot));
        Slot::all()
            .take(PODS)
            .map(entry)
            .map(|entry| (entry.in_flight, entry.waiting, entry.outstanding.0))
            .collect()
    }

    /// The same by the tickets that are open.
    fn expected(&self) -> Vec<(u32, u32, u32)> {
        let mut counts = vec![(0, 0, 0); PODS];
        for (_, ticket) in self.open.borrow().iter() {
            let (in_flight, waiting, work) = &mut counts[usize::from(ticket.slot())];
            *in_flight += 1;
            if !ticket.started() {
                *waiting += 1;
                *work += ticket.tokens().0;
            }
        }
        counts
    }

    /// What each pod holds of each prompt, as a worker believes once it has read all that others wrote.
    fn believed(&self, worker: usize) -> Vec<Vec<u16>> {
        let mut router = self.workers[worker].borrow_mut();
        router.follow(&*self.map.borrow(), usize::MAX);
        let of = |nth| with_request(prompt_of(nth), |request| router.matched_blocks(request));
        (0..PROMPTS).map(of).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever workers do, and whoever comes between whose read and write: the ledger counts exactly the requests that are
    /// open, pod by pod, all workers believe the same of every pod once they have read the log, and nothing is left when all
    /// requests have ended.
    #[test]
    fn nothing_leaks_and_nothing_goes_negative(steps in prop::collection::vec((steps(), prop::option::of(steps())), 1..120)) {
        let gateway = Gateway::new(&config(PODS, ""), 4);
        let mut world = World {
            map: RefCell::new(gateway.shared),
            workers: gateway.workers.into_iter().map(RefCell::new).collect(),
            open: RefCell::new(Vec::new()),
            now: Micros::ZERO,
        };
        for (nth, ((worker, step), interruption)) in steps.into_iter().enumerate() {
            world.now = world.now + 700 * MILLISECOND;
            let interrupt: Option<Box<dyn FnOnce()>> = match &interruption {
                Some((other, step)) if *other != worker => {
                    let world = &world;
                    Some(Box::new(move || {
                        world.run(*other, step, &mut Interrupted { map: &world.map, interrupt: RefCell::new(None) });
                    }))
                }
                _ => None,
            };
            let mut shared = Interrupted { map: &world.map, interrupt: RefCell::new(interrupt) };
            world.run(worker, &step, &mut shared);
            drop(shared);
            prop_assert_eq!(world.counted(), world.expected());
            // Now and then, so that at other times a worker is behind.
            if nth % 16 == 15 {
                let believed = world.believed(0);
                for worker in 1..4 {
                    prop_assert_eq!(&world.believed(worker), &believed, "worker {}", worker);
                }
            }
        }
        for (_, ticket) in world.open.take() {
            world.workers[0].borrow_mut().close(ticket, End::Aborted, &mut *world.map.borrow_mut()).unwrap();
        }
        let ledger = Ledger::decode(world.map.borrow().get("warmpath/default/ledger").unwrap_or_default().0).unwrap_or_default();
        for slot in 0..ledger.slots() {
            let entry = ledger.account(Slot(slot as u16));
            prop_assert_eq!((entry.in_flight, entry.waiting, entry.outstanding.0), (0, 0, 0));
        }
    }
}

/// A page with counters, of a pod that sleeps or not.
fn counted_page(running: u32, computed_tokens: u64, awake: bool) -> String {
    format!(
        "{}vllm:generation_tokens_total{{engine=\"0\"}} {computed_tokens}\n\
         vllm:engine_sleep_state{{engine=\"0\",sleep_state=\"awake\"}} {}\n",
        page(running, 0, 1.0),
        u8::from(awake)
    )
}

#[test]
fn a_sleeping_pod_gets_nothing_and_holds_nothing_once_awake() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    let prompt = text(1, 4000);
    let decision = gateway.decide(0, &prompt, SECOND);
    let home = decision.ticket.slot();
    gateway.answer(0, decision.ticket, None, SECOND);
    assert!(gateway.held(1, &prompt)[usize::from(home)] > 3900);
    gateway.scrape(|slot| counted_page(0, 5, slot != home), 2 * SECOND);
    for n in 0..20 {
        let decision = gateway.decide(n % 2, &prompt, 2 * SECOND);
        assert!(decision.picks.iter().all(|slot| slot != home), "not even as a runner-up");
        gateway.answer(n % 2, decision.ticket, None, 2 * SECOND);
    }
    gateway.scrape(|_| counted_page(0, 5, true), 4 * SECOND);
    assert_eq!(gateway.held(0, &prompt)[usize::from(home)], 0);
    assert!(gateway.workers[0].candidates().iter().any(|candidate| candidate.rank == Rank::Asleep));
    drop(gateway.decide(0, &text(2, 100), 4 * SECOND));
    assert!(gateway.workers[0].candidates().iter().all(|candidate| candidate.rank == Rank::Ready));
}

#[test]
fn no_pod_is_named_when_all_sleep() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    gateway.scrape(|_| counted_page(0, 5, false), SECOND);
    let decided = with_request("x", |request| {
        gateway.workers[0].decide(RouteBy::Prompt(request), &mut gateway.shared, SECOND)
    });
    assert_eq!(decided.map(drop), Err(NoPod::AllCoolingDown));
}

#[test]
fn a_conversation_leaves_an_engine_that_hangs_although_its_page_is_served() {
    let mut gateway = Gateway::new(&config(3, ""), 1);
    let prompt = text(1, 20_000);
    let decision = gateway.decide(0, &prompt, SECOND);
    let home = decision.ticket.slot();
    gateway.answer(0, decision.ticket, None, SECOND);
    let mut now = SECOND;
    let mut met = Vec::new();
    // The client gives up after four seconds and tries again; others' pods compute.
    for attempt in 0..6 {
        let decision = gateway.decide(0, &prompt, now);
        met.push(decision.ticket.slot());
        for tick in 1..=40u64 {
            let count = 1000 * (attempt * 40 + tick);
            gateway.scrape(
                |slot| counted_page(2, if slot == home { 7 } else { count }, true),
                now + tick * 100 * MILLISECOND,
            );
        }
        now = now + 4 * SECOND;
        gateway.close(0, decision.ticket, End::Aborted);
    }
    assert_eq!(met.first(), Some(&home), "it holds the conversation");
    assert!(met.iter().skip(3).all(|&slot| slot != home), "from the fourth try on: {met:?}");
}

#[test]
fn a_sample_of_plain_routing_goes_by_load_and_is_known_to_lie_there() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let prompt = text(1, 4000);
    let first = gateway.decide(0, &prompt, MILLISECOND);
    let home = first.ticket.slot();
    gateway.answer(0, first.ticket, None, 2 * MILLISECOND);
    assert_eq!(gateway.decide(0, &prompt, 3 * MILLISECOND).reason, Reason::Prefix);
    // The pod that holds the prompt has a request in flight, and so the other one is less busy.
    let plain = with_request(&prompt, |request| {
        gateway.workers[0].decide(RouteBy::Plain(request), &mut gateway.shared, 4 * MILLISECOND).unwrap()
    });
    assert_ne!(plain.ticket.slot(), home);
    assert_eq!((plain.reason, plain.left, plain.matched_tokens.0), (Reason::Plain, None, 0));
    assert!(plain.tokens.0 > 900 && plain.ticket.tokens().0 > 900, "it is booked with all that the pod computes");
    let held = gateway.held(0, &prompt);
    assert!(held.iter().all(|&bytes| bytes > 3000), "both pods hold it now: {held:?}");
}

#[test]
fn a_conversation_that_leaves_its_pod_names_it() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let prompt = text(1, 4000);
    let first = gateway.decide(0, &prompt, MILLISECOND);
    let home = first.ticket.slot();
    assert_eq!((first.reason, first.left), (Reason::Load, None));
    gateway.answer(0, first.ticket, None, 2 * MILLISECOND);
    let failed = gateway.decide(0, &prompt, 3 * MILLISECOND);
    assert_eq!((failed.ticket.slot(), failed.reason), (home, Reason::Prefix));
    gateway.workers[0].failed_upstream(&failed.ticket, &mut gateway.shared, 4 * MILLISECOND).unwrap();
    let next = gateway.decide(0, &prompt, 5 * MILLISECOND);
    assert_eq!((next.reason, next.left), (Reason::Away, Some(home)));
    let account = gateway.accounts()[usize::from(home)];
    assert_eq!((account.opened, account.failed, account.erred), (2, 1, 0));
}
