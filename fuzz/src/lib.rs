//! Fuzz targets: one function for each kind of bytes that comes from outside.
//!
//! Each function takes bytes, and panics when a property does not hold. Two drivers call them: cargo-fuzz
//! (`fuzz/targets`), and, on a stable compiler, `fuzz/tests/corpus.rs`, which replays and mutates the
//! corpora.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

use std::fmt::Debug;

use serde_json::Value;
use serde_json::value::RawValue;
use warmpath::account::ledger::Ledger;
use warmpath::account::pod_health::Observed;
use warmpath::answer::first_token::{FirstEvent, FirstTokenReader};
use warmpath::answer::usage::{Usage, UsageScanner};
use warmpath::collector::{Collector, DueScrape};
use warmpath::config::Config;
use warmpath::prefix::log::{LogRecord, unseal};
use warmpath::request::blocks::{Chain, blocks_in};
use warmpath::request::body::{Api, BodyError, Prompt, Request};
use warmpath::request::json::{JsonError, MAX_DEPTH, Scanner};
use warmpath::request::parse;
use warmpath::request::parse_cache::{ParseCache, ParsedRequest};
use warmpath::request::prompt::canonical;
use warmpath::router::{End, RouteBy, Router};
use warmpath::scrape::{exposition, vllm};
use warmpath::shared::codec::Reader;
use warmpath::shared::lease;
use warmpath::shared::membership::{PodList, announce, announced};
use warmpath::shared::pod_table::{MAX_PODS, PodKey, PodTable};
use warmpath::shared::store::{Keys, Map, SharedData};
use warmpath::{Bytes, Micros, ModelId, SECOND, Slot, Tokens};

/// A fuzz target: panics when a property does not hold for these bytes.
pub type Target = fn(&[u8]);

/// All targets, by the names of their corpora.
pub const TARGETS: [(&str, Target); 8] = [
    ("body", body),
    ("config", config),
    ("conversation", conversation),
    ("first_token", first_token),
    ("json", json),
    ("metrics", metrics),
    ("shared", shared),
    ("usage", usage),
];

const NOW: Micros = Micros::from_seconds(1_795_224_676);

