//! `POST /v1/completions`: text and token-id prompts, one or many.

use std::fmt::Write;

use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::api::{ApiBody, Asked, FINGERPRINT, json_answer};
use super::driver::AnswerLimits;
use super::error::{ApiError, Refusal};
use super::generation::{Generation, TokenCounts};
use super::json::{count, quoted};
use super::stream::StreamForm;
use super::template::PromptInput;

/// Tokens of an answer that its request does not limit: OpenAI's default, and vLLM's.
const DEFAULT_MAX_TOKENS: u32 = 16;

#[derive(Deserialize)]
pub(super) struct CompletionBody {
    prompt: Option<PromptInput>,
    prompt_embeds: Option<Value>,
    #[serde(default, deserialize_with = "count")]
    max_tokens: Option<u32>,
}

impl ApiBody for CompletionBody {}

pub(super) async fn handle(asked: Asked<CompletionBody>) -> Result<Response, Refusal> {
    let body = &asked.body;
    if body.prompt_embeds.as_ref().is_some_and(|embeds| !embeds.is_null()) {
        let message = "You must set `--enable-prompt-embeds` to input `prompt_embeds`".to_owned();
        return Err(asked.refuse(ApiError::bad_request("prompt_embeds", message)));
    }
    let limits = AnswerLimits {
        stands_alone: false,
        ..asked.limits(Some(body.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)))
    };
    let prompts = body.prompt.as_ref().map(|prompt| prompt.chains(|| asked.chain())).unwrap_or_default();
    if prompts.is_empty() {
        let message = "Either prompt or prompt_embeds must be provided and non-empty.".to_owned();
        return Err(asked.refuse(ApiError::bad_request("prompt", message)));
    }
    let mut generations = prompts
        .into_iter()
        .map(|prompt| asked.start(prompt, limits))
        .collect::<Result<Vec<Generation>, Refusal>>()?;
    if asked.streams {
        return Ok(asked.stream(generations, CompletionChunks::new(&asked)));
    }
    for generation in &mut generations {
        generation.finish().await?;
    }
    Ok(json_answer(whole(&asked, &generations)))
}

fn whole(asked: &Asked<CompletionBody>, generations: &[Generation]) -> String {
    let mut choices = String::new();
    for (index, generation) in generations.iter().enumerate() {
        // Writing into a string cannot fail.
        let _ = write!(
            choices,
            concat!(
                r#"{comma}{{"index":{index},"text":{text},"logprobs":null,"finish_reason":"{finish}","#,
                r#""stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"#,
                r#""routed_experts":null}}"#
            ),
            comma = if index == 0 { "" } else { "," },
            index = index,
            text = quoted(&generation.answer.full_text()),
            finish = generation.answer.finish_reason(),
        );
    }
    let counts = TokenCounts::of(generations);
    let TokenCounts { prompt, completion, .. } = counts;
    format!(
        concat!(
            r#"{{"id":{id},"object":"text_completion","created":{created},"model":{model},"choices":[{choices}],"#,
            r#""service_tier":null,"system_fingerprint":"{fingerprint}","usage":{{"prompt_tokens":{prompt},"#,
            r#""total_tokens":{total},"completion_tokens":{completion},"prompt_tokens_details":"#,
            r#"{details},"#,
            r#""completion_tokens_details":null}},"kv_transfer_params":null,"ec_transfer_params":null,"#,
            r#""metrics":null}}"#
        ),
        id = quoted(&format!("cmpl-{}", asked.id)),
        created = asked.created,
        model = asked.model_json(),
        choices = choices,
        fingerprint = FINGERPRINT,
        prompt = prompt,
        total = prompt + completion,
        completion = completion,
        details = counts.prompt_details(r#","created_cache_tokens":null,"multimodal_tokens":null"#),
    )
}

/// The chunks of a stream; those of several prompts are interleaved and told apart by `index`.
struct CompletionChunks {
    head: String,
    usage: bool,
}

impl CompletionChunks {
    fn new(asked: &Asked<CompletionBody>) -> CompletionChunks {
        let head = format!(
            r#"data: {{"id":{},"object":"text_completion","created":{},"model":{},"choices":["#,
            quoted(&format!("cmpl-{}", asked.id)),
            asked.created,
            asked.model_json(),
        );
        CompletionChunks { head, usage: asked.reports_usage }
    }
}

impl StreamForm for CompletionChunks {
    fn begin(&mut self, _: &mut String) {}

    fn token(&mut self, out: &mut String, choice: usize, index: u32, generation: &Generation, last: bool) {
        out.push_str(&self.head);
        // Writing into a string cannot fail; the words of an answer need no escapes.
        let _ =
            write!(out, r#"{{"index":{choice},"text":"{}","logprobs":null,"#, generation.answer.text(index));
        let finish = if last { quoted(generation.answer.finish_reason()) } else { "null".to_owned() };
        let _ = write!(
            out,
            r#""finish_reason":{finish},"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}]"#
        );
        if last && !self.usage {
            let _ = write!(out, r#","system_fingerprint":"{FINGERPRINT}""#);
        }
        out.push_str("}\n\n");
    }

    fn end(&mut self, out: &mut String, counts: TokenCounts, _: &[Generation]) {
        if self.usage {
            let TokenCounts { prompt, completion, .. } = counts;
            out.push_str(&self.head);
            let _ = write!(
                out,
                concat!(
                    r#"],"usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion},"#,
                    r#""prompt_tokens_details":{details}}},"system_fingerprint":"{fingerprint}"}}"#
                ),
                prompt = prompt,
                total = prompt + completion,
                completion = completion,
                details = counts.prompt_details(""),
                fingerprint = FINGERPRINT,
            );
            out.push_str("\n\n");
        }
        out.push_str("data: [DONE]\n\n");
    }
}
