//! The settings of a user: the plugin configuration, JSON, the same document for both roles.
//!
//! It is read once into values that cannot be wrong. An unknown key, a wrong type or a number out of range is an error that
//! names the key.

use std::fmt;
use std::net::SocketAddr;

use serde::Deserialize;

use crate::shared::pod_table::MAX_PODS;
use crate::{MILLISECOND, Micros};

/// How pods are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Strategy {
    /// By load only. Its other name, `DEFAULT`, is that of the reference; it is not the default here.
    #[serde(rename = "LOAD_ONLY", alias = "DEFAULT")]
    LoadOnly,
    /// By load, and by the prefixes that each pod holds.
    #[default]
    #[serde(rename = "PREFIX_CACHE")]
    PrefixCache,
}

/// How Envoy is told which pods a request goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Destination {
    /// A header for each attempt, `x-warmpath-destination-0` and so on, for clusters of type ORIGINAL_DST.
    #[default]
    #[serde(rename = "headers")]
    Headers,
    /// One header with a list, `x-warmpath-destination`, for a cluster with the load balancing policy `override_host`.
    #[serde(rename = "list")]
    List,
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
    /// The pods, `ip:port`. A router's list replaces the collector's; `None` leaves that as it is. A collector must have
    /// some ([`Config::pods_to_scrape`]).
    pub pods: Option<Vec<String>>,
    /// Orders the lists of pods of routers: the highest revision holds ([`crate::shared::membership`]).
    pub revision: u64,
    /// How pods are chosen.
    pub strategy: Strategy,
    /// Percent of the prompts that are routed by load alone, as samples of plain routing.
    pub plain_percent: u64,
    /// A request for which no pod can be named is left to the fallback cluster (`true`) or answered 503 (`false`).
    pub fail_open: bool,
    /// How Envoy is told.
    pub destination: Destination,
    /// How pods are found; `None` when a configuration lists them.
    pub discovery: Option<DiscoveryBy>,
    /// How load is collected.
    pub scrape: Scrape,
    /// Bounds of the prefix index.
    pub index: IndexBounds,
}

/// How load is collected.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    /// The Envoy cluster through which pods are scraped: ORIGINAL_DST by header `x-warmpath-scrape`.
    pub cluster: String,
    /// The path of the metrics page.
    pub path: String,
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
    /// Holdings: parts of prompts that a pod holds, over all pods.
    pub holdings: usize,
    /// Sealed log segments that are kept for workers that start or fall behind, of
    /// [`SEGMENT_BYTES`](crate::prefix::log::SEGMENT_BYTES) each.
    pub log_segments: usize,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Not JSON, or a key or value of the wrong kind; the text names it.
    Json(String),
    /// A value that is out of its range.
    Value {
        /// The key, with dots.
        key: &'static str,
        /// What is wrong and how to fix it.
        reason: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Json(reason) => write!(f, "configuration: {reason}"),
            ConfigError::Value { key, reason } => write!(f, "configuration: `{key}` {reason}"),
        }
    }
}

