//! Envoy's admin page `/config_dump`: whether a cluster that came by xDS sends requests where the destination header says.
//!
//! A cluster whose settings change goes on with the former ones while it waits for endpoints, 15 seconds by default, and this
//! page tells the settings in force. The policy that names the header may also be missing.

use std::borrow::Cow;

use serde::Deserialize;

use crate::discovery::admin_page::NotClusters;

/// A query is this, the clusters' [`pattern`](super::admin_page::pattern)s with `%7C` between them, and
/// [`PATH_END`](super::admin_page::PATH_END).
pub const PATH: &str = "/config_dump?resource=dynamic_active_clusters\
    &mask=cluster.name,cluster.load_balancing_policy&name_regex=%5E(";
/// The header that names pods, best first.
pub const DESTINATION: &str = "x-warmpath-destination";

/// Reads a page: the clusters that send where [`DESTINATION`] says.
///
/// # Errors
/// [`NotClusters`] when it is no dump of clusters.
pub fn steered(page: &[u8]) -> Result<Vec<String>, NotClusters> {
    if page.trim_ascii_start().first() != Some(&b'{') {
        return Err(NotClusters);
    }
    let dump: Dump<'_> = serde_json::from_slice(page).map_err(|_| NotClusters)?;
    let clusters = dump.configs.into_iter().map(|config| config.cluster);
    Ok(clusters.filter(Cluster::is_steered).map(|cluster| cluster.name.into_owned()).collect())
}

#[derive(Deserialize)]
struct Dump<'a> {
    #[serde(borrow, default)]
    configs: Vec<DynamicCluster<'a>>,
}

#[derive(Deserialize)]
struct DynamicCluster<'a> {
    #[serde(borrow)]
    cluster: Cluster<'a>,
}

#[derive(Deserialize)]
struct Cluster<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    load_balancing_policy: BalancingPolicy<'a>,
}

#[derive(Deserialize, Default)]
struct BalancingPolicy<'a> {
    #[serde(borrow, default)]
    policies: Vec<Policy<'a>>,
}

#[derive(Deserialize)]
struct Policy<'a> {
    #[serde(borrow)]
    typed_extension_config: Extension<'a>,
}

#[derive(Deserialize)]
struct Extension<'a> {
    #[serde(borrow)]
    typed_config: OverrideHost<'a>,
}

/// Other policies have no such list.
#[derive(Deserialize)]
struct OverrideHost<'a> {
    #[serde(borrow, default)]
    override_host_sources: Vec<Source<'a>>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow)]
    header: Option<Cow<'a, str>>,
}

impl Cluster<'_> {
    /// Envoy uses the first policy that it knows, and the first source that a request has.
    fn is_steered(&self) -> bool {
        let first = self.load_balancing_policy.policies.first();
        let source =
            first.and_then(|policy| policy.typed_extension_config.typed_config.override_host_sources.first());
        source
            .and_then(|source| source.header.as_deref())
            .is_some_and(|header| header.eq_ignore_ascii_case(DESTINATION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &[u8] = include_bytes!("../../../../tests/fixtures/envoy-admin/config_dump.json");

    #[test]
    fn a_page_of_a_real_envoy() {
        assert_eq!(steered(PAGE), Ok(vec!["httproute/default/routed/rule/0".to_owned()]));
        assert_eq!(steered(b"{}"), Ok(vec![]), "no cluster has the name");
    }

    #[test]
    fn another_header_or_no_policy_steers_nothing() {
        let page = String::from_utf8_lossy(PAGE);
        for (from, to) in
            [(DESTINATION, "x-other"), ("override_host_sources", "others"), ("load_balancing_policy", "x")]
        {
            let other = page.replace(from, to);
            assert_ne!(other, page, "{from}");
            assert_eq!(steered(other.as_bytes()), Ok(vec![]), "{from}");
        }
    }

    #[test]
    fn a_page_that_is_no_dump_is_an_error() {
        for page in ["", "upstream connect error", "[]", r#"{"configs":3}"#, r#"{"configs":[{"cluster":1}]}"#]
        {
            assert_eq!(steered(page.as_bytes()), Err(NotClusters), "{page}");
        }
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(at in 0..PAGE.len(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut page = PAGE.to_vec();
            let end = (at + bytes.len()).min(PAGE.len());
            page.splice(at..end, bytes);
            let _ = steered(&page);
        }
    }
}
