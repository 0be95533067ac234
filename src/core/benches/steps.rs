//! The steps whose instructions `scripts/budget` counts. Under callgrind each call of [`counted`] is counted
//! by itself, in the order of the names this program prints; run alone it only checks that every step works.

#![allow(missing_docs, clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark may fail loudly")]

mod cases;

use std::hint::black_box;

use warmpath::account::ledger::Ledger;
use warmpath::collector::{Collector, DueScrape, ListNews};
use warmpath::config::Config;
use warmpath::prefix::index::PrefixMatch;
use warmpath::request::blocks::Chain;
use warmpath::scrape::vllm;
use warmpath::shared::pod_table::{PodKey, PodTable};
use warmpath::shared::store::Map;
use warmpath::{Micros, Slot, Tokens};

use cases::{BODIES, Full, Known, PODS, Worker};

/// Calls of a step that are counted together, so that a rare event (a log segment is sealed, a table grows)
/// has the share that it has in the long run.
const CALLS: u32 = 32;

/// What callgrind counts: it looks for this name.
#[inline(never)]
fn counted(step: &mut dyn FnMut()) {
    for _ in 0..CALLS {
        step();
    }
}

/// Names a step on standard output, and has it counted after one call that is not.
fn step<T>(name: &str, mut step: impl FnMut() -> T) {
    println!("{name} {CALLS}");
    black_box(step());
    counted(&mut || {
        black_box(step());
    });
}

fn main() {
    // `cargo bench` and `cargo test` hand in options of their own; there is nothing to choose here.
    for bytes in BODIES {
        let (kib, body) = (bytes >> 10, cases::chat(bytes, 1));
        step(&format!("parse/{kib}KiB"), || cases::parse(black_box(&body)).model.len());
        let request = cases::parse(&body);
        let mut chain = Chain::default();
        step(&format!("hash/{kib}KiB"), || cases::hash(black_box(&request), &mut chain));
        if kib > 4 {
            let mut known = Known::new(bytes);
            step(&format!("parse-and-hash/known/{kib}KiB"), || known.read());
        }
        let mut worker = Worker::new(3, bytes);
        step(&format!("request/3-pods/{kib}KiB"), || worker.request());
        step(&format!("decide/3-pods/{kib}KiB"), || worker.decide());
    }
    for (name, body) in
        [("ascii", cases::chat_in_ascii(32 << 10, 1)), ("messages", cases::chat_of_many(32 << 10))]
    {
        step(&format!("parse/{name}/32KiB"), || cases::parse(black_box(&body)).model.len());
        let request = cases::parse(&body);
        let mut chain = Chain::default();
        step(&format!("hash/{name}/32KiB"), || cases::hash(black_box(&request), &mut chain));
    }
    for pods in PODS {
        if pods > 3 {
            let mut worker = Worker::new(pods, 2048);
            step(&format!("request/{pods}-pods/2KiB"), || worker.request());
        }
        let mut ledger = Ledger::default();
        ledger.grow(pods);
        let bytes = ledger.as_ref().to_vec();
        step(&format!("ledger/{pods}-pods"), || {
            let mut ledger = Ledger::decode(bytes.clone()).expect("a ledger");
            ledger
                .change(PodKey { slot: Slot(1), id: 0 }, |account| _ = account.open(Tokens(100), Micros(1)));
            ledger
        });
        let table = cases::table(pods);
        step(&format!("table-encode/{pods}-pods"), || table.encode());
        let bytes = table.encode();
        step(&format!("table-decode/{pods}-pods"), || PodTable::decode(black_box(&bytes)));
    }
    let mut lists = Lists::new();
    step("model-list/1000-pods", || lists.take(0));
    let mut full = Full::new(20_000);
    let known: Vec<_> = (0..=CALLS).map(|_| full.known()).collect();
    let unknown: Vec<_> = (0..=CALLS).map(|_| full.unknown()).collect();
    for (name, chains) in [("hit", &known), ("miss", &unknown)] {
        let (mut chains, mut found) = (chains.iter(), PrefixMatch::default());
        step(&format!("look-up/{name}"), || {
            full.index.look_up(chains.next().expect("enough"), 3, &mut found);
            found.blocks(Slot(0))
        });
    }
    for (name, chains) in [("known", &known), ("new", &unknown)] {
        let mut chains = chains.iter();
        step(&format!("insert/{name}"), || full.index.insert(Slot(0), chains.next().expect("enough")));
    }
    for name in ["idle", "loaded"] {
        step(&format!("metrics-page/{name}"), || vllm::load(black_box(cases::page(name))));
    }
    for name in ["whole", "event"] {
        step(&format!("answer/{name}"), || cases::scan(black_box(cases::answer(name))));
    }
}

/// A collector of a thousand pods with LoRA, each of which has listed two names for its model, and adapters.
struct Lists {
    collector: Collector,
    shared: Map,
    pods: Vec<DueScrape>,
    body: String,
}

impl Lists {
    fn new() -> Lists {
        let addresses: Vec<String> =
            (0..1000).map(|n| format!("\"10.0.{}.{}:8000\"", n / 250, n % 250 + 1)).collect();
        let config = format!("{{\"pods\": [{}]}}", addresses.join(","));
        let config = Config::parse(config.as_bytes()).expect("a configuration");
        let (mut shared, now) = (Map::default(), Micros::from_seconds(1));
        let mut collector = Collector::new(&config, &shared, 1, now);
        let pods = collector.due(&shared, now);
        let page = b"# TYPE vllm:lora_requests_info gauge\nvllm:num_requests_running 1\n";
        pods.iter().for_each(|pod| collector.take(pod, page, &mut shared, now));
        while !collector.due_lists(now).is_empty() {}
        let card =
            |name: &str, root, parent| format!(r#"{{"id": "{name}", "root": "{root}", "parent": {parent}}}"#);
        let names = ["qwen", "chat"].map(|name| card(name, "/model/qwen", "null"));
        let adapters = (0..20).map(|n| card(&format!("adapter-{n}"), "/adapter", r#""qwen""#));
        let cards: Vec<String> = names.into_iter().chain(adapters).collect();
        let body = format!(r#"{{"data": [{}]}}"#, cards.join(","));
        let mut lists = Lists { collector, shared, pods, body };
        (0..1000).for_each(|pod| _ = lists.take(pod));
        lists
    }

    /// Takes in the list of a pod.
    fn take(&mut self, pod: usize) -> ListNews {
        self.collector.take_list(&self.pods[pod], self.body.as_bytes(), &mut self.shared)
    }
}
