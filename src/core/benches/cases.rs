//! What is measured, and what it is measured on: bodies, pools, an index that is full. Shared by the
//! benchmarks, which take time, and the budget, which counts instructions.

use warmpath::answer::usage::{Usage, UsageScanner};
use warmpath::config::Config;
use warmpath::prefix::index::{IndexLimits, PrefixIndex};
use warmpath::request::blocks::{Chain, mix};
use warmpath::request::body::{Api, Request};
use warmpath::request::parse_cache::ParseCache;
use warmpath::request::prompt::canonical;
use warmpath::router::{End, RouteBy, Router, Ticket};
use warmpath::shared::pod_table::{Pod, PodState, PodTable};
use warmpath::shared::store::{Keys, Map, SharedData};
use warmpath::{Bytes, Micros, Slot, Tokens};

/// Sizes of bodies in bytes.
pub const BODIES: [usize; 4] = [2 << 10, 32 << 10, 256 << 10, 1 << 20];
/// Sizes of pools.
pub const PODS: [usize; 4] = [3, 20, 100, 1000];
/// A moment: any will do.
const NOW: Micros = Micros::from_seconds(1_700_000_000);
/// Conversations whose bodies are made; each is asked again and again, so that a decision finds a match.
const CONVERSATIONS: u64 = 8;

/// Words that a number stands for: the same text in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = mix(self.0);
        (self.0 % bound as u64) as usize
    }
}

