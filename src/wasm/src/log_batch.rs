//! How often lines may be printed; and those that nearly every request writes, in batches.
//!
//! Envoy formats and writes each line that it is given at once, which costs more than any step of a decision.
//! So lines that follow each other closely are printed together, under one time stamp, as Envoy batches those
//! of its access log.

use warmpath::Micros;

use crate::host;

/// How long a warning is not repeated, so that a lasting fault does not fill the log.
pub const REPEAT_AFTER: Micros = Micros::from_seconds(10);
/// Least time between two prints while lines come; the last lines of a burst wait for the root context's
/// tick.
const INTERVAL: Micros = Micros::from_millis(10);
/// Bytes at which a batch is printed, whatever the time.
const FULL: usize = 16 << 10;

/// Lines that wait to be printed.
#[derive(Debug, Default)]
pub struct LogBatch {
    text: String,
    printed_at: Micros,
}

impl LogBatch {
    /// Adds the line that `write` appends to its argument, and prints the batch if it is full or the last
    /// print was long enough ago.
    pub fn add(&mut self, now: Micros, write: impl FnOnce(&mut String)) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        write(&mut self.text);
        if self.text.len() >= FULL || now.since(self.printed_at) >= INTERVAL {
            self.print(now);
        }
    }

    /// Prints the batch, if it has lines.
    pub fn print(&mut self, now: Micros) {
        if !self.text.is_empty() {
            host::info(&self.text);
            self.text.clear();
            self.printed_at = now;
        }
    }
}
