//! The watchdog for a filter without `allow_on_headers_stop_iteration`: Envoy then holds a request whose
//! headers are paused, and never shows its body, so that it would wait for ever.
//!
//! Until the first body has come, held requests are remembered. At a tick, one that has received bytes of a
//! body without a callback shows that the flag is missing. All are let go, and no request is held from then
//! on: until the plugin is configured anew, requests with a body go unrouted.

use std::cell::{Cell, RefCell};

use warmpath::config::Config;
use warmpath::shared::store::{Keys, NEVER_WRITTEN, SharedData};

use crate::host::{self, Host};
use crate::metrics::StopIterationMetrics;

/// Nothing is logged yet. An empty value would read as a missing one.
const NOT_SAID: &[u8] = b"no";

/// What is known of the flag, and the requests that wait meanwhile.
#[derive(Debug)]
pub struct StopIteration {
    flag: Cell<Flag>,
    held: RefCell<Vec<Held>>,
    metrics: StopIterationMetrics,
    /// Key under which the line is marked as logged.
    said: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    Unproven,
    Works,
    Missing,
}

#[derive(Debug)]
struct Held {
    stream: u32,
    /// Bytes of the request when it was held.
    size: u64,
}

impl StopIteration {
    /// Nothing is known yet.
    pub fn new(config: &Config) -> StopIteration {
        let said = Keys::of(&config.pool, config.index.log_segments).started("unpatched");
        let metrics = StopIterationMetrics::of(&config.pool);
        metrics.unpatched.set(0);
        let _ = Host.set(&said, NOT_SAID, None);
        StopIteration { flag: Cell::new(Flag::Unproven), held: RefCell::default(), metrics, said }
    }

    /// Whether the request of this stream, which is in its headers callback, may be held until its body is
    /// whole.
    pub fn hold(&self, stream: u32) -> bool {
        match self.flag.get() {
            Flag::Works => {}
            Flag::Missing => {
                self.metrics.unrouted.count();
                return false;
            }
            Flag::Unproven => self.held.borrow_mut().push(Held { stream, size: host::request_size() }),
        }
        true
    }

    /// The body of a held request has come; returns whether it may still be routed.
    pub fn body_came(&self) -> bool {
        if self.flag.get() == Flag::Unproven {
            self.flag.set(Flag::Works);
            self.held.take();
        }
        self.flag.get() == Flag::Works
    }

    /// Whether no body has come yet, and no request was found to hang.
    pub fn is_unproven(&self) -> bool {
        self.flag.get() == Flag::Unproven
    }

    /// The stream has ended.
    pub fn ended(&self, stream: u32) {
        if self.flag.get() == Flag::Unproven {
            self.held.borrow_mut().retain(|held| held.stream != stream);
        }
    }

    /// Lets held requests go, if one of them shows that the flag is missing. `root` is the context that
    /// ticks.
    pub fn tick(&self, root: u32) {
        let hangs = |held: &Held| {
            host::in_stream(held.stream, root, host::request_size).is_some_and(|size| size > held.size)
        };
        if !self.held.borrow().iter().any(hangs) {
            return;
        }
        // First the flag: Envoy calls the filters of these requests from within.
        self.flag.set(Flag::Missing);
        for Held { stream, .. } in self.held.take() {
            self.metrics.unrouted.count();
            host::in_stream(stream, root, host::resume_request);
        }
        self.metrics.unpatched.set(1);
        let (said, version) = Host.get(&self.said).unwrap_or((Vec::new(), NEVER_WRITTEN));
        if said != b"said" && Host.set(&self.said, b"said", Some(version)).is_ok() {
            log::error!(
                "warmpath: requests with a body are not routed: the filter lacks `allow_on_headers_stop_iteration: true`; set it"
            );
        }
    }
}