/// A chat body of about `bytes` bytes: a system prompt that all share, then turns of the conversation `nth`.
/// A line end each 14 words and a quoted word each 40, as in answers with lists and code, and a letter that
/// is not ASCII each 90.
pub fn chat(bytes: usize, nth: u64) -> Vec<u8> {
    let mut body =
        String::from(r#"{"model":"llama-3-8b","temperature":0.7,"messages":[{"role":"system","content":""#);
    words(&mut body, &mut Chance(1), bytes / 4);
    let mut chance = Chance(mix(nth));
    for role in ["user", "assistant", "user"] {
        body.push_str(&format!(r#""}},{{"role":"{role}","content":""#));
        let wanted = body.len() + bytes / 4;
        words(&mut body, &mut chance, wanted.min(bytes));
    }
    body.push_str(r#""}],"max_tokens":64}"#);
    body.into_bytes()
}

fn words(body: &mut String, chance: &mut Chance, until: usize) {
    const WORDS: [&str; 16] = [
        "the", "of", "a", "and", "request", "cache", "prefix", "token", "model", "when", "queue", "answer",
        "because", "memory", "several", "latency",
    ];
    while body.len() < until {
        let word = WORDS[chance.below(WORDS.len())];
        match chance.below(280) {
            0..20 => body.push_str("\\n"),
            20..27 => body.push_str("\\\"and\\\" "),
            27..30 => body.push_str("naïve "),
            _ => {}
        }
        body.push_str(word);
        body.push(' ');
    }
}

/// The same conversation as clients write it whose JSON is ASCII alone: `\u00ef` for the only letter that is
/// not.
pub fn chat_in_ascii(bytes: usize, nth: u64) -> Vec<u8> {
    String::from_utf8(chat(bytes, nth)).expect("text").replace('ï', "\\u00ef").into_bytes()
}

/// A chat of about `bytes` bytes in messages of 60 bytes, and tools that the model may call.
pub fn chat_of_many(bytes: usize) -> Vec<u8> {
    let mut body = String::from(
        r#"{"model":"llama-3-8b","tools":[{"type":"function","function":{"name":"look_up","parameters":{"type":"object","properties":{"what":{"type":"string"}}}}}],"messages":["#,
    );
    let mut chance = Chance(3);
    while body.len() < bytes {
        for role in ["user", "assistant"] {
            body.push_str(&format!(r#"{{"role":"{role}","content":""#));
            let wanted = body.len() + 60;
            words(&mut body, &mut chance, wanted);
            body.push_str(r#""},"#);
        }
    }
    body.push_str(r#"{"role":"user","content":"and now?"}]}"#);
    body.into_bytes()
}

/// A body as the module sees it: parsed.
pub fn parse(body: &[u8]) -> Request<'_> {
    warmpath::request::parse(Api::Chat, body).expect("a chat")
}

/// Hashes a prompt.
pub fn hash(request: &Request<'_>, chain: &mut Chain) {
    chain.start(&request.model, None);
    canonical(&request.prompt, |piece| chain.push(piece));
    chain.finish();
}

/// Conversations behind a system prompt that is known, three quarters of the body.
pub struct Known {
    parse_cache: ParseCache,
    chain: Chain,
    body: Vec<u8>,
    /// Where the number of the conversation stands.
    at: usize,
    next: u64,
}

impl Known {
    /// Bodies of about `bytes` bytes.
    pub fn new(bytes: usize) -> Known {
        let mut body = String::from(r#"{"model":"llama-3-8b","messages":[{"role":"system","content":""#);
        words(&mut body, &mut Chance(1), bytes / 4 * 3);
        body.push_str(r#""},{"role":"user","content":""#);
        let at = body.len();
        body.push_str("00000000 ");
        words(&mut body, &mut Chance(2), bytes);
        body.push_str(r#""}],"max_tokens":64}"#);
        let (parse_cache, chain) = (ParseCache::new(7), Chain::default());
        let mut known = Known { parse_cache, chain, body: body.into_bytes(), at, next: 0 };
        known.read();
        known
    }

    /// The next conversation, from its bytes to the chain of its prompt.
    pub fn read(&mut self) -> Bytes {
        self.next += 1;
        self.body[self.at..self.at + 8].copy_from_slice(format!("{:08}", self.next % 100_000_000).as_bytes());
        let reading = self.parse_cache.read(Api::Chat, &self.body).expect("a chat");
        self.parse_cache.chain(&reading, &mut self.chain, Chain::push);
        self.chain.bytes()
    }
}

/// A page of metrics that was recorded from a vLLM.
pub fn page(name: &str) -> &'static [u8] {
    match name {
        "idle" => include_bytes!("../../../tests/fixtures/vllm-0.32/metrics-idle.txt"),
        _ => include_bytes!("../../../tests/fixtures/vllm-0.32/metrics-loaded.txt"),
    }
}

/// An answer that was recorded from a vLLM: whole, or an event of a stream.
pub fn answer(name: &str) -> &'static [u8] {
    match name {
        "whole" => include_bytes!("../../../tests/fixtures/vllm-0.32/chat.json"),
        _ => br#"data: {"id":"chatcmpl-9af1","object":"chat.completion.chunk","created":1795224855,"model":"/model/qwen","choices":[{"index":0,"delta":{"content":" pod"},"logprobs":null,"finish_reason":null,"token_ids":null}]}

"#,
    }
}

/// Reads an answer as it passes.
pub fn scan(answer: &[u8]) -> Option<Tokens> {
    let mut scanner = UsageScanner::default();
    scanner.feed(answer);
    scanner.usage().map(|usage| usage.prompt_tokens)
}

/// A table of `pods` pods under some load.
pub fn table(pods: usize) -> PodTable {
    let pods = (0..pods)
        .map(|nth| Pod {
            id: nth as u32 + 1,
            address: format!("10.0.{}.{}:8000", nth / 250, nth % 250),
            state: PodState::Ready,
            scraped_at: NOW,
            running: (nth % 7) as f32,
            kv_usage: (nth % 10) as f32 / 10.0,
            capacity: 500_000,
            ..Pod::default()
        })
        .collect();
    PodTable { published_at: NOW, generation: 1, last_id: 0, pods, ..PodTable::default() }
}

/// A worker, what it shares, and bodies that come to it.
pub struct Worker {
    pub router: Router,
    pub map: Map,
    bodies: Vec<Vec<u8>>,
    next: usize,
    now: Micros,
}

impl Worker {
    /// A worker that has seen each body once.
    pub fn new(pods: usize, bytes: usize) -> Worker {
        let config = Config::parse(br#"{"pods":["127.0.0.1:1"]}"#).expect("a configuration");
        let mut map = Map::default();
        let keys = Keys::of(&config.pool, config.index.log_segments);
        map.set(&keys.table, &table(pods).encode(), None).expect("unconditional");
        let mut router = Router::new(&config, 1);
        router.refresh(&map).expect("a table");
        let bodies = (0..CONVERSATIONS).map(|nth| chat(bytes, nth)).collect();
        let mut worker = Worker { router, map, bodies, next: 0, now: NOW };
        for _ in 0..CONVERSATIONS {
            worker.request();
        }
        worker
    }

    /// A request from its body to its end: decided, answered as a whole with its usage, closed. As with the
    /// module, the parts that were parsed and the ticket are dropped at the end.
    pub fn request(&mut self) -> Slot {
        let ticket = self.decide();
        let slot = ticket.slot();
        self.close(ticket);
        slot
    }

    /// From its body to the decision.
    pub fn decide(&mut self) -> Ticket {
        let Worker { router, map, bodies, next, now } = self;
        *now = *now + Micros(100);
        *next = (*next + 1) % bodies.len();
        let reading = parse(&bodies[*next]).into();
        router.decide(RouteBy::Prompt(&reading), map, *now).expect("a pod").ticket
    }

    /// From the answer, which is here at once, to the end.
    pub fn close(&mut self, ticket: Ticket) {
        let tokens = (self.bodies[self.next].len() / 4) as u32;
        let usage = Some(Usage { prompt_tokens: Tokens(tokens), cached_tokens: Some(Tokens(tokens)) });
        self.router
            .close(ticket, End::Answered { usage, at: self.now + Micros(60) }, &mut self.map)
            .expect("nobody else writes");
    }
}

/// An index of a worker in which `conversations` of 32 blocks are held by three pods; all begin with the same
/// eight blocks.
pub struct Full {
    pub index: PrefixIndex,
    conversations: u64,
    next: u64,
}

impl Full {
    /// Puts all in.
    pub fn new(conversations: u64) -> Full {
        let mut index = PrefixIndex::new(IndexLimits { memory: 256 << 20, holdings: 10_000_000 });
        for nth in 0..conversations {
            index.insert(Slot((nth % 3) as u16), &Full::chain(nth));
        }
        Full { index, conversations, next: 0 }
    }

    /// The hashes of a conversation.
    pub fn chain(nth: u64) -> [u32; 32] {
        std::array::from_fn(|at| mix(if at < 8 { at as u64 } else { nth << 8 | at as u64 }) as u32)
    }

    /// The hashes of one that is held; another one each time.
    pub fn known(&mut self) -> [u32; 32] {
        // Far from the one before, so that no cache has it.
        self.next = self.next.wrapping_add(7919);
        Full::chain(self.next % self.conversations)
    }

    /// The hashes of one that is not held yet.
    pub fn unknown(&mut self) -> [u32; 32] {
        self.next = self.next.wrapping_add(1);
        Full::chain(self.conversations + self.next)
    }
}
