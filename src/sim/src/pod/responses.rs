//! `POST /v1/responses`.

use std::borrow::Cow;
use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::call::{Call, json, quoted, unique};
use super::driver::{Limits, Pod};
use super::error::ApiError;
use super::faults::broken;
use super::job::{Job, Usage};
use super::stream::{self, Script};
use super::template::{Message, chat_prompt};
use crate::engine::Chain;

#[derive(Deserialize)]
struct Body<'a> {
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: &'a RawValue,
    #[serde(borrow, default)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    stream: Option<bool>,
    max_output_tokens: Option<u32>,
    ignore_eos: Option<bool>,
    cache_salt: Option<Cow<'a, str>>,
}

pub(super) async fn handle(call: Call) -> Response {
    match answer(&call).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(call: &Call) -> Result<Response, ApiError> {
    let body: Body<'_> = call.parse()?;
    call.check_model(body.model.as_deref())?;
    let streams = body.stream.unwrap_or(false);
    let prompt = prompt(&call.pod, &body).map_err(|error| call.misshapen(&error))?;
    let limits = Limits {
        max_tokens: body.max_output_tokens,
        ignore_eos: body.ignore_eos.unwrap_or(false),
        streams,
        alone: true,
        prefill_only: false,
    };
    let limit = body
        .max_output_tokens
        .unwrap_or_else(|| call.pod.config.max_model_len.saturating_sub(prompt.tokens()));
    let mut job = Job::start(&call.pod, prompt, limits)?;
    let form = Form {
        id: quoted(&format!("resp_{}", call.id)),
        item: quoted(&format!("msg_{}", unique())),
        created: call.created,
        model: call.model_json(),
        instructions: body.instructions.map_or("null", RawValue::get).to_owned(),
        tools: body.tools.map_or("[]", RawValue::get).to_owned(),
        max_output_tokens: limit,
    };
    if streams {
        return Ok(stream::respond(vec![job], Events { form, sequence: 0 }, call.cut));
    }
    match job.finish().await {
        Ok(()) => Ok(json(form.whole(&job))),
        Err(_) => Ok(broken()),
    }
}

/// The input is a user's text or a list of messages; `instructions` come before it as the system's.
fn prompt(pod: &Pod, body: &Body<'_>) -> serde_json::Result<Chain> {
    let mut messages = Vec::new();
    let message = |role: &'static str, content| Message {
        role: Cow::Borrowed(role),
        content: Some(content),
        tool_calls: None,
    };
    if let Some(instructions) = body.instructions.filter(|text| text.get() != "null") {
        messages.push(message("system", instructions));
    }
    if body.input.get().starts_with('[') {
        for raw in serde_json::from_str::<Vec<&RawValue>>(body.input.get())? {
            let item: Message<'_> = serde_json::from_str(raw.get())?;
            // Tool calls and their results have no content: they count as the JSON they are.
            messages.push(Message { content: item.content.or(Some(raw)), ..item });
        }
    } else {
        messages.push(message("user", body.input));
    }
    chat_prompt(pod.chain(body.cache_salt.as_deref()), body.tools, &messages)
}

/// What a response object says, as JSON where it is text.
struct Form {
    id: String,
    item: String,
    created: u64,
    model: String,
    instructions: String,
    tools: String,
    max_output_tokens: u32,
}

impl Form {
    fn whole(&self, job: &Job) -> String {
        let status = if job.answer.stops { "completed" } else { "incomplete" };
        let item = format!("[{}]", self.item(&job.answer.full_text()));
        self.object(status, &item, Some(job.usage()))
    }

    /// The finished message.
    fn item(&self, text: &str) -> String {
        format!(
            concat!(
                r#"{{"id":{},"content":[{{"annotations":[],"text":{},"type":"output_text","logprobs":null}}],"#,
                r#""role":"assistant","status":"completed","type":"message","phase":null}}"#
            ),
            self.item,
            quoted(text)
        )
    }

