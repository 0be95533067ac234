//! The settings of a user: the plugin configuration, JSON, the same document for both roles.
//!
//! It is read once into values that cannot be wrong. An unknown key, a wrong type or a number out of range is
//! an error that names the key.

use std::net::SocketAddr;

use crate::settings::PoolSettings;
pub use crate::settings::Strategy;
use crate::settings::document::Value;
use crate::settings::error::SettingError;
use crate::settings::object::{Object, UnknownKeys};
use crate::shared::pod_table::MAX_PODS;
use crate::{MILLISECOND, Micros};

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
    /// The parts of a request's own record are properties of the stream by themselves, too, for headers and
    /// the tags of spans.
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
        let pods = pods(&mut document)?;
        let config = Config {
            pool: pool(&mut document)?,
            revision: document.whole("revision", 0, i64::MAX)?.unwrap_or(0) as u64,
            settings: PoolSettings::read(&mut document, &PoolSettings::default())?,
            settings_from: settings_from(&mut document)?,
            destination,
            discovery: discovery(&mut document, pods.is_some(), destination)?,
            test_endpoint_header: document.flag("test_endpoint_header")?.unwrap_or(false),
            receipt_properties: document.flag("receipt_properties")?.unwrap_or(false),
            scrape: scrape(&mut document)?,
            index: index(&mut document)?,
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

fn pool(document: &mut Object<'_>) -> Result<String, SettingError> {
    let pool = document.text("pool")?.unwrap_or("default");
    let named = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if pool.is_empty() || pool.len() > 64 || !pool.bytes().all(named) {
        return document.refuse("pool", format!("is {pool:?}; use 1 to 64 letters, digits, '-', '_' or '.'"));
    }
    Ok(pool.to_owned())
}

fn settings_from(document: &mut Object<'_>) -> Result<SettingsFrom, SettingError> {
    if !matches!(document.get("settings"), Some(Value::Object(_))) {
        let from_route = document.word("settings", &[("route", ())])?;
        return Ok(from_route.map_or(SettingsFrom::Configuration, |()| SettingsFrom::Route));
    }
    let page = document.object("settings")?.map(settings_page).transpose()?;
    Ok(page.map_or(SettingsFrom::Configuration, SettingsFrom::Page))
}

fn settings_page(mut page: Object<'_>) -> Result<SettingsSource, SettingError> {
    let cluster = cluster(&mut page, "warmpath-settings", "reaches the page with the settings")?;
    let (host, path) = (page.text("host")?.unwrap_or("warmpath"), page.text("path")?.unwrap_or("/"));
    // As they stand in a request.
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]_".contains(&b)) {
        return page.refuse("host", format!("is {host:?}; write a host, or host:port"));
    }
    if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return page.refuse("path", format!("is {path:?}; start it with '/', without blanks"));
    }
    let (host, path) = (host.to_owned(), path.to_owned());
    let interval = milliseconds(&mut page, "interval_ms", 2000, 100, 600_000)?;
    page.end()?;
    Ok(SettingsSource { cluster, host, path, interval })
}

/// How pods are found. The default is the name that Envoy Gateway gives to the cluster of its admin
/// interface.
fn discovery(
    document: &mut Object<'_>,
    listed: bool,
    destination: Destination,
) -> Result<Option<DiscoveryBy>, SettingError> {
    let Some(mut by) = document.object("discovery")? else { return Ok(None) };
    let cluster = cluster(&mut by, "prometheus_stats", "reaches Envoy's admin interface")?;
    let pods_of = by.text("pods_of")?.map(str::to_owned);
    if pods_of.as_deref() == Some("") {
        return by.refuse("pods_of", "is empty; name the Envoy cluster whose hosts are the pods");
    }
    let interval = milliseconds(&mut by, "interval_ms", 1000, 100, 60_000)?;
    by.end()?;
    if listed {
        return document.refuse("discovery", "finds the pods, and `pods` lists them; leave one of them out");
    }
    match (destination, &pods_of) {
        (Destination::Headers, None) => {
            return document.refuse(
                "destination",
                "is \"headers\"; write \"list\" with `discovery`, for the pods are hosts of the route's own cluster, or name \
                 the cluster that has them in `discovery.pods_of`",
            );
        }
        (Destination::List, Some(_)) => {
            return document.refuse(
                "destination",
                "is \"list\", where the pods are hosts of the route's own cluster; leave `discovery.pods_of` out",
            );
        }
        _ => {}
    }
    Ok(Some(DiscoveryBy { cluster, pods_of, interval }))
}

