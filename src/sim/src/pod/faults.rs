//! Ways to fail on purpose, so that a test sees what a router does about them.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

/// What goes wrong. The counts go down as inference requests (`POST /v1/...`) use them up; when several are
/// set, the first of `reset`, `fail`, `error_event`, `dead_engine`, `done_only`, `cut` that is left applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Requests whose connection is reset before any byte of an answer.
    pub reset: u32,
    /// Requests that are answered at once with `status` and an error body.
    pub fail: u32,
    /// Requests whose generation fails before its first token: a stream says 200 and then an error event with
    /// `status`, a whole answer has that status.
    pub error_event: u32,
    /// Requests that get what vLLM answers once its engine has died: 500, in a stream as its first event.
    pub dead_engine: u32,
    /// The status of `fail` and `error_event`, 200 to 599.
    pub status: u16,
    /// Streams that say 200 and nothing but `[DONE]`. Whole answers are served.
    pub done_only: u32,
    /// Requests whose stream is cut: the connection breaks after `cut_after` tokens. Whole answers are not
    /// cut.
    pub cut: u32,
    /// Tokens that a stream still gives before it is cut.
    pub cut_after: u32,
    /// The engines are so many times slower.
    pub slow_down: f64,
    /// The engines stand still: requests are taken, streams get their headers and nothing else, and the
    /// metrics page says what it said when this began.
    pub hang: bool,
    /// Streams whose first token is still to come get a comment so often, in real milliseconds; 0 is never.
    pub keep_alive_ms: u64,
    /// The gauges of running and waiting requests keep their values until the next batch, as vLLM's do after
    /// all clients have left.
    pub stale_gauges: bool,
    /// Requests more that wait for something else than room (`reason="deferred"`).
    pub deferred: u32,
    /// `GET /metrics` answers 503.
    pub refuse_metrics: bool,
    /// `GET /metrics` answers so much later, in real milliseconds.
    pub metrics_delay_ms: u64,
    /// `GET /metrics` takes so many milliseconds of the one thread that streams the tokens as well.
    pub metrics_busy_ms: u64,
    /// Done once when set: the engines start anew, as after a crash. Caches and counters are empty, the
    /// requests they had break off, `process_start_time_seconds` is now.
    pub restart: bool,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            reset: 0,
            fail: 0,
            error_event: 0,
            dead_engine: 0,
            status: 503,
            done_only: 0,
            cut: 0,
            cut_after: 4,
            slow_down: 1.0,
            hang: false,
            keep_alive_ms: 0,
            stale_gauges: false,
            deferred: 0,
            refuse_metrics: false,
            metrics_delay_ms: 0,
            metrics_busy_ms: 0,
            restart: false,
        }
    }
}

/// How an inference request is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    Served,
    Reset,
    Failed(u16),
    ErrorEvent(u16),
    DeadEngine,
    DoneOnly,
    CutAfter(u32),
}

impl Faults {
    /// The treatment of one more inference request.
    pub(super) fn next(&mut self) -> Treatment {
        let use_up = |left: &mut u32| {
            let any = *left > 0;
            *left = left.saturating_sub(1);
            any
        };
        if use_up(&mut self.reset) {
            Treatment::Reset
        } else if use_up(&mut self.fail) {
            Treatment::Failed(self.status)
        } else if use_up(&mut self.error_event) {
            Treatment::ErrorEvent(self.status)
        } else if use_up(&mut self.dead_engine) {
            Treatment::DeadEngine
        } else if use_up(&mut self.done_only) {
            Treatment::DoneOnly
        } else if use_up(&mut self.cut) {
            Treatment::CutAfter(self.cut_after)
        } else {
            Treatment::Served
        }
    }

    /// How often a stream that waits for its first token gets a comment.
    pub(super) fn keep_alive(&self) -> Option<Duration> {
        (self.keep_alive_ms > 0).then(|| Duration::from_millis(self.keep_alive_ms))
    }

    /// Says which value cannot be.
    pub(super) fn check(&self) -> Result<(), String> {
        if !(200..=599).contains(&self.status) {
            return Err(format!("status must be 200 to 599, not {}", self.status));
        }
        if !(self.slow_down.is_finite() && self.slow_down > 0.0) {
            return Err(format!("slow_down must be more than 0, not {}", self.slow_down));
        }
        Ok(())
    }
}

/// Reads faults from JSON: `{"fail": 3, "status": 500}`.
impl std::str::FromStr for Faults {
    type Err = String;

    fn from_str(json: &str) -> Result<Faults, String> {
        let faults: Faults = serde_json::from_str(json).map_err(|error| error.to_string())?;
        faults.check()?;
        Ok(faults)
    }
}

/// Marks an answer that must not be given: the connection breaks instead.
#[derive(Clone, Copy)]
struct Broken;

/// An answer that breaks the connection, as a pod does that dies.
pub(super) fn broken() -> Response<Body> {
    let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
    response.extensions_mut().insert(Broken);
    response
}

/// Whether the connection is to break instead of giving this answer.
pub(super) fn is_broken(response: &Response<Body>) -> bool {
    response.extensions().get::<Broken>().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_used_up_in_order() {
        let json = r#"{"reset": 1, "fail": 2, "status": 500, "error_event": 1, "dead_engine": 1, "done_only": 1,
            "cut": 1}"#;
        let mut faults: Faults = json.parse().unwrap();
        let treatments: Vec<Treatment> = (0..8).map(|_| faults.next()).collect();
        assert_eq!(
            treatments,
            [
                Treatment::Reset,
                Treatment::Failed(500),
                Treatment::Failed(500),
                Treatment::ErrorEvent(500),
                Treatment::DeadEngine,
                Treatment::DoneOnly,
                Treatment::CutAfter(4),
                Treatment::Served
            ]
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for json in [r#"{"fial": 1}"#, r#"{"status": 99}"#, r#"{"slow_down": 0}"#, "3"] {
            assert!(json.parse::<Faults>().is_err(), "{json}");
        }
    }
}
