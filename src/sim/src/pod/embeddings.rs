//! `POST /v1/embeddings`: a prefill without decode, and a vector made from the text's hash.

use std::fmt::Write;

use axum::response::Response;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::api::{ApiBody, Asked, json_answer};
use super::driver::AnswerLimits;
use super::error::Refusal;
use super::generation::{Generation, TokenCounts};
use super::json::quoted;
use super::template::PromptInput;

/// Length of the vector. Real ones have 768 and more; what a router sees does not depend on it.
const DIMENSIONS: u32 = 32;

#[derive(Deserialize)]
pub(super) struct EmbeddingBody {
    input: PromptInput,
}

impl ApiBody for EmbeddingBody {}

pub(super) async fn handle(asked: Asked<EmbeddingBody>) -> Result<Response, Refusal> {
    let limits = AnswerLimits { streams: false, prefill_only: true, ..asked.limits(None) };
    let inputs = asked.body.input.chains(|| asked.chain());
    let mut generations = inputs
        .into_iter()
        .map(|input| asked.start(input, limits))
        .collect::<Result<Vec<Generation>, Refusal>>()?;
    let mut data = String::new();
    for (index, generation) in generations.iter_mut().enumerate() {
        generation.finish().await?;
        let comma = if index == 0 { "" } else { "," };
        // Writing into a string cannot fail.
        let _ = write!(data, r#"{comma}{{"index":{index},"object":"embedding","embedding":["#);
        for dimension in 0..DIMENSIONS {
            let comma = if dimension == 0 { "" } else { "," };
            let hash = xxh3_64_with_seed(&dimension.to_le_bytes(), generation.answer.seed);
            // The upper 53 bits as a number from -1 to 1.
            let value = (hash >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
            let _ = write!(data, "{comma}{value}");
        }
        data.push_str("]}");
    }
    let prompt = TokenCounts::of(&generations).prompt;
    Ok(json_answer(format!(
        concat!(
            r#"{{"id":{id},"object":"list","created":{created},"model":{model},"data":[{data}],"usage":"#,
            r#"{{"prompt_tokens":{prompt},"total_tokens":{prompt},"completion_tokens":0,"#,
            r#""prompt_tokens_details":null}}}}"#
        ),
        id = quoted(&format!("embd-{}", asked.id)),
        created = asked.created,
        model = asked.model_json(),
        data = data,
        prompt = prompt,
    )))
}