fn scrape(document: &mut Object<'_>) -> Result<Scrape, SettingError> {
    let mut scrape = document.object("scrape")?.unwrap_or_else(Object::empty);
    let path = scrape.text("path")?.unwrap_or("/metrics");
    if !path.starts_with('/') {
        return scrape.refuse("path", format!("is {path:?}; start it with '/'"));
    }
    let authorization = scrape.text("authorization")?.map(|value| Secret(value.to_owned()));
    // A text is spelled as in JSON, so a backslash stands for what no token has: a quote, a line's end, a
    // backslash.
    let of_header = |b: u8| (b' '..=b'~').contains(&b) && b != b'\\';
    if authorization.as_ref().is_some_and(|Secret(value)| value.is_empty() || !value.bytes().all(of_header)) {
        return scrape.refuse("authorization", "is no value of a header; write it as \"Bearer TOKEN\"");
    }
    let interval = milliseconds(&mut scrape, "interval_ms", 100, 10, 60_000)?;
    let least = (interval.0 / MILLISECOND.0) as i64;
    let cluster = cluster(&mut scrape, "warmpath-scrape", "reaches pods for their metrics")?;
    let settings = Scrape {
        cluster,
        path: path.to_owned(),
        port: scrape.whole("port", 1, 65_535)?.map(|port| port as u16),
        authorization,
        interval,
        idle_interval: milliseconds(&mut scrape, "idle_interval_ms", 1000, least, 600_000)?,
        timeout: milliseconds(&mut scrape, "timeout_ms", 1000, 10, 60_000)?,
    };
    scrape.end()?;
    Ok(settings)
}

/// Bounds of the index. It leaves room for the rest of the VM under 64 MiB, and its segments replay some ten
/// thousand prompts.
fn index(document: &mut Object<'_>) -> Result<IndexBounds, SettingError> {
    let mut index = document.object("index")?.unwrap_or_else(Object::empty);
    let bounds = IndexBounds {
        memory: (index.whole("max_mib", 1, 1024)?.unwrap_or(48) as usize) << 20,
        pod_tokens: index.whole("pod_tokens", 1, 1_000_000_000_000)?.map(|tokens| tokens as u64),
        holdings: index.whole("max_holdings", 100, 100_000_000)?.unwrap_or(1_000_000) as usize,
        log_segments: index.whole("log_segments", 2, 65_536)?.unwrap_or(8192) as usize,
    };
    index.end()?;
    Ok(bounds)
}

/// The name of a cluster of Envoy's.
fn cluster(object: &mut Object<'_>, default: &str, role: &str) -> Result<String, SettingError> {
    match object.text("cluster")?.unwrap_or(default) {
        "" => object.refuse("cluster", format!("is empty; name the Envoy cluster that {role}")),
        cluster => Ok(cluster.to_owned()),
    }
}

fn milliseconds(
    object: &mut Object<'_>,
    key: &'static str,
    default: i64,
    least: i64,
    most: i64,
) -> Result<Micros, SettingError> {
    let found = object.whole(key, least, most)?.unwrap_or(default.max(least));
    Ok(found as u64 * MILLISECOND)
}

