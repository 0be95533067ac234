//! Bounds on time that a busy machine does not break.

use std::time::{Duration, Instant};

/// Measures how long something takes, and how much of that time the machine kept work waiting.
pub struct Stopwatch {
    start: Instant,
    kept_waiting: Option<Duration>,
}

impl Stopwatch {
    /// Starts one.
    pub fn start() -> Stopwatch {
        Stopwatch { start: Instant::now(), kept_waiting: kept_waiting() }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Panics when it took longer than `bound`, without the time in which something waited for a CPU or a
    /// disk. Where the kernel does not tell of that time, ten times as long is allowed.
    pub fn within(&self, bound: Duration, what: &str) {
        self.read().within(bound, what);
    }

    /// What it says now.
    pub fn read(&self) -> Reading {
        let waited = self.kept_waiting.zip(kept_waiting()).map(|(before, now)| now.saturating_sub(before));
        Reading { elapsed: self.elapsed(), waited }
    }
}

/// What a [`Stopwatch`] said at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    elapsed: Duration,
    /// How much of it the machine kept work waiting; `None` where the kernel does not tell.
    waited: Option<Duration>,
}

impl Reading {
    /// Panics when it is longer than `bound`, as [`Stopwatch::within`].
    pub fn within(&self, bound: Duration, what: &str) {
        let Reading { elapsed, waited } = *self;
        match waited {
            Some(waited) => assert!(
                elapsed.saturating_sub(waited) < bound,
                "{what} took {elapsed:?}, of which work waited for {waited:?}; at most {bound:?} beside that"
            ),
            None => {
                assert!(elapsed < 10 * bound, "{what} took {elapsed:?}; at most {bound:?} on a quiet machine")
            }
        }
    }
}

/// How long since its start the kernel has seen work wait for a CPU or for a disk, and the hypervisor has
/// kept the machine from its CPUs.
fn kept_waiting() -> Option<Duration> {
    let stalled = |of: &str| -> Option<Duration> {
        let page = std::fs::read_to_string(format!("/proc/pressure/{of}")).ok()?;
        let some = page.lines().find(|line| line.starts_with("some "))?;
        Some(Duration::from_micros(some.rsplit_once("total=")?.1.parse().ok()?))
    };
    let page = std::fs::read_to_string("/proc/stat").ok()?;
    let stolen: u64 = page.lines().next()?.split_whitespace().nth(8)?.parse().ok()?;
    // The kernel counts it in hundredths of a second.
    Some(stalled("cpu")? + stalled("io")? + Duration::from_millis(10 * stolen))
}
