//! What Envoy can be asked to do, each call as a safe function. A status that is not OK is never a panic.

#![expect(unsafe_code, reason = "the host takes and gives pointers into the module's memory")]
#![cfg_attr(
    not(target_arch = "wasm32"),
    expect(clippy::too_many_arguments, reason = "the host's calls have as many as they have")
)]

use std::ptr;
use std::time::Duration;

use crate::profile;

/// Bytes that the host has handed over.
pub type Bytes = Vec<u8>;

/// A call was answered with this status, which is not OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(u32);

impl Refused {
    /// What Envoy answers to a call that it cannot make or that is not granted.
    pub const INTERNAL_FAILURE: Refused = Refused(10);
}

/// A list of headers.
#[derive(Clone, Copy, Debug)]
pub enum Map {
    /// Of the request.
    Request = 0,
    /// Of the answer.
    Response = 2,
    /// Of the answer to a call that the module has made.
    CallResponse = 6,
}

/// Bytes that Envoy holds.
#[derive(Clone, Copy, Debug)]
pub enum Buffer {
    /// The request's body.
    RequestBody = 0,
    /// The answer's body.
    ResponseBody = 1,
    /// The body of the answer to a call that the module has made.
    CallResponseBody = 4,
    /// The configuration of the plugin.
    PluginConfiguration = 7,
}

/// A kind of metric.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Grows.
    Counter = 0,
    /// Takes any value.
    Gauge = 1,
}

/// How severe a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Trace = 0,
    Debug = 1,
    Info = 2,
    Warn = 3,
    Error = 4,
    Critical = 5,
}

/// Room that a vector of handed over bytes has left: enough for the record of a short prompt, which is
/// appended to the ledger.
const SPARE: usize = 192;
/// The part of a stream that goes on.
const REQUEST: u32 = 0;
/// WASI's names of its clocks.
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
/// No status of gRPC.
const NO_GRPC: i32 = -1;

macro_rules! imports {
    ($($from:literal: $(fn $name:ident($($argument:ident: $type:ty),*);)*)*) => {$(
        #[cfg(target_arch = "wasm32")]
        #[link(wasm_import_module = $from)]
        unsafe extern "C" {
            $(fn $name($($argument: $type),*) -> u32;)*
        }
        // Nothing runs outside Envoy; this is for tools that check the workspace, and for tests of what asks
        // Envoy nothing.
        $(
            #[cfg(not(target_arch = "wasm32"))]
            unsafe fn $name($(_: $type),*) -> u32 {
                Refused::INTERNAL_FAILURE.0
            }
        )*
    )*};
}

imports! {
    "env":
    fn proxy_continue_stream(part: u32);
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32);
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, most: usize, at: *mut *mut u8, size: *mut usize);
    fn proxy_get_header_map_value(map: u32, name: *const u8, name_size: usize, at: *mut *mut u8, size: *mut usize);
    fn proxy_get_log_level(level: *mut u32);
    fn proxy_get_metric(id: u32, value: *mut u64);
    fn proxy_get_property(path: *const u8, path_size: usize, at: *mut *mut u8, size: *mut usize);
    fn proxy_get_shared_data(key: *const u8, key_size: usize, at: *mut *mut u8, size: *mut usize, cas: *mut u32);
    fn proxy_http_call(
        cluster: *const u8, cluster_size: usize, headers: *const u8, headers_size: usize, body: *const u8, body_size: usize,
        trailers: *const u8, trailers_size: usize, milliseconds: u32, call: *mut u32
    );
    fn proxy_increment_metric(id: u32, by: i64);
    fn proxy_log(level: u32, line: *const u8, line_size: usize);
    fn proxy_record_metric(id: u32, value: u64);
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize);
    fn proxy_replace_header_map_value(
        map: u32, name: *const u8, name_size: usize, value: *const u8, value_size: usize
    );
    fn proxy_send_local_response(
        status: u32, details: *const u8, details_size: usize, body: *const u8, body_size: usize, headers: *const u8,
        headers_size: usize, grpc_status: i32
    );
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, size: usize, bytes: *const u8, bytes_size: usize);
    fn proxy_set_effective_context(id: u32);
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize);
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, value_size: usize, cas: u32);
    fn proxy_set_tick_period_milliseconds(period: u32);
    "wasi_snapshot_preview1":
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64);
}

