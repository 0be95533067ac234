//! Stored responses (`VLLM_ENABLE_RESPONSES_API_STORE=1`): what `previous_response_id`, `GET` and `cancel`
//! find again, and what only the pod that answered has.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use tokio::task::AbortHandle;

use super::error::ApiError;
use super::template::Message;

/// Responses kept, at most; the oldest go first.
const KEPT: usize = 10_000;

/// A response that was given, or is on its way in the background.
#[derive(Debug)]
pub(super) struct Stored {
    /// The response object, as JSON.
    pub(super) object: String,
    /// All that was said, the answer included: what a follow-up's prompt begins with.
    pub(super) messages: Vec<Message>,
    /// What computes it, while it is on its way.
    pub(super) running: Option<AbortHandle>,
}

/// The responses of a pod, by id.
#[derive(Debug, Default)]
pub(super) struct ResponseStore(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<String, Stored>,
    order: VecDeque<String>,
}

impl ResponseStore {
    /// Keeps a response, in place of an earlier state of it.
    pub(super) fn put(&self, id: &str, stored: Stored) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.by_id.insert(id.to_owned(), stored).is_none() {
            kept.order.push_back(id.to_owned());
        }
        while kept.order.len() > KEPT {
            if let Some(oldest) = kept.order.pop_front() {
                kept.by_id.remove(&oldest);
            }
        }
    }

    /// Looks at a response.
    ///
    /// # Errors
    /// 404 for an id that is not kept, 400 for one that is none.
    pub(super) fn get<T>(&self, id: &str, look: impl FnOnce(&mut Stored) -> T) -> Result<T, ApiError> {
        if !id.starts_with("resp") {
            let message = format!("Invalid 'response_id': '{id}'. Expected an ID that begins with 'resp'.");
            return Err(ApiError {
                kind: "invalid_request_error",
                ..ApiError::bad_request("response_id", message)
            });
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stored) = kept.by_id.get_mut(id) else {
            let message = format!("Response with id '{id}' not found.");
            return Err(ApiError::not_found("invalid_request_error", message));
        };
        Ok(look(stored))
    }

    /// Ends what computes a response in the background.
    ///
    /// # Errors
    /// As [`ResponseStore::get`], and 400 for a response that is not on its way.
    pub(super) fn cancel(&self, id: &str) -> Result<String, ApiError> {
        let cancelled = self.get(id, |stored| {
            let running = stored.running.take()?;
            running.abort();
            for status in ["queued", "in_progress"] {
                let from = format!(r#""status":"{status}""#);
                stored.object = stored.object.replace(&from, r#""status":"cancelled""#);
            }
            Some(stored.object.clone())
        })?;
        cancelled.ok_or_else(|| ApiError {
            status: StatusCode::BAD_REQUEST,
            kind: "invalid_request_error",
            message: "Cannot cancel a synchronous response.".to_owned(),
            param: Some("response_id".to_owned()),
        })
    }

    /// As after a restart.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }
}
