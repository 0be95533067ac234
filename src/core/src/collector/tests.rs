use super::sender::MOST_PAGES_OF_ANOTHER;
use super::*;
use crate::Tokens;
use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::account::pod_health::Observed;
use crate::discovery::{Member, Members};
use crate::scrape::leaks::RECONCILE_AFTER;
use crate::shared::clusters::Cluster;
use crate::shared::membership::{PodList, announce};
use crate::shared::store::Map;

const PODS: &[u8] = br#"{"pods":["10.0.0.1:8000","10.0.0.2:8000"]}"#;

fn page(running: u32, waiting: u32, started: f64) -> Vec<u8> {
    format!("vllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\nprocess_start_time_seconds {started}\n")
        .into_bytes()
}

fn start() -> (Collector, Map) {
    let shared = Map::default();
    let collector = Collector::new(&Config::parse(PODS).unwrap(), &shared, 7, Micros::ZERO);
    (collector, shared)
}

/// Scrapes everything that is due, and gives every pod the same page.
fn round(collector: &mut Collector, shared: &mut Map, page: &[u8], now: Micros) -> usize {
    let due = collector.due(shared, now);
    for due in &due {
        collector.take(due, page, shared, now);
        collector.done(due, Some(Micros(30)), now);
    }
    due.len()
}

#[test]
fn pods_are_published_before_the_first_scrape() {
    let (mut collector, mut shared) = start();
    assert_eq!(collector.publish(&mut shared, Micros(5)), Some(1));
    let table = PodTable::decode(&shared.get("warmpath/default/table").unwrap().0).unwrap();
    assert_eq!(
        table.live().map(|(_, p)| (p.address.as_str(), p.state)).collect::<Vec<_>>(),
        [("10.0.0.1:8000", PodState::Unknown), ("10.0.0.2:8000", PodState::Unknown)]
    );
    assert_eq!(collector.publish(&mut shared, Micros(6)), None, "nothing has moved");
    assert_eq!(collector.publish(&mut shared, Micros(5) + SECOND), Some(2), "a sign of life");
}

#[test]
fn a_failed_scrape_marks_and_does_not_drop() {
    let (mut collector, mut shared) = start();
    assert_eq!(round(&mut collector, &mut shared, &page(3, 1, 9.0), Micros::ZERO), 2);
    let due = collector.due(&shared, 2 * SECOND);
    collector.fail(&due[0], ScrapeFailure::Unreachable);
    collector.fail(&due[1], ScrapeFailure::Unreadable);
    due.iter().for_each(|d| collector.done(d, None, 2 * SECOND));
    let states: Vec<PodState> = collector.table().live().map(|(_, p)| p.state).collect();
    assert_eq!(states, [PodState::Unreachable, PodState::Unreadable]);
    assert_eq!(collector.table().pods[0].running, 3.0, "what is known ages, it is not forgotten");
    round(&mut collector, &mut shared, &page(0, 0, 9.0), 4 * SECOND);
    assert_eq!(collector.table().pods[0].recovered_at, 4 * SECOND);
    assert_eq!(collector.table().pods[1].recovered_at, Micros::ZERO);
    let due = collector.due(&shared, 6 * SECOND);
    collector.take(&due[0], b"<html>", &mut shared, 6 * SECOND);
    assert_eq!(collector.table().pods[0].state, PodState::Unreadable);
}

#[test]
fn a_restart_is_another_pod_to_everyone() {
    let (mut collector, mut shared) = start();
    round(&mut collector, &mut shared, &page(0, 0, 100.0), Micros::ZERO);
    let ids: Vec<u32> = collector.table().pods.iter().map(|p| p.id).collect();
    round(&mut collector, &mut shared, &page(0, 0, 100.4), 2 * SECOND);
    assert_eq!(collector.table().pods.iter().map(|p| p.id).collect::<Vec<_>>(), ids);
    round(&mut collector, &mut shared, &page(0, 0, 150.0), 4 * SECOND);
    assert!(collector.table().pods.iter().all(|p| !ids.contains(&p.id)));
}

