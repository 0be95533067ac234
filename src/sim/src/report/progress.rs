//! A progress bar on standard error for what takes longer than two seconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a run may take without a bar.
const SILENT: Duration = Duration::from_secs(2);

/// The progress of all runs together.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    /// Whether the bar is to be shown and is not yet.
    hidden: Mutex<bool>,
}

impl Progress {
    /// Of `requests` in all; never shown unless `visible`.
    pub fn new(requests: u64, visible: bool) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(requests), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(
            "{bar:30.cyan/blue} {human_pos}/{human_len} requests, {per_sec}, {eta} left: {msg}",
        ) {
            bar.set_style(style);
        }
        Progress { bar, began: Instant::now(), hidden: Mutex::new(visible) }
    }

    /// A run begins.
    pub fn begin(&self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    /// So many more requests are over.
    pub fn advance(&self, requests: u64) {
        self.bar.inc(requests);
        if self.began.elapsed() > SILENT
            && let Ok(mut hidden) = self.hidden.lock()
            && std::mem::take(&mut *hidden)
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
    }

    /// All is done.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
