//! Clients of many kinds. Each of their requests is counted exactly once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use warmpath_tests::{Opened, Random, Request};

/// Longest wait for an answer: longer than several pods in turn may be silent. On a busy machine all are slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of different conversations. It is bounded, so that the index stops growing.
const TALKS: u64 = 300;
/// How a stream of chats and completions ends, one of responses, and one of messages.
const STREAM_END: &[u8] = b"data: [DONE]\n\n";
const RESPONSE_END: &[u8] = b"\n\n";
const MESSAGE_END: &[u8] = b"data: {\"type\":\"message_stop\"}\n\n";
/// The names of the pods' model.
const NAMES: [&str; 2] = ["/model/qwen", "qwen"];
/// Rounds of a conversation.
const ROUNDS: u64 = 8;

/// All clients, and the outcomes of their requests.
pub struct Clients {
    to: SocketAddr,
    stop: AtomicBool,
    /// Requests so far.
    sent: AtomicU64,
    counts: Mutex<Counts>,
}

/// Requests by outcome.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Answered as expected; 400 is expected for a body that is not JSON.
    pub answered: BTreeMap<&'static str, u64>,
    /// The client went away on purpose.
    pub aborted: u64,
    /// Streams that broke off after they had begun, each with its time.
    pub broken: Vec<Instant>,
    /// Whole answers that broke off. A whole answer has no byte before its last token, so its request can go
    /// to another pod.
    pub torn: u64,
    /// Answered with an unexpected status.
    pub refused: u64,
    /// No byte of an answer.
    pub lost: u64,
    /// The first few torn, refused and lost requests.
    pub complaints: Vec<Complaint>,
}

/// A request that was torn, refused or lost.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// Its `x-request-id`.
    pub request: String,
    /// What the client has seen, in words.
    pub seen: String,
}

/// One action of a client.
struct Act {
    name: &'static str,
    request: Request,
    expected: u16,
    /// The end of the answer, if it is a stream.
    ends: &'static [u8],
    /// Whether it is a stream, which may break off in the middle when its pod dies.
    streams: bool,
    /// The client goes away after so many milliseconds.
    leaves: Option<u64>,
}

impl Clients {
    pub fn new(to: SocketAddr) -> Clients {
        Clients { to, stop: AtomicBool::new(false), sent: AtomicU64::default(), counts: Mutex::default() }
    }

    pub fn start(self: &Arc<Clients>, clients: usize, seed: u64) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for number in 0..clients as u64 {
            let clients = Arc::clone(self);
            tasks.spawn(async move { clients.one(Random::new(seed * 1000 + number)).await });
        }
        tasks
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap().clone()
    }

    async fn one(&self, mut random: Random) {
        let mut talk = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let act = act(&mut random, &mut talk);
            self.perform(act).await;
            tokio::time::sleep(Duration::from_millis(random.within(0, 200))).await;
        }
    }

    async fn perform(&self, act: Act) {
        let Act { name, request, expected, ends, streams, leaves } = act;
        let id = format!("soak-{}", self.sent.fetch_add(1, Ordering::Relaxed));
        let request = request.header("x-request-id", &id);
        let work = async {
            let opened = match request.try_open(self.to).await {
                Ok(opened) => opened,
                Err(error) => return Outcome::Lost(error.to_string()),
            };
            finish(opened, expected, ends).await
        };
        let outcome = match leaves {
            Some(after) => match tokio::time::timeout(Duration::from_millis(after), work).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Aborted,
            },
            None => match tokio::time::timeout(PATIENCE, work).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Lost(format!("nothing in {PATIENCE:?}")),
            },
        };
        let mut counts = self.counts.lock().unwrap();
        let seen = match outcome {
            Outcome::Answered => {
                *counts.answered.entry(name).or_default() += 1;
                return;
            }
            Outcome::Aborted => {
                counts.aborted += 1;
                return;
            }
            Outcome::Broken if streams => {
                counts.broken.push(Instant::now());
                return;
            }
            Outcome::Broken => {
                counts.torn += 1;
                format!("{name}: a whole answer broke off")
            }
            Outcome::Refused(status, text) => {
                counts.refused += 1;
                format!("{name}: {status} {text}")
            }
            Outcome::Lost(why) => {
                counts.lost += 1;
                format!("{name}: {why}")
            }
        };
        if counts.complaints.len() < 20 {
            counts.complaints.push(Complaint { request: id, seen });
        }
    }
}

enum Outcome {
    Answered,
    Aborted,
    Broken,
    Refused(u16, String),
    Lost(String),
}

