//! Which path is answered by what.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::api::json_answer;
use super::driver::LivePod;
use super::error::plain_error;
use super::{chat, completions, embeddings, messages, operator, responses};

/// The version this pod looks like.
const VERSION: &str = "0.32.0";

pub(super) fn router(pod: Arc<LivePod>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/responses", post(responses::handle))
        .route("/v1/responses/{id}", get(responses::get))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/messages", post(messages::handle))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/models", get(models))
        .route("/metrics", get(metrics))
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/ping", get(|| async { StatusCode::OK }).post(|| async { StatusCode::OK }))
        .route("/load", get(load))
        .route("/version", get(|| async { json_answer(format!(r#"{{"version":"{VERSION}"}}"#)) }))
        .merge(operator::router(pod.config.faults_endpoint))
        .fallback(|| async { plain_error(StatusCode::NOT_FOUND, "Not Found") })
        .method_not_allowed_fallback(|| async {
            plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        // vLLM takes bodies of any size.
        .layer(DefaultBodyLimit::disable())
        .with_state(pod)
}

async fn models(State(pod): State<Arc<LivePod>>) -> Response {
    json_answer(pod.models.list())
}

async fn metrics(State(pod): State<Arc<LivePod>>) -> Response {
    let (delay, busy) = pod.metrics_cost();
    tokio::time::sleep(delay).await;
    // The whole thread, on purpose: the one that streams tokens makes the page.
    std::thread::sleep(busy);
    match pod.metrics() {
        Some(page) => {
            ([(header::CONTENT_TYPE, "text/plain; version=1.0.0; charset=utf-8")], page).into_response()
        }
        None => plain_error(StatusCode::SERVICE_UNAVAILABLE, "metrics are refused by a fault"),
    }
}

async fn load(State(pod): State<Arc<LivePod>>) -> Response {
    json_answer(format!(r#"{{"server_load":{}}}"#, pod.in_flight()))
}
