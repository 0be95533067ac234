//! `POST /v1/completions`: text and token-id prompts, one or many.

use std::borrow::Cow;
use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::call::{Call, FINGERPRINT, StreamOptions, json, quoted};
use super::driver::Limits;
use super::error::ApiError;
use super::faults::broken;
use super::job::{Job, Usage};
use super::stream::{self, Script};
use super::template::Prompts;

/// Tokens of an answer that its request does not limit: OpenAI's default, and vLLM's.
const DEFAULT_MAX_TOKENS: u32 = 16;

#[derive(Deserialize)]
struct Body<'a> {
    model: Option<Cow<'a, str>>,
    prompt: Prompts,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
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
    let limits = Limits {
        max_tokens: Some(body.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)),
        ignore_eos: body.ignore_eos.unwrap_or(false),
        streams,
        alone: false,
        prefill_only: false,
    };
    let prompts = body.prompt.chains(|| call.pod.chain(body.cache_salt.as_deref()));
    if prompts.is_empty() {
        return Err(ApiError::bad_request("prompt", "There is no prompt.".to_owned()));
    }
    let mut jobs = prompts
        .into_iter()
        .map(|prompt| Job::start(&call.pod, prompt, limits))
        .collect::<Result<Vec<Job>, ApiError>>()?;
    if streams {
        let usage = body.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
        return Ok(stream::respond(jobs, Chunks::new(call, usage), call.cut));
    }
    for job in &mut jobs {
        if job.finish().await.is_err() {
            return Ok(broken());
        }
    }
    Ok(json(whole(call, &jobs)))
}

fn whole(call: &Call, jobs: &[Job]) -> String {
    let mut choices = String::new();
    for (index, job) in jobs.iter().enumerate() {
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
            text = quoted(&job.answer.full_text()),
            finish = job.answer.finish_reason(),
        );
    }
    let Usage { prompt, completion, cached, .. } = Usage::of(jobs);
    format!(
        concat!(
            r#"{{"id":{id},"object":"text_completion","created":{created},"model":{model},"choices":[{choices}],"#,
            r#""service_tier":null,"system_fingerprint":"{fingerprint}","usage":{{"prompt_tokens":{prompt},"#,
            r#""total_tokens":{total},"completion_tokens":{completion},"prompt_tokens_details":"#,
            r#"{{"cached_tokens":{cached},"created_cache_tokens":null,"multimodal_tokens":null}},"#,
            r#""completion_tokens_details":null}},"kv_transfer_params":null,"ec_transfer_params":null,"#,
            r#""metrics":null}}"#
        ),
        id = quoted(&format!("cmpl-{}", call.id)),
        created = call.created,
        model = call.model_json(),
        choices = choices,
        fingerprint = FINGERPRINT,
        prompt = prompt,
        total = prompt + completion,
        completion = completion,
        cached = cached,
    )
}

/// The chunks of a stream; those of several prompts are interleaved and told apart by `index`.
struct Chunks {
    head: String,
    usage: bool,
}

impl Chunks {
    fn new(call: &Call, usage: bool) -> Chunks {
        let head = format!(
            r#"data: {{"id":{},"object":"text_completion","created":{},"model":{},"choices":["#,
            quoted(&format!("cmpl-{}", call.id)),
            call.created,
            call.model_json(),
        );
        Chunks { head, usage }
    }
}

impl Script for Chunks {
    fn begin(&mut self, _: &mut String) {}

    fn token(&mut self, out: &mut String, choice: usize, index: u32, job: &Job, last: bool) {
        out.push_str(&self.head);
        // Writing into a string cannot fail; the words of an answer need no escapes.
        let _ = write!(out, r#"{{"index":{choice},"text":"{}","logprobs":null,"#, job.answer.text(index));
        let finish = if last { quoted(job.answer.finish_reason()) } else { "null".to_owned() };
        let _ = write!(
            out,
            r#""finish_reason":{finish},"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}]"#
        );
        if last && !self.usage {
            let _ = write!(out, r#","system_fingerprint":"{FINGERPRINT}""#);
        }
        out.push_str("}\n\n");
    }

    fn end(&mut self, out: &mut String, usage: Usage, _: &[Job]) {
        if self.usage {
            let Usage { prompt, completion, cached, .. } = usage;
            out.push_str(&self.head);
            let _ = write!(
                out,
                concat!(
                    r#"],"usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion},"#,
                    r#""prompt_tokens_details":{{"cached_tokens":{cached}}}}},"system_fingerprint":"{fingerprint}"}}"#
                ),
                prompt = prompt,
                total = prompt + completion,
                completion = completion,
                cached = cached,
                fingerprint = FINGERPRINT,
            );
            out.push_str("\n\n");
        }
        out.push_str("data: [DONE]\n\n");
    }
}