// SAFETY of all calls below: the signatures are those of Proxy-Wasm 0.2.1 and of WASI. The host reads within
// the bounds that it is given, and it writes numbers where it is told to, which outlive the call.

/// A header.
pub fn header(map: Map, name: &str) -> Option<Bytes> {
    profile::call(name, || {
        handed_over(|at, size| unsafe {
            proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), at, size)
        })
    })
}

/// Sets a header.
pub fn set_header(map: Map, name: &str, value: &[u8]) -> Result<(), Refused> {
    let (size, value_size) = (name.len(), value.len());
    ok(profile::call(name, || unsafe {
        proxy_replace_header_map_value(map as u32, name.as_ptr(), size, value.as_ptr(), value_size)
    }))
}

/// Removes a header.
pub fn remove_header(map: Map, name: &str) -> Result<(), Refused> {
    ok(profile::call(name, || unsafe {
        proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len())
    }))
}

/// At most `most` bytes of a buffer from `start` on; `None` where there are none.
pub fn buffer(buffer: Buffer, start: usize, most: usize) -> Option<Bytes> {
    let name = match buffer {
        Buffer::RequestBody => "read body",
        Buffer::ResponseBody => "read answer",
        Buffer::CallResponseBody | Buffer::PluginConfiguration => "read buffer",
    };
    profile::call(name, || {
        handed_over(|at, size| unsafe { proxy_get_buffer_bytes(buffer as u32, start, most, at, size) })
    })
}

/// Puts `bytes` in the place of `size` bytes of a buffer from `start` on.
pub fn set_buffer(buffer: Buffer, start: usize, size: usize, bytes: &[u8]) -> Result<(), Refused> {
    ok(profile::call("write body", || unsafe {
        proxy_set_buffer_bytes(buffer as u32, start, size, bytes.as_ptr(), bytes.len())
    }))
}

/// A property of the stream or the plugin, by its path, whose parts a zero byte separates. `None` where there
/// is none, or an empty one.
pub fn property(path: &str) -> Option<Bytes> {
    let value = profile::call("property", || {
        handed_over(|at, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), at, size) })
    });
    value.filter(|value| !value.is_empty())
}

/// Sets a property of the stream.
pub fn set_property(path: &str, value: &[u8]) -> Result<(), Refused> {
    ok(profile::call("set property", || unsafe {
        proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len())
    }))
}

/// The value of a key of shared data, and the number of its version; `None` where there is none, or an empty
/// one.
pub fn shared_data(key: &str) -> Option<(Bytes, u32)> {
    let mut cas = 0;
    let value = profile::call("get shared data", || {
        handed_over(|at, size| unsafe {
            proxy_get_shared_data(key.as_ptr(), key.len(), at, size, &raw mut cas)
        })
    });
    value.filter(|value| !value.is_empty()).map(|value| (value, cas))
}

/// Writes the value of a key of shared data: over the version `cas`, or over any.
pub fn set_shared_data(key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Refused> {
    let cas = cas.unwrap_or(0);
    ok(profile::call("set shared data", || unsafe {
        proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas)
    }))
}

/// Defines a metric, or finds it; its number.
pub fn define_metric(kind: Kind, name: &str) -> Option<u32> {
    let mut id = 0;
    ok(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) }).ok().map(|()| id)
}

/// Adds to a metric.
pub fn increment_metric(id: u32, by: i64) {
    profile::call("count", || unsafe { proxy_increment_metric(id, by) });
}

/// Sets a metric.
pub fn record_metric(id: u32, value: u64) {
    unsafe { proxy_record_metric(id, value) };
}

