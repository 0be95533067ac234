//! Every host call that the module makes.
//!
//! The SDK panics on statuses that "cannot happen"; the calls here cannot bring them about: shared data answers Ok, NotFound
//! or CasMismatch, headers are read as bytes, and written only while the request is held or has not left the headers
//! callback.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use log::LevelFilter;
use proxy_wasm::types::{BufferType, Bytes, LogLevel, MapType, MetricType};
use warmpath::Micros;
use warmpath::shared::store::{Conflict, SharedData};

#[cfg(not(feature = "profile"))]
use crate::clock::nanoseconds;
#[cfg(feature = "profile")]
use crate::profile::{clock as nanoseconds, hostcalls};
pub use crate::stream_property::set as set_property;
#[cfg(not(feature = "profile"))]
use proxy_wasm::hostcalls;

/// The header with the list of pods that a cluster with `override_host` reads.
pub use warmpath::discovery::config_dump::DESTINATION;

/// Envoy's shared data: keyed by the plugins' `vm_id`, under one mutex for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl SharedData for Host {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        match hostcalls::get_shared_data(key) {
            Ok((Some(value), Some(cas))) => Some((value, cas)),
            _ => None,
        }
    }

    fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        hostcalls::set_shared_data(key, Some(value), cas).map_err(|_| Conflict)
    }
}

/// The time, on a clock that only goes forward. The wall clock is set now and then, also back, and after that a cool-down, a
/// lease or a due scrape would never end. All VMs of an Envoy are in one process and read the same clock, so a time that one
/// writes down means the same to the others.
pub fn now() -> Micros {
    Micros(nanoseconds() / 1_000)
}

/// The time since the epoch, for comparing with dates of others.
pub fn date() -> Micros {
    Micros(crate::clock::nanoseconds_since_epoch() / 1_000)
}

/// A number that nobody can predict, from WASI's `random_get`, which the standard library seeds its hash maps with.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The least severe level that Envoy prints: ask before formatting a line.
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

/// Prints a line at the level info, without the copy that `log::info!` makes.
pub fn info(line: &str) {
    let _ = hostcalls::log(LogLevel::Info, line);
}

/// Makes Envoy call `on_tick` with this period.
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

/// A property of the stream or the plugin. Expensive for a host call: Envoy resolves the path part by part.
pub fn property(path: &[&str]) -> Option<Bytes> {
    hostcalls::get_property(path.to_vec()).ok().flatten()
}

