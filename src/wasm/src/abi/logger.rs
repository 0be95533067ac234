//! The `log` crate's lines, and the message of a panic, in Envoy's log.

use std::panic;

use log::{LevelFilter, Log, Metadata, Record};

use super::calls::{self, Level};

struct Logger;

static LOGGER: Logger = Logger;

/// Prints lines of all levels from now on: Envoy drops what is below its own.
pub fn install() {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Trace);
        panic::set_hook(Box::new(|panic| calls::log(Level::Critical, &panic.to_string())));
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        calls::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}
