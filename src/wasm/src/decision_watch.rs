//! Keeps decisions for the console while somebody looks at it. While nobody does, a request pays a look at a
//! flag.

use warmpath::Micros;
use warmpath::monitor::decisions;

use crate::host::Host;

/// The decisions of one worker since its last tick.
#[derive(Debug, Default)]
pub struct DecisionWatch {
    /// Whether somebody looks, as of the last tick.
    watched: bool,
    lines: Vec<String>,
}

impl DecisionWatch {
    /// Keeps the decision that `describe` tells, if somebody looks. Of many between two ticks the first ones
    /// are kept: a busy gateway makes more than a page can show.
    pub fn see(&mut self, describe: impl FnOnce() -> String) {
        if self.watched && self.lines.len() < decisions::KEPT {
            self.lines.push(describe());
        }
    }

    /// Hands on what was kept, and finds out whether somebody looks.
    pub fn tick(&mut self, looked: &str, key: &str, now: Micros) {
        self.watched = decisions::watched(looked, &Host, now);
        if !self.lines.is_empty() {
            decisions::add(&self.lines, key, &mut Host);
            self.lines.clear();
        }
    }
}
