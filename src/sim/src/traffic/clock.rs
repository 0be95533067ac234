//! The server's seconds, from ours.

use std::time::Duration;

use tokio::time::Instant;

/// Starts at 0 and runs `speed_up` times as fast as real time.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerClock {
    started: Instant,
    speed_up: f64,
}

impl ServerClock {
    /// Starts now.
    pub(super) fn new(speed_up: f64) -> ServerClock {
        ServerClock { started: Instant::now(), speed_up }
    }

    /// Seconds of the server since the start.
    pub(super) fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * self.speed_up
    }

    /// When it will be `at`.
    pub(super) fn when(&self, at: f64) -> Instant {
        self.started + self.real(at)
    }

    /// How long `seconds` of the server take, a year at most, so that it is a time the system knows.
    pub(super) fn real(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64((seconds / self.speed_up).clamp(0.0, 31_536_000.0))
    }
}
