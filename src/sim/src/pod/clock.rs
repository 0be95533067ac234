//! Virtual seconds from real time, at a speed that may change while the pod runs.

use std::time::Duration;

use tokio::time::Instant;

/// A clock that runs `rate` times as fast as real time; at 0 it stands still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Virtual seconds at `since`.
    base: f64,
    since: Instant,
    rate: f64,
}

impl Clock {
    /// Starts at 0.
    pub(super) fn new(rate: f64) -> Clock {
        Clock { base: 0.0, since: Instant::now(), rate }
    }

    /// Virtual seconds now.
    pub(super) fn now(&self) -> f64 {
        self.base + self.since.elapsed().as_secs_f64() * self.rate
    }

    /// When it will be `at`, capped at a day so that no speed can overflow a timer, and none at all neither.
    pub(super) fn when(&self, at: f64) -> Instant {
        const LONGEST: f64 = 86_400.0;
        let seconds =
            if self.rate > 0.0 { ((at - self.base) / self.rate).clamp(0.0, LONGEST) } else { LONGEST };
        self.since + Duration::from_secs_f64(seconds)
    }

    /// Runs at another speed from now on.
    pub(super) fn set_rate(&mut self, rate: f64) {
        *self = Clock { base: self.now(), since: Instant::now(), rate };
    }
}
