//! Stored responses: what a client goes on from, looks at and cancels is where it was given.

use std::time::Instant;

use serde_json::{Value, json};
use warmpath_tests::{Random, Reply, Request};

use crate::acts::{Act, text};
use crate::truth::Api;

/// Words of a response that is computed in the background: more than it has come to when the client cancels
/// it.
const LONG: usize = 4000;

/// A response that its pod has stored, and the dialogue up to it.
#[derive(Clone)]
pub struct Thread {
    id: String,
    /// The address of the pod.
    pub pod: String,
    /// When it was given.
    pub since: Instant,
    dialogue: Vec<Value>,
    answer: String,
    in_background: bool,
}

/// What a client does with stored responses.
pub enum Step {
    /// Has one stored that begins a dialogue, or goes on from the one before.
    Say {
        dialogue: Vec<Value>,
        stream: bool,
        in_background: bool,
    },
    Look,
    Cancel,
}

/// The client's next step, after `thread` if it has one.
pub fn next(random: &mut Random, thread: Option<&Thread>) -> (Step, Act) {
    let said = json!({"role": "user", "content": text(random, 60)});
    match thread {
        Some(thread) if thread.in_background => {
            let request = Request::new("POST", &format!("/v1/responses/{}/cancel", thread.id));
            (Step::Cancel, Act { ends: b"}", ..Act::plain("responses cancelled", request, 200) })
        }
        Some(thread) if random.chance(2) => {
            let request = Request::get(&format!("/v1/responses/{}", thread.id));
            (Step::Look, Act { ends: b"}", ..Act::plain("looks at responses", request, 200) })
        }
        _ => {
            let in_background = random.chance(4);
            let (stream, words) = if in_background { (false, LONG) } else { (random.chance(2), 10) };
            let before = thread.map_or(&[][..], |thread| &thread.dialogue);
            let dialogue = [before, std::slice::from_ref(&said)].concat();
            // The whole dialogue has the same answer as what was said last after what is stored.
            let mut act = Act::asks(
                if thread.is_some() { "follow-ups" } else { "stored responses" },
                Api::Responses,
                json!({"model": "qwen", "input": dialogue}),
                stream,
                words,
            );
            let mut body =
                json!({"model": "qwen", "input": [said], "stream": stream, "max_output_tokens": words});
            if let Some(thread) = thread {
                body["previous_response_id"] = json!(thread.id);
            }
            if in_background {
                (body["background"], body["ignore_eos"]) = (json!(true), json!(true));
                act.truth = None;
            }
            act.request = Request::post(Api::Responses.path(), &body);
            (Step::Say { dialogue, stream, in_background }, act)
        }
    }
}

/// Where the client is after an answer; nowhere when its dialogue ends.
///
/// # Errors
/// What is wrong with the answer.
pub fn after(step: Step, before: Option<Thread>, reply: &Reply) -> Result<Option<Thread>, String> {
    match step {
        Step::Say { mut dialogue, stream, in_background } => {
            let body = reply.text();
            let id = body.split_once("\"id\":\"resp_").and_then(|(_, rest)| rest.split('"').next());
            let id = format!("resp_{}", id.ok_or("the answer has no id")?);
            let answer = match in_background {
                true => String::new(),
                false => Api::Responses.text(&reply.body, stream).ok_or("the answer has no text")?,
            };
            dialogue.push(json!({"role": "assistant", "content": answer}));
            let pod = reply.header("x-warmpath-pod").ok_or("the answer names no pod")?.to_owned();
            Ok(Some(Thread { id, pod, since: Instant::now(), dialogue, answer, in_background }))
        }
        Step::Look => {
            let Some(thread) = before else { return Ok(None) };
            let (found, text) = (reply.json(), Api::Responses.text(&reply.body, false));
            if found["id"] != thread.id.as_str() || text.as_deref() != Some(&thread.answer) {
                return Err(format!("it is not the response {}: {found}", thread.id));
            }
            Ok(Some(thread))
        }
        Step::Cancel if reply.json()["status"] == "cancelled" => Ok(None),
        Step::Cancel => Err(format!("it is not cancelled: {}", reply.text())),
    }
}
