//! What every API's handler begins with: the body in the API's shape, the model it asks for, a name for the
//! request, and the way to the engine.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::driver::{AnswerLimits, LivePod, Target};
use super::error::{ApiError, Dialect, Refusal};
use super::faults::Treatment;
use super::generation::Generation;
use super::ids::{unique, unix_seconds};
use super::json::{self, flag};
use super::models::Served;
use super::stream::{self, StreamForm};
use crate::engine::Chain;

/// What vLLM calls the software and its settings in an answer.
pub(super) const FINGERPRINT: &str = "vllm-0.32.0-904425a4";

/// The body of an API, as far as it differs from the others.
pub(super) trait ApiBody: DeserializeOwned + Send {
    /// The form of the API's errors.
    const DIALECT: Dialect = Dialect::OpenAi;
}

/// What the bodies of all APIs have in common.
#[derive(Deserialize)]
struct Common {
    model: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[serde(default, deserialize_with = "flag")]
    ignore_eos: Option<bool>,
    cache_salt: Option<String>,
}

/// `stream_options` of OpenAI's APIs.
#[derive(Deserialize, Default)]
struct StreamOptions {
    #[serde(default, deserialize_with = "flag")]
    include_usage: Option<bool>,
}

/// A request to one of the APIs.
pub(super) struct Asked<B> {
    pub(super) pod: Arc<LivePod>,
    pub(super) body: B,
    /// The model that answers.
    pub(super) served: Served,
    /// `X-Request-Id`, which vLLM builds the answer's id from, or 16 hex digits.
    pub(super) id: String,
    /// Unix seconds.
    pub(super) created: u64,
    pub(super) streams: bool,
    /// Whether the last chunk of a stream says what was used.
    pub(super) reports_usage: bool,
    ignore_eos: bool,
    salt: Option<String>,
    /// `X-data-parallel-rank`.
    rank: Option<u32>,
    treatment: Treatment,
}

impl<B: ApiBody> FromRequest<Arc<LivePod>> for Asked<B> {
    type Rejection = Response;

    async fn from_request(request: Request, pod: &Arc<LivePod>) -> Result<Asked<B>, Response> {
        let id = text_of(request.headers(), "x-request-id").map_or_else(unique, str::to_owned);
        let rank = text_of(request.headers(), "x-data-parallel-rank").and_then(|rank| rank.parse().ok());
        let treatment = request.extensions().get().copied().unwrap_or(Treatment::Served);
        let bytes = Bytes::from_request(request, pod).await.map_err(IntoResponse::into_response)?;
        // What the shape itself forbids has the same form in all of vLLM's APIs.
        let misshapen = |error, text: &str| ApiError::from_json(&error, text.as_bytes()).into_response();
        let value = json::parse(&bytes).map_err(|(error, text)| misshapen(error, &text))?;
        let common = Common::deserialize(&value).map_err(|error| misshapen(error, ""))?;
        let body = B::deserialize(value).map_err(|error| misshapen(error, ""))?;
        let served = pod
            .models
            .find(common.model.as_deref())
            .map_err(|error| Refusal::Whole(error, B::DIALECT).into_response())?;
        Ok(Asked {
            pod: pod.clone(),
            body,
            served,
            id,
            created: unix_seconds(),
            streams: common.stream.unwrap_or(false),
            reports_usage: common.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            ignore_eos: common.ignore_eos.unwrap_or(false),
            salt: common.cache_salt,
            rank,
            treatment,
        })
    }
}

impl<B: ApiBody> Asked<B> {
    /// An empty prompt. Requests for different adapters or with different salts share no cache.
    pub(super) fn chain(&self) -> Chain {
        let hash = |text: &Option<String>, seed| {
            text.as_deref().map_or(0, |text| xxh3_64_with_seed(text.as_bytes(), seed))
        };
        let seed = hash(&self.salt, 1) ^ hash(&self.served.adapter, 2);
        Chain::new(self.pod.config.engine.block_size, seed)
    }

    /// Limits of an answer of at most `max_tokens`, or of as many as the model's length allows.
    pub(super) fn limits(&self, max_tokens: Option<u32>) -> AnswerLimits {
        AnswerLimits {
            max_tokens,
            ignore_eos: self.ignore_eos,
            streams: self.streams,
            stands_alone: true,
            prefill_only: false,
        }
    }

    /// Sends a prompt to an engine.
    pub(super) fn start(&self, prompt: Chain, limits: AnswerLimits) -> Result<Generation, Refusal> {
        match self.treatment {
            Treatment::ErrorEvent(status) => {
                return Err(self.refuse_late(ApiError::of_fault(status)));
            }
            Treatment::DeadEngine => return Err(self.refuse_late(ApiError::dead_engine())),
            Treatment::DoneOnly if self.streams => return Err(Refusal::DoneOnly),
            _ => {}
        }
        let target = Target { adapter: self.served.adapter.clone(), rank: self.rank };
        Generation::start(&self.pod, prompt, limits, target).map_err(|error| {
            if error.status == StatusCode::SERVICE_UNAVAILABLE {
                self.refuse_late(error)
            } else {
                self.refuse(error)
            }
        })
    }

    /// An error that vLLM finds before it answers anything.
    pub(super) fn refuse(&self, error: ApiError) -> Refusal {
        Refusal::Whole(error, B::DIALECT)
    }

    /// An error that vLLM finds only after the headers of a stream.
    fn refuse_late(&self, error: ApiError) -> Refusal {
        if self.streams { Refusal::InStream(error, B::DIALECT) } else { self.refuse(error) }
    }

    /// Streams what is generated.
    pub(super) fn stream(&self, generations: Vec<Generation>, form: impl StreamForm) -> Response {
        let cut = match self.treatment {
            Treatment::CutAfter(tokens) => Some(tokens),
            _ => None,
        };
        stream::respond(generations, form, cut, self.pod.keep_alive())
    }

    /// The model's name as JSON.
    pub(super) fn model_json(&self) -> String {
        json::quoted(&self.served.name)
    }
}

/// The text of a header.
pub(super) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A whole answer.
pub(super) fn json_answer(body: String) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
