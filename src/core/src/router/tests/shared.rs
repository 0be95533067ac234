//! What workers have in common: the log, the table and the keys, for a worker that comes late or falls
//! behind.

use std::cell::RefCell;

use super::*;

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

/// A map that notes which keys are read.
struct Watched<'a> {
    map: &'a mut Map,
    read: RefCell<Vec<String>>,
}

impl SharedData for Watched<'_> {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.read.borrow_mut().push(key.to_owned());
        self.map.get(key)
    }

    fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        self.map.set(key, value, cas)
    }
}

#[test]
fn a_chat_reads_the_ledger_once_when_it_is_decided_and_once_when_it_ends() {
    let mut gateway = Gateway::new(&config(3, ""), 1);
    let mut shared = Watched { map: &mut gateway.shared, read: RefCell::default() };
    let worker = &mut gateway.workers[0];
    let decision = with_request("a prompt", |request| {
        worker.decide(RouteBy::Prompt(request), &mut shared, SECOND).unwrap()
    });
    worker.close(decision.ticket, End::Answered { usage: MISS, at: 2 * SECOND }, &mut shared).unwrap();
    assert_eq!(shared.read.into_inner(), ["warmpath/default/ledger"; 2]);
}
