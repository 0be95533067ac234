//! Bodies of requests: one, the rounds of a conversation, and any JSON.

use std::fmt::Debug;

use serde_json::Value;
use serde_json::value::RawValue;
use warmpath::answer::usage::Usage;
use warmpath::request::blocks::{Chain, blocks_in};
use warmpath::request::body::{Api, BodyError, Prompt, Request};
use warmpath::request::json::{JsonError, MAX_DEPTH, Scanner};
use warmpath::request::parse;
use warmpath::request::parse_cache::{ParseCache, ParsedRequest};
use warmpath::request::prompt::canonical;
use warmpath::router::{End, RouteBy, Router};
use warmpath::shared::store::Map;
use warmpath::{Bytes, Micros, Tokens};

use crate::pool::{NOW, config_of, ledger_in, publish};

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

/// Whether `serde_json` reads the body in another way on purpose. It mistakes every object with the key that
/// marks its `RawValue` for one, and refuses the numbers that only Python knows.
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
