//! What the module asks Envoy for, in the words of the module.
//!
//! Headers are read as bytes, for a client may send what is not UTF-8, and written only while the request is
//! held or has not left the headers callback: Envoy refuses it later.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use log::LevelFilter;
use warmpath::Micros;
use warmpath::shared::store::{Conflict, SharedData};

use crate::abi::{self, Buffer, Bytes, Kind, Level, Map, Refused};
#[cfg(feature = "profile")]
use crate::profile::clock as monotonic;
#[cfg(not(feature = "profile"))]
use abi::monotonic;

/// The header with the list of pods that a cluster with `override_host` reads.
pub use warmpath::discovery::config_dump::DESTINATION;

/// Envoy's shared data: keyed by the plugins' `vm_id`, under one mutex for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl SharedData for Host {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        abi::shared_data(key)
    }

    fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        abi::set_shared_data(key, value, cas).map_err(|_| Conflict)
    }
}

/// The time, on a clock that only goes forward. The wall clock is set now and then, also back, and after that
/// a cool-down, a lease or a due scrape would never end. All VMs of an Envoy are in one process and read the
/// same clock, so a time that one writes down means the same to the others.
pub fn now() -> Micros {
    Micros(monotonic() / 1_000)
}

/// The time since the epoch, for comparing with dates of others.
pub fn date() -> Micros {
    Micros(abi::realtime() / 1_000)
}

/// A number that nobody can predict, from WASI's `random_get`, which the standard library seeds its hash maps
/// with.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The least severe level that Envoy prints: ask before formatting a line.
pub fn log_level() -> LevelFilter {
    match abi::log_level() {
        Some(Level::Trace) => LevelFilter::Trace,
        Some(Level::Debug) => LevelFilter::Debug,
        Some(Level::Info) => LevelFilter::Info,
        Some(Level::Warn) => LevelFilter::Warn,
        Some(Level::Error) => LevelFilter::Error,
        Some(Level::Critical) | None => LevelFilter::Off,
    }
}

/// Prints a line at the level info, without the copy that `log::info!` makes.
pub fn info(line: &str) {
    abi::log(Level::Info, line);
}

/// Makes Envoy call `on_tick` with this period.
pub fn tick_every(period: Duration) {
    abi::set_tick_period(period);
}

/// The plugin configuration.
pub fn plugin_configuration() -> Bytes {
    abi::buffer(Buffer::PluginConfiguration, 0, usize::MAX).unwrap_or_default()
}

/// The plugin's `root_id`.
pub fn root_id() -> Bytes {
    property("plugin_root_id").unwrap_or_default()
}

/// A property of the stream or the plugin, by its path, whose parts a zero byte separates. Expensive for a
/// host call: Envoy resolves the path part by part.
pub fn property(path: &str) -> Option<Bytes> {
    abi::property(path)
}

/// Writes the property `name` of the stream, which the access log, headers and spans find as
/// `%FILTER_STATE(wasm.NAME:PLAIN)%`. Nothing happens where Envoy does not take it.
///
/// A configuration that does not grant `proxy_set_property` is noticed at the first call, and no other one
/// follows: Envoy would write a line to its log for each.
pub fn set_property(name: &str, value: &[u8]) {
    thread_local!(static NOT_GRANTED: Cell<bool> = const { Cell::new(false) });
    if !NOT_GRANTED.get() && abi::set_property(name, value) == Err(Refused::INTERNAL_FAILURE) {
        NOT_GRANTED.set(true);
    }
}

