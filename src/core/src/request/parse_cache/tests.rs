//! Whatever bodies came before, a body is read as if it were the first.

use super::*;
use crate::request::body::Part;
use crate::settings::document::Value;
use crate::settings::object::UnknownKeys;
use proptest::prelude::*;

/// What a router gets of a body: the chain of its prompt, and what else is read of it.
#[derive(Debug, PartialEq)]
struct Read {
    chain: (Vec<u32>, u64, u64),
    model: Vec<u8>,
    salt: Option<Vec<u8>>,
    stream: bool,
    reports_usage: bool,
    is_text: bool,
}

fn follow(parse_cache: &mut ParseCache, reading: &ParsedRequest<'_>) -> Read {
    let (mut chain, request) = (Chain::default(), &reading.request);
    // A worker's chain has the last prompt in it.
    chain.push(&[b'x'; 100]);
    parse_cache.chain(reading, &mut chain, Chain::push);
    Read {
        chain: (chain.hashes().to_vec(), chain.bytes().0, chain.head()),
        model: request.model.to_vec(),
        salt: request.cache_salt.as_deref().map(<[u8]>::to_vec),
        stream: request.stream,
        reports_usage: request.reports_usage,
        is_text: reading.is_text(),
    }
}

fn read(parse_cache: &mut ParseCache, api: Api, body: &[u8]) -> Result<Read, BodyError> {
    let reading = parse_cache.read(api, body)?;
    Ok(follow(parse_cache, &reading))
}

/// The naive twin: parses all of it, and hashes all of it.
fn naive(api: Api, body: &[u8]) -> Result<Read, BodyError> {
    Ok(follow(&mut ParseCache::new(7), &parse(api, body)?.into()))
}

/// How many bytes of messages are skipped.
fn skipped(parse_cache: &mut ParseCache, body: &[u8]) -> usize {
    let reading = parse_cache.read(Api::Chat, body).unwrap();
    let skipped = reading.known.as_ref().map(|known| known.key.messages);
    parse_cache.chain(&reading, &mut Chain::default(), Chain::push);
    skipped.map_or(0, |skipped| skipped.end - skipped.start)
}