    fn object(&self, status: &str, output: &str, usage: Option<Usage>) -> String {
        let usage = usage.map_or("null".to_owned(), |usage| {
            let Usage { prompt, completion, cached, .. } = usage;
            format!(
                concat!(
                    r#"{{"input_tokens":{prompt},"input_tokens_details":{{"cached_tokens":{cached},"#,
                    r#""cache_write_tokens":0,"input_tokens_per_turn":[],"cached_tokens_per_turn":[]}},"#,
                    r#""output_tokens":{completion},"output_tokens_details":{{"reasoning_tokens":0,"#,
                    r#""tool_output_tokens":0,"output_tokens_per_turn":[],"tool_output_tokens_per_turn":[]}},"#,
                    r#""total_tokens":{total}}}"#
                ),
                prompt = prompt,
                cached = cached,
                completion = completion,
                total = prompt + completion,
            )
        });
        let incomplete = match status {
            "incomplete" => r#"{"reason":"max_output_tokens"}"#,
            _ => "null",
        };
        format!(
            concat!(
                r#"{{"id":{id},"created_at":{created},"incomplete_details":{incomplete},"instructions":{instructions},"#,
                r#""metadata":null,"model":{model},"object":"response","output":{output},"#,
                r#""parallel_tool_calls":true,"temperature":1.0,"tool_choice":"none","tools":{tools},"top_p":1.0,"#,
                r#""background":false,"max_output_tokens":{limit},"max_tool_calls":null,"#,
                r#""previous_response_id":null,"prompt":null,"reasoning":null,"service_tier":"auto","#,
                r#""status":"{status}","text":null,"top_logprobs":null,"truncation":"disabled","usage":{usage},"#,
                r#""user":null,"presence_penalty":0.0,"frequency_penalty":0.0,"kv_transfer_params":null,"#,
                r#""ec_transfer_params":null,"input_messages":null,"output_messages":null}}"#
            ),
            id = self.id,
            created = self.created,
            incomplete = incomplete,
            instructions = self.instructions,
            model = self.model,
            output = output,
            tools = self.tools,
            limit = self.max_output_tokens,
            status = status,
            usage = usage,
        )
    }
}

/// The events of a stream, in the order of OpenAI's Responses API, each with the next sequence number.
struct Events {
    form: Form,
    sequence: u32,
}

impl Events {
    /// One event; `rest` is what follows its number and type, with a leading comma.
    fn event(&mut self, out: &mut String, name: &str, rest: &str) {
        // Writing into a string cannot fail.
        let _ = write!(
            out,
            "event: {name}\ndata: {{\"sequence_number\":{},\"type\":\"{name}\"{rest}}}\n\n",
            self.sequence
        );
        self.sequence += 1;
    }

    /// Where in the response a delta belongs.
    fn place(&self) -> String {
        format!(r#","content_index":0,"item_id":{},"output_index":0"#, self.form.item)
    }
}

impl Script for Events {
    fn begin(&mut self, out: &mut String) {
        let started = format!(r#","response":{}"#, self.form.object("in_progress", "[]", None));
        self.event(out, "response.created", &started);
        self.event(out, "response.in_progress", &started);
    }

    fn token(&mut self, out: &mut String, _: usize, index: u32, job: &Job, _: bool) {
        let place = self.place();
        if index == 0 {
            let item = format!(
                r#","item":{{"id":{},"content":[],"role":"assistant","status":"in_progress","type":"message","phase":null}},"output_index":0"#,
                self.form.item
            );
            self.event(out, "response.output_item.added", &item);
            let part = format!(
                r#"{place},"part":{{"annotations":[],"text":"","type":"output_text","logprobs":[]}}"#
            );
            self.event(out, "response.content_part.added", &part);
        }
        let text = job.answer.text(index);
        // The end-of-sequence token has no text, and so no event.
        if !text.is_empty() {
            let delta = format!(r#"{place},"delta":"{text}","logprobs":[]"#);
            self.event(out, "response.output_text.delta", &delta);
        }
    }

    fn end(&mut self, out: &mut String, usage: Usage, jobs: &[Job]) {
        let Some(job) = jobs.first() else { return };
        let place = self.place();
        let text = job.answer.full_text();
        let quoted_text = quoted(&text);
        let done = format!(r#"{place},"logprobs":[],"text":{quoted_text}"#);
        self.event(out, "response.output_text.done", &done);
        let part = format!(
            r#"{place},"part":{{"annotations":[],"text":{quoted_text},"type":"output_text","logprobs":null}}"#
        );
        self.event(out, "response.content_part.done", &part);
        let item = self.form.item(&text);
        self.event(out, "response.output_item.done", &format!(r#","item":{item},"output_index":0"#));
        let status = if job.answer.stops { "completed" } else { "incomplete" };
        let object = self.form.object(status, &format!("[{item}]"), Some(usage));
        self.event(out, &format!("response.{status}"), &format!(r#","response":{object}"#));
    }
}
