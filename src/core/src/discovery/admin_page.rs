//! Envoy's admin page `/clusters?format=json`: which hosts a cluster has, and how they are.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

/// A query is this, the clusters' [`pattern`]s with `%7C` between them, and [`PATH_END`]. Envoy before 1.38 knows no filter and
/// answers with all clusters.
pub const PATH: &str = "/clusters?format=json&filter=%5E(";
/// The end of a query.
pub const PATH_END: &str = ")%24";

/// A host of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `ip:port`, IPv6 in brackets.
    pub address: String,
    /// Whether requests may be sent to it: it neither drains nor has it failed a check.
    pub candidate: bool,
    /// The region of its locality. Where a cluster has the hosts of several backends, Envoy Gateway names the backend here.
    pub region: String,
}

/// The hosts of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterHosts {
    /// The cluster.
    pub name: String,
    /// Whether it came by xDS, and may change; other clusters are in Envoy's own file.
    pub by_xds: bool,
    /// Its hosts, each address once. Hosts without an IP address are left out.
    pub hosts: Vec<Host>,
}

/// The page is no list of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotClusters;

/// Reads a page.
///
/// # Errors
/// [`NotClusters`] when it is no list of clusters.
pub fn parse(page: &[u8]) -> Result<Vec<ClusterHosts>, NotClusters> {
    // A struct may be written as a list in JSON, too; Envoy never does.
    if page.trim_ascii_start().first() != Some(&b'{') {
        return Err(NotClusters);
    }
    let page: Page<'_> = serde_json::from_slice(page).map_err(|_| NotClusters)?;
    Ok(page.cluster_statuses.into_iter().map(ClusterHosts::from).collect())
}

/// The regular expression (RE2) for exactly `name`, as it stands in a URL.
pub fn pattern(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for byte in name.bytes() {
        if b"\\.+*?()|[]{}^$".contains(&byte) {
            pattern.push_str("%5C");
        }
        if byte.is_ascii_alphanumeric() || b"-_.~/()".contains(&byte) {
            pattern.push(char::from(byte));
        } else {
            pattern.push_str(&format!("%{byte:02X}"));
        }
    }
    pattern
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    cluster_statuses: Vec<ClusterStatus<'a>>,
}

#[derive(Deserialize)]
struct ClusterStatus<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    added_via_api: bool,
    #[serde(borrow, default)]
    host_statuses: Vec<HostStatus<'a>>,
}

#[derive(Deserialize)]
struct HostStatus<'a> {
    #[serde(borrow)]
    address: Address<'a>,
    #[serde(borrow, default)]
    health_status: HealthStatus<'a>,
    #[serde(borrow, default)]
    locality: Locality<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Locality<'a> {
    #[serde(borrow)]
    region: Cow<'a, str>,
}

/// A pipe or a listener of Envoy itself has no `socket_address`.
#[derive(Deserialize)]
struct Address<'a> {
    #[serde(borrow)]
    socket_address: Option<SocketAddress<'a>>,
}

#[derive(Deserialize)]
struct SocketAddress<'a> {
    #[serde(borrow)]
    address: Cow<'a, str>,
    #[serde(default)]
    port_value: u16,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HealthStatus<'a> {
    #[serde(borrow)]
    eds_health_status: Option<Cow<'a, str>>,
    failed_active_health_check: bool,
    failed_outlier_check: bool,
    pending_dynamic_removal: bool,
}

impl HealthStatus<'_> {
    fn is_candidate(&self) -> bool {
        let checks =
            self.failed_active_health_check || self.failed_outlier_check || self.pending_dynamic_removal;
        !checks
            && matches!(self.eds_health_status.as_deref(), None | Some("UNKNOWN" | "HEALTHY" | "DEGRADED"))
    }
}

impl From<ClusterStatus<'_>> for ClusterHosts {
    fn from(cluster: ClusterStatus<'_>) -> Self {
        let mut hosts: Vec<Host> = Vec::with_capacity(cluster.host_statuses.len());
        let mut places = std::collections::HashMap::with_capacity(cluster.host_statuses.len());
        for status in &cluster.host_statuses {
            let Some(socket) = &status.address.socket_address else { continue };
            let Ok(ip) = socket.address.parse::<IpAddr>() else { continue };
            let address = SocketAddr::new(ip, socket.port_value);
            let candidate = status.health_status.is_candidate();
            let place = *places.entry(address).or_insert_with(|| {
                let region = status.locality.region.clone().into_owned();
                hosts.push(Host { address: address.to_string(), candidate: false, region });
                hosts.len() - 1
            });
            if let Some(host) = hosts.get_mut(place) {
                host.candidate |= candidate;
            }
        }
        ClusterHosts { name: cluster.name.into_owned(), by_xds: cluster.added_via_api, hosts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &[u8] = include_bytes!("../../../../tests/fixtures/envoy-admin/clusters.json");

    #[test]
    fn a_page_of_a_real_envoy() {
        let host = |address: &str, candidate, backend| Host {
            address: address.to_owned(),
            candidate,
            region: format!("httproute/default/chat/rule/0/backend/{backend}"),
        };
        let cluster = ClusterHosts {
            name: "httproute/default/chat/rule/0".into(),
            by_xds: false,
            hosts: vec![
                host("10.0.0.1:8000", true, 0),
                host("10.0.0.2:8000", false, 0),
                host("10.0.0.3:8000", false, 0),
                host("[fd00::4]:8000", true, 0),
                host("10.0.0.5:8001", true, 1),
            ],
        };
        assert_eq!(parse(PAGE), Ok(vec![cluster]));
        assert_eq!(parse(b"{}"), Ok(vec![]), "no cluster has the name");
    }

    #[test]
    fn a_host_that_has_failed_a_check_is_no_candidate() {
        for check in ["failed_active_health_check", "failed_outlier_check", "pending_dynamic_removal"] {
            let page = String::from_utf8_lossy(PAGE).replace(
                r#""eds_health_status": "DEGRADED""#,
                &format!(r#""eds_health_status": "HEALTHY", "{check}": true"#),
            );
            let hosts = &parse(page.as_bytes()).unwrap()[0].hosts;
            assert_eq!(hosts.last().map(|host| host.candidate), Some(false), "{check}");
        }
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(at in 0..PAGE.len(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut page = PAGE.to_vec();
            page.truncate(at);
            page.extend_from_slice(&bytes);
            let _ = parse(&page);
            let end = (at + bytes.len()).min(PAGE.len());
            let mut page = PAGE.to_vec();
            page.splice(at..end, bytes);
            let _ = parse(&page);
        }

        #[test]
        fn a_pattern_has_only_what_a_url_may_have(name in "\\PC{0,40}") {
            prop_assert!(pattern(&name).bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~/()%".contains(&b)));
        }
    }
}
