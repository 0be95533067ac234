//! Which path is answered by what.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;

use super::call::{json, quoted, unique};
use super::driver::Pod;
use super::faults::Faults;
use super::{chat, completions, embeddings, messages, responses};

/// The version this pod looks like.
const VERSION: &str = "0.32.0";

pub(super) fn router(pod: Arc<Pod>) -> Router {
    let mut router = Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/responses", post(responses::handle))
        .route("/v1/messages", post(messages::handle))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/models", get(models))
        .route("/metrics", get(metrics))
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/ping", get(|| async { StatusCode::OK }).post(|| async { StatusCode::OK }))
        .route("/load", get(load))
        .route("/version", get(|| async { json(format!(r#"{{"version":"{VERSION}"}}"#)) }));
    if pod.config.faults_endpoint {
        router = router.route("/sim/faults", get(show_faults).post(set_faults));
    }
    router
        .fallback(|| async { plain_error(StatusCode::NOT_FOUND, "Not Found") })
        .method_not_allowed_fallback(|| async {
            plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        // vLLM takes bodies of any size.
        .layer(DefaultBodyLimit::disable())
        .with_state(pod)
}

async fn models(State(pod): State<Arc<Pod>>) -> Response {
    let created = super::call::unix_seconds();
    let model = quoted(&pod.config.model);
    json(format!(
        concat!(
            r#"{{"object":"list","data":[{{"id":{model},"object":"model","created":{created},"owned_by":"vllm","#,
            r#""root":{model},"parent":null,"max_model_len":{length},"permission":[{{"id":"modelperm-{id}","#,
            r#""object":"model_permission","created":{created},"allow_create_engine":false,"allow_sampling":true,"#,
            r#""allow_logprobs":true,"allow_search_indices":false,"allow_view":true,"allow_fine_tuning":false,"#,
            r#""organization":"*","group":null,"is_blocking":false}}]}}]}}"#
        ),
        model = model,
        created = created,
        length = pod.config.max_model_len,
        id = unique(),
    ))
}

async fn metrics(State(pod): State<Arc<Pod>>) -> Response {
    match pod.metrics() {
        Some(page) => {
            ([(header::CONTENT_TYPE, "text/plain; version=1.0.0; charset=utf-8")], page).into_response()
        }
        None => plain_error(StatusCode::SERVICE_UNAVAILABLE, "metrics are refused by a fault"),
    }
}

async fn load(State(pod): State<Arc<Pod>>) -> Response {
    json(format!(r#"{{"server_load":{}}}"#, pod.in_flight()))
}

async fn show_faults(State(pod): State<Arc<Pod>>) -> Response {
    axum::Json(pod.faults()).into_response()
}

async fn set_faults(State(pod): State<Arc<Pod>>, body: Bytes) -> Response {
    match String::from_utf8_lossy(&body).parse::<Faults>() {
        Ok(faults) => {
            pod.set_faults(faults);
            show_faults(State(pod)).await
        }
        Err(problem) => plain_error(StatusCode::BAD_REQUEST, &problem),
    }
}

/// An error of the web framework, not of vLLM's own.
fn plain_error(status: StatusCode, detail: &str) -> Response {
    let body = format!(r#"{{"detail":{}}}"#, quoted(detail));
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
