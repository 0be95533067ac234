//! What a client may do next.

use serde_json::{Value, json};
use warmpath_tests::{Random, Request};

use crate::truth::{Api, Truth};

/// Number of different conversations. It is bounded, so that the index stops growing.
const TALKS: u64 = 300;
/// Rounds of a conversation.
const ROUNDS: usize = 8;
/// The names of the pods' model. Answers have the first one.
const NAMES: [&str; 2] = ["/model/qwen", "qwen"];
/// The LoRA adapters, which some of the pods have.
pub const ADAPTERS: [&str; 2] = ["red", "blue"];
/// How a stream of chats and completions ends, one of responses, and one of messages.
const STREAM_END: &[u8] = b"data: [DONE]\n\n";
const RESPONSE_END: &[u8] = b"\n\n";
const MESSAGE_END: &[u8] = b"data: {\"type\":\"message_stop\"}\n\n";

/// One action of a client.
pub struct Act {
    pub name: &'static str,
    pub request: Request,
    pub expected: u16,
    /// The end of the answer.
    pub ends: &'static [u8],
    /// Whether it is a stream, which may break off in the middle when its pod dies.
    pub streams: bool,
    /// The client goes away after so many milliseconds.
    pub leaves: Option<u64>,
    /// What must be answered, if it is words.
    pub truth: Option<Truth>,
}

/// A conversation so far, with one model.
#[derive(Default)]
pub struct Talk {
    model: &'static str,
    messages: Vec<Value>,
}

impl Act {
    /// A request without a prompt, or one that no pod serves, and the status that it gets.
    pub fn plain(name: &'static str, request: Request, expected: u16) -> Act {
        Act { name, request, expected, ends: b"", streams: false, leaves: None, truth: None }
    }

    /// A question, which is answered with so many words.
    pub fn asks(name: &'static str, api: Api, question: Value, stream: bool, words: usize) -> Act {
        let mut body = question.clone();
        (body["stream"], body[api.limit()]) = (json!(stream), json!(words));
        let ends: &[u8] = match api {
            _ if !stream => b"}",
            Api::Chat | Api::Completions => STREAM_END,
            Api::Responses => RESPONSE_END,
            Api::Messages => MESSAGE_END,
        };
        let asked = question["model"].as_str().unwrap_or_default();
        let model = ADAPTERS.into_iter().find(|&adapter| adapter == asked).unwrap_or(NAMES[0]);
        let truth = Some(Truth { api, question, words, model });
        let request = Request::post(api.path(), &body);
        Act { ends, streams: stream, truth, ..Act::plain(name, request, 200) }
    }
}

/// The model of a request: one of its names, or now and then an adapter.
pub fn model(random: &mut Random) -> &'static str {
    if random.chance(4) { random.of(&ADAPTERS) } else { random.of(&NAMES) }
}

/// One of the texts that clients send.
pub fn text(random: &mut Random, words: usize) -> String {
    Random::text(random.within(0, TALKS), words)
}

/// The client's next action; `talk` is its conversation so far.
pub fn next(random: &mut Random, talk: &mut Talk) -> Act {
    let stream = random.within(0, 2) == 0;
    let words = random.within(2, 20) as usize;
    let name = random.of(&NAMES);
    match random.within(0, 100) {
        0..37 => Act::asks("chats", Api::Chat, chat(random, talk), stream, words),
        37..49 => {
            let question = json!({"model": model(random), "prompt": text(random, 120)});
            Act::asks("completions", Api::Completions, question, stream, words)
        }
        49..54 => {
            let question = json!({"model": name, "input": text(random, 120)});
            Act::asks("responses", Api::Responses, question, stream, words)
        }
        54..60 => {
            let messages = [json!({"role": "user", "content": text(random, 120)})];
            let question = json!({"model": model(random), "messages": messages});
            Act::asks("messages", Api::Messages, question, stream, words)
        }
        60..68 => {
            let input: Vec<String> = (0..random.within(1, 5)).map(|_| text(random, 40)).collect();
            let request = Request::post("/v1/embeddings", &json!({"model": name, "input": input}));
            Act { ends: b"}", ..Act::plain("embeddings", request, 200) }
        }
        68..74 => Act { ends: b"}", ..Act::plain("models", Request::get("/v1/models"), 200) },
        74..78 => Act::plain("health", Request::get("/health"), 200),
        78..86 => {
            let act = Act::asks("short of patience", Api::Chat, chat(random, talk), stream, 60);
            Act { leaves: Some(random.within(1, 300)), ..act }
        }
        86..92 => {
            let broken = ["{", "[]", "{\"model\": 3}", "null", "{\"messages\": [}"];
            let request = Request::new("POST", Api::Chat.path()).body(random.of(&broken));
            Act::plain("bad JSON", request, 400)
        }
        92..96 => {
            let messages = [json!({"role": "user", "content": text(random, 50)})];
            let question = json!({"model": name, "messages": messages});
            let act = Act::asks("large bodies", Api::Chat, question.clone(), stream, words);
            // It belongs to no prompt, and comes first.
            let mut body = json!({"user": "x".repeat(random.within(200_000, 3_000_000) as usize)});
            for (key, value) in question.as_object().into_iter().flatten() {
                body[key] = value.clone();
            }
            (body["stream"], body[Api::Chat.limit()]) = (json!(stream), json!(words));
            Act { request: Request::post(Api::Chat.path(), &body), ..act }
        }
        96..98 => {
            let prompt = Random::text(random.within(0, 40), 2500);
            let question = json!({"model": name, "messages": [{"role": "user", "content": prompt}]});
            Act::asks("long prompts", Api::Chat, question, stream, words)
        }
        _ => Act::plain("unknown paths", Request::get("/v2/nothing"), 404),
    }
}

/// The next round of a conversation, or the first one of another.
fn chat(random: &mut Random, talk: &mut Talk) -> Value {
    if talk.messages.len() >= 2 * ROUNDS || talk.messages.is_empty() {
        *talk = Talk {
            model: model(random),
            messages: vec![json!({"role": "system", "content": text(random, 200)})],
        };
    }
    let round = talk.messages.len() as u64;
    // The next message depends on the round alone, so that there are few different conversations.
    let said = |role: &str, seed: u64, words| json!({"role": role, "content": Random::text(seed, words)});
    talk.messages.push(said("user", round * 10 + random.within(0, 2), 30));
    let question = json!({"model": talk.model, "messages": talk.messages});
    talk.messages.push(said("assistant", round * 10 + 7, 20));
    question
}
