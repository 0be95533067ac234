//! Ways to fail on purpose, so that a test sees what a router does about them.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

/// What goes wrong. The counts go down as inference requests (`POST /v1/...`) use them up; when several are set,
/// the first of `reset`, `fail`, `cut` that is left applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Requests whose connection is reset before any byte of an answer.
    pub reset: u32,
    /// Requests that are answered with `status` and an error body.
    pub fail: u32,
    /// The status of those, 200 to 599.
    pub status: u16,
    /// Requests whose stream is cut: the connection breaks after `cut_after` tokens. Whole answers are not cut.
    pub cut: u32,
    /// Tokens that a stream still gives before it is cut.
    pub cut_after: u32,
    /// The engine is so many times slower.
    pub slow_down: f64,
    /// `GET /metrics` answers 503.
    pub refuse_metrics: bool,
    /// Done once when set: the engine starts anew, as after a crash. Cache and counters are empty, the requests it
    /// had break off, `process_start_time_seconds` is now.
    pub restart: bool,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            reset: 0,
            fail: 0,
            status: 503,
            cut: 0,
            cut_after: 4,
            slow_down: 1.0,
            refuse_metrics: false,
            restart: false,
        }
    }
}

/// What the next inference request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Served,
    Reset,
    Failed(u16),
    CutAfter(u32),
}

impl Faults {
    /// The fate of one more inference request.
    pub(super) fn next(&mut self) -> Fate {
        let use_up = |left: &mut u32| {
            let any = *left > 0;
            *left = left.saturating_sub(1);
            any
        };
        if use_up(&mut self.reset) {
            Fate::Reset
        } else if use_up(&mut self.fail) {
            Fate::Failed(self.status)
        } else if use_up(&mut self.cut) {
            Fate::CutAfter(self.cut_after)
        } else {
            Fate::Served
        }
    }

    /// The same with a message about what cannot be.
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
        let mut faults: Faults = r#"{"reset": 1, "fail": 2, "status": 500, "cut": 1}"#.parse().unwrap();
        let fates: Vec<Fate> = (0..5).map(|_| faults.next()).collect();
        assert_eq!(
            fates,
            [Fate::Reset, Fate::Failed(500), Fate::Failed(500), Fate::CutAfter(4), Fate::Served]
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for json in [r#"{"fial": 1}"#, r#"{"status": 99}"#, r#"{"slow_down": 0}"#, "3"] {
            assert!(json.parse::<Faults>().is_err(), "{json}");
        }
    }
}
