//! What a response object and the events of its stream look like.

use std::fmt::Write;
use std::sync::Arc;

use super::super::driver::LivePod;
use super::super::generation::{Generation, TokenCounts};
use super::super::json::quoted;
use super::super::store::Stored;
use super::super::stream::StreamForm;
use super::super::template::Message;

/// What a response object says, as JSON where it is text.
#[derive(Clone)]
pub(super) struct ResponseForm {
    /// Plain, unlike all others.
    pub(super) id: String,
    pub(super) item: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) instructions: String,
    pub(super) tools: String,
    pub(super) max_output_tokens: u32,
    pub(super) previous: String,
    pub(super) background: bool,
    /// Where the finished response is stored, and what was said before its answer.
    pub(super) store: Option<(Arc<LivePod>, Vec<Message>)>,
}

impl ResponseForm {
    /// The response when all is done.
    pub(super) fn whole(&self, generation: &Generation) -> String {
        let status = if generation.answer.stops { "completed" } else { "incomplete" };
        let item = format!("[{}]", self.item(&generation.answer.full_text()));
        self.object(status, &item, Some(generation.counts()))
    }

    /// Stores the finished response, if responses are stored.
    pub(super) fn keep(&self, object: &str, text: &str) {
        if let Some((pod, said)) = &self.store {
            let mut messages = said.clone();
            messages.push(Message::new("assistant", text.into()));
            pod.responses.put(&self.id, Stored { object: object.to_owned(), messages, running: None });
        }
    }

    /// Stores the response as it is on its way, and what computes it.
    pub(super) fn keep_running(&self, status: &str, running: tokio::task::AbortHandle) {
        if let Some((pod, said)) = &self.store {
            let object = self.object(status, "[]", None);
            pod.responses.put(&self.id, Stored { object, messages: said.clone(), running: Some(running) });
        }
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

    /// The response in a state.
    pub(super) fn object(&self, status: &str, output: &str, counts: Option<TokenCounts>) -> String {
        let usage = counts.map_or("null".to_owned(), |counts| {
            let TokenCounts { prompt, completion, cached, reports_cached, .. } = counts;
            let cached = if reports_cached { cached } else { 0 };
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
                r#""background":{background},"max_output_tokens":{limit},"max_tool_calls":null,"#,
                r#""previous_response_id":{previous},"prompt":null,"reasoning":null,"service_tier":"auto","#,
                r#""status":"{status}","text":null,"top_logprobs":null,"truncation":"disabled","usage":{usage},"#,
                r#""user":null,"presence_penalty":0.0,"frequency_penalty":0.0,"kv_transfer_params":null,"#,
                r#""ec_transfer_params":null,"input_messages":null,"output_messages":null}}"#
            ),
            id = quoted(&self.id),
            background = self.background,
            previous = self.previous,
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
pub(super) struct ResponseEvents {
    pub(super) form: ResponseForm,
    pub(super) sequence: u32,
}

impl ResponseEvents {
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

impl StreamForm for ResponseEvents {
    fn begin(&mut self, out: &mut String) {
        let started = format!(r#","response":{}"#, self.form.object("in_progress", "[]", None));
        self.event(out, "response.created", &started);
        self.event(out, "response.in_progress", &started);
    }

    fn token(&mut self, out: &mut String, _: usize, index: u32, generation: &Generation, _: bool) {
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
        let text = generation.answer.text(index);
        // The end-of-sequence token has no text, and so no event.
        if !text.is_empty() {
            let delta = format!(r#"{place},"delta":"{text}","logprobs":[]"#);
            self.event(out, "response.output_text.delta", &delta);
        }
    }

    fn end(&mut self, out: &mut String, counts: TokenCounts, generations: &[Generation]) {
        let Some(generation) = generations.first() else { return };
        let place = self.place();
        let text = generation.answer.full_text();
        let quoted_text = quoted(&text);
        let done = format!(r#"{place},"logprobs":[],"text":{quoted_text}"#);
        self.event(out, "response.output_text.done", &done);
        let part = format!(
            r#"{place},"part":{{"annotations":[],"text":{quoted_text},"type":"output_text","logprobs":null}}"#
        );
        self.event(out, "response.content_part.done", &part);
        let item = self.form.item(&text);
        self.event(out, "response.output_item.done", &format!(r#","item":{item},"output_index":0"#));
        let status = if generation.answer.stops { "completed" } else { "incomplete" };
        let object = self.form.object(status, &format!("[{item}]"), Some(counts));
        self.form.keep(&object, &text);
        self.event(out, &format!("response.{status}"), &format!(r#","response":{object}"#));
    }
}