impl std::error::Error for ConfigError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    pool: String,
    pods: Option<Vec<String>>,
    revision: u64,
    strategy: Strategy,
    plain_percent: u64,
    fail_open: bool,
    destination: Destination,
    discovery: Option<RawDiscovery>,
    scrape: RawScrape,
    index: RawIndex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDiscovery {
    cluster: String,
    pods_of: Option<String>,
    interval_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawScrape {
    cluster: String,
    path: String,
    interval_ms: u64,
    idle_interval_ms: u64,
    timeout_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawIndex {
    max_mib: usize,
    max_holdings: usize,
    log_segments: usize,
}

impl Default for Raw {
    fn default() -> Self {
        Raw {
            pool: "default".into(),
            pods: None,
            revision: 0,
            strategy: Strategy::PrefixCache,
            plain_percent: 0,
            fail_open: true,
            destination: Destination::Headers,
            discovery: None,
            scrape: RawScrape::default(),
            index: RawIndex::default(),
        }
    }
}

impl Default for RawDiscovery {
    fn default() -> Self {
        // The name that Envoy Gateway gives to the cluster of its admin interface.
        RawDiscovery { cluster: "prometheus_stats".into(), pods_of: None, interval_ms: 1000 }
    }
}

impl Default for RawScrape {
    fn default() -> Self {
        RawScrape {
            cluster: "warmpath-scrape".into(),
            path: "/metrics".into(),
            interval_ms: 100,
            idle_interval_ms: 1000,
            timeout_ms: 1000,
        }
    }
}

impl Default for RawIndex {
    fn default() -> Self {
        // The index leaves room for the rest of the VM under 64 MiB. The segments replay some ten thousand prompts.
        RawIndex { max_mib: 48, max_holdings: 1_000_000, log_segments: 8192 }
    }
}

impl Config {
    /// Reads a plugin configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the key and the fix.
    pub fn parse(json: &[u8]) -> Result<Config, ConfigError> {
        let raw: Raw = serde_json::from_slice(json).map_err(|e| ConfigError::Json(e.to_string()))?;
        if raw.pool.is_empty()
            || raw.pool.len() > 64
            || !raw.pool.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return value("pool", format!("is {:?}; use 1 to 64 letters, digits, '-', '_' or '.'", raw.pool));
        }
        let destination = raw.destination;
        let pods = raw.pods.as_deref().map(pods).transpose()?;
        within("plain_percent", raw.plain_percent, 0, 50)?;
        within("scrape.interval_ms", raw.scrape.interval_ms, 10, 60_000)?;
        within("scrape.idle_interval_ms", raw.scrape.idle_interval_ms, raw.scrape.interval_ms, 600_000)?;
        within("scrape.timeout_ms", raw.scrape.timeout_ms, 10, 60_000)?;
        within("index.max_mib", raw.index.max_mib as u64, 1, 1024)?;
        within("index.max_holdings", raw.index.max_holdings as u64, 100, 100_000_000)?;
        within("index.log_segments", raw.index.log_segments as u64, 2, 65_536)?;
        if raw.scrape.cluster.is_empty() {
            return value(
                "scrape.cluster",
                "is empty; name the Envoy cluster that reaches pods for their metrics".into(),
            );
        }
        if !raw.scrape.path.starts_with('/') {
            return value("scrape.path", format!("is {:?}; start it with '/'", raw.scrape.path));
        }
        let discovery = raw.discovery.map(|raw| discovery(raw, pods.as_deref(), destination)).transpose()?;
        Ok(Config {
            pool: raw.pool,
            pods,
            revision: raw.revision,
            strategy: raw.strategy,
            plain_percent: raw.plain_percent,
            fail_open: raw.fail_open,
            destination,
            discovery,
            scrape: Scrape {
                cluster: raw.scrape.cluster,
                path: raw.scrape.path,
                interval: raw.scrape.interval_ms * MILLISECOND,
                idle_interval: raw.scrape.idle_interval_ms * MILLISECOND,
                timeout: raw.scrape.timeout_ms * MILLISECOND,
            },
            index: IndexBounds {
                memory: raw.index.max_mib << 20,
                holdings: raw.index.max_holdings,
                log_segments: raw.index.log_segments,
            },
        })
    }

    /// The pods that a collector begins with; none when it discovers them. Without any it would publish an empty table, and
    /// every request would silently go elsewhere.
    ///
    /// # Errors
    /// [`ConfigError`] when the list is missing or empty.
    pub fn pods_to_scrape(&self) -> Result<&[String], ConfigError> {
        match self.pods.as_deref() {
            None if self.discovery.is_some() => Ok(&[]),
            Some(pods) if !pods.is_empty() => Ok(pods),
            found => {
                let found = if found.is_none() { "is missing" } else { "is empty" };
                value("pods", format!("{found}; list the pods' addresses, like [\"10.0.0.4:8000\"]"))
            }
        }
    }
}

fn value<T>(key: &'static str, reason: String) -> Result<T, ConfigError> {
    Err(ConfigError::Value { key, reason })
}

fn within(key: &'static str, found: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    value(key, format!("is {found}; use {least} to {most}"))
}

/// Checks how pods are found.
fn discovery(
    raw: RawDiscovery,
    pods: Option<&[String]>,
    destination: Destination,
) -> Result<DiscoveryBy, ConfigError> {
    if raw.cluster.is_empty() {
        return value(
            "discovery.cluster",
            "is empty; name the Envoy cluster that reaches Envoy's admin interface".into(),
        );
    }
    within("discovery.interval_ms", raw.interval_ms, 100, 60_000)?;
    if pods.is_some() {
        return value("discovery", "finds the pods, and `pods` lists them; leave one of them out".into());
    }
    match (destination, &raw.pods_of) {
        (Destination::Headers, None) => {
            return value(
                "destination",
                "is \"headers\"; write \"list\" with `discovery`, for the pods are hosts of the route's own cluster, or name \
                 the cluster that has them in `discovery.pods_of`"
                    .into(),
            );
        }
        (Destination::List, Some(_)) => {
            return value(
                "discovery.pods_of",
                "names a cluster, and with `destination` \"list\" the pods are hosts of the route's own; leave it out".into(),
            );
        }
        (_, Some(name)) if name.is_empty() => {
            return value(
                "discovery.pods_of",
                "is empty; name the Envoy cluster whose hosts are the pods".into(),
            );
        }
        _ => {}
    }
    Ok(DiscoveryBy { cluster: raw.cluster, pods_of: raw.pods_of, interval: raw.interval_ms * MILLISECOND })
}

/// Checks the list of pods. Only addresses are taken: a destination must not depend on a name that others resolve.
fn pods(raw: &[String]) -> Result<Vec<String>, ConfigError> {
    if raw.len() > MAX_PODS {
        return value("pods", format!("lists {}; a pool has at most {MAX_PODS}", raw.len()));
    }
    let mut pods: Vec<String> = Vec::with_capacity(raw.len());
    for pod in raw {
        let Ok(address) = pod.parse::<SocketAddr>() else {
            return value(
                "pods",
                format!(
                    "has {pod:?}; write an address as 10.0.0.1:8000 or [fd00::1]:8000, names are not resolved"
                ),
            );
        };
        if address.port() == 0 {
            return value("pods", format!("has {pod:?}; port 0 cannot be reached"));
        }
        let address = address.to_string();
        if pods.contains(&address) {
            return value("pods", format!("has {pod:?} twice; list each pod once"));
        }
        pods.push(address);
    }
    Ok(pods)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        Config::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn all_keys_have_defaults_but_pods() {
        let config = Config::parse(br#"{"pods":["127.0.0.1:8000","[::1]:8001"]}"#).unwrap();
        assert_eq!(config.pods.unwrap(), ["127.0.0.1:8000", "[::1]:8001"]);
        assert_eq!(config.strategy, Strategy::PrefixCache);
        assert!(config.fail_open);
        assert_eq!(config.scrape.interval, 100 * MILLISECOND);
    }

    #[test]
    fn a_collector_needs_pods_and_a_router_does_not() {
        let needs = |json: &str| Config::parse(json.as_bytes()).unwrap().pods_to_scrape().map(<[_]>::len);
        assert_eq!(needs(r#"{"pods":["127.0.0.1:8000"]}"#), Ok(1));
        for (json, found) in [("{}", "is missing"), (r#"{"pods":[]}"#, "is empty")] {
            let error = needs(json).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("configuration: `pods` {found}; list the pods' addresses, like [\"10.0.0.4:8000\"]")
            );
        }
    }

    #[test]
    fn pods_are_listed_or_discovered() {
        let config = Config::parse(br#"{"destination":"list","discovery":{}}"#).unwrap();
        let by =
            DiscoveryBy { cluster: "prometheus_stats".into(), pods_of: None, interval: 1000 * MILLISECOND };
        assert_eq!((config.destination, config.discovery.as_ref()), (Destination::List, Some(&by)));
        assert_eq!(config.pods_to_scrape(), Ok(&[][..]), "they are found later");
        let with = |more: &str| error(&format!(r#"{{"destination":"list","discovery":{{{more}}}}}"#));
        assert!(with(r#""cluster":"" "#).contains("`discovery.cluster` is empty; name"));
        assert!(with(r#""interval_ms":5"#).contains("`discovery.interval_ms` is 5; use 100 to 60000"));
        assert!(with(r#""clusters":[]"#).contains("unknown field `clusters`"));
        let both = error(r#"{"destination":"list","discovery":{},"pods":["1.2.3.4:5"]}"#);
        assert!(both.contains("`discovery` finds the pods, and `pods` lists them"));
        assert!(error(r#"{"discovery":{}}"#).contains("`destination` is \"headers\"; write \"list\""));
        let named = Config::parse(br#"{"discovery":{"pods_of":"vllm"}}"#).unwrap();
        assert_eq!(
            (named.destination, named.discovery.and_then(|by| by.pods_of)),
            (Destination::Headers, Some("vllm".into()))
        );
        assert!(with(r#""pods_of":"vllm""#).contains("`discovery.pods_of` names a cluster"));
        assert!(error(r#"{"discovery":{"pods_of":""}}"#).contains("`discovery.pods_of` is empty"));
        assert!(error(r#"{"destination":"both"}"#).contains("`headers` or `list`"));
    }

    #[test]
    fn every_error_names_its_key() {
        assert!(error("{").starts_with("configuration: EOF"));
        assert!(error(r#"{"podz":[]}"#).contains("unknown field `podz`"));
        assert!(error(r#"{"strategy":"FAST"}"#).contains("`LOAD_ONLY`"));
        assert!(error(r#"{"pods":["vllm:8000"]}"#).contains("`pods` has \"vllm:8000\""));
        assert!(error(r#"{"pods":["1.2.3.4:0"]}"#).contains("port 0"));
        assert!(error(r#"{"pods":["1.2.3.4:5","1.2.3.4:5"]}"#).contains("twice"));
        assert!(error(r#"{"pool":"a b"}"#).contains("`pool`"));
        assert!(
            error(r#"{"scrape":{"interval_ms":1}}"#).contains("`scrape.interval_ms` is 1; use 10 to 60000")
        );
        assert!(error(r#"{"scrape":{"path":"metrics"}}"#).contains("`scrape.path`"));
        assert!(error(r#"{"index":{"max_mib":0}}"#).contains("`index.max_mib`"));
    }
}
