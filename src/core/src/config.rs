//! The settings of a user: the plugin configuration, JSON, the same document for both roles.
//!
//! It is read once into values that cannot be wrong. An unknown key, a wrong type or a number out of range is
//! an error that names the key.

mod read;

use crate::Micros;
use crate::settings::PoolSettings;
pub use crate::settings::Strategy;
use crate::settings::document::Value;
use crate::settings::error::SettingError;
use crate::settings::object::{Object, UnknownKeys};

/// How Envoy is told which pods a request goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// A header for each attempt, `x-warmpath-destination-0` and so on, for clusters of type ORIGINAL_DST.
    #[default]
    Headers,
    /// One header with a list, `x-warmpath-destination`, for a cluster with the load balancing policy
    /// `override_host`.
    List,
}

/// Where the settings of a pool come from that are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SettingsFrom {
    /// The plugin configuration, for good.
    #[default]
    Configuration,
    /// The metadata of the route of each request.
    Route,
    /// A page that the collector fetches.
    Page(SettingsSource),
}

/// A page with the settings of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsSource {
    /// The Envoy cluster that reaches it.
    pub cluster: String,
    /// The host that is asked for.
    pub host: String,
    /// Its path.
    pub path: String,
    /// Time between two looks.
    pub interval: Micros,
}

/// How pods are found: Envoy is asked which hosts a cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryBy {
    /// The cluster that reaches Envoy's own admin interface.
    pub cluster: String,
    /// The cluster whose hosts are the pods; `None` for each cluster that requests go to.
    pub pods_of: Option<String>,
    /// Time between two questions.
    pub interval: Micros,
}

/// The checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Names the pool: listeners of one Envoy that route to the same pods share it.
    pub pool: String,
    /// The pods, `ip:port`. A router's list replaces the collector's; `None` leaves that as it is. A
    /// collector must have some ([`Config::pods_to_scrape`]).
    pub pods: Option<Vec<String>>,
    /// Orders the lists of pods of routers: the highest revision holds ([`crate::shared::membership`]).
    pub revision: u64,
    /// How pods are chosen, and for whom.
    pub settings: PoolSettings,
    /// Where newer ones come from.
    pub settings_from: SettingsFrom,
    /// How Envoy is told.
    pub destination: Destination,
    /// How pods are found; `None` when a configuration lists them.
    pub discovery: Option<DiscoveryBy>,
    /// Clients choose pods by the header of the conformance tests.
    pub test_endpoint_header: bool,
    /// The reason of a decision and what it has matched are request headers by themselves, too, for headers
    /// of the answer.
    pub receipt_headers: bool,
    /// The model of a request, and the tokens that its answer reports, are properties of the stream, for the
    /// tags of spans.
    pub receipt_properties: bool,
    /// How load is collected.
    pub scrape: Scrape,
    /// Bounds of the prefix index.
    pub index: IndexBounds,
}

/// A value that no log line shows, whoever prints what holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// How load is collected.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    /// The Envoy cluster through which pods are scraped: ORIGINAL_DST by header `x-warmpath-scrape`.
    pub cluster: String,
    /// The path of the metrics page.
    pub path: String,
    /// The port of the metrics page, where it is another one than that of the pod's address.
    pub port: Option<u16>,
    /// What a page that is not for everybody asks for in the header `authorization`.
    pub authorization: Option<Secret>,
    /// Time between two scrapes of a pod while there is traffic.
    pub interval: Micros,
    /// Time between two scrapes of a pod without traffic.
    pub idle_interval: Micros,
    /// How long a scrape may take.
    pub timeout: Micros,
}

/// Bounds of the prefix index of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexBounds {
    /// Memory of the index in bytes.
    pub memory: usize,
    /// Tokens that each pod can hold, where that is more than its page tells: with KV cache in host memory or
    /// beyond.
    pub pod_tokens: Option<u64>,
    /// Holdings: parts of prompts that a pod holds, over all pods.
    pub holdings: usize,
    /// Sealed log segments that are kept for workers that start or fall behind, of
    /// [`SEGMENT_BYTES`](crate::prefix::log::SEGMENT_BYTES) each.
    pub log_segments: usize,
}

impl Config {
    /// Reads a plugin configuration.
    ///
    /// # Errors
    /// [`SettingError`] names the key and the fix.
    pub fn parse(json: &[u8]) -> Result<Config, SettingError> {
        let document = Value::parse(json)?;
        let mut document = Object::document(&document, UnknownKeys::Refused)?;
        let destination = document
            .word("destination", &[("headers", Destination::Headers), ("list", Destination::List)])?;
        let destination = destination.unwrap_or_default();
        let pods = read::pods(&mut document)?;
        let config = Config {
            pool: read::pool(&mut document)?,
            revision: document.whole("revision", 0, i64::MAX)?.unwrap_or(0) as u64,
            settings: PoolSettings::read(&mut document, &PoolSettings::default())?,
            settings_from: read::settings_from(&mut document)?,
            destination,
            discovery: read::discovery(&mut document, pods.is_some(), destination)?,
            test_endpoint_header: document.flag("test_endpoint_header")?.unwrap_or(false),
            receipt_headers: document.flag("receipt_headers")?.unwrap_or(false),
            receipt_properties: document.flag("receipt_properties")?.unwrap_or(false),
            scrape: read::scrape(&mut document)?,
            index: read::index(&mut document)?,
            pods,
        };
        document.end()?;
        Ok(config)
    }

    /// The pods that a collector begins with; none when it discovers them. Without any it would publish an
    /// empty table, and every request would silently go elsewhere.
    ///
    /// # Errors
    /// [`SettingError`] when the list is missing or empty.
    pub fn pods_to_scrape(&self) -> Result<&[String], SettingError> {
        match self.pods.as_deref() {
            None if self.discovery.is_some() => Ok(&[]),
            Some(pods) if !pods.is_empty() => Ok(pods),
            found => {
                let found = if found.is_none() { "is missing" } else { "is empty" };
                let fix = "list the pods' addresses, like [\"10.0.0.4:8000\"]";
                Err(SettingError::new("pods", format!("{found}; {fix}")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
