//! Envoy's admin page `/clusters?format=json`: which hosts a cluster has, and how they are.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::request::json::{JsonResult, Scanner, natural};

/// A query is this, the clusters' [`pattern`]s with `%7C` between them, and [`PATH_END`]. Envoy before 1.38
/// knows no filter and answers with all clusters.
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
    /// The region of its locality. Where a cluster has the hosts of several backends, Envoy Gateway names the
    /// backend here.
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
    read(page).map_err(|_| NotClusters)
}

fn read(page: &[u8]) -> JsonResult<Vec<ClusterHosts>> {
    let mut clusters = Vec::new();
    let mut scanner = Scanner::new(page);
    scanner.object(|scanner, key| {
        if &*key != b"cluster_statuses" {
            return scanner.skip().map(drop);
        }
        scanner.array(|scanner| {
            clusters.push(cluster(scanner)?);
            Ok(())
        })
    })?;
    scanner.end()?;
    Ok(clusters)
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
            pattern.push('%');
            let digit =
                |number: u8| char::from_digit(u32::from(number), 16).unwrap_or('0').to_ascii_uppercase();
            pattern.extend([digit(byte >> 4), digit(byte & 15)]);
        }
    }
    pattern
}

/// Reads one element of `cluster_statuses`.
fn cluster(scanner: &mut Scanner<'_>) -> JsonResult<ClusterHosts> {
    let mut cluster = ClusterHosts { name: String::new(), by_xds: false, hosts: Vec::new() };
    // By address, for a host may be listed in several localities.
    let mut places = HashMap::new();
    scanner.object(|scanner, key| {
        match &*key {
            b"name" => cluster.name = text(scanner)?.into_owned(),
            b"added_via_api" => cluster.by_xds = flag(scanner)?,
            b"host_statuses" => scanner.array(|scanner| {
                let status = host(scanner)?;
                let Some(address) = status.address else { return Ok(()) };
                let place = *places.entry(address).or_insert_with(|| {
                    let region = status.region;
                    cluster.hosts.push(Host { address: address.to_string(), candidate: false, region });
                    cluster.hosts.len() - 1
                });
                if let Some(host) = cluster.hosts.get_mut(place) {
                    host.candidate |= status.candidate;
                }
                Ok(())
            })?,
            _ => _ = scanner.skip()?,
        }
        Ok(())
    })?;
    Ok(cluster)
}

/// What one element of `host_statuses` says.
struct HostStatus {
    /// `None` for a pipe or a listener of Envoy itself.
    address: Option<SocketAddr>,
    candidate: bool,
    region: String,
}

/// Reads one element of `host_statuses`.
fn host(scanner: &mut Scanner<'_>) -> JsonResult<HostStatus> {
    let mut status = HostStatus { address: None, candidate: true, region: String::new() };
    scanner.object(|scanner, key| {
        match &*key {
            b"address" => scanner.object(|scanner, key| match &*key {
                b"socket_address" => {
                    status.address = socket_address(scanner)?;
                    Ok(())
                }
                _ => scanner.skip().map(drop),
            })?,
            b"health_status" => scanner.object(|scanner, key| {
                status.candidate &= match &*key {
                    b"eds_health_status" => {
                        matches!(&*text(scanner)?, "UNKNOWN" | "HEALTHY" | "DEGRADED")
                    }
                    b"failed_active_health_check" | b"failed_outlier_check" | b"pending_dynamic_removal" => {
                        !flag(scanner)?
                    }
                    _ => scanner.skip().map(|_| true)?,
                };
                Ok(())
            })?,
            b"locality" => scanner.object(|scanner, key| {
                match &*key {
                    b"region" => status.region = text(scanner)?.into_owned(),
                    _ => _ = scanner.skip()?,
                }
                Ok(())
            })?,
            _ => _ = scanner.skip()?,
        }
        Ok(())
    })?;
    Ok(status)
}

/// Reads a `socket_address`; `None` when it is not that of an IP.
fn socket_address(scanner: &mut Scanner<'_>) -> JsonResult<Option<SocketAddr>> {
    let (mut ip, mut port) = (None, 0);
    scanner.object(|scanner, key| {
        match &*key {
            b"address" => ip = text(scanner)?.parse::<IpAddr>().ok(),
            b"port_value" => port = natural(scanner.skip()?).unwrap_or(0),
            _ => _ = scanner.skip()?,
        }
        Ok(())
    })?;
    Ok(ip.zip(u16::try_from(port).ok()).map(SocketAddr::from))
}

/// A text; names of clusters and words of Envoy need no escapes.
pub(super) fn text<'a>(scanner: &mut Scanner<'a>) -> JsonResult<Cow<'a, str>> {
    scanner.kind()?;
    Ok(match scanner.string()? {
        Cow::Borrowed(text) => String::from_utf8_lossy(text),
        Cow::Owned(text) => Cow::Owned(String::from_utf8_lossy(&text).into_owned()),
    })
}

fn flag(scanner: &mut Scanner<'_>) -> JsonResult<bool> {
    Ok(scanner.skip()? == b"true")
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
