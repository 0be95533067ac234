//! Lines of the log that come with nearly every request, gathered as Envoy gathers those of its access log.
//!
//! A line that is printed takes 10 us: Envoy formats it and writes it out at once. Under load that is more than any step of a
//! decision, so there lines that follow each other closely are printed together, under one time stamp.

use warmpath::Micros;

use crate::host;

/// Time from one print to the next, as long as lines come; the last ones of a burst wait for the root's tick.
const GATHERED: Micros = Micros::from_millis(10);
/// Bytes that are not held back, whatever the time.
const FULL: usize = 16 << 10;

/// Lines that are to be printed.
#[derive(Debug, Default)]
pub struct Lines {
    text: String,
    printed_at: Micros,
}

impl Lines {
    /// Adds a line that `write` puts at the end of what it is given. It is printed at once if none was for a while.
    pub fn add(&mut self, now: Micros, write: impl FnOnce(&mut String)) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        write(&mut self.text);
        if self.text.len() >= FULL || now.since(self.printed_at) >= GATHERED {
            self.print(now);
        }
    }

    /// Prints what there is.
    pub fn print(&mut self, now: Micros) {
        if !self.text.is_empty() {
            host::info(&self.text);
            self.text.clear();
            self.printed_at = now;
        }
    }
}