async fn finish(opened: Opened, expected: u16, ends: &[u8]) -> Outcome {
    let status = opened.status.as_u16();
    match opened.finish().await {
        Ok(reply) if status != expected => Outcome::Refused(status, reply.text().chars().take(200).collect()),
        Ok(reply) if reply.body.ends_with(ends) => Outcome::Answered,
        Ok(_) | Err(_) => Outcome::Broken,
    }
}

/// The client's next action; `talk` is its conversation so far.
fn act(random: &mut Random, talk: &mut Vec<Value>) -> Act {
    let stream = random.within(0, 2) == 0;
    let tokens = random.within(2, 20);
    let ends: &[u8] = if stream { STREAM_END } else { b"}" };
    let model = random.of(&NAMES);
    let of = |name, request| Act { name, request, expected: 200, ends, streams: stream, leaves: None };
    let whole = |name, request, ends| Act { ends, streams: false, ..of(name, request) };
    match random.within(0, 100) {
        0..37 => of("chats", chat(random, talk, model, stream, tokens)),
        37..49 => {
            let prompt = Random::text(random.within(0, TALKS), 120);
            let body = json!({"model": model, "prompt": prompt, "stream": stream, "max_tokens": tokens});
            of("completions", Request::post("/v1/completions", &body))
        }
        49..54 => {
            let input = Random::text(random.within(0, TALKS), 120);
            let body = json!({"model": model, "input": input, "stream": stream, "max_output_tokens": tokens});
            let ends = if stream { RESPONSE_END } else { b"}" };
            Act { ends, ..of("responses", Request::post("/v1/responses", &body)) }
        }
        54..60 => {
            let messages = [json!({"role": "user", "content": Random::text(random.within(0, TALKS), 120)})];
            let body = json!({"model": model, "messages": messages, "stream": stream, "max_tokens": tokens});
            let ends = if stream { MESSAGE_END } else { b"}" };
            Act { ends, ..of("messages", Request::post("/v1/messages", &body)) }
        }
        60..68 => {
            let input: Vec<String> =
                (0..random.within(1, 5)).map(|n| Random::text(random.within(0, TALKS) + n, 40)).collect();
            let body = json!({"model": model, "input": input});
            whole("embeddings", Request::post("/v1/embeddings", &body), b"}")
        }
        68..74 => whole("models", Request::get("/v1/models"), b"}"),
        74..78 => whole("health", Request::get("/health"), b""),
        78..86 => {
            let request = chat(random, talk, model, stream, 60);
            Act { leaves: Some(random.within(1, 300)), ..of("short of patience", request) }
        }
        86..92 => {
            let broken = ["{", "[]", "{\"model\": 3}", "null", "{\"messages\": [}"];
            let body = broken[random.within(0, broken.len() as u64) as usize];
            let request = Request::new("POST", "/v1/chat/completions").body(body);
            Act { expected: 400, ..whole("bad JSON", request, b"") }
        }
        92..96 => {
            let padding = "x".repeat(random.within(200_000, 3_000_000) as usize);
            let body = json!({"model": model, "user": padding, "max_tokens": tokens, "stream": stream,
                "messages": [{"role": "user", "content": Random::text(random.within(0, TALKS), 50)}]});
            of("large bodies", Request::post("/v1/chat/completions", &body))
        }
        96..98 => {
            let prompt = Random::text(random.within(0, 40), 2500);
            let body = json!({"model": model, "stream": stream, "max_tokens": tokens,
                "messages": [{"role": "user", "content": prompt}]});
            of("long prompts", Request::post("/v1/chat/completions", &body))
        }
        _ => Act { expected: 404, ..whole("unknown paths", Request::get("/v2/nothing"), b"") },
    }
}

/// The next round of a conversation, or the first one of another.
fn chat(random: &mut Random, talk: &mut Vec<Value>, model: &str, stream: bool, tokens: u64) -> Request {
    if talk.len() as u64 >= 2 * ROUNDS || talk.is_empty() {
        let seed = random.within(0, TALKS);
        *talk = vec![json!({"role": "system", "content": Random::text(seed, 200)})];
    }
    let round = talk.len() as u64;
    // The next message depends on the round alone, so that there are few different conversations.
    talk.push(json!({"role": "user", "content": Random::text(round * 10 + random.within(0, 2), 30)}));
    let request = Request::post(
        "/v1/chat/completions",
        &json!({"model": model, "stream": stream, "max_tokens": tokens, "messages": talk}),
    );
    talk.push(json!({"role": "assistant", "content": Random::text(round * 10 + 7, 20)}));
    request
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered: u64 = self.answered.values().sum();
        let Counts { aborted, broken, torn, refused, lost, .. } = self;
        write!(
            f,
            "{answered} answered, {aborted} left, {} streams broken off, {torn} whole answers torn, {refused} refused, \
             {lost} lost",
            broken.len()
        )
    }
}
