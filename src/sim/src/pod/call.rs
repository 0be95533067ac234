//! What every API's handler gets: the pod, the body, and a name for the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::driver::Pod;
use super::error::ApiError;
use super::faults::Fate;

/// What vLLM calls the software and its settings in an answer.
pub(super) const FINGERPRINT: &str = "vllm-0.32.0-904425a4";

/// A request to one of the APIs.
pub(super) struct Call {
    pub(super) pod: Arc<Pod>,
    pub(super) body: Bytes,
    /// `X-Request-Id`, which vLLM builds the answer's id from, or 16 hex digits.
    pub(super) id: String,
    /// Unix seconds.
    pub(super) created: u64,
    /// A fault: break the stream after so many tokens.
    pub(super) cut: Option<u32>,
}

/// `stream_options` of OpenAI's APIs.
#[derive(Deserialize, Default)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: Option<bool>,
}

impl FromRequest<Arc<Pod>> for Call {
    type Rejection = Response;

    async fn from_request(request: Request, pod: &Arc<Pod>) -> Result<Call, Response> {
        let name = request.headers().get("x-request-id").and_then(|name| name.to_str().ok());
        let id = name.map_or_else(unique, str::to_owned);
        let cut = match request.extensions().get::<Fate>() {
            Some(Fate::CutAfter(tokens)) => Some(*tokens),
            _ => None,
        };
        let body = Bytes::from_request(request, pod).await.map_err(IntoResponse::into_response)?;
        Ok(Call { pod: pod.clone(), body, id, created: unix_seconds(), cut })
    }
}

impl Call {
    /// The body in an API's shape.
    pub(super) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| self.misshapen(&error))
    }

    /// The error for a part of the body that has another shape than the API's.
    pub(super) fn misshapen(&self, error: &serde_json::Error) -> ApiError {
        ApiError::from_json(error, &self.body)
    }

    /// Refuses models the pod does not serve; none is the one it does.
    pub(super) fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        let served = &self.pod.config.model;
        match asked.filter(|asked| asked != served) {
            Some(asked) => Err(ApiError::unknown_model(asked, served)),
            None => Ok(()),
        }
    }

    /// The model's name as JSON.
    pub(super) fn model_json(&self) -> String {
        quoted(&self.pod.config.model)
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &(impl Serialize + ?Sized)) -> String {
    // Strings always serialize.
    serde_json::to_string(text).unwrap_or_default()
}

/// A whole answer.
pub(super) fn json(body: String) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// 16 hex digits that no other call of this process gets, and hardly one of another process.
pub(super) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = u64::from(std::process::id()) << 32;
    format!("{:016x}", xxh3_64_with_seed(&number.to_le_bytes(), process ^ unix_seconds()))
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