/// The value of a metric.
pub fn metric(id: u32) -> Option<u64> {
    let mut value = 0;
    let read = profile::call("read gauge", || unsafe { proxy_get_metric(id, &raw mut value) });
    ok(read).ok().map(|()| value)
}

/// Prints a line.
pub fn log(level: Level, line: &str) {
    profile::call("log", || unsafe { proxy_log(level as u32, line.as_ptr(), line.len()) });
}

/// The least severe level that Envoy prints.
pub fn log_level() -> Option<Level> {
    const ALL: [Level; 6] =
        [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical];
    let mut level = 0;
    let status = unsafe { proxy_get_log_level(&raw mut level) };
    ok(status).ok().and_then(|()| ALL.get(level as usize).copied())
}

/// Lets a request go on that is paused.
pub fn continue_request() {
    unsafe { proxy_continue_stream(REQUEST) };
}

/// Makes the calls that follow those of another context, until the callback ends.
pub fn set_effective_context(id: u32) -> Result<(), Refused> {
    ok(unsafe { proxy_set_effective_context(id) })
}

/// Answers the request at hand.
pub fn respond(status: u32, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Refused> {
    let headers = serialized(headers);
    ok(unsafe {
        let (at, size) = (headers.as_ptr(), headers.len());
        proxy_send_local_response(status, ptr::null(), 0, body.as_ptr(), body.len(), at, size, NO_GRPC)
    })
}

/// Sends a request without a body to a cluster; the number of the call.
pub fn http_call(cluster: &str, headers: &[(&str, &str)], timeout: Duration) -> Option<u32> {
    let (headers, trailers) = (serialized(headers), serialized(&[]));
    let mut call = 0;
    let status = unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            ptr::null(),
            0,
            trailers.as_ptr(),
            trailers.len(),
            timeout.as_millis() as u32,
            &raw mut call,
        )
    };
    ok(status).ok().map(|()| call)
}

/// Makes Envoy call `proxy_on_tick` with this period.
pub fn set_tick_period(period: Duration) {
    unsafe { proxy_set_tick_period_milliseconds(period.as_millis() as u32) };
}

/// Nanoseconds on a clock that only goes forward. `std::time::Instant` reads the same one but hides its
/// origin, and all VMs of an Envoy must mean the same by what one of them writes down.
pub fn monotonic() -> u64 {
    clock(MONOTONIC)
}

/// Nanoseconds since the epoch, on a clock that is set now and then.
pub fn realtime() -> u64 {
    clock(REALTIME)
}

fn clock(clock: u32) -> u64 {
    let mut time = 0;
    unsafe { clock_time_get(clock, 1_000, &raw mut time) };
    time
}

fn ok(status: u32) -> Result<(), Refused> {
    if status == 0 { Ok(()) } else { Err(Refused(status)) }
}

/// The bytes that a call hands over: the host asks the module for memory, and writes there.
#[inline(always)]
fn handed_over(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Bytes> {
    let (mut at, mut size) = (ptr::null_mut(), 0);
    ok(call(&raw mut at, &raw mut size)).ok()?;
    if at.is_null() {
        return Some(Bytes::new());
    }
    // SAFETY: the memory comes from `allocate`, with this size, and nobody else has it.
    Some(unsafe { Vec::from_raw_parts(at, size, size + SPARE) })
}

/// Memory for bytes that the host hands over, which [`handed_over`] makes a vector of.
pub fn allocate(size: usize) -> *mut u8 {
    Vec::with_capacity(size + SPARE).leak().as_mut_ptr()
}

/// A list of headers as the host reads it: how many, the sizes of all, and then all names and values, each
/// with a zero byte.
fn serialized(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = (headers.len() as u32).to_le_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend((text.len() as u32).to_le_bytes());
    }
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text.as_bytes());
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_their_number_their_sizes_and_their_texts() {
        assert_eq!(serialized(&[]), [0; 4]);
        assert_eq!(
            serialized(&[(":a", "xyz"), ("b", "")]),
            b"\x02\0\0\0\x02\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0:a\0xyz\0b\0\0"
        );
    }
}
