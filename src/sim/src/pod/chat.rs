//! `POST /v1/chat/completions`.

use std::borrow::Cow;
use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::call::{Call, FINGERPRINT, StreamOptions, json, quoted};
use super::driver::Limits;
use super::error::ApiError;
use super::faults::broken;
use super::job::{Job, Usage};
use super::stream::{self, Script};
use super::template::{Message, chat_prompt};

#[derive(Deserialize)]
struct Body<'a> {
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
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
    let prompt = chat_prompt(call.pod.chain(body.cache_salt.as_deref()), body.tools, &body.messages)
        .map_err(|error| call.misshapen(&error))?;
    let limits = Limits {
        max_tokens: body.max_completion_tokens.or(body.max_tokens),
        ignore_eos: body.ignore_eos.unwrap_or(false),
        streams,
        alone: true,
        prefill_only: false,
    };
    let mut job = Job::start(&call.pod, prompt, limits)?;
    if streams {
        let usage = body.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
        return Ok(stream::respond(vec![job], Chunks::new(call, usage), call.cut));
    }
    match job.finish().await {
        Ok(()) => Ok(json(whole(call, &job))),
        Err(_) => Ok(broken()),
    }
}

fn whole(call: &Call, job: &Job) -> String {
    let Usage { prompt, completion, cached, created: new } = job.usage();
    format!(
        concat!(
            r#"{{"id":{id},"object":"chat.completion","created":{created},"model":{model},"choices":[{{"index":0,"#,
            r#""message":{{"role":"assistant","content":{content},"refusal":null,"annotations":null,"audio":null,"#,
            r#""function_call":null,"reasoning":null}},"logprobs":null,"finish_reason":"{finish}","#,
            r#""stop_reason":null,"token_ids":null,"routed_experts":null}}],"service_tier":null,"#,
            r#""system_fingerprint":"{fingerprint}","usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"#,
            r#""completion_tokens":{completion},"prompt_tokens_details":{{"cached_tokens":{cached},"#,
            r#""created_cache_tokens":{new},"multimodal_tokens":null}},"completion_tokens_details":null}},"#,
            r#""prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"#,
            r#""ec_transfer_params":null,"metrics":null}}"#
        ),
        id = quoted(&format!("chatcmpl-{}", call.id)),
        created = call.created,
        model = call.model_json(),
        content = quoted(&job.answer.full_text()),
        finish = job.answer.finish_reason(),
        fingerprint = FINGERPRINT,
        prompt = prompt,
        total = prompt + completion,
        completion = completion,
        cached = cached,
        new = new,
    )
}

/// The chunks of a stream. What all of them begin with is written once.
struct Chunks {
    head: String,
    usage: bool,
}

impl Chunks {
    fn new(call: &Call, usage: bool) -> Chunks {
        let head = format!(
            r#"data: {{"id":{},"object":"chat.completion.chunk","created":{},"model":{},"choices":["#,
            quoted(&format!("chatcmpl-{}", call.id)),
            call.created,
            call.model_json(),
        );
        Chunks { head, usage }
    }
}

impl Script for Chunks {
    fn begin(&mut self, _: &mut String) {}

    fn token(&mut self, out: &mut String, _: usize, index: u32, job: &Job, last: bool) {
        let Chunks { head, usage } = self;
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
        out.push_str(job.answer.text(index));
        if !last {
            out.push_str("\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n");
            return;
        }
        // Writing into a string cannot fail.
        let _ = write!(
            out,
            r#""}},"logprobs":null,"finish_reason":"{}","stop_reason":null,"token_ids":null}}]"#,
            job.answer.finish_reason()
        );
        if !*usage {
            let _ = write!(out, r#","system_fingerprint":"{FINGERPRINT}""#);
        }
        out.push_str("}\n\n");
    }

    fn end(&mut self, out: &mut String, usage: Usage, _: &[Job]) {
        if self.usage {
            let Usage { prompt, completion, cached, created } = usage;
            let total = prompt + completion;
            out.push_str(&self.head);
            let _ = write!(
                out,
                concat!(
                    r#"],"usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion},"#,
                    r#""prompt_tokens_details":{{"cached_tokens":{cached},"created_cache_tokens":{created}}}}},"#,
                    r#""system_fingerprint":"{fingerprint}"}}"#
                ),
                prompt = prompt,
                total = total,
                completion = completion,
                cached = cached,
                created = created,
                fingerprint = FINGERPRINT,
            );
            out.push_str("\n\n");
        }
        out.push_str("data: [DONE]\n\n");
    }
}
