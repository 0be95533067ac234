//! Several routers over one map: they must decide as one, whatever any of them writes in between.

mod classes;
mod failures;
mod learning;
mod model;
mod races;
mod shared;
mod states;

use super::*;
use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::answer::usage::Usage;
use crate::collector::Collector;
use crate::decide::pick::{Picks, Rank};
use crate::decide::reason::Reason;
use crate::request::blocks::mix;
use crate::request::parse;
use crate::shared::store::{Conflict, Contended, Map};
use crate::{Bytes, MILLISECOND, Random, SECOND, Slot, Tokens};

/// An answer to a prompt of which the pod held nothing.
const MISS: Option<Usage> = Some(Usage { prompt_tokens: Tokens(2000), cached_tokens: Some(Tokens(0)) });

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

    /// Canonical bytes of the prompt that each pod holds, as a worker believes once it has read all that
    /// others wrote.
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
