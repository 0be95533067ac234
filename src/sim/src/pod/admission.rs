//! Admission control of vLLM's API server: what a full pod says.

use axum::http::StatusCode;

use super::error::ApiError;
use crate::engine::QueueLimit;

/// Requests refused since the start, by limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rejections {
    pub(super) requests: u64,
    pub(super) tokens: u64,
}

impl Rejections {
    /// Counts a request, and gives what its client hears.
    pub(super) fn refuse(&mut self, limit: QueueLimit) -> ApiError {
        match limit {
            QueueLimit::Requests => self.requests += 1,
            QueueLimit::PromptTokens => self.tokens += 1,
        }
        ApiError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "ServiceUnavailable",
            message:
                "The engine is currently busy and cannot accept new requests. Please try again later or on a \
                      different instance."
                    .to_owned(),
            param: None,
        }
    }
}
