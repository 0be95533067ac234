//! What operators do to a pod while it runs: sleep and wake (`--enable-sleep-mode`), empty its prefix cache,
//! load and unload adapters, and set faults. vLLM has the first ones with `VLLM_SERVER_DEV_MODE=1` only, and
//! those of adapters with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;

use super::api::json_answer;
use super::driver::LivePod;
use super::error::{ApiError, plain_error};
use super::faults::Faults;
use super::json;
use super::metrics::SleepLevel;

/// The paths of this file.
pub(super) fn router(faults_endpoint: bool) -> Router<Arc<LivePod>> {
    let router = Router::new()
        .route("/sleep", post(sleep))
        .route("/wake_up", post(wake))
        .route("/is_sleeping", get(is_sleeping))
        .route("/reset_prefix_cache", post(reset_prefix_cache))
        .route("/v1/load_lora_adapter", post(load_adapter))
        .route("/v1/unload_lora_adapter", post(unload_adapter));
    match faults_endpoint {
        true => router.route("/sim/faults", get(show_faults).post(set_faults)),
        false => router.route("/sim/faults", get(no_faults).post(no_faults)),
    }
}

#[derive(Deserialize)]
struct SleepQuery {
    #[serde(default = "one")]
    level: u8,
}

fn one() -> u8 {
    1
}

async fn sleep(State(pod): State<Arc<LivePod>>, Query(query): Query<SleepQuery>) -> StatusCode {
    pod.set_sleep(if query.level == 1 { SleepLevel::WeightsOffloaded } else { SleepLevel::DiscardAll });
    StatusCode::OK
}

async fn wake(State(pod): State<Arc<LivePod>>) -> StatusCode {
    pod.set_sleep(SleepLevel::Awake);
    StatusCode::OK
}

async fn is_sleeping(State(pod): State<Arc<LivePod>>) -> Response {
    json_answer(format!(r#"{{"is_sleeping":{}}}"#, pod.sleeps()))
}

async fn reset_prefix_cache(State(pod): State<Arc<LivePod>>) -> StatusCode {
    pod.reset_prefix_cache();
    StatusCode::OK
}

async fn load_adapter(State(pod): State<Arc<LivePod>>, body: Bytes) -> Result<String, ApiError> {
    let name = adapter_name(&body)?;
    pod.models.load(&name)?;
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

async fn unload_adapter(State(pod): State<Arc<LivePod>>, body: Bytes) -> Result<String, ApiError> {
    let name = adapter_name(&body)?;
    pod.models.unload(&name)?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}

/// `lora_name` of a body.
fn adapter_name(body: &[u8]) -> Result<String, ApiError> {
    let body = json::parse(body).map_err(|(error, text)| ApiError::from_json(&error, text.as_bytes()))?;
    Ok(body.get("lora_name").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned())
}

async fn show_faults(State(pod): State<Arc<LivePod>>) -> Response {
    axum::Json(pod.faults()).into_response()
}

async fn set_faults(State(pod): State<Arc<LivePod>>, body: Bytes) -> Response {
    match String::from_utf8_lossy(&body).parse::<Faults>() {
        Ok(faults) => {
            pod.set_faults(faults);
            show_faults(State(pod)).await
        }
        Err(problem) => plain_error(StatusCode::BAD_REQUEST, &problem),
    }
}

async fn no_faults() -> Response {
    plain_error(StatusCode::NOT_FOUND, "start the pod with --faults to set faults while it runs")
}