/// A property that is a number.
pub fn number(path: &str) -> Option<u64> {
    property(path)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A request header as bytes, for a client may send what is not UTF-8.
pub fn request_header(name: &str) -> Option<Bytes> {
    abi::header(Map::Request, name)
}

/// Bytes of the request that have come, headers and body.
pub fn request_size() -> u64 {
    number("request\0total_size").unwrap_or(0)
}

/// Runs `with` for the stream with this number, outside of its callbacks; `None` when the stream has ended.
/// `root` is the context whose callback runs.
pub fn in_stream<T>(stream: u32, root: u32, with: impl FnOnce() -> T) -> Option<T> {
    abi::set_effective_context(stream).ok()?;
    let result = with();
    let _ = abi::set_effective_context(root);
    Some(result)
}

/// Lets a request go on that is paused.
pub fn resume_request() {
    abi::continue_request();
}

/// Sets a request header, or removes it.
pub fn set_request_header(name: &str, value: Option<&[u8]>) {
    set_header(Map::Request, name, value);
}

fn set_header(map: Map, name: &str, value: Option<&[u8]>) {
    let _ = match value {
        Some(value) => abi::set_header(map, name, value),
        None => abi::remove_header(map, name),
    };
}

/// The request body as far as it is buffered.
pub fn request_body() -> Bytes {
    abi::buffer(Buffer::RequestBody, 0, usize::MAX).unwrap_or_default()
}

/// Puts `start` in the place of the first `size` bytes of the request body that is buffered.
pub fn set_request_body_start(size: usize, start: &[u8]) {
    let _ = abi::set_buffer(Buffer::RequestBody, 0, size, start);
}

/// Bytes `from` to `to` of the response body that is passing or buffered.
pub fn response_body(from: usize, to: usize) -> Bytes {
    let size = to.saturating_sub(from);
    abi::buffer(Buffer::ResponseBody, from, size).unwrap_or_default()
}

/// Puts `body` in the place of the `size` bytes of the response body that are passing or buffered.
pub fn set_response_body(size: usize, body: &[u8]) {
    let _ = abi::set_buffer(Buffer::ResponseBody, 0, size, body);
}

/// A response header as bytes.
pub fn response_header(name: &str) -> Option<Bytes> {
    abi::header(Map::Response, name)
}

/// Sets a response header, or removes it.
pub fn set_response_header(name: &str, value: Option<&[u8]>) {
    set_header(Map::Response, name, value);
}

/// Answers the request without a pod.
pub fn respond(status: u32, headers: &[(&str, &str)], body: &[u8]) {
    let _ = abi::respond(status, headers, body);
}

/// Fetches `path` from the pod at `address` through `cluster`, which reads the address in one of two headers,
/// with these headers besides; the number of the call, or `None` if Envoy does not know the cluster (yet).
pub fn fetch(
    cluster: &str,
    address: &str,
    path: &str,
    more: &[Option<(&str, &str)>],
    timeout: Duration,
) -> Option<u32> {
    let more = more.iter().copied().flatten();
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
    abi::http_call(cluster, &headers, timeout)
}

/// A header of a response to [`fetch`] that has come.
pub fn fetched_header(name: &str) -> Option<Bytes> {
    abi::header(Map::CallResponse, name)
}

/// How long a response to [`fetch`], which was asked for at `sent_at`, was on its way: until its headers
/// came, where Envoy tells that, in whole milliseconds. A long body takes several round trips to a pod far
/// away.
pub fn fetched_after(sent_at: Micros, now: Micros) -> Micros {
    let whole = now.since(sent_at);
    let told = fetched_header("x-envoy-upstream-service-time");
    let told = told.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
    told.map_or(whole, |told: u64| whole.min(Micros::from_millis(told.saturating_add(1))))
}

/// Status and body of a response to [`fetch`]; `None` if there was no response, or not all of it: refused,
/// timed out, cut. Envoy reports those with no headers.
pub fn fetched(headers: usize, body_size: usize) -> Option<(Bytes, Bytes)> {
    if headers == 0 {
        return None;
    }
    let status = abi::header(Map::CallResponse, ":status")?;
    Some((status, abi::buffer(Buffer::CallResponseBody, 0, body_size).unwrap_or_default()))
}

/// A counter or gauge, the same for all VMs of this Envoy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metric(Option<u32>);

impl Metric {
    /// Defines a counter, or finds it.
    pub fn counter(name: &str) -> Metric {
        Metric(abi::define_metric(Kind::Counter, name))
    }

    /// Defines a gauge, or finds it.
    pub fn gauge(name: &str) -> Metric {
        Metric(abi::define_metric(Kind::Gauge, name))
    }

    /// Adds one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Adds `amount`; Envoy takes no 0.
    pub fn add(&self, amount: u64) {
        if let Some(id) = self.0.filter(|_| amount > 0) {
            abi::increment_metric(id, amount as i64);
        }
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        if let Some(id) = self.0 {
            abi::record_metric(id, value);
        }
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.and_then(abi::metric).unwrap_or(0)
    }
}