#[test]
fn pods_come_and_go_and_keep_their_slots() {
    let (mut collector, mut shared) = start();
    let late = collector.due(&shared, Micros::ZERO);
    collector.set_pods(&["10.0.0.2:8000".into(), "10.0.0.3:8000".into()], Micros::ZERO);
    let table = collector.table();
    assert_eq!(
        table.pods.iter().map(|p| p.address.as_str()).collect::<Vec<_>>(),
        ["10.0.0.3:8000", "10.0.0.2:8000"]
    );
    // The answer of the pod that has gone is not taken for the new one's.
    collector.take(&late[0], &page(9, 9, 1.0), &mut shared, Micros(1));
    assert_eq!(collector.table().pods[0].state, PodState::Unknown);
}

#[test]
fn the_next_collector_goes_on_from_the_table() {
    let (mut collector, mut shared) = start();
    round(&mut collector, &mut shared, &page(1, 0, 1.0), Micros::ZERO);
    collector.publish(&mut shared, Micros::ZERO);
    let next = Collector::new(&Config::parse(PODS).unwrap(), &shared, 8, SECOND);
    assert_eq!(next.table().pods, collector.table().pods);
    assert_eq!(next.table().generation, 1);
}

#[test]
fn what_the_ledger_counts_is_not_foreign() {
    let (mut collector, mut shared) = start();
    let mut ledger = Ledger::default();
    ledger.grow(2);
    let mut entry = PodAccount::new(collector.table().pods[0].id);
    (0..4).for_each(|_| _ = entry.open(Tokens(10), Micros::ZERO));
    entry.start(Tokens(10), Observed { sent_at: Micros::ZERO, at: Micros::ZERO });
    ledger.set_account(Slot(0), &entry);
    shared.set("warmpath/default/ledger", ledger.as_ref(), None).unwrap();
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
    let mut entry = PodAccount::new(collector.table().pods[0].id);
    (0..5).for_each(|_| _ = entry.open(Tokens(100), Micros::ZERO));
    ledger.set_account(Slot(0), &entry);
    shared.set("warmpath/default/ledger", ledger.as_ref(), None).unwrap();
    let entry = |shared: &Map| {
        Ledger::decode(shared.get("warmpath/default/ledger").unwrap().0).unwrap().account(Slot(0))
    };
    let mut now = Micros::ZERO;
    while now < RECONCILE_AFTER {
        assert_eq!(entry(&shared).in_flight, 5, "not before, at {now:?}");
        round(&mut collector, &mut shared, &page(2, 0, 1.0), now);
        now = now + 2 * SECOND;
    }
    round(&mut collector, &mut shared, &page(2, 0, 1.0), now);
    let healed = entry(&shared);
    assert_eq!((healed.in_flight, healed.waiting, healed.outstanding.0), (2, 2, 200));
    for n in 1..20 {
        round(&mut collector, &mut shared, &page(2, 0, 1.0), now + n * 2 * SECOND);
    }
    assert_eq!(entry(&shared).in_flight, 2, "and no further");
}

#[test]
fn pods_that_routers_announce_are_followed() {
    let (mut collector, mut shared) = start();
    let list = PodList { revision: 0, pods: vec!["10.0.0.2:8000".into(), "10.0.0.9:8000".into()] };
    announce("warmpath/default/pods", &list, &mut shared).unwrap();
    let due = collector.due(&shared, Micros::ZERO);
    let mut addresses: Vec<&str> = due.iter().map(|d| d.address.as_str()).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, ["10.0.0.2:8000", "10.0.0.9:8000"]);
}

