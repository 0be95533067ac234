//! `POST /v1/chat/completions`.

use std::fmt::Write;

use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::api::{ApiBody, Asked, FINGERPRINT, json_answer};
use super::error::Refusal;
use super::generation::{Generation, TokenCounts};
use super::json::{count, quoted};
use super::stream::StreamForm;
use super::template::{Message, chat_prompt};

#[derive(Deserialize)]
pub(super) struct ChatBody {
    messages: Vec<Message>,
    tools: Option<Value>,
    #[serde(default, deserialize_with = "count")]
    max_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    max_completion_tokens: Option<u32>,
}

impl ApiBody for ChatBody {}

pub(super) async fn handle(asked: Asked<ChatBody>) -> Result<Response, Refusal> {
    let ChatBody { messages, tools, max_tokens, max_completion_tokens } = &asked.body;
    let prompt = chat_prompt(asked.chain(), tools.as_ref(), messages);
    let mut generation = asked.start(prompt, asked.limits(max_completion_tokens.or(*max_tokens)))?;
    if asked.streams {
        return Ok(asked.stream(vec![generation], ChatChunks::new(&asked)));
    }
    generation.finish().await?;
    Ok(json_answer(whole(&asked, &generation)))
}

fn whole(asked: &Asked<ChatBody>, generation: &Generation) -> String {
    let counts = generation.counts();
    let TokenCounts { prompt, completion, created, .. } = counts;
    format!(
        concat!(
            r#"{{"id":{id},"object":"chat.completion","created":{created},"model":{model},"choices":[{{"index":0,"#,
            r#""message":{{"role":"assistant","content":{content},"refusal":null,"annotations":null,"audio":null,"#,
            r#""function_call":null,"reasoning":null}},"logprobs":null,"finish_reason":"{finish}","#,
            r#""stop_reason":null,"token_ids":null,"routed_experts":null}}],"service_tier":null,"#,
            r#""system_fingerprint":"{fingerprint}","usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"#,
            r#""completion_tokens":{completion},"prompt_tokens_details":{details},"completion_tokens_details":null}},"#,
            r#""prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"#,
            r#""ec_transfer_params":null,"metrics":null}}"#
        ),
        id = quoted(&format!("chatcmpl-{}", asked.id)),
        created = asked.created,
        model = asked.model_json(),
        content = quoted(&generation.answer.full_text()),
        finish = generation.answer.finish_reason(),
        fingerprint = FINGERPRINT,
        prompt = prompt,
        total = prompt + completion,
        completion = completion,
        details =
            counts.prompt_details(&format!(r#","created_cache_tokens":{created},"multimodal_tokens":null"#)),
    )
}

/// The chunks of a stream. What all of them begin with is written once.
struct ChatChunks {
    head: String,
    usage: bool,
}

impl ChatChunks {
    fn new(asked: &Asked<ChatBody>) -> ChatChunks {
        let head = format!(
            r#"data: {{"id":{},"object":"chat.completion.chunk","created":{},"model":{},"choices":["#,
            quoted(&format!("chatcmpl-{}", asked.id)),
            asked.created,
            asked.model_json(),
        );
        ChatChunks { head, usage: asked.reports_usage }
    }
}

impl StreamForm for ChatChunks {
    fn begin(&mut self, _: &mut String) {}

    fn token(&mut self, out: &mut String, _: usize, index: u32, generation: &Generation, last: bool) {
        let ChatChunks { head, usage } = self;
        if index == 0 {
            out.push_str(head);
            out.push_str(concat!(
                r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"#,
                r#""prompt_token_ids":null,"prompt_text":null}"#,
                "\n\n"
            ));
        }
        out.push_str(head);
        out.push_str(r#"{"index":0,"delta":{"content":""#);
        // The words of an answer need no escapes.
        out.push_str(generation.answer.text(index));
        if !last {
            out.push_str("\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n");
            return;
        }
        // Writing into a string cannot fail.
        let _ = write!(
            out,
            r#""}},"logprobs":null,"finish_reason":"{}","stop_reason":null,"token_ids":null}}]"#,
            generation.answer.finish_reason()
        );
        if !*usage {
            let _ = write!(out, r#","system_fingerprint":"{FINGERPRINT}""#);
        }
        out.push_str("}\n\n");
    }

    fn end(&mut self, out: &mut String, counts: TokenCounts, _: &[Generation]) {
        if self.usage {
            let TokenCounts { prompt, completion, created, .. } = counts;
            let total = prompt + completion;
            out.push_str(&self.head);
            let _ = write!(
                out,
                concat!(
                    r#"],"usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion},"#,
                    r#""prompt_tokens_details":{details}}},"#,
                    r#""system_fingerprint":"{fingerprint}"}}"#
                ),
                prompt = prompt,
                total = total,
                completion = completion,
                details = counts.prompt_details(&format!(r#","created_cache_tokens":{created}"#)),
                fingerprint = FINGERPRINT,
            );
            out.push_str("\n\n");
        }
        out.push_str("data: [DONE]\n\n");
    }
}