/// A request body; its first byte chooses the API. It is read as `serde_json` reads it, its prompt does not
/// depend on spelling or chunks, and every valid body finds a pod.
pub fn body(bytes: &[u8]) {
    let Some((&first, body)) = bytes.split_first() else { return };
    let api =
        [Api::Chat, Api::Completions, Api::Responses, Api::Embeddings, Api::Messages][usize::from(first) % 5];
    if is_special_to_the_twin(body) {
        return;
    }
    let naive = serde_json::from_slice::<Value>(body);
    let request = match parse(api, body) {
        Ok(request) => request,
        Err(error) => {
            match (&error, naive) {
                // Both refuse it, perhaps for different reasons.
                (_, Err(_)) => {}
                (BodyError::NotAnObject, Ok(value)) => assert!(!value.is_object()),
                (BodyError::Model, Ok(value)) => {
                    assert!(!value["model"].is_null() && !value["model"].is_string())
                }
                (BodyError::ModelTooLong { .. }, Ok(value)) => {
                    assert!(value["model"].as_str().unwrap().len() > 2000)
                }
                (error, Ok(value)) => panic!("{error} in {value}"),
            }
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(parse(api, body).as_ref(), Ok(&request));
    // The twin also refuses numbers beyond f64, which only the pod judges, and allows one level of nesting
    // less.
    match &naive {
        Ok(value) => assert_eq!(decoded(&request.model), value["model"].as_str().unwrap_or_default()),
        Err(error) => {
            let said = error.to_string();
            assert!(
                ["number out of range", "recursion limit"].iter().any(|why| said.starts_with(why)),
                "{said}"
            );
        }
    }

    let mut whole = Vec::new();
    canonical(&request.prompt, |piece| whole.extend_from_slice(piece));
    if let (Ok(value), Prompt::Texts(_) | Prompt::Tokens(_)) = (&naive, &request.prompt) {
        // The same JSON with other escapes and white space has the same prompt.
        let again = serde_json::to_vec_pretty(value).unwrap();
        let again = parse(api, &again).unwrap();
        let mut bytes = Vec::new();
        canonical(&again.prompt, |piece| bytes.extend_from_slice(piece));
        assert_eq!(bytes, whole);
    }

    let chain = chain_of(&request, &mut |chain| chain.push(&whole));
    let by_pieces = chain_of(&request, &mut |chain| canonical(&request.prompt, |piece| chain.push(piece)));
    let by_bytes =
        chain_of(&request, &mut |chain| whole.chunks(1 + usize::from(first)).for_each(|c| chain.push(c)));
    assert_eq!(
        (chain.hashes(), chain.bytes(), chain.head()),
        (by_pieces.hashes(), by_pieces.bytes(), by_pieces.head())
    );
    assert_eq!(
        (chain.hashes(), chain.bytes(), chain.head()),
        (by_bytes.hashes(), by_bytes.bytes(), by_bytes.head())
    );
    assert_eq!(chain.hashes().len(), blocks_in(Bytes(whole.len() as u64)));
    // A prefix of a prompt has a prefix of its chain.
    let half = chain_of(&request, &mut |chain| chain.push(&whole[..whole.len() / 2]));
    assert!(chain.hashes().starts_with(half.hashes()));

    let mut shared = Map::default();
    let config = config_of(3);
    publish(&config, &mut shared);
    let mut router = Router::new(&config, 7);
    router.refresh(&shared).unwrap();
    for _ in 0..2 {
        // The second time the body is in the parse cache.
        let reading = router.read(api, body).unwrap();
        let mut decision = router.decide(RouteBy::Prompt(&reading), &mut shared, NOW).unwrap();
        assert_eq!(decision.bytes, Bytes(whole.len() as u64));
        assert!(decision.matched_bytes <= decision.bytes);
        router.start(&mut decision.ticket, &mut shared, NOW + Micros(1000)).unwrap();
        let usage = Some(Usage {
            prompt_tokens: u32::from(first) * Tokens(1000),
            cached_tokens: Some(Tokens(u32::from(first))),
        });
        router.close(decision.ticket, End::Answered { usage, at: NOW + Micros(2000) }, &mut shared).unwrap();
    }
    let ledger = ledger_in(&config, &shared);
    assert_eq!((ledger.totals().in_flight, ledger.totals().waiting, ledger.totals().outstanding), (0, 0, 0));
}

/// Whether `serde_json` reads the body in another way on purpose. It mistakes every object with the key that marks its
/// `RawValue` for one, and refuses the numbers that only Python knows.
fn is_special_to_the_twin(body: &[u8]) -> bool {
    let words: [&[u8]; 3] = [b"$serde_json::private::RawValue", b"NaN", b"Infinity"];
    words.iter().any(|word| body.windows(word.len()).any(|bytes| bytes == *word))
}

/// Decodes text in canonical spelling.
fn decoded(text: &[u8]) -> Value {
    let json = [b"\"", text, b"\""].concat();
    serde_json::from_slice(&json).unwrap()
}

fn chain_of(request: &Request<'_>, push: &mut dyn FnMut(&mut Chain)) -> Chain {
    let mut chain = Chain::default();
    chain.start(&request.model, None);
    push(&mut chain);
    chain.finish();
    chain
}

/// The rounds of a conversation, separated by zeros, after a system prompt that is long enough for the parse
/// cache. Whatever came before, each body is read as if it were the first.
pub fn conversation(bytes: &[u8]) {
    let Some((&[first, filler], pieces)) = bytes.split_first_chunk::<2>() else { return };
    let api = [Api::Chat, Api::Messages, Api::Embeddings][usize::from(first) % 3];
    // It ends at any place in a block of the scanner.
    let system = "s".repeat(4096 + usize::from(filler));
    let mut history =
        format!(r#"{{"model":"m","messages":[{{"role":"system","content":"{system}"}}"#).into_bytes();
    let mut parse_cache = ParseCache::new(7);
    for piece in pieces.split(|&byte| byte == 0) {
        history.extend_from_slice(piece);
        for end in [&b""[..], b"]}"] {
            let body = [&history, end].concat();
            let naive = parse(api, &body).map(|request| seen(&mut ParseCache::new(7), &request.into()));
            let read = parse_cache.read(api, &body);
            assert_eq!(read.map(|reading| seen(&mut parse_cache, &reading)), naive);
        }
    }
}

/// The fields of a body that a router uses, except the messages, which are in the chain.
fn seen(parse_cache: &mut ParseCache, reading: &ParsedRequest<'_>) -> impl PartialEq + Debug + use<> {
    let (mut chain, request) = (Chain::default(), &reading.request);
    parse_cache.chain(reading, &mut chain, Chain::push);
    (
        (chain.hashes().to_vec(), chain.bytes(), chain.head()),
        request.model.to_vec(),
        request.cache_salt.as_deref().map(<[u8]>::to_vec),
        (request.stream, request.reports_usage, reading.is_text()),
    )
}

/// Any JSON. The scanner accepts what `serde_json` accepts, and returns text as it is written.
pub fn json(bytes: &[u8]) {
    let mut scanner = Scanner::new(bytes);
    let ours = scanner.skip().and_then(|value| scanner.end().map(|()| value));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if is_special_to_the_twin(bytes) {
        return;
    }
    let naive = serde_json::from_str::<&RawValue>(text);
    match (ours, naive) {
        (Ok(ours), Ok(naive)) => {
            assert_eq!(ours, naive.get().as_bytes());
            if ours.starts_with(b"\"") {
                let text = Scanner::new(ours).string().unwrap();
                assert_eq!(decoded(&text), serde_json::from_slice::<Value>(ours).unwrap());
            }
        }
        (Ok(ours), Err(error)) => panic!("{error} in {}", ours.escape_ascii()),
        // The twin skips text without decoding it, and only decoding finds an escape that names no character.
        (Err(error), Ok(naive)) => {
            let deep = depth(naive.get().as_bytes()) > MAX_DEPTH as usize;
            match error {
                JsonError::Depth { at } => assert!(deep && at < bytes.len()),
                JsonError::Syntax { at } | JsonError::Surrogate { at } => {
                    assert!(at <= bytes.len());
                    assert!(serde_json::from_str::<Value>(text).is_err());
                }
            }
        }
        (Err(JsonError::Syntax { at } | JsonError::Depth { at } | JsonError::Surrogate { at }), Err(_)) => {
            assert!(at <= bytes.len())
        }
    }
}

/// Depth of nesting of valid JSON.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut most, mut text, mut escape) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escape => escape = false,
            b'\\' if text => escape = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' if !text => depth -= 1,
            _ => {}
        }
    }
    most
}

