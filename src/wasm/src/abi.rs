//! The interface to Envoy, Proxy-Wasm 0.2.1: what Envoy calls, the contexts that it calls, and what it can be
//! asked to do.
//!
//! The public SDK for Rust is not used. It holds its list of contexts while one of them runs, so that a
//! filter which stands in the way of the module's own calls traps; it panics at any status that it does not
//! expect; and each of its contexts brings a hundred methods along (docs/adr/0010-own-binding.md).

mod calls;
mod contexts;
mod exports;
mod logger;

pub use calls::{
    Buffer, Bytes, Kind, Level, Map, Refused, buffer, continue_request, define_metric, header, http_call,
    increment_metric, log, log_level, metric, monotonic, property, realtime, record_metric, remove_header,
    respond, set_buffer, set_effective_context, set_header, set_property, set_shared_data, set_tick_period,
    shared_data,
};

/// What Envoy does after a callback of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Goes on.
    Continue = 0,
    /// Holds what has come.
    Pause = 1,
}
