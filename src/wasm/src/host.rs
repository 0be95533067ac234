//! Every host call there is, and what it costs on Envoy 1.40.
//!
//! The SDK panics on statuses that "cannot happen"; what is called here cannot bring them about: shared data answers Ok,
//! NotFound or CasMismatch, headers are read as bytes and written only while the request is held or has not left the headers
//! callback.

use std::time::Duration;

use log::LevelFilter;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, Bytes, LogLevel, MapType, MetricType};
use warmpath::Micros;
use warmpath::shared::store::{Conflict, SharedData};

use crate::laps;

/// Envoy's shared data; keyed by the plugins' `vm_id`, one mutex for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl SharedData for Host {
    /// 750 ns, and 0.04 ns a byte.
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        match laps::call("get shared data", || hostcalls::get_shared_data(key)) {
            Ok((Some(value), Some(cas))) => Some((value, cas)),
            _ => None,
        }
    }

    /// 155 ns, and 0.02 ns a byte.
    fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        laps::call("set shared data", || hostcalls::set_shared_data(key, Some(value), cas))
            .map_err(|_| Conflict)
    }
}

/// The time, on a clock that only ever goes forward: the wall clock is set now and then, and back, and what is due, fresh,
/// leased or cooling would be so for ever or never. All VMs of an Envoy are in one process and read the same clock, so what
/// one writes down means the same to the others. 210 to 250 ns.
pub fn now() -> Micros {
    Micros(laps::call("clock", nanoseconds) / 1_000)
}

/// WASI's monotonic clock. `std::time::Instant` reads it too, but keeps to itself since when it counts.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the call has no safe wrapper")]
pub fn nanoseconds() -> u64 {
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
    }
    const MONOTONIC: u32 = 1;
    let mut time = 0;
    // SAFETY: the signature is WASI's, and the host writes the eight bytes of `time`, which outlives the call. When it
    // writes nothing, the time is 0.
    unsafe { clock_time_get(MONOTONIC, 1_000, &raw mut time) };
    time
}

/// Nothing runs outside Envoy; this is for tools that look at the workspace.
#[cfg(not(target_arch = "wasm32"))]
pub fn nanoseconds() -> u64 {
    0
}

/// The least severe level that is printed: asked before anything is formatted.
pub fn log_level() -> LevelFilter {
    match hostcalls::get_log_level() {
        Ok(LogLevel::Trace) => LevelFilter::Trace,
        Ok(LogLevel::Debug) => LevelFilter::Debug,
        Ok(LogLevel::Info) => LevelFilter::Info,
        Ok(LogLevel::Warn) => LevelFilter::Warn,
        Ok(LogLevel::Error) => LevelFilter::Error,
        _ => LevelFilter::Off,
    }
}

/// Prints a line at the level info. Without the ceremony of `log::info!`, which formats into a string of its own.
pub fn info(line: &str) {
    let _ = laps::call("log", || hostcalls::log(LogLevel::Info, line));
}

/// Lets `on_tick` be called with this period.
pub fn tick_every(period: Duration) {
    let _ = hostcalls::set_tick_period(period);
}

/// The plugin configuration.
pub fn plugin_configuration() -> Bytes {
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// The plugin's `root_id`.
pub fn root_id() -> Bytes {
    property(&["plugin_root_id"]).unwrap_or_default()
}

/// A property of the stream or the plugin. A microsecond: the host looks it up by its path, part by part.
pub fn property(path: &[&str]) -> Option<Bytes> {
    laps::call("property", || hostcalls::get_property(path.to_vec())).ok().flatten()
}

/// A property that is a number.
pub fn number(path: &[&str]) -> Option<u64> {
    property(path)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A request header, as bytes: a client may send what is no UTF-8.
pub fn request_header(name: &'static str) -> Option<Bytes> {
    laps::call(name, || hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name)).ok().flatten()
}

/// Sets a request header, or removes it.
pub fn set_request_header(name: &'static str, value: Option<&[u8]>) {
    let _ = laps::call(name, || match value {
        Some(value) => hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value)),
        None => hostcalls::remove_map_value(MapType::HttpRequestHeaders, name),
    });
}

/// The request body as far as it is buffered.
pub fn request_body() -> Bytes {
    let body = || hostcalls::get_buffer(BufferType::HttpRequestBody, 0, usize::MAX);
    laps::call("read body", body).ok().flatten().unwrap_or_default()
}

/// The chunk of the response body that is passing.
pub fn response_chunk(size: usize) -> Bytes {
    let chunk = || hostcalls::get_buffer(BufferType::HttpResponseBody, 0, size);
    laps::call("read answer", chunk).ok().flatten().unwrap_or_default()
}

/// Answers the request without a pod.
pub fn respond(status: u32, headers: &[(&str, &str)], body: &[u8]) {
    let _ = hostcalls::send_http_response(status, headers.to_vec(), Some(body));
}

/// Fetches `path` from the pod at `address`, through `cluster`; the number of the call, or `None` when Envoy does not
/// know the cluster (yet).
pub fn fetch(cluster: &str, address: &str, path: &str, timeout: Duration) -> Option<u32> {
    let headers = vec![
        (":method", "GET"),
        (":path", path),
        (":authority", address),
        ("x-warmpath-scrape", address),
        ("accept", "text/plain"),
    ];
    hostcalls::dispatch_http_call(cluster, headers, None, Vec::new(), timeout).ok()
}

/// Status and body of what was fetched; `None` when there was no answer, or not all of it: refused, timed out, cut. Envoy says
/// so by a call with no headers, and then there are none to read: it would answer BadArgument, and the SDK would panic.
pub fn fetched(headers: usize, body_size: usize) -> Option<(Bytes, Bytes)> {
    if headers == 0 {
        return None;
    }
    let status =
        hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status").ok().flatten()?;
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).ok().flatten();
    Some((status, body.unwrap_or_default()))
}

/// A number that all VMs of this Envoy share; 62 ns to add, 88 ns to read.
#[derive(Clone, Copy, Debug)]
pub struct Metric(Option<u32>);

impl Metric {
    /// A counter.
    pub fn counter(name: &str) -> Metric {
        Metric(hostcalls::define_metric(MetricType::Counter, name).ok())
    }

    /// A gauge.
    pub fn gauge(name: &str) -> Metric {
        Metric(hostcalls::define_metric(MetricType::Gauge, name).ok())
    }

    /// Adds one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Adds so many; Envoy takes no 0.
    pub fn add(&self, amount: u64) {
        if let Some(id) = self.0.filter(|_| amount > 0) {
            let _ = laps::call("count", || hostcalls::increment_metric(id, amount as i64));
        }
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        if let Some(id) = self.0 {
            let _ = hostcalls::record_metric(id, value);
        }
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.and_then(|id| laps::call("read gauge", || hostcalls::get_metric(id)).ok()).unwrap_or(0)
    }
}