/// A pod's metrics page. With any page, the pod table stays readable and requests find a pod.
pub fn metrics(page: &[u8]) {
    exposition::samples(
        page,
        |_| true,
        |sample| {
            assert!(!sample.name.is_empty() || page.iter().any(|b| b"{ \t".contains(b)));
            for label in ["engine", "", "block_size", "\\"] {
                sample.label(label);
            }
        },
    );
    if let Ok(load) = vllm::load(page) {
        for amount in [load.running, load.waiting, load.kv_usage] {
            assert!(amount.is_finite() && amount >= 0.0, "{load:?}");
        }
        assert!(load.kv_usage <= 1.0);
        assert!(load.started.is_none_or(f64::is_finite));
    }

    let mut shared = Map::default();
    let config = config_of(3);
    let mut router = Router::new(&config, 1);
    let mut collector = Collector::new(&config, &shared, 1, NOW);
    let sound = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n";
    for round in 0..3 {
        let now = NOW + round * 20 * SECOND;
        for due in collector.due(&shared, now) {
            let DueScrape { slot, .. } = due;
            collector.take(&due, if slot == Slot(1) { page } else { sound }, &mut shared, now);
            collector.done(&due, Some(Micros(10)), now);
        }
        assert!(collector.publish(&mut shared, now).is_some());
        router.refresh(&shared).unwrap();
        assert_eq!(router.table(), collector.table());
        drop(router.decide(RouteBy::Load, &mut shared, now).unwrap());
        assert!(router.candidates().iter().all(|s| s.terms.seconds.is_finite()), "{:?}", router.candidates());
    }
}

