//! How long the steps of a request and of a metric take, natively: `cargo bench --bench core`. In V8 they
//! take 1.5 to 3 times as long; `scripts/bench-gateway` has the whole.

#![allow(missing_docs, clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark may fail loudly")]

mod cases;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use warmpath::account::ledger::Ledger;
use warmpath::prefix::index::PrefixMatch;
use warmpath::request::blocks::Chain;
use warmpath::scrape::vllm;
use warmpath::shared::pod_table::{PodKey, PodTable};
use warmpath::{Micros, Slot, Tokens};

use cases::{BODIES, Full, Known, PODS, Worker};

fn main() {
    divan::main();
}

/// From the bytes of a request to the end of its account, over a map instead of a host: parse, hash, look-up,
/// cost, ledger.
#[divan::bench(args = BODIES)]
fn request_of_bytes(bencher: Bencher, bytes: usize) {
    let mut worker = Worker::new(3, bytes);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| black_box(worker.request()));
}

#[divan::bench(args = PODS)]
fn request_among_pods(bencher: Bencher, pods: usize) {
    let mut worker = Worker::new(pods, 2048);
    bencher.bench_local(|| black_box(worker.request()));
}

#[divan::bench(args = BODIES)]
fn parse(bencher: Bencher, bytes: usize) {
    let body = cases::chat(bytes, 1);
    // The parts are dropped inside, as in the module.
    bencher
        .counter(BytesCount::new(bytes))
        .bench_local(|| black_box(cases::parse(black_box(&body))).model.len());
}

/// Spelled in ASCII alone, and in many short messages.
#[divan::bench(args = ["ascii", "messages"])]
fn parse_32_kib_of(bencher: Bencher, form: &str) {
    let body =
        if form == "ascii" { cases::chat_in_ascii(32 << 10, 1) } else { cases::chat_of_many(32 << 10) };
    bencher
        .counter(BytesCount::new(body.len()))
        .bench_local(|| black_box(cases::parse(black_box(&body))).model.len());
}

#[divan::bench(args = BODIES)]
fn hash(bencher: Bencher, bytes: usize) {
    let body = cases::chat(bytes, 1);
    let request = cases::parse(&body);
    let mut chain = Chain::default();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        cases::hash(black_box(&request), &mut chain);
        chain.head()
    });
}

/// Both, of a body that is known but for its last quarter.
#[divan::bench(args = BODIES[1..].iter().copied())]
fn parse_and_hash_known(bencher: Bencher, bytes: usize) {
    let mut known = Known::new(bytes);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| known.read());
}

#[divan::bench(args = [1_000, 100_000])]
fn look_up_hit_among(bencher: Bencher, conversations: u64) {
    let mut full = Full::new(conversations);
    let mut found = PrefixMatch::default();
    bencher.bench_local(|| {
        let chain = full.known();
        full.index.look_up(&chain, 3, &mut found);
        found.blocks(Slot(0))
    });
}

#[divan::bench(args = [1_000, 100_000])]
fn look_up_miss_among(bencher: Bencher, conversations: u64) {
    let mut full = Full::new(conversations);
    let mut found = PrefixMatch::default();
    bencher.bench_local(|| {
        let chain = full.unknown();
        full.index.look_up(&chain, 3, &mut found);
        found.blocks(Slot(0))
    });
}

#[divan::bench(args = [1_000, 100_000])]
fn insert_known_among(bencher: Bencher, conversations: u64) {
    let mut full = Full::new(conversations);
    bencher.bench_local(|| {
        let chain = full.known();
        full.index.insert(Slot(0), &chain);
    });
}

#[divan::bench(args = [1_000, 100_000], sample_count = 20, sample_size = 100)]
fn insert_new_among(bencher: Bencher, conversations: u64) {
    let mut full = Full::new(conversations);
    bencher.bench_local(|| {
        let chain = full.unknown();
        full.index.insert(Slot(0), &chain);
    });
}

/// What making the chain of hashes for the four above takes by itself.
#[divan::bench]
fn chain_of_the_look_ups() -> [u32; 32] {
    Full::chain(black_box(7))
}

#[divan::bench(args = PODS)]
fn ledger_decode_change_encode(bencher: Bencher, pods: usize) {
    let mut ledger = Ledger::default();
    ledger.grow(pods);
    let bytes = ledger.as_ref().to_vec();
    bencher.with_inputs(|| bytes.clone()).bench_local_values(|bytes| {
        let mut ledger = Ledger::decode(bytes).expect("a ledger");
        ledger.change(PodKey { slot: Slot(1), id: 0 }, |account| _ = account.open(Tokens(100), Micros(1)));
        black_box(ledger.as_ref().len());
        ledger
    });
}

#[divan::bench(args = PODS)]
fn table_encode(bencher: Bencher, pods: usize) {
    let table = cases::table(pods);
    bencher.bench_local(|| black_box(&table).encode());
}

#[divan::bench(args = PODS)]
fn table_decode(bencher: Bencher, pods: usize) {
    let bytes = cases::table(pods).encode();
    bencher.bench_local(|| PodTable::decode(black_box(&bytes)));
}

#[divan::bench(args = ["idle", "loaded"])]
fn metrics_page(bencher: Bencher, name: &str) {
    let page = cases::page(name);
    bencher.counter(BytesCount::new(page.len())).bench_local(|| vllm::load(black_box(page)));
}

#[divan::bench(args = ["whole", "event"])]
fn answer(bencher: Bencher, name: &str) {
    let answer = cases::answer(name);
    bencher.counter(BytesCount::new(answer.len())).bench_local(|| cases::scan(black_box(answer)));
}
