use super::*;
use crate::announce::Announcer;
use crate::shared::Map;

const PODS: &[u8] = br#"{"pods":["10.0.0.1:8000","10.0.0.2:8000"]}"#;

fn page(running: u32, waiting: u32, started: f64) -> Vec<u8> {
    format!("vllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\nprocess_start_time_seconds {started}\n")
        .into_bytes()
}

fn start() -> (Collector, Map) {
    let shared = Map::default();
    let collector = Collector::new(&Config::parse(PODS).unwrap(), &shared, 7, 0);
    (collector, shared)
}

/// Scrapes everything that is due, and gives every pod the same page.
fn round(collector: &mut Collector, shared: &mut Map, page: &[u8], now: Micros) -> usize {
    let due = collector.due(shared, now);
    for due in &due {
        collector.take(due, page, shared, now);
        collector.done(due, Some(30), now);
    }
    due.len()
}

#[test]
fn pods_are_published_before_the_first_scrape() {
    let (mut collector, mut shared) = start();
    assert_eq!(collector.publish(&mut shared, 5), Some(1));
    let table = Table::decode(&shared.get("warmpath/default/table").unwrap().0).unwrap();
    assert_eq!(
        table.live().map(|(_, p)| (p.address.as_str(), p.state)).collect::<Vec<_>>(),
        [("10.0.0.1:8000", State::Unknown), ("10.0.0.2:8000", State::Unknown)]
    );
    assert_eq!(collector.publish(&mut shared, 6), None, "nothing has moved");
    assert_eq!(collector.publish(&mut shared, 5 + SECOND), Some(2), "a sign of life");
}

#[test]
fn a_failed_scrape_marks_and_does_not_drop() {
    let (mut collector, mut shared) = start();
    assert_eq!(round(&mut collector, &mut shared, &page(3, 1, 9.0), 0), 2);
    let due = collector.due(&shared, 2 * SECOND);
    collector.fail(&due[0], Trouble::Unreachable);
    collector.fail(&due[1], Trouble::Unreadable);
    due.iter().for_each(|d| collector.done(d, None, 2 * SECOND));
    let states: Vec<State> = collector.table().live().map(|(_, p)| p.state).collect();
    assert_eq!(states, [State::Unreachable, State::Unreadable]);
    assert_eq!(collector.table().pods[0].running, 3.0, "what is known ages, it is not forgotten");
    round(&mut collector, &mut shared, &page(0, 0, 9.0), 4 * SECOND);
    assert_eq!(collector.table().pods[0].recovered_at, 4 * SECOND);
    assert_eq!(collector.table().pods[1].recovered_at, 0);
    let due = collector.due(&shared, 6 * SECOND);
    collector.take(&due[0], b"<html>", &mut shared, 6 * SECOND);
    assert_eq!(collector.table().pods[0].state, State::Unreadable);
}

#[test]
fn a_restart_is_another_pod_to_everyone() {
    let (mut collector, mut shared) = start();
    round(&mut collector, &mut shared, &page(0, 0, 100.0), 0);
    let ids: Vec<u32> = collector.table().pods.iter().map(|p| p.id).collect();
    round(&mut collector, &mut shared, &page(0, 0, 100.4), 2 * SECOND);
    assert_eq!(collector.table().pods.iter().map(|p| p.id).collect::<Vec<_>>(), ids);
    round(&mut collector, &mut shared, &page(0, 0, 150.0), 4 * SECOND);
    assert!(collector.table().pods.iter().all(|p| !ids.contains(&p.id)));
}

#[test]
fn pods_come_and_go_and_keep_their_slots() {
    let (mut collector, mut shared) = start();
    let late = collector.due(&shared, 0);
    collector.set_pods(&["10.0.0.2:8000".into(), "10.0.0.3:8000".into()], 0);
    let table = collector.table();
    assert_eq!(
        table.pods.iter().map(|p| p.address.as_str()).collect::<Vec<_>>(),
        ["10.0.0.3:8000", "10.0.0.2:8000"]
    );
    // The answer of the pod that has gone is not taken for the new one's.
    collector.take(&late[0], &page(9, 9, 1.0), &mut shared, 1);
    assert_eq!(collector.table().pods[0].state, State::Unknown);
}

#[test]
fn the_next_collector_goes_on_from_the_table() {
    let (mut collector, mut shared) = start();
    round(&mut collector, &mut shared, &page(1, 0, 1.0), 0);
    collector.publish(&mut shared, 0);
    let next = Collector::new(&Config::parse(PODS).unwrap(), &shared, 8, SECOND);
    assert_eq!(next.table().pods, collector.table().pods);
    assert_eq!(next.table().generation, 1);
}

#[test]
fn what_the_ledger_counts_is_not_foreign() {
    let (mut collector, mut shared) = start();
    let mut ledger = Ledger::default();
    ledger.grow(2);
    let mut entry = Entry::of(collector.table().pods[0].id, ledger.entry(0));
    (0..4).for_each(|_| entry.open(10, 0));
    entry.start(10, 0, 0);
    ledger.write(0, &entry);
    shared.set("warmpath/default/ledger", ledger.encode(), None).unwrap();
    for n in 0..2 {
        round(&mut collector, &mut shared, &page(3, 5, 1.0), n * 2 * SECOND);
    }
    let pods = &collector.table().pods;
    // Eight requests there, four of them ours, three of ours waiting.
    assert_eq!((pods[0].foreign_running, pods[0].foreign_waiting), (2.0, 2.0));
    assert_eq!((pods[1].foreign_running, pods[1].foreign_waiting), (3.0, 5.0));
}

#[test]
fn leaked_requests_are_taken_out_when_scrapes_contradict_long_enough() {
    let (mut collector, mut shared) = start();
    let mut ledger = Ledger::default();
    ledger.grow(2);
    let mut entry = Entry::of(collector.table().pods[0].id, ledger.entry(0));
    (0..5).for_each(|_| entry.open(100, 0));
    ledger.write(0, &entry);
    shared.set("warmpath/default/ledger", ledger.encode(), None).unwrap();
    let entry =
        |shared: &Map| Ledger::decode(shared.get("warmpath/default/ledger").unwrap().0).unwrap().entry(0);
    let mut now = 0;
    while now < HEAL_AFTER {
        assert_eq!(entry(&shared).in_flight, 5, "not before, at {now}");
        round(&mut collector, &mut shared, &page(2, 0, 1.0), now);
        now += 2 * SECOND;
    }
    round(&mut collector, &mut shared, &page(2, 0, 1.0), now);
    let healed = entry(&shared);
    assert_eq!((healed.in_flight, healed.waiting, healed.work), (2, 2, 200));
    for n in 1..20 {
        round(&mut collector, &mut shared, &page(2, 0, 1.0), now + n * 2 * SECOND);
    }
    assert_eq!(entry(&shared).in_flight, 2, "and no further");
}

#[test]
fn pods_that_routers_announce_are_followed() {
    let (mut collector, mut shared) = start();
    let pods = ["10.0.0.2:8000".into(), "10.0.0.9:8000".into()];
    Announcer::configured("warmpath/default/pods", &pods, &mut shared, 0);
    let due = collector.due(&shared, 0);
    let mut addresses: Vec<&str> = due.iter().map(|d| d.address.as_str()).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, ["10.0.0.2:8000", "10.0.0.9:8000"]);
}
