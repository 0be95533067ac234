//! What a request is besides its prompt: for a LoRA adapter, of a tenant.

use super::*;
use crate::collector::{DueScrape, ListNews};
use crate::shared::clusters::ClusterSet;
use crate::shared::tenants::TenantId;

const A: Option<TenantId> = Some(TenantId(1));
const B: Option<TenantId> = Some(TenantId(2));

fn adapters_page(active: &str) -> String {
    let page = page(0, 0, 1e9);
    format!(
        "{page}vllm:lora_requests_info{{max_lora=\"2\",running_lora_adapters=\"{active}\",waiting_lora_adapters=\"\"}} 5\n"
    )
}

fn list(adapters: &[&str]) -> String {
    let cards: Vec<String> =
        adapters.iter().map(|name| format!(r#"{{"id":"{name}","parent":"base"}}"#)).collect();
    format!(r#"{{"data":[{}]}}"#, cards.join(","))
}

/// Pods with two places, whose pages show `active`, and which list `listed`.
fn with_adapters(active: &[&str], listed: &[&[&str]]) -> Gateway {
    let mut gateway = Gateway::new(&config(active.len(), ""), 2);
    gateway.scrape(|slot| adapters_page(active[usize::from(slot)]), SECOND);
    for due in gateway.collector.due_lists(SECOND) {
        let list = list(listed[usize::from(due.slot)]);
        let news = gateway.collector.take_list(&due, list.as_bytes(), &mut gateway.shared);
        assert_eq!(news.adapters, Some(listed[usize::from(due.slot)].len()));
    }
    gateway.collector.publish(&mut gateway.shared, SECOND);
    gateway.refresh();
    gateway
}

fn ask(gateway: &mut Gateway, worker: usize, model: &str, seed: u64, now: Micros) -> Result<Decision, NoPod> {
    let content = text(seed, 800);
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{content}"}}]}}"#);
    let request = parse(Api::Chat, body.as_bytes()).unwrap().into();
    let demand = Demand { among: ClusterSet::ALL, ..Demand::default() };
    gateway.workers[worker].decide_for(demand, RouteBy::Prompt(&request), &mut gateway.shared, now)
}

fn slots(decision: &Decision) -> Vec<u16> {
    decision.picks.iter().map(|slot| slot.0).collect()
}

#[test]
fn a_request_goes_where_its_adapter_runs_and_every_worker_remembers_where_that_is() {
    let all: &[&str] = &["a", "b", "c", "d"];
    let mut gateway = with_adapters(&["a,b", "", "c,x"], &[all, all, all]);
    let mut now = SECOND;
    for n in 0..6 {
        now = now + 400 * MILLISECOND;
        let decision = ask(&mut gateway, n % 2, "a", n as u64, now).unwrap();
        assert_eq!((slots(&decision)[0], decision.restricted), (0, false));
        gateway.answer(n % 2, decision.ticket, None, now);
        // No page shows it, and there is room.
        let decision = ask(&mut gateway, n % 2, "d", 100 + n as u64, now).unwrap();
        assert_eq!(slots(&decision)[0], 1);
        gateway.answer(n % 2, decision.ticket, None, now);
    }
    let terms = |gateway: &Gateway, worker: usize| -> Vec<f32> {
        gateway.workers[worker]
            .candidates()
            .iter()
            .map(|c| c.terms.adapter / c.terms.tokens_per_second)
            .collect()
    };
    let full = 3.0 * CostConstants::default().adapter_load_seconds;
    assert_eq!(terms(&gateway, 1), [full, 0.0, full]);
    // A model that is no adapter costs nothing more.
    let _ = ask(&mut gateway, 0, "base", 200, now).unwrap();
    assert_eq!(terms(&gateway, 0), [0.0; 3]);
}

#[test]
fn an_adapter_that_some_pods_lack_is_never_sent_there() {
    let mut gateway = with_adapters(&["", "", ""], &[&["a"], &["b"], &["b"]]);
    for n in 0..20 {
        let decision = ask(&mut gateway, n % 2, "b", n as u64, 2 * SECOND).unwrap();
        let mut picks = slots(&decision);
        picks.sort_unstable();
        assert_eq!((picks, decision.restricted), (vec![1, 2], true));
        // Even a pod that has just failed is better than one that would not know the model.
        gateway.workers[n % 2].unanswered(&decision.ticket, 2, &mut gateway.shared, 2 * SECOND).unwrap();
        gateway.close(n % 2, decision.ticket, End::Aborted);
    }
    // Nobody has it: for the pods to refuse.
    assert_eq!(slots(&ask(&mut gateway, 0, "z", 50, 2 * SECOND).unwrap()).len(), 3);
    // A pod keeps its list to itself: it may have it.
    let due = due_of(&gateway, 0);
    assert_eq!(gateway.collector.take_list(&due, b"", &mut gateway.shared), ListNews::default());
    gateway.collector.publish(&mut gateway.shared, 3 * SECOND);
    gateway.refresh();
    assert_eq!(slots(&ask(&mut gateway, 0, "b", 60, 3 * SECOND).unwrap()).len(), 3);
}

/// The scrape of the pod in a slot.
fn due_of(gateway: &Gateway, slot: u16) -> DueScrape {
    let pod = gateway.collector.table().pod(Slot(slot)).unwrap();
    DueScrape { slot: Slot(slot), id: pod.id, address: pod.address.clone() }
}

#[test]
fn where_the_pods_that_have_an_adapter_sleep_nobody_else_is_asked() {
    let mut gateway = with_adapters(&["", ""], &[&["a"], &["b"]]);
    let asleep = "vllm:engine_sleep_state{sleep_state=\"awake\"} 0\n";
    gateway.scrape(|slot| adapters_page("") + if slot.0 == 0 { asleep } else { "" }, 10 * SECOND);
    assert_eq!(ask(&mut gateway, 0, "a", 1, 10 * SECOND).unwrap_err(), NoPod::AdapterAsleep);
    assert_eq!(slots(&ask(&mut gateway, 0, "b", 2, 10 * SECOND).unwrap()), [1]);
}

/// Gives every pod the names of its model, and lets the workers know.
fn tell_names(gateway: &mut Gateway, names: &[&[&str]], now: Micros) -> Vec<Option<usize>> {
    let due = gateway.collector.due_lists(now);
    let news = due.iter().map(|due| {
        let cards = names[usize::from(due.slot)].iter();
        let cards: Vec<String> =
            cards.map(|name| format!(r#"{{"id":"{name}","root":"/model","parent":null}}"#)).collect();
        let list = format!(r#"{{"data":[{}]}}"#, cards.join(","));
        gateway.collector.take_list(due, list.as_bytes(), &mut gateway.shared).names
    });
    let news = news.collect();
    gateway.collector.publish(&mut gateway.shared, now);
    gateway.refresh();
    news
}

/// Tokens of a prompt, which was asked before under `first`, that its pod is believed to hold for `second`.
fn shared_with(gateway: &mut Gateway, first: &str, second: &str, seed: u64, now: Micros) -> u32 {
    let before = ask(gateway, 0, first, seed, now).unwrap();
    gateway.answer(0, before.ticket, None, now);
    let after = ask(gateway, 1, second, seed, now).unwrap();
    let matched = after.matched_tokens;
    gateway.answer(1, after.ticket, None, now);
    matched.0
}

#[test]
fn names_of_one_model_share_prefixes() {
    let mut gateway = Gateway::new(&config(3, ""), 2);
    gateway.scrape(|_| page(0, 0, 1e9), SECOND);
    assert_eq!(shared_with(&mut gateway, "gpt", "qwen", 1, SECOND), 0, "nobody has told the names");
    let names: [&[&str]; 3] = [&["gpt", "qwen"], &["qwen"], &["qwen", "chat"]];
    assert_eq!(tell_names(&mut gateway, &names, SECOND), [Some(2), None, Some(2)]);
    for (seed, [first, second]) in (10..).zip([["gpt", "qwen"], ["chat", "gpt"], ["qwen", "chat"]]) {
        assert!(shared_with(&mut gateway, first, second, seed, SECOND) > 100, "{first} and {second}");
    }
    for (seed, [first, second]) in (20..).zip([["gpt", "other"], ["other", "another"]]) {
        assert_eq!(shared_with(&mut gateway, first, second, seed, SECOND), 0, "{first} and {second}");
    }
    // Nobody is asked again, and the next collector does not forget it while it asks.
    assert_eq!(gateway.collector.due_lists(60 * SECOND), []);
    let generation = gateway.collector.table().model_lists;
    gateway.collector = Collector::new(&config(3, ""), &gateway.shared, 2, 61 * SECOND);
    gateway.scrape(|_| page(0, 0, 1e9), 61 * SECOND);
    let due = gateway.collector.due_lists(61 * SECOND);
    assert_eq!(due.len(), 3);
    let _ = gateway.collector.take_list(&due[1], br#"{"data":[]}"#, &mut gateway.shared);
    assert_eq!(gateway.collector.table().model_lists, generation);
    // Once every pod has told its names, only these hold. One that does not say what it has has one name.
    for due in [&due[0], &due[2]] {
        let _ = gateway.collector.take_list(due, b"", &mut gateway.shared);
    }
    gateway.collector.publish(&mut gateway.shared, 61 * SECOND);
    gateway.refresh();
    assert_eq!(shared_with(&mut gateway, "gpt", "qwen", 30, 61 * SECOND), 0);
}

#[test]
fn a_name_that_is_an_adapter_on_some_pod_is_of_no_other_model() {
    let mut gateway = Gateway::new(&config(2, ""), 2);
    gateway.scrape(|slot| if slot.0 == 0 { page(0, 0, 1e9) } else { adapters_page("") }, SECOND);
    for due in gateway.collector.due_lists(SECOND) {
        let parent = if due.slot.0 == 0 { "null" } else { r#""qwen""# };
        let list = format!(
            r#"{{"data":[{{"id":"qwen","root":"/m","parent":null}},{{"id":"sql","root":"/m","parent":{parent}}},
                {{"id":"gpt","root":"/m","parent":null}}]}}"#
        );
        let _ = gateway.collector.take_list(&due, list.as_bytes(), &mut gateway.shared);
    }
    gateway.collector.publish(&mut gateway.shared, SECOND);
    gateway.refresh();
    assert_eq!(shared_with(&mut gateway, "sql", "qwen", 1, SECOND), 0);
    assert!(shared_with(&mut gateway, "gpt", "qwen", 2, SECOND) > 100);
}

fn ask_as(
    gateway: &mut Gateway,
    tenant: Option<TenantId>,
    seed: u64,
    now: Micros,
) -> Result<Decision, NoPod> {
    let demand = Demand { among: ClusterSet::ALL, tenant, ..Demand::default() };
    let worker = seed as usize % gateway.workers.len();
    with_request(&text(seed, 8000), |request| {
        gateway.workers[worker].decide_for(demand, RouteBy::Prompt(request), &mut gateway.shared, now)
    })
}

#[test]
fn a_tenant_alone_takes_what_there_is_and_beside_another_no_more_than_its_share() {
    let mut gateway = Gateway::new(&config(8, ""), 2);
    let mut open = Vec::new();
    for n in 0..20 {
        open.push(ask_as(&mut gateway, A, n, SECOND).unwrap());
    }
    // The other one comes, and finds its pod; the first one has more than half of the work now.
    let small = ask_as(&mut gateway, B, 100, SECOND).unwrap();
    assert!(
        matches!(ask_as(&mut gateway, A, 101, SECOND), Err(NoPod::OverShare { seconds }) if seconds >= 1)
    );
    // A request of nobody is routed as ever.
    let _ = ask_as(&mut gateway, None, 102, SECOND).unwrap();
    // Its work is done: nothing is left of it.
    for (n, decision) in open.into_iter().enumerate() {
        if n % 2 == 0 {
            gateway.answer(n % 2, decision.ticket, None, 2 * SECOND);
        } else {
            gateway.close(n % 2, decision.ticket, End::Aborted);
        }
    }
    gateway.close(0, small.ticket, End::Aborted);
    let free = ask_as(&mut gateway, A, 103, 3 * SECOND).unwrap();
    let more = ask_as(&mut gateway, A, 104, 3 * SECOND).unwrap();
    drop((free, more));
}

#[test]
fn a_tenant_with_little_work_takes_every_idle_pod_though_another_one_is_there() {
    let mut gateway = Gateway::new(&config(8, ""), 2);
    let other = ask_as(&mut gateway, B, 100, SECOND).unwrap();
    gateway.answer(0, other.ticket, None, SECOND);
    // A pod that has one of them is not free.
    let mut ask = |n| {
        let demand = Demand { among: ClusterSet::ALL, tenant: A, ..Demand::default() };
        with_request(&text(n, 3200), |request| {
            gateway.workers[n as usize % 2].decide_for(
                demand,
                RouteBy::Prompt(request),
                &mut gateway.shared,
                SECOND,
            )
        })
    };
    let taken: Vec<Slot> = (0..8).map(|n| ask(n).unwrap().ticket.slot()).collect();
    assert_eq!(taken.iter().collect::<std::collections::BTreeSet<_>>().len(), 8, "{taken:?}");
}

#[test]
fn without_tenants_nothing_is_written_for_them() {
    let mut gateway = Gateway::new(&config(2, ""), 1);
    let decision = gateway.decide(0, &text(1, 500), SECOND);
    gateway.answer(0, decision.ticket, None, SECOND);
    let keys = gateway.shared.keys();
    assert!(!keys.iter().any(|key| key.contains("tenants") || key.contains("adapter")), "{keys:?}");
}
