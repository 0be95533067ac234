//! The page of metrics and the probes.
//!
//! `/livez` is 503 where a hook hangs: Envoy Gateway would wait for it for ever, so the process is to be
//! started anew. `/readyz` is 503 before the caches are full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::hooks::server::InFlight;
use crate::telemetry::Metrics;

/// A hook that takes longer hangs: its own deadline is two seconds.
const HANGS: Duration = Duration::from_secs(10);

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The calls that are being answered.
    pub in_flight: Arc<InFlight>,
    /// Whether the caches are full.
    pub ready: Arc<AtomicBool>,
}

/// The pages as a service.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(async |State(pages): State<Pages>| pages.metrics.page()))
        .route("/livez", get(async |State(pages): State<Pages>| live(&pages)))
        .route("/readyz", get(async |State(pages): State<Pages>| ready(&pages)))
        .with_state(pages)
}

fn live(pages: &Pages) -> (StatusCode, &'static str) {
    match pages.in_flight.oldest() {
        Some(age) if age > HANGS => (StatusCode::SERVICE_UNAVAILABLE, "a hook hangs\n"),
        _ => (StatusCode::OK, "ok\n"),
    }
}

fn ready(pages: &Pages) -> (StatusCode, &'static str) {
    if pages.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are not full yet\n")
    }
}
