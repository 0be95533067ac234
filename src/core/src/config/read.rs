//! How each part of the plugin configuration is read out of its document.

use std::net::SocketAddr;

use super::{Destination, DiscoveryBy, IndexBounds, Scrape, Secret, SettingsFrom, SettingsSource};
use crate::settings::document::Value;
use crate::settings::error::SettingError;
use crate::settings::object::Object;
use crate::shared::pod_table::MAX_PODS;
use crate::{MILLISECOND, Micros};

pub(super) fn pool(document: &mut Object<'_>) -> Result<String, SettingError> {
    let pool = document.text("pool")?.unwrap_or("default");
    let named = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if pool.is_empty() || pool.len() > 64 || !pool.bytes().all(named) {
        return document.refuse("pool", format!("is {pool:?}; use 1 to 64 letters, digits, '-', '_' or '.'"));
    }
    Ok(pool.to_owned())
}

pub(super) fn settings_from(document: &mut Object<'_>) -> Result<SettingsFrom, SettingError> {
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
pub(super) fn discovery(
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

pub(super) fn scrape(document: &mut Object<'_>) -> Result<Scrape, SettingError> {
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
pub(super) fn index(document: &mut Object<'_>) -> Result<IndexBounds, SettingError> {
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
pub(super) fn pods(document: &mut Object<'_>) -> Result<Option<Vec<String>>, SettingError> {
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