/// A property that is a number.
pub fn number(path: &[&str]) -> Option<u64> {
    property(path)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A request header as bytes, for a client may send what is not UTF-8.
pub fn request_header(name: &str) -> Option<Bytes> {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok().flatten()
}

/// Bytes of the request that have come, headers and body.
pub fn request_size() -> u64 {
    number(&["request", "total_size"]).unwrap_or(0)
}

/// Runs `with` for the stream with this number, outside of its callbacks; `None` when the stream has ended. `root` is the context
/// whose callback runs.
pub fn in_stream<T>(stream: u32, root: u32, with: impl FnOnce() -> T) -> Option<T> {
    hostcalls::set_effective_context(stream).ok()?;
    let result = with();
    let _ = hostcalls::set_effective_context(root);
    Some(result)
}

/// Lets a request go on that is paused.
pub fn resume_request() {
    let _ = hostcalls::resume_http_request();
}

/// Sets a request header, or removes it.
pub fn set_request_header(name: &str, value: Option<&[u8]>) {
    set_header(MapType::HttpRequestHeaders, name, value);
}

fn set_header(map: MapType, name: &str, value: Option<&[u8]>) {
    let _ = match value {
        Some(value) => hostcalls::set_map_value_bytes(map, name, Some(value)),
        None => hostcalls::remove_map_value(map, name),
    };
}

/// The request body as far as it is buffered.
pub fn request_body() -> Bytes {
    hostcalls::get_buffer(BufferType::HttpRequestBody, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// Puts `start` in the place of the first `size` bytes of the request body that is buffered.
pub fn set_request_body_start(size: usize, start: &[u8]) {
    let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, size, start);
}

/// Bytes `from` to `to` of the response body that is passing or buffered.
pub fn response_body(from: usize, to: usize) -> Bytes {
    let size = to.saturating_sub(from);
    hostcalls::get_buffer(BufferType::HttpResponseBody, from, size).ok().flatten().unwrap_or_default()
}

/// Puts `body` in the place of the `size` bytes of the response body that are passing or buffered.
pub fn set_response_body(size: usize, body: &[u8]) {
    let _ = hostcalls::set_buffer(BufferType::HttpResponseBody, 0, size, body);
}

/// A response header as bytes.
pub fn response_header(name: &str) -> Option<Bytes> {
    hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok().flatten()
}

/// Sets a response header, or removes it.
pub fn set_response_header(name: &str, value: Option<&[u8]>) {
    set_header(MapType::HttpResponseHeaders, name, value);
}

/// Answers the request without a pod.
pub fn respond(status: u32, headers: &[(&str, &str)], body: &[u8]) {
    let _ = hostcalls::send_http_response(status, headers.to_vec(), Some(body));
}

/// Fetches `path` from the pod at `address` through `cluster`, which reads the address in one of two headers, with these headers
/// besides; the number of the call, or `None` if Envoy does not know the cluster (yet).
pub fn fetch(
    cluster: &str,
    address: &str,
    path: &str,
    more: Option<(&str, &str)>,
    timeout: Duration,
) -> Option<u32> {
    let headers = [("x-warmpath-scrape", address), (DESTINATION, address), ("accept", "text/plain")];
    get(cluster, address, path, headers.into_iter().chain(more), timeout)
}

/// Fetches `path` from Envoy's admin interface through `cluster`, as [`fetch`] does from a pod.
pub fn fetch_admin(cluster: &str, path: &str, timeout: Duration) -> Option<u32> {
    get(cluster, "admin", path, None, timeout)
}

/// Fetches the page of settings at `path` of `host` through `cluster`; `tag` is the `etag` of the page that
/// is known, if it has one.
pub fn fetch_settings(cluster: &str, host: &str, path: &str, tag: &str, timeout: Duration) -> Option<u32> {
    let known = (!tag.is_empty()).then_some(("if-none-match", tag));
    get(cluster, host, path, [("accept", "application/json")].into_iter().chain(known), timeout)
}

fn get<'a>(
    cluster: &str,
    authority: &'a str,
    path: &'a str,
    more: impl IntoIterator<Item = (&'a str, &'a str)>,
    timeout: Duration,
) -> Option<u32> {
    let mut headers = vec![(":method", "GET"), (":path", path), (":authority", authority)];
    headers.extend(more);
    hostcalls::dispatch_http_call(cluster, headers, None, Vec::new(), timeout).ok()
}

/// A header of a response to [`fetch`] that has come.
pub fn fetched_header(name: &str) -> Option<Bytes> {
    hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, name).ok().flatten()
}

/// How long a response to [`fetch`], which was asked for at `sent_at`, was on its way: until its headers came, where Envoy
/// tells that, in whole milliseconds. A long body takes several round trips to a pod far away.
pub fn fetched_after(sent_at: Micros, now: Micros) -> Micros {
    let whole = now.since(sent_at);
    let told = fetched_header("x-envoy-upstream-service-time");
    let told = told.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
    told.map_or(whole, |told: u64| whole.min(Micros::from_millis(told.saturating_add(1))))
}

/// Status and body of a response to [`fetch`]; `None` if there was no response, or not all of it: refused, timed out, cut.
/// Envoy reports those with no headers, and the SDK panics when a header is read then.
pub fn fetched(headers: usize, body_size: usize) -> Option<(Bytes, Bytes)> {
    if headers == 0 {
        return None;
    }
    let status =
        hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status").ok().flatten()?;
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).ok().flatten();
    Some((status, body.unwrap_or_default()))
}

/// A counter or gauge, the same for all VMs of this Envoy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metric(Option<u32>);

impl Metric {
    /// Defines a counter, or finds it.
    pub fn counter(name: &str) -> Metric {
        Metric(hostcalls::define_metric(MetricType::Counter, name).ok())
    }

    /// Defines a gauge, or finds it.
    pub fn gauge(name: &str) -> Metric {
        Metric(hostcalls::define_metric(MetricType::Gauge, name).ok())
    }

    /// Adds one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Adds `amount`; Envoy takes no 0.
    pub fn add(&self, amount: u64) {
        if let Some(id) = self.0.filter(|_| amount > 0) {
            let _ = hostcalls::increment_metric(id, amount as i64);
        }
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        if let Some(id) = self.0 {
            let _ = hostcalls::record_metric(id, value);
        }
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.and_then(|id| hostcalls::get_metric(id).ok()).unwrap_or(0)
    }
}
