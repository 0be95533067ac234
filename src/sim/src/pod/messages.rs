//! `POST /v1/messages`, in Anthropic's shape.

use std::borrow::Cow;
use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::call::{Call, json, quoted};
use super::driver::{Limits, Pod};
use super::error::ApiError;
use super::faults::broken;
use super::job::{Job, Usage};
use super::stream::{self, Script};
use super::template::{Message, chat_prompt};
use super::tokens::Answer;
use crate::engine::Chain;

#[derive(Deserialize)]
struct Body<'a> {
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    max_tokens: u32,
    #[serde(borrow, default)]
    system: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    stream: Option<bool>,
    ignore_eos: Option<bool>,
}

pub(super) async fn handle(call: Call) -> Response {
    let body: Body<'_> = match call.parse() {
        Ok(body) => body,
        // What the shape itself forbids has the same form in all of vLLM's APIs.
        Err(error) => return error.into_response(),
    };
    match answer(&call, body).await {
        Ok(response) => response,
        Err(error) => error.into_anthropic(),
    }
}

async fn answer(call: &Call, body: Body<'_>) -> Result<Response, ApiError> {
    call.check_model(body.model.as_deref())?;
    let streams = body.stream.unwrap_or(false);
    let limits = Limits {
        max_tokens: Some(body.max_tokens),
        ignore_eos: body.ignore_eos.unwrap_or(false),
        streams,
        alone: true,
        prefill_only: false,
    };
    let prompt = prompt(&call.pod, body).map_err(|error| call.misshapen(&error))?;
    let mut job = Job::start(&call.pod, prompt, limits)?;
    if streams {
        let events = Events { id: quoted(&format!("chatcmpl-{}", call.id)), model: call.model_json() };
        return Ok(stream::respond(vec![job], events, call.cut));
    }
    match job.finish().await {
        Ok(()) => Ok(json(whole(call, &job))),
        Err(_) => Ok(broken()),
    }
}

fn prompt(pod: &Pod, body: Body<'_>) -> serde_json::Result<Chain> {
    let mut messages = body.messages;
    if let Some(system) = body.system {
        let system = Message { role: Cow::Borrowed("system"), content: Some(system), tool_calls: None };
        messages.insert(0, system);
    }
    chat_prompt(pod.chain(None), body.tools, &messages)
}

fn whole(call: &Call, job: &Job) -> String {
    format!(
        concat!(
            r#"{{"id":{},"type":"message","role":"assistant","content":[{{"type":"text","text":{}}}],"model":{},"#,
            r#""stop_reason":"{}","usage":{}}}"#
        ),
        quoted(&format!("chatcmpl-{}", call.id)),
        quoted(&job.answer.full_text()),
        call.model_json(),
        stop_reason(&job.answer),
        usage_json(job.usage()),
    )
}

/// Anthropic's sum: the prompt is `input_tokens` plus what was read from the cache.
fn usage_json(usage: Usage) -> String {
    format!(
        r#"{{"input_tokens":{},"output_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":{}}}"#,
        usage.prompt - usage.cached,
        usage.completion,
        usage.cached
    )
}

fn stop_reason(answer: &Answer) -> &'static str {
    if answer.stops { "end_turn" } else { "max_tokens" }
}

/// The events of a stream.
struct Events {
    id: String,
    model: String,
}

impl Script for Events {
    fn begin(&mut self, _: &mut String) {}

    fn token(&mut self, out: &mut String, _: usize, index: u32, job: &Job, _: bool) {
        if index == 0 {
            let usage = Usage { completion: 0, ..job.usage() };
            // Writing into a string cannot fail.
            let _ = write!(
                out,
                concat!(
                    "event: message_start\n",
                    r#"data: {{"type":"message_start","message":{{"id":{},"type":"message","role":"assistant","#,
                    r#""content":[],"model":{},"stop_reason":null,"stop_sequence":null,"usage":{}}}}}"#,
                    "\n\n",
                    "event: content_block_start\n",
                    r#"data: {{"type":"content_block_start","index":0,"content_block":{{"type":"text","text":""}}}}"#,
                    "\n\n"
                ),
                self.id,
                self.model,
                usage_json(usage)
            );
        }
        let text = job.answer.text(index);
        if !text.is_empty() {
            let _ = write!(
                out,
                concat!(
                    "event: content_block_delta\n",
                    r#"data: {{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{}"}}}}"#,
                    "\n\n"
                ),
                text
            );
        }
    }

    fn end(&mut self, out: &mut String, usage: Usage, jobs: &[Job]) {
        let Some(job) = jobs.first() else { return };
        let _ = write!(
            out,
            concat!(
                "event: content_block_stop\n",
                r#"data: {{"type":"content_block_stop","index":0}}"#,
                "\n\n",
                "event: message_delta\n",
                r#"data: {{"type":"message_delta","delta":{{"stop_reason":"{}"}},"usage":{}}}"#,
                "\n\n",
                "event: message_stop\n",
                r#"data: {{"type":"message_stop"}}"#,
                "\n\n"
            ),
            stop_reason(&job.answer),
            usage_json(usage)
        );
    }
}