#[test]
fn a_restart_while_nobody_collected_is_seen_by_the_next_collector() {
    let (mut collector, mut shared) = start();
    round(&mut collector, &mut shared, &page(0, 0, 100.0), Micros::ZERO);
    collector.publish(&mut shared, Micros::ZERO);
    let ids: Vec<u32> = collector.table().pods.iter().map(|p| p.id).collect();
    let mut next = Collector::new(&Config::parse(PODS).unwrap(), &shared, 8, 10 * SECOND);
    round(&mut next, &mut shared, &page(0, 0, 150.0), 10 * SECOND);
    assert!(next.table().pods.iter().all(|p| !ids.contains(&p.id)));
    // A page without the time of the start says nothing, and forgets nothing.
    let ids: Vec<u32> = next.table().pods.iter().map(|p| p.id).collect();
    let silent = b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n";
    round(&mut next, &mut shared, silent, 12 * SECOND);
    round(&mut next, &mut shared, &page(0, 0, 150.0), 14 * SECOND);
    assert_eq!(next.table().pods.iter().map(|p| p.id).collect::<Vec<_>>(), ids);
}

#[test]
fn the_identity_of_a_pod_that_has_gone_is_not_given_again() {
    let (mut collector, mut shared) = start();
    let gone = collector.table().pods[1].id;
    collector.set_pods(&["10.0.0.1:8000".into()], Micros::ZERO);
    collector.publish(&mut shared, Micros::ZERO);
    let mut next = Collector::new(&Config::parse(b"{}").unwrap(), &shared, 8, SECOND);
    next.set_pods(&["10.0.0.1:8000".into(), "10.0.0.3:8000".into()], SECOND);
    assert!(next.table().pods[1].id > gone);
    // Not even when the table is lost.
    let mut ledger = Ledger::default();
    ledger.grow(1);
    ledger.set_account(Slot(0), &PodAccount::new(70));
    shared.set("warmpath/default/ledger", ledger.as_ref(), None).unwrap();
    shared.set("warmpath/default/table", b"garbage", None).unwrap();
    let next = Collector::new(&Config::parse(PODS).unwrap(), &shared, 8, SECOND);
    assert_eq!(next.table().pods.iter().map(|p| p.id).collect::<Vec<_>>(), [71, 72]);
}

#[test]
fn identities_tell_a_restart_from_another_address() {
    let (mut collector, mut shared) = start();
    round(&mut collector, &mut shared, &page(0, 0, 100.0), Micros::ZERO);
    round(&mut collector, &mut shared, &page(0, 0, 150.0), 2 * SECOND);
    let pod = &collector.table().pods[0];
    assert!(pod.first_id < pod.id);
    collector.set_pods(&["10.0.0.2:8000".into(), "10.0.0.3:8000".into()], 3 * SECOND);
    let pod = &collector.table().pods[0];
    assert_eq!(pod.first_id, pod.id);
}

#[test]
fn what_is_on_its_way_in_a_steady_stream_is_no_leak() {
    let (mut collector, mut shared) = start();
    let id = collector.table().pods[0].id;
    let mut entry = PodAccount::new(id);
    // 200 requests per second, 20 of them at any time between Envoy and the pod, 50 in the pod; and 5 leaked
    // ones.
    (0..75).for_each(|_| _ = entry.open(Tokens(100), Micros::ZERO));
    let mut ledger = Ledger::default();
    ledger.grow(2);
    let mut healed = 0;
    for tick in 0..400 {
        let now = tick * SECOND / 10;
        for _ in 0..20 {
            entry.open(Tokens(100), now);
            entry.start(Tokens(100), Observed { sent_at: now, at: now });
            entry.close(None);
        }
        ledger.set_account(Slot(0), &entry);
        shared.set("warmpath/default/ledger", ledger.as_ref(), None).unwrap();
        round(&mut collector, &mut shared, &page(50, 0, 1.0), now);
        ledger = Ledger::decode(shared.get("warmpath/default/ledger").unwrap().0).unwrap();
        healed += entry.in_flight - ledger.account(Slot(0)).in_flight;
        entry = ledger.account(Slot(0));
    }
    assert_eq!((healed, entry.in_flight), (0, 75), "5 are within what the stream may hold");
    // The stream ends, the leak stays behind.
    (0..20).for_each(|_| entry.close(None));
    ledger.set_account(Slot(0), &entry);
    shared.set("warmpath/default/ledger", ledger.as_ref(), None).unwrap();
    for tick in 40..60 {
        round(&mut collector, &mut shared, &page(50, 0, 1.0), tick * SECOND);
    }
    let entry = Ledger::decode(shared.get("warmpath/default/ledger").unwrap().0).unwrap().account(Slot(0));
    assert_eq!(entry.in_flight, 50);
}