/// The list of pods. Only addresses are taken: a destination must not depend on a name that others resolve.
fn pods(document: &mut Object<'_>) -> Result<Option<Vec<String>>, SettingError> {
    let Some(list) = document.list("pods", usize::MAX)? else { return Ok(None) };
    if list.len() > MAX_PODS {
        return document.refuse("pods", format!("lists {}; a pool has at most {MAX_PODS}", list.len()));
    }
    let mut pods: Vec<String> = Vec::with_capacity(list.len());
    for pod in list {
        let pod = pod.as_text().unwrap_or_default();
        let Ok(address) = pod.parse::<SocketAddr>() else {
            let fix = "write an address as 10.0.0.1:8000 or [fd00::1]:8000, names are not resolved";
            return document.refuse("pods", format!("has {pod:?}; {fix}"));
        };
        if address.port() == 0 {
            return document.refuse("pods", format!("has {pod:?}; port 0 cannot be reached"));
        }
        let address = address.to_string();
        if pods.contains(&address) {
            return document.refuse("pods", format!("has {pod:?} twice; list each pod once"));
        }
        pods.push(address);
    }
    Ok(Some(pods))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        Config::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_a_page_does_not_tell_or_give_to_everybody_can_be_said() {
        let config = Config::parse(
            br#"{"scrape":{"port":9090,"authorization":"Bearer abc"},"index":{"pod_tokens":2000000}}"#,
        )
        .unwrap();
        assert_eq!((config.scrape.port, config.index.pod_tokens), (Some(9090), Some(2_000_000)));
        assert_eq!(config.scrape.authorization, Some(Secret("Bearer abc".into())));
        assert!(!format!("{config:?}").contains("Bearer"));
        assert!(
            error(r#"{"scrape":{"authorization":"a\nb"}}"#).contains("`scrape.authorization` is no value")
        );
        assert!(error(r#"{"scrape":{"port":0}}"#).contains("`scrape.port`"));
    }

    #[test]
    fn all_keys_have_defaults_but_pods() {
        let config = Config::parse(br#"{"pods":["127.0.0.1:8000","[::1]:8001"]}"#).unwrap();
        assert_eq!(config.pods.unwrap(), ["127.0.0.1:8000", "[::1]:8001"]);
        assert_eq!(config.settings, PoolSettings::default());
        assert_eq!(config.settings_from, SettingsFrom::Configuration);
        assert_eq!(config.scrape.interval, 100 * MILLISECOND);
    }

    #[test]
    fn a_collector_needs_pods_and_a_router_does_not() {
        let needs = |json: &str| Config::parse(json.as_bytes()).unwrap().pods_to_scrape().map(<[_]>::len);
        assert_eq!(needs(r#"{"pods":["127.0.0.1:8000"]}"#), Ok(1));
        for (json, found) in [("{}", "is missing"), (r#"{"pods":[]}"#, "is empty")] {
            let error = needs(json).unwrap_err().to_string();
            assert_eq!(error, format!("`pods` {found}; list the pods' addresses, like [\"10.0.0.4:8000\"]"));
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
        assert!(
            with(r#""clusters":[]"#)
                .contains("`discovery.clusters` is no setting; there are cluster, pods_of, interval_ms")
        );
        let both = error(r#"{"destination":"list","discovery":{},"pods":["1.2.3.4:5"]}"#);
        assert!(both.contains("`discovery` finds the pods, and `pods` lists them"));
        assert!(error(r#"{"discovery":{}}"#).contains("`destination` is \"headers\"; write \"list\""));
        let named = Config::parse(br#"{"discovery":{"pods_of":"vllm"}}"#).unwrap();
        assert_eq!(
            (named.destination, named.discovery.and_then(|by| by.pods_of)),
            (Destination::Headers, Some("vllm".into()))
        );
        assert!(with(r#""pods_of":"vllm""#).contains("leave `discovery.pods_of` out"));
        assert!(error(r#"{"discovery":{"pods_of":""}}"#).contains("`discovery.pods_of` is empty"));
        assert!(error(r#"{"destination":"both"}"#).contains("use \"headers\" or \"list\""));
    }

    #[test]
    fn settings_come_from_a_route_or_a_page() {
        let from = |json: &str| Config::parse(json.as_bytes()).unwrap().settings_from;
        assert_eq!(from(r#"{"settings":"route"}"#), SettingsFrom::Route);
        let page = SettingsSource {
            cluster: "c".into(),
            host: "files.example.com".into(),
            path: "/a?b".into(),
            interval: 5000 * MILLISECOND,
        };
        let json =
            r#"{"settings":{"cluster":"c","host":"files.example.com","path":"/a?b","interval_ms":5000}}"#;
        assert_eq!(from(json), SettingsFrom::Page(page));
        let SettingsFrom::Page(SettingsSource { cluster, path, interval, .. }) = from(r#"{"settings":{}}"#)
        else {
            panic!()
        };
        assert_eq!(
            (cluster.as_str(), path.as_str(), interval),
            ("warmpath-settings", "/", 2000 * MILLISECOND)
        );
    }

    #[test]
    fn a_slow_scrape_has_a_slower_idle_pace() {
        let scrape = Config::parse(br#"{"scrape":{"interval_ms":5000}}"#).unwrap().scrape;
        assert_eq!((scrape.interval, scrape.idle_interval), (5000 * MILLISECOND, 5000 * MILLISECOND));
    }

    #[test]
    fn every_error_names_its_key() {
        assert!(error("{").starts_with("not valid JSON: error at line 1 column 2"));
        assert!(error(r#"{"podz":[]}"#).contains("`podz` is no setting; there are destination, pods, pool,"));
        assert!(error(r#"{"strategy":"FAST"}"#).contains("\"LOAD_ONLY\""));
        assert!(error(r#"{"pods":["vllm:8000"]}"#).contains("`pods` has \"vllm:8000\""));
        assert!(error(r#"{"pods":["1.2.3.4:0"]}"#).contains("port 0"));
        assert!(error(r#"{"pods":["1.2.3.4:5","1.2.3.4:5"]}"#).contains("twice"));
        assert!(error(r#"{"pool":"a b"}"#).contains("`pool`"));
        assert!(
            error(r#"{"scrape":{"interval_ms":1}}"#).contains("`scrape.interval_ms` is 1; use 10 to 60000")
        );
        assert!(error(r#"{"scrape":{"path":"metrics"}}"#).contains("`scrape.path`"));
        assert!(error(r#"{"index":{"max_mib":0}}"#).contains("`index.max_mib`"));
        assert!(
            error(r#"{"settings":{"path":"x"}}"#).contains("`settings.path` is \"x\"; start it with '/'")
        );
        assert!(error(r#"{"settings":{"host":"a b"}}"#).contains("`settings.host` is \"a b\""));
        assert!(error(r#"{"settings":{"interval_ms":1}}"#).contains("`settings.interval_ms` is 1; use 100"));
        assert!(error(r#"{"settings":{"url":"x"}}"#).contains("`settings.url` is no setting"));
        assert!(error(r#"{"settings":"file"}"#).contains("`settings` is \"file\"; use \"route\""));
    }
}