fn message(role: &str, content: &str) -> String {
    format!(r#"{{"role":"{role}","content":"{content}"}}"#)
}

fn text(bytes: usize, seed: usize) -> String {
    (0..bytes / 8).map(|nth| format!("{:07} ", nth * 31 + seed)).collect()
}

fn chat(messages: &[String]) -> String {
    format!(r#"{{"model":"m","messages":[{}],"stream":false}}"#, messages.join(","))
}

/// A conversation of rounds, each a little longer than a step.
fn rounds(seed: usize) -> Vec<String> {
    let system = message("system", &text(6000, 0));
    (0..4)
        .map(|round| {
            let rest = (0..=2 * round).map(|nth| message("user", &text(2500, seed + 1000 * nth)));
            chat(&std::iter::once(system.clone()).chain(rest).collect::<Vec<_>>())
        })
        .collect()
}

#[test]
fn each_round_is_read_from_where_the_one_before_ended() {
    let mut parse_cache = ParseCache::new(7);
    let end = |body: &str| body.len() - r#"],"stream":false}"#.len() - r#"{"model":"m","messages":"#.len();
    let mut known = 0;
    for body in rounds(1) {
        assert_eq!(skipped(&mut parse_cache, body.as_bytes()), known);
        known = end(&body);
    }
    // Again, without another key; and another conversation, which has the system prompt in common.
    let last = rounds(1).pop().unwrap();
    let memory = parse_cache.entries.memory();
    assert_eq!(skipped(&mut parse_cache, last.as_bytes()), known);
    assert_eq!(parse_cache.entries.memory(), memory);
    let other = rounds(2);
    let system = message("system", &text(6000, 0)).len() + 1;
    assert_eq!(skipped(&mut parse_cache, other[0].as_bytes()), system);
    assert_eq!(skipped(&mut parse_cache, other[1].as_bytes()), end(&other[0]));
}

#[test]
fn a_conversation_that_goes_on_is_remembered_once() {
    let mut parse_cache = ParseCache::new(7);
    let all = rounds(1);
    for body in &all {
        skipped(&mut parse_cache, body.as_bytes());
        let known = parse_cache.entries.iter().count();
        assert_eq!(known, 2, "it and its system prompt");
    }
    // One that goes back begins anew behind the system prompt.
    let system = message("system", &text(6000, 0)).len() + 1;
    assert_eq!(skipped(&mut parse_cache, all[1].as_bytes()), system);
}

#[test]
fn many_short_conversations_leave_their_system_prompt_known() {
    let mut parse_cache = ParseCache::new(7);
    let system = message("system", &text(4500, 0));
    // None of them fills a step, so all are looked up at the same place.
    let first = |nth: usize| vec![system.clone(), message("user", &format!("question {nth}"))];
    for nth in 0..100 {
        let known = skipped(&mut parse_cache, chat(&first(nth)).as_bytes());
        assert_eq!(known, if nth == 0 { 0 } else { system.len() + 1 });
    }
    let second = [first(99), vec![message("assistant", "answer"), message("user", "again")]].concat();
    assert!(skipped(&mut parse_cache, chat(&second).as_bytes()) > system.len() + 1);
}

#[test]
fn short_bodies_are_not_looked_up() {
    let mut parse_cache = ParseCache::new(7);
    let body = chat(&[message("user", &text(3000, 1))]);
    assert_eq!(skipped(&mut parse_cache, body.as_bytes()), 0);
    assert_eq!(skipped(&mut parse_cache, body.as_bytes()), 0);
    assert_eq!(parse_cache.entries.iter().count(), 0);
}

/// Two beginnings of one fingerprint: what is known ends amid a text of this body.
#[test]
fn a_body_is_read_though_what_is_known_was_never_in_it() {
    let body = chat(&[message("system", &text(6000, 0)), message("user", "hello")]);
    let body = body.as_bytes();
    let mut parse_cache = ParseCache::new(7);
    let hashed = HashedBody::new(&parse_cache.key, Api::Chat, body);
    let (request, spans) = fields::read(Api::Chat, body, None).unwrap();
    let messages = Span { end: 5000, ..spans.unwrap().first.unwrap() };
    let key = CacheKey {
        opening: None,
        fingerprint: hashed.fingerprint(messages.end).unwrap(),
        messages,
        media: false,
        preamble: parse_cache.preamble(&request),
        shared: true,
    };
    parse_cache.entries.keep(CacheEntry { key, chain: Chain::default() });
    assert!(parse_cache.entries.find(&hashed).is_some());
    assert_eq!(read(&mut parse_cache, Api::Chat, body), naive(Api::Chat, body));
}

#[test]
fn what_stands_behind_the_messages_counts() {
    let mut parse_cache = ParseCache::new(7);
    let messages = message("user", &text(9000, 1));
    for after in [
        r#""model":"m""#,
        r#""model":"n""#,
        r#""model":"m","cache_salt":"s""#,
        r#""model":"m","tools":["s"]"#,
        r#""model":"m","tools":["s"],"stream":true"#,
        r#""model":"m","messages":[{"role":"user","content":"no, this"}]"#,
        r#""model":"m","messages":null"#,
        r#""model":"m","stream":"odd""#,
        r#""model":7"#,
        r#""model":"m"x"#,
    ] {
        let body = format!(r#"{{"messages":[{messages}],{after}}}"#);
        let expected = naive(Api::Chat, body.as_bytes());
        for _ in 0..2 {
            assert_eq!(read(&mut parse_cache, Api::Chat, body.as_bytes()), expected, "{after}");
        }
    }
}

#[test]
fn apis_do_not_mix() {
    let mut parse_cache = ParseCache::new(7);
    let body = rounds(1).pop().unwrap().replacen('{', r#"{"system":"be brief","#, 1);
    for api in [Api::Chat, Api::Messages, Api::Embeddings, Api::Responses, Api::Completions] {
        for _ in 0..2 {
            assert_eq!(read(&mut parse_cache, api, body.as_bytes()), naive(api, body.as_bytes()), "{api:?}");
        }
    }
}

fn settings(json: &str) -> Arc<PoolSettings> {
    let document = Value::parse(json.as_bytes()).unwrap();
    let settings = PoolSettings::parse(&document, &PoolSettings::default(), UnknownKeys::Refused);
    Arc::new(settings.unwrap())
}

#[test]
fn a_conversation_keeps_its_target_in_each_round_whatever_is_known_of_it() {
    let of = |new: u32| {
        settings(&format!(
            r#"{{"models": [{{"name": "m", "targets": [{{"name": "v1", "weight": {}}}, {{"name": "v2", "weight": {new}}}]}}]}}"#,
            100 - new
        ))
    };
    let (half, all) = (of(50), of(100));
    let mut parse_cache = ParseCache::new(7);
    parse_cache.set_settings(&half);
    let mut drawn = std::collections::BTreeMap::<Vec<u8>, u32>::new();
    for conversation in 0..60 {
        let mut targets = std::collections::BTreeSet::new();
        for body in rounds(conversation * 31) {
            let reading = parse_cache.read(Api::Chat, body.as_bytes()).unwrap();
            assert_eq!(reading.naming.asked.as_deref(), Some(&b"m"[..]));
            // A worker that knows nothing of it draws the same, and has the same chain.
            let mut fresh = ParseCache::new(8);
            fresh.set_settings(&half);
            let twin = fresh.read(Api::Chat, body.as_bytes()).unwrap();
            assert_eq!(follow(&mut parse_cache, &reading), follow(&mut fresh, &twin));
            targets.insert(reading.request.model.to_vec());
        }
        assert_eq!(targets.len(), 1, "conversation {conversation}: {targets:?}");
        *drawn.entry(targets.pop_first().unwrap()).or_default() += 1;
    }
    assert!(drawn.len() == 2 && drawn.values().all(|&count| count > 15), "{drawn:?}");
    // Entries of another target, and entries without an opening, are not used.
    parse_cache.set_settings(&settings("{}"));
    let bodies = rounds(99_999);
    assert!(parse_cache.read(Api::Chat, bodies[0].as_bytes()).unwrap().naming.asked.is_none());
    read(&mut parse_cache, Api::Chat, bodies[0].as_bytes()).unwrap();
    for settings in [&half, &all, &half] {
        parse_cache.set_settings(settings);
        for body in &bodies {
            let mut fresh = ParseCache::new(8);
            fresh.set_settings(settings);
            assert_eq!(
                read(&mut parse_cache, Api::Chat, body.as_bytes()),
                read(&mut fresh, Api::Chat, body.as_bytes())
            );
        }
    }
}

#[test]
fn what_was_only_counted_is_not_taken_for_hashed() {
    let mut parse_cache = ParseCache::new(7);
    let [first, second, third, fourth] = rounds(1).try_into().unwrap();
    let hashes = |parse_cache: &mut ParseCache, body: &str, add: fn(&mut Chain, &[u8])| {
        let reading = parse_cache.read(Api::Chat, body.as_bytes()).unwrap();
        let mut chain = Chain::default();
        parse_cache.chain(&reading, &mut chain, add);
        (chain.hashes().len(), chain.bytes().0)
    };
    let bytes_of = |body: &str| naive(Api::Chat, body.as_bytes()).unwrap().chain.1;
    parse_cache.set_settings(&settings(r#"{"strategy": "LOAD_ONLY"}"#));
    for body in [&first, &second] {
        assert_eq!(hashes(&mut parse_cache, body, Chain::count), (0, bytes_of(body)));
    }
    parse_cache.set_settings(&settings("{}"));
    assert_eq!(read(&mut parse_cache, Api::Chat, third.as_bytes()), naive(Api::Chat, third.as_bytes()));
    parse_cache.set_settings(&settings(r#"{"strategy": "LOAD_ONLY"}"#));
    assert_eq!(hashes(&mut parse_cache, &fourth, Chain::count), (0, bytes_of(&fourth)));
}

#[test]
fn known_parts_count_for_the_most_that_are_taken_apart() {
    let mut parse_cache = ParseCache::new(7);
    let many = vec![r#"{"content":"x"}"#.to_owned(); (1 << 15) - 1];
    let longer = |more: usize| chat(&[many.clone(), vec!["{}".to_owned(); more]].concat());
    for more in [0, 2, 3] {
        let body = longer(more);
        let reading = parse_cache.read(Api::Chat, body.as_bytes()).unwrap();
        assert_eq!(matches!(reading.request.prompt, Prompt::Opaque(_)), more == 3);
        assert_eq!(follow(&mut parse_cache, &reading), naive(Api::Chat, body.as_bytes()).unwrap());
    }
}

#[test]
fn memory_is_bounded_and_all_of_it_given_back() {
    let limit = 128 << 10;
    let mut parse_cache = ParseCache { entries: Entries::new(limit), ..ParseCache::new(7) };
    let counted =
        |parse_cache: &ParseCache| parse_cache.entries.iter().map(CacheEntry::memory).sum::<usize>();
    let mut least = usize::MAX;
    for nth in 0..1_000 {
        let body = chat(&[message("user", &text(5_000 + nth % 15 * 1000, nth * 10_000))]);
        skipped(&mut parse_cache, body.as_bytes());
        assert!(parse_cache.entries.memory() <= limit);
        assert_eq!(parse_cache.entries.memory(), counted(&parse_cache));
        if nth > 500 {
            least = least.min(parse_cache.entries.memory());
        }
    }
    assert!(least > limit * 9 / 10, "{least}: what is there is used");
    let large = chat(&[message("user", &text(1 << 20, 1))]);
    skipped(&mut parse_cache, large.as_bytes());
    assert_eq!(skipped(&mut parse_cache, large.as_bytes()), 0);
}

/// What bodies are made of: some of it is not valid, some not known, some not text.
fn content() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "plain words ",
        "\\n",
        "\\u00e9",
        "\\/",
        "é",
        "😀",
        "\\\\",
        "\\\"",
        "\\ud83d\\ude00",
    ]);
    let long = (prop::collection::vec(words, 1..40), 1usize..120)
        .prop_map(|(words, times)| format!("\"{}\"", words.concat().repeat(times)));
    prop_oneof![
        8 => long,
        1 => (1usize..9000).prop_map(|size| {
            let data = "aB3+".repeat(size / 4);
            format!(r#"[{{"type":"text","text":"see"}},{{"type":"image_url","image_url":{{"url":"data:;base64,{data}"}}}}]"#)
        }),
        1 => prop::sample::select(vec!["null", "\"\"", "[]", "\"\\x\"", "7", "\"\u{1}\""]).prop_map(str::to_owned),
    ]
}

#[derive(Clone, Debug)]
struct Shape {
    before: &'static str,
    space: &'static str,
    after: &'static str,
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        prop::sample::select(vec![
            r#""model":"m","#,
            r#""temperature":0.7,"#,
            r#""model":"n","tools":[{"type":"function"}],"system":"s","#,
            r#""messages":[{"role":"user","content":"first"}],"model":"m","#,
            "",
        ]),
        prop::sample::select(vec!["", " ", "\n  "]),
        prop::sample::select(vec![
            r#","model":"m""#,
            r#","model":"n","stream":true,"tools":["t"]"#,
            r#","cache_salt":"s","model":"m","system":[{"type":"text","text":"t"}]"#,
            r#","model":"m","messages":[{"role":"user","content":"instead"}]"#,
            "",
            ",",
        ]),
    )
        .prop_map(|(before, space, after)| Shape { before, space, after })
}

fn body(shape: &Shape, messages: &[String]) -> Vec<u8> {
    let Shape { before, space, after } = shape;
    let messages: Vec<String> = messages
        .iter()
        .map(|content| format!(r#"{{{space}"role":{space}"user","content":{content}}}{space}"#))
        .collect();
    format!("{{{before}\"messages\":{space}[{space}{}]{after}}}", messages.join(&format!(",{space}")))
        .into_bytes()
}

proptest! {
    /// Bodies that begin alike, one behind the other: each has a number of the messages of one conversation,
    /// or of one that went another way, in one of two shapes; and in some a byte is another.
    #[test]
    fn every_body_is_read_as_by_the_twin(
        contents in prop::collection::vec(content(), 6),
        others in prop::collection::vec(content(), 6),
        shapes in prop::collection::vec(shape(), 2),
        api in prop::sample::select(vec![Api::Chat, Api::Messages, Api::Embeddings]),
        turns in prop::collection::vec((1usize..7, 0usize..7, 0usize..2, prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()))), 1..8),
    ) {
        let mut parse_cache = ParseCache::new(7);
        for (count, forks_at, shape, change) in turns {
            let messages: Vec<String> = (0..count)
                .map(|nth| if nth < forks_at { contents[nth].clone() } else { others[nth].clone() })
                .collect();
            let mut body = body(&shapes[shape], &messages);
            if let Some((place, byte)) = change {
                let at = place.index(body.len());
                body[at] = byte;
            }
            prop_assert_eq!(read(&mut parse_cache, api, &body), naive(api, &body));
        }
    }
}

#[test]
fn an_image_that_is_known_is_an_image_still() {
    let mut parse_cache = ParseCache::new(7);
    let image = format!(
        r#"{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:;base64,{}"}}}}]}}"#,
        "aB3+".repeat(4000)
    );
    let body = chat(std::slice::from_ref(&image));
    let longer = chat(&[image, message("user", "what is it?")]);
    skipped(&mut parse_cache, body.as_bytes());
    let reading = parse_cache.read(Api::Chat, longer.as_bytes()).unwrap();
    let Prompt::Chat { messages: rest, .. } = &reading.request.prompt else { panic!("{reading:?}") };
    assert_eq!(*rest, [Part::Item(b"user".into()), Part::Text(b"what is it?".into())]);
    assert!(reading.request.prompt.is_text() && !reading.is_text());
}

#[test]
fn the_seed_keys_every_hash() {
    let body = chat(&[message("user", &text(20_000, 1))]);
    let of = |seed| {
        let key = HashKey::new(seed);
        let hashed = HashedBody::new(&key, Api::Chat, body.as_bytes());
        let end = |end| hashed.fingerprint(end).map(|fingerprint| fingerprint.whole);
        hashed
            .hashes()
            .iter()
            .copied()
            .chain([4096, 5000, 9999].map(end).map(Option::unwrap))
            .collect::<Vec<_>>()
    };
    let (one, other) = (of(1), of(2));
    assert_eq!(one, of(1));
    assert!(one.len() > 6 && one.iter().zip(&other).all(|(a, b)| a != b));
}
