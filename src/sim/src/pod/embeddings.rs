//! `POST /v1/embeddings`: a prefill without decode, and a vector made from the text's hash.

use std::borrow::Cow;
use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::call::{Call, json, quoted};
use super::driver::Limits;
use super::error::ApiError;
use super::faults::broken;
use super::job::{Job, Usage};
use super::template::Prompts;

/// Length of the vector. Real ones have 768 and more; what a router sees does not depend on it.
const DIMENSIONS: u32 = 32;

#[derive(Deserialize)]
struct Body<'a> {
    model: Option<Cow<'a, str>>,
    input: Prompts,
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
    let limits =
        Limits { max_tokens: None, ignore_eos: false, streams: false, alone: true, prefill_only: true };
    let inputs = body.input.chains(|| call.pod.chain(None));
    let mut jobs = inputs
        .into_iter()
        .map(|input| Job::start(&call.pod, input, limits))
        .collect::<Result<Vec<Job>, ApiError>>()?;
    let mut data = String::new();
    for (index, job) in jobs.iter_mut().enumerate() {
        if job.finish().await.is_err() {
            return Ok(broken());
        }
        let comma = if index == 0 { "" } else { "," };
        // Writing into a string cannot fail.
        let _ = write!(data, r#"{comma}{{"index":{index},"object":"embedding","embedding":["#);
        for dimension in 0..DIMENSIONS {
            let comma = if dimension == 0 { "" } else { "," };
            let hash = xxh3_64_with_seed(&dimension.to_le_bytes(), job.answer.seed);
            // The upper 53 bits as a number from -1 to 1.
            let value = (hash >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
            let _ = write!(data, "{comma}{value}");
        }
        data.push_str("]}");
    }
    let prompt = Usage::of(&jobs).prompt;
    Ok(json(format!(
        concat!(
            r#"{{"id":{id},"object":"list","created":{created},"model":{model},"data":[{data}],"usage":"#,
            r#"{{"prompt_tokens":{prompt},"total_tokens":{prompt},"completion_tokens":0,"#,
            r#""prompt_tokens_details":null}}}}"#
        ),
        id = quoted(&format!("embd-{}", call.id)),
        created = call.created,
        model = call.model_json(),
        data = data,
        prompt = prompt,
    )))
}
