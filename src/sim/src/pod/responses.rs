//! `POST /v1/responses`, and what is stored of it: `GET /v1/responses/{id}` and `POST
//! /v1/responses/{id}/cancel`.

mod form;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use self::form::{ResponseEvents, ResponseForm};
use super::api::{ApiBody, Asked, json_answer};
use super::driver::LivePod;
use super::error::{ApiError, Refusal};
use super::ids::unique;
use super::json::{canonical, count, flag, quoted};
use super::template::{Message, chat_prompt};

#[derive(Deserialize)]
pub(super) struct ResponsesBody {
    input: Value,
    instructions: Option<Value>,
    tools: Option<Value>,
    #[serde(default, deserialize_with = "count")]
    max_output_tokens: Option<u32>,
    previous_response_id: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    store: Option<bool>,
    #[serde(default, deserialize_with = "flag")]
    background: Option<bool>,
}

impl ApiBody for ResponsesBody {}

pub(super) async fn handle(asked: Asked<ResponsesBody>) -> Result<Response, Refusal> {
    let stores = asked.pod.config.stores_responses && asked.body.store.unwrap_or(true);
    let background = asked.body.background.unwrap_or(false);
    if background && !stores {
        return Err(asked.refuse(ApiError {
            kind: "invalid_request_error",
            ..ApiError::bad_request("store", STORE_IS_OFF.to_owned())
        }));
    }
    let said = dialogue(&asked)?;
    let prompt = prompt(&asked, &said);
    let longest = asked.pod.config.max_model_len;
    let form = ResponseForm {
        id: format!("resp_{}", asked.id),
        item: quoted(&format!("msg_{}", unique())),
        created: asked.created,
        model: asked.model_json(),
        instructions: asked.body.instructions.as_ref().map_or("null".to_owned(), Value::to_string),
        tools: asked.body.tools.as_ref().map_or("[]".to_owned(), canonical),
        max_output_tokens: asked.body.max_output_tokens.unwrap_or(longest.saturating_sub(prompt.tokens())),
        previous: asked.body.previous_response_id.as_ref().map_or("null".to_owned(), quoted),
        background,
        store: stores.then(|| (asked.pod.clone(), said)),
    };
    let mut generation = asked.start(prompt, asked.limits(asked.body.max_output_tokens))?;
    if asked.streams {
        return Ok(asked.stream(vec![generation], ResponseEvents { form, sequence: 0 }));
    }
    if background {
        let queued = form.object("queued", "[]", None);
        let kept = form.clone();
        // It is stored under its task before the task can end, as both run on this thread and nothing is
        // awaited.
        let task = tokio::spawn(async move {
            if generation.finish().await.is_ok() {
                kept.keep(&kept.whole(&generation), &generation.answer.full_text());
            }
        });
        form.keep_running("in_progress", task.abort_handle());
        return Ok(json_answer(queued));
    }
    generation.finish().await?;
    let whole = form.whole(&generation);
    form.keep(&whole, &generation.answer.full_text());
    Ok(json_answer(whole))
}

/// What vLLM says to what needs a store when it has none.
const STORE_IS_OFF: &str = "`store=True` (default) is not supported. Please set `store=False` in Responses API or set \
                            `VLLM_ENABLE_RESPONSES_API_STORE=1` in the env var when starting the vLLM server.";

/// `GET /v1/responses/{id}`.
pub(super) async fn get(
    State(pod): State<Arc<LivePod>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    pod.responses.get(&id, |stored| json_answer(stored.object.clone()))
}

/// `POST /v1/responses/{id}/cancel`.
pub(super) async fn cancel(
    State(pod): State<Arc<LivePod>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    pod.responses.cancel(&id).map(json_answer)
}

/// What was said up to now: a stored dialogue and this request's input, which is a user's text or a list of
/// messages.
fn dialogue(asked: &Asked<ResponsesBody>) -> Result<Vec<Message>, Refusal> {
    let mut messages = match &asked.body.previous_response_id {
        Some(previous) => asked
            .pod
            .responses
            .get(previous, |stored| stored.messages.clone())
            .map_err(|error| asked.refuse(error))?,
        None => Vec::new(),
    };
    match &asked.body.input {
        Value::Array(items) => messages.extend(items.iter().map(|item| {
            let text = |field: &str| item.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            // Tool calls and their results have no content: they count as the JSON they are.
            let content = item.get("content").cloned().unwrap_or_else(|| item.clone());
            Message {
                role: text("role"),
                content: Some(content),
                tool_calls: item.get("tool_calls").cloned(),
            }
        })),
        text => messages.push(Message::new("user", text.clone())),
    }
    Ok(messages)
}

/// The prompt of a dialogue; `instructions` come before it as the system's, and are not part of what is
/// stored.
fn prompt(asked: &Asked<ResponsesBody>, said: &[Message]) -> crate::engine::Chain {
    let instructions = asked.body.instructions.clone().filter(|text| !text.is_null());
    let system = instructions.map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.into_iter().chain(said.iter().cloned()).collect();
    chat_prompt(asked.chain(), asked.body.tools.as_ref(), &messages)
}