/// A value in shared data; the first byte chooses which. It may be of another version of Warmpath, or
/// garbage.
pub fn shared(bytes: &[u8]) {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let config = config_of(3);
    let keys = Keys::of(&config.pool, config.index.log_segments);
    let mut map = Map::default();
    publish(&config, &mut map);
    let key = match which % 5 {
        0 => &keys.table,
        1 => &keys.ledger,
        2 => &keys.lease,
        3 => &keys.pods,
        _ => &keys.segment(u64::from(which) / 5 % 2),
    };
    map.set(key, bytes, None).unwrap();

    if let Ok(table) = PodTable::decode(bytes) {
        assert!(table.pods.len() <= MAX_PODS);
        assert_eq!(PodTable::decode(&table.encode()), Ok(table));
    }
    if let Ok(mut ledger) = Ledger::decode(bytes.to_vec()) {
        let slots = ledger.slots();
        ledger.totals();
        ledger.grow(slots.saturating_add(2).min(usize::from(u16::MAX)));
        for slot in Slot::all().take(4) {
            let id = ledger.account(slot).id;
            ledger.change(PodKey { slot, id }, |account| {
                account.open(Tokens(u32::MAX), NOW);
                account.start(Tokens(5), Observed { sent_at: Micros(7), at: Micros(9) });
                account.health.failed(Observed { sent_at: NOW, at: NOW });
                account.close(Some(Tokens(7)));
                account.reconcile(3, 2);
            });
        }
        ledger.count_routed();
        ledger.learn_mean_work(Tokens(9));
        assert!(ledger.mean_work().is_finite());
        ledger.learn_bytes_per_token(ModelId(3), Bytes(4000), Tokens(1000));
        assert!(ledger.bytes_per_token(ModelId(3)) > 0.0);
        ledger.append(&LogRecord {
            writer: 1,
            pod: PodKey { slot: Slot(2), id: 3 },
            correction: None,
            hashes: &[0; 64],
        });
        assert_eq!(Ledger::decode(ledger.as_ref().to_vec()).unwrap().as_ref(), ledger.as_ref());
    }
    if let Ok((_, records)) = unseal(bytes) {
        let mut reader = Reader(records);
        while let Ok(record) = LogRecord::decode(&mut reader) {
            let mut out = Vec::new();
            record.encode(&mut out);
            assert_eq!(out.len(), record.size());
            assert_eq!(LogRecord::decode(&mut Reader(&out)), Ok(record));
        }
    }
    let [one, two] = [1, 2].map(|id| lease::Holder { id, since: NOW });
    let mine = lease::take(&keys.lease, one, &mut map, NOW);
    assert!(!mine || !lease::take(&keys.lease, two, &mut map, NOW), "two hold the lease");
    // With any value, the list that holds afterwards is at least as new as the announced one.
    let list = PodList { revision: u64::from(which), pods: vec!["10.0.0.1:1".to_owned()] };
    let said = announce(&keys.pods, &list, &mut map);
    let (holding, _) = announced(&keys.pods, &map).unwrap();
    assert!(if said.is_ok() { holding == list } else { holding.revision > list.revision });

    // Both roles continue with any value.
    let mut router = Router::new(&config, 7);
    let readable = router.refresh(&map);
    router.follow(&map, 4);
    let request =
        parse(Api::Completions, br#"{"model":"m","prompt":"Once upon a time, and so on and on"}"#).unwrap();
    for by in [RouteBy::Prompt(&request.into()), RouteBy::Load] {
        if let Ok(mut decision) = router.decide(by, &mut map, NOW) {
            router.start(&mut decision.ticket, &mut map, NOW).unwrap();
            router.failed_over(&mut decision.ticket, 1, Some(Slot(2)), &mut map, NOW).unwrap();
            router.unanswered(&decision.ticket, 2, &mut map, NOW).unwrap();
            router.close(decision.ticket, End::Aborted, &mut map).unwrap();
        }
    }
    assert!(readable.is_err() || router.refresh(&map).is_ok());
    let mut collector = Collector::new(&config, &map, 1, NOW);
    for due in collector.due(&map, NOW + SECOND) {
        let page =
            b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nprocess_start_time_seconds 5\n";
        collector.take(&due, page, &mut map, NOW + SECOND);
        collector.done(&due, None, NOW + SECOND);
    }
    collector.ledger(&map).totals();
    collector.publish(&mut map, NOW + 5 * SECOND);
    // The collector has replaced it with a readable table.
    assert!(router.refresh(&map).is_ok());
}

/// A pod's answer; its first byte says where it is cut into chunks. The usage that is found does not depend
/// on it.
pub fn usage(bytes: &[u8]) {
    let Some((&cut, answer)) = bytes.split_first() else { return };
    let mut whole = UsageScanner::default();
    whole.feed(answer);
    let mut steady = UsageScanner::default();
    answer.chunks(1 + usize::from(cut)).for_each(|chunk| steady.feed(chunk));
    assert_eq!(steady.usage(), whole.usage());
    // Chunks of changing size, some of them empty.
    let (mut uneven, mut rest, mut size) = (UsageScanner::default(), answer, usize::from(cut));
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(rest.len().min(size));
        uneven.feed(chunk);
        rest = tail;
        size = (size * 5 + 3) % 97;
    }
    assert_eq!(uneven.usage(), whole.usage());
}

