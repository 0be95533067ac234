//! `POST /v1/messages`, in Anthropic's shape.

use std::fmt::Write;

use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::api::{ApiBody, Asked, json_answer};
use super::error::{Dialect, Refusal};
use super::generation::{Generation, TokenCounts};
use super::json::quoted;
use super::stream::StreamForm;
use super::template::{Message, chat_prompt, system_message};
use super::tokens::AnswerPlan;

#[derive(Deserialize)]
pub(super) struct MessagesBody {
    messages: Vec<Message>,
    max_tokens: u32,
    system: Option<Value>,
    tools: Option<Value>,
}

impl ApiBody for MessagesBody {
    const DIALECT: Dialect = Dialect::Anthropic;
}

pub(super) async fn handle(asked: Asked<MessagesBody>) -> Result<Response, Refusal> {
    let MessagesBody { messages, max_tokens, system, tools } = &asked.body;
    let system = system.clone().map(system_message);
    let messages: Vec<Message> = system.into_iter().chain(messages.iter().cloned()).collect();
    let prompt = chat_prompt(asked.chain(), tools.as_ref(), &messages);
    let mut generation = asked.start(prompt, asked.limits(Some(*max_tokens)))?;
    if asked.streams {
        let id = quoted(&format!("chatcmpl-{}", asked.id));
        return Ok(asked.stream(vec![generation], MessageEvents { id, model: asked.model_json() }));
    }
    generation.finish().await?;
    Ok(json_answer(whole(&asked, &generation)))
}

fn whole(asked: &Asked<MessagesBody>, generation: &Generation) -> String {
    format!(
        concat!(
            r#"{{"id":{},"type":"message","role":"assistant","content":[{{"type":"text","text":{}}}],"model":{},"#,
            r#""stop_reason":"{}","usage":{}}}"#
        ),
        quoted(&format!("chatcmpl-{}", asked.id)),
        quoted(&generation.answer.full_text()),
        asked.model_json(),
        stop_reason(&generation.answer),
        usage_json(generation.counts()),
    )
}

/// Anthropic's sum: the prompt is `input_tokens` plus what was read from the cache.
fn usage_json(counts: TokenCounts) -> String {
    format!(
        r#"{{"input_tokens":{},"output_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":{}}}"#,
        counts.prompt - counts.cached,
        counts.completion,
        counts.cached
    )
}

fn stop_reason(answer: &AnswerPlan) -> &'static str {
    if answer.stops { "end_turn" } else { "max_tokens" }
}

/// The events of a stream.
struct MessageEvents {
    id: String,
    model: String,
}

impl StreamForm for MessageEvents {
    fn begin(&mut self, _: &mut String) {}

    fn token(&mut self, out: &mut String, _: usize, index: u32, generation: &Generation, _: bool) {
        if index == 0 {
            let counts = TokenCounts { completion: 0, ..generation.counts() };
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
                usage_json(counts)
            );
        }
        let text = generation.answer.text(index);
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

    fn end(&mut self, out: &mut String, counts: TokenCounts, generations: &[Generation]) {
        let Some(generation) = generations.first() else { return };
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
            stop_reason(&generation.answer),
            usage_json(counts)
        );
    }
}