#[test]
fn leaked_requests_take_what_they_wait_for_with_them() {
    let (mut collector, mut shared) = start();
    let mut entry = PodAccount::new(collector.table().pods[0].id);
    (0..9).for_each(|_| _ = entry.open(Tokens(100), Micros::ZERO));
    (0..6).for_each(|_| entry.start(Tokens(100), Observed { sent_at: Micros::ZERO, at: Micros::ZERO }));
    let mut ledger = Ledger::default();
    ledger.grow(2);
    ledger.set_account(Slot(0), &entry);
    shared.set("warmpath/default/ledger", ledger.as_ref(), None).unwrap();
    // Six decode; the three that wait are nowhere.
    for tick in 0..8 {
        round(&mut collector, &mut shared, &page(6, 0, 1.0), tick * 2 * SECOND);
    }
    let entry = Ledger::decode(shared.get("warmpath/default/ledger").unwrap().0).unwrap().account(Slot(0));
    assert_eq!((entry.in_flight, entry.waiting, entry.outstanding.0), (6, 0, 0));
}

/// A collector for the pods of a cluster with these hosts, each with a page of its own: the start of its
/// process.
struct Discovered {
    collector: Collector,
    shared: Map,
}

impl Discovered {
    fn of(hosts: &[&str]) -> Discovered {
        let config = Config::parse(br#"{"destination":"list","discovery":{}}"#).unwrap();
        let shared = Map::default();
        let collector = Collector::new(&config, &shared, 7, Micros::ZERO);
        let mut discovered = Discovered { collector, shared };
        discovered.look(hosts, Micros::ZERO);
        discovered
    }

    /// Envoy's clusters are looked at, and these are the hosts.
    fn look(&mut self, hosts: &[&str], now: Micros) {
        let pods = hosts
            .iter()
            .map(|address| Member { address: (*address).to_owned(), candidate_of: ClusterSet::nth(0) });
        let clusters = vec![Cluster { name: "a".into(), steered: true }];
        self.collector.set_members(&Members { clusters, pods: pods.collect() }, now);
        self.collector.looked_at(now);
    }

    /// Scrapes all pods at `now`; the pod in each slot answers with the start that is given for it.
    fn scrape(&mut self, started: &[f64], now: Micros) {
        for due in self.collector.due(&self.shared, now) {
            let page = page(0, 0, started[usize::from(due.slot)]);
            self.collector.take(&due, &page, &mut self.shared, now);
            self.collector.done(&due, None, now);
        }
    }

    fn ids(&self) -> Vec<u32> {
        self.collector.table().pods.iter().map(|pod| pod.id).collect()
    }
}

#[test]
fn a_page_of_another_process_counts_once_the_clusters_were_looked_at_and_it_is_told_again() {
    let hosts = ["10.0.0.1:8000", "10.0.0.2:8000"];
    let mut pods = Discovered::of(&hosts);
    pods.scrape(&[100.0, 200.0], Micros::ZERO);
    let ids = pods.ids();
    // The cluster may be another one by now.
    pods.scrape(&[100.0, 300.0], 2 * SECOND);
    assert_eq!((pods.ids(), pods.collector.misrouted(), pods.collector.doubts()), (ids.clone(), 1, true));
    pods.scrape(&[100.0, 300.0], 4 * SECOND);
    assert_eq!((pods.ids(), pods.collector.misrouted()), (ids.clone(), 2), "nobody has looked yet");
    pods.look(&hosts, 5 * SECOND);
    assert!(!pods.collector.doubts());
    pods.scrape(&[100.0, 300.0], 6 * SECOND);
    assert_eq!(pods.collector.misrouted(), 2);
    assert!(pods.ids()[0] == ids[0] && pods.ids()[1] != ids[1], "it has restarted");
}

#[test]
fn pages_of_many_other_processes_are_nobodys() {
    let hosts = ["10.0.0.1:8000"];
    let mut pods = Discovered::of(&hosts);
    pods.scrape(&[100.0], Micros::ZERO);
    let ids = pods.ids();
    for turn in 1..20u64 {
        pods.scrape(&[if turn % 2 == 0 { 300.0 } else { 400.0 }], turn * 2 * SECOND);
        pods.look(&hosts, turn * 2 * SECOND + SECOND);
    }
    assert_eq!((pods.ids(), pods.collector.misrouted()), (ids.clone(), 19));
    pods.scrape(&[100.4], 60 * SECOND);
    assert!(!pods.collector.doubts(), "its own page again");
    assert_eq!(pods.ids(), ids);
}

#[test]
fn the_one_host_of_a_cluster_that_answers_for_several_processes_is_told_once() {
    let mut told = Vec::new();
    for hosts in [&["10.96.0.7:8000"][..], &["10.96.0.7:8000", "10.0.0.2:8000"]] {
        let mut pods = Discovered::of(hosts);
        let (mut connected_to, mut closes) = (0, false);
        for second in 0..60u64 {
            let now = second * SECOND;
            for due in pods.collector.due(&pods.shared, now) {
                // Where one connection has ended, the next one leads to the next pod.
                connected_to +=
                    u64::from(std::mem::replace(&mut closes, pods.collector.take_close(&due, now)));
                let page = page(0, 0, 100.0 * (1 + connected_to % 3) as f64);
                pods.collector.take(&due, &page, &mut pods.shared, now);
                pods.collector.done(&due, None, now);
            }
            pods.look(hosts, now + SECOND / 2);
            told.extend(pods.collector.several_at().map(|address| (address, hosts.len())));
        }
    }
    assert_eq!(told, [("10.96.0.7:8000".to_owned(), 1)]);
}

#[test]
fn many_pages_of_another_process_count_though_nobody_looks_at_the_clusters() {
    let mut pods = Discovered::of(&["10.0.0.1:8000"]);
    pods.scrape(&[100.0], Micros::ZERO);
    let ids = pods.ids();
    for turn in 1..=u64::from(MOST_PAGES_OF_ANOTHER) {
        pods.scrape(&[300.0], turn * 2 * SECOND);
    }
    assert_eq!(pods.ids(), ids);
    pods.scrape(&[300.0], 200 * SECOND);
    assert_ne!(pods.ids(), ids);
}

#[test]
fn a_pod_that_gets_no_requests_is_scraped_once_a_second_and_at_once_when_it_gets_some() {
    let mut pods = Discovered::of(&["10.0.0.1:8000"]);
    let mut members = Members {
        clusters: vec![Cluster { name: "a".into(), steered: true }],
        pods: vec![Member { address: "10.0.0.1:8000".into(), candidate_of: ClusterSet::NONE }],
    };
    pods.collector.set_members(&members, Micros::ZERO);
    let mut scrapes = 0;
    for tick in 0..100u64 {
        // There is traffic, so that a pod that gets requests is scraped ten times per second.
        pods.collector.schedule.note_traffic(tick, tick * 100 * crate::MILLISECOND);
        let due = pods.collector.due(&pods.shared, tick * 100 * crate::MILLISECOND);
        scrapes += due.len();
        due.iter().for_each(|due| pods.collector.done(due, None, tick * 100 * crate::MILLISECOND));
    }
    assert!((8..=12).contains(&scrapes), "{scrapes} scrapes in ten seconds");
    members.pods[0].candidate_of = ClusterSet::nth(0);
    pods.collector.set_members(&members, 10 * SECOND);
    assert_eq!(pods.collector.due(&pods.shared, 10 * SECOND).len(), 1);
}

const ONE: &[u8] = br#"{"pods":["10.0.0.1:8000"]}"#;
const TWO_ENGINES: &[u8] =
    include_bytes!("../../../../tests/fixtures/vllm-0.32-modes/data-parallel-2-loaded.txt");

/// The pods of the table: place, identity, engine, capacity.
fn places(collector: &Collector) -> Vec<(u32, Option<u16>, u64)> {
    collector.table().live().map(|(_, pod)| (pod.id, pod.engine, pod.capacity)).collect()
}

#[test]
fn each_engine_of_a_pod_is_a_place_of_its_own_and_the_pod_is_scraped_once() {
    let mut shared = Map::default();
    let mut collector = Collector::new(&Config::parse(ONE).unwrap(), &shared, 7, Micros::ZERO);
    assert_eq!(round(&mut collector, &mut shared, TWO_ENGINES, Micros::ZERO), 1);
    assert_eq!(places(&collector), [(1, Some(0), 131_072), (2, Some(1), 131_072)]);
    let running: Vec<f32> = collector.table().live().map(|(_, pod)| pod.running).collect();
    let page = vllm::Page::parse(TWO_ENGINES).unwrap();
    assert_eq!(running, [page.of_engine(0).running, page.of_engine(1).running]);
    assert_eq!(round(&mut collector, &mut shared, TWO_ENGINES, 2 * SECOND), 1, "one page tells of both");

    // The next collector goes on with both, and a failed scrape concerns both.
    collector.publish(&mut shared, 2 * SECOND);
    let mut next = Collector::new(&Config::parse(ONE).unwrap(), &shared, 8, 3 * SECOND);
    assert_eq!(places(&next), places(&collector));
    let due = next.due(&shared, 3 * SECOND);
    assert_eq!(due.len(), 1);
    next.fail(&due[0], ScrapeFailure::Unreachable);
    next.done(&due[0], None, 3 * SECOND);
    assert!(next.table().live().all(|(_, pod)| pod.state == PodState::Unreachable));

    // It starts anew with one engine.
    assert_eq!(round(&mut next, &mut shared, &page_of_one(), 6 * SECOND), 1);
    assert_eq!(next.table().live().map(|(_, pod)| pod.engine).collect::<Vec<_>>(), [None]);
    next.set_pods(&[], 7 * SECOND);
    assert_eq!(next.table().live().count(), 0);
}

fn page_of_one() -> Vec<u8> {
    page(0, 0, 100.0)
}

#[test]
fn engines_join_and_leave_with_their_pod() {
    let (mut collector, mut shared) = start();
    round(&mut collector, &mut shared, TWO_ENGINES, Micros::ZERO);
    assert_eq!(collector.table().live().count(), 4);
    collector.set_pods(&["10.0.0.2:8000".into()], SECOND);
    let left: Vec<_> = collector.table().live().map(|(_, pod)| pod.name().into_owned()).collect();
    assert_eq!(left, ["10.0.0.2:8000/0", "10.0.0.2:8000/1"]);
}

#[test]
fn a_server_that_says_its_queue_was_full_has_not_failed() {
    let (mut collector, mut shared) = start();
    let page = |rejections: u32| {
        format!("vllm:num_requests_running 1\nvllm:admission_rejections_total{{reason=\"max_num_queued_reqs\"}} {rejections}\n")
            .into_bytes()
    };
    round(&mut collector, &mut shared, &page(3), Micros::ZERO);
    let mut ledger = Ledger::default();
    ledger.grow(2);
    for (slot, pod) in collector.table().live() {
        let mut account = PodAccount::new(pod.id);
        account.fail(Observed { sent_at: SECOND, at: SECOND });
        ledger.set_account(slot, &account);
    }
    shared.set("warmpath/default/ledger", ledger.as_ref(), None).unwrap();
    let due = collector.due(&shared, 2 * SECOND);
    collector.take(&due[0], &page(3), &mut shared, 2 * SECOND);
    collector.take(&due[1], &page(4), &mut shared, 2 * SECOND);
    let ledger = collector.ledger(&shared);
    let failures: Vec<u16> = due.iter().map(|due| ledger.account(due.slot).health.failures).collect();
    assert_eq!(failures, [1, 0], "the first has refused nobody since its last page");
}