/// The start of an answer, whose first byte says how it is cut: its first events mean the same however it arrives, and what
/// is final stays.
pub fn first_token(bytes: &[u8]) {
    let Some((&first, answer)) = bytes.split_first() else { return };
    let mut whole = FirstTokenReader::default();
    let said = whole.feed(answer);
    let mut cut = FirstTokenReader::default();
    let mut last = FirstEvent::NotYet;
    for chunk in answer.chunks(1 + usize::from(first)) {
        let next = cut.feed(chunk);
        assert!(!last.is_final() || next == last, "{last:?} became {next:?}");
        last = next;
    }
    assert_eq!(last, said);
    let end = whole.end();
    assert_eq!(cut.end(), end);
    assert!(!said.is_final() || said == end);
    if let FirstEvent::Error(error) = end {
        assert!((400..600).contains(&error.status));
    }
}

/// A plugin configuration. Every accepted value is within its range.
pub fn config(bytes: &[u8]) {
    let config = match Config::parse(bytes) {
        Ok(config) => config,
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() > 10, "{said}");
            return;
        }
    };
    assert_eq!(Config::parse(bytes).as_ref(), Ok(&config));
    assert!((1..=64).contains(&config.pool.len()));
    // It becomes a part of metric names.
    assert!(config.pool.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
    for pod in config.pods.iter().flatten() {
        let address: std::net::SocketAddr = pod.parse().unwrap();
        assert_ne!(address.port(), 0);
        assert!(pod.len() <= 255, "the table has one byte for its length");
    }
    assert!(config.pods.as_ref().is_none_or(|pods| pods.len() <= MAX_PODS));
    assert!(config.scrape.interval <= config.scrape.idle_interval);

    let mut map = Map::default();
    publish(&config, &mut map);
    let mut router = Router::new(&config, 1);
    router.refresh(&map).unwrap();
    assert_eq!(router.table().live().count(), config.pods.map_or(0, |pods| pods.len()));
}

/// A configuration with so many pods.
fn config_of(pods: u16) -> Config {
    let pods: Vec<String> = (0..pods).map(|n| format!("\"10.0.0.{n}:8000\"")).collect();
    let json = format!("{{\"pods\":[{}],\"index\":{{\"log_segments\":2,\"max_mib\":1}}}}", pods.join(","));
    Config::parse(json.as_bytes()).unwrap()
}

/// Publishes the pods of a configuration, before any scrape.
fn publish(config: &Config, shared: &mut Map) {
    Collector::new(config, shared, 1, NOW).publish(shared, NOW);
}

fn ledger_in(config: &Config, shared: &Map) -> Ledger {
    let key = Keys::of(&config.pool, 2).ledger;
    Ledger::decode(shared.get(&key).unwrap().0).unwrap()
}
