//! Envoy's admin page `/config_dump`: whether a cluster that came by xDS sends requests where the destination
//! header says.
//!
//! A cluster whose settings change goes on with the former ones while it waits for endpoints, 15 seconds by
//! default, and this page tells the settings in force. The policy that names the header may also be missing.

use crate::discovery::admin_page::{NotClusters, text};
use crate::request::json::{JsonResult, Scanner};

/// A query is this, the clusters' [`pattern`](super::admin_page::pattern)s with `%7C` between them, and
/// [`PATH_END`](super::admin_page::PATH_END).
pub const PATH: &str = "/config_dump?resource=dynamic_active_clusters\
    &mask=cluster.name,cluster.load_balancing_policy&name_regex=%5E(";
/// The header that names pods, best first.
pub const DESTINATION: &str = "x-warmpath-destination";

/// Reads a page: the clusters whose load balancing policy reads [`DESTINATION`].
///
/// # Errors
/// [`NotClusters`] when it is no dump of clusters.
pub fn steered(page: &[u8]) -> Result<Vec<String>, NotClusters> {
    read(page).map_err(|_| NotClusters)
}

fn read(page: &[u8]) -> JsonResult<Vec<String>> {
    let mut clusters = Vec::new();
    let mut scanner = Scanner::new(page);
    field(&mut scanner, b"configs", &mut |scanner| {
        scanner.array(|scanner| field(scanner, b"cluster", &mut |scanner| cluster(scanner, &mut clusters)))
    })?;
    scanner.end()?;
    Ok(clusters)
}

/// Reads a cluster, and puts its name to the others if it is steered. Envoy writes header names in small
/// letters.
fn cluster(scanner: &mut Scanner<'_>, steered: &mut Vec<String>) -> JsonResult<()> {
    let (mut name, mut policy): (_, &[u8]) = (Default::default(), b"");
    scanner.object(|scanner, key| {
        match &*key {
            b"name" => name = text(scanner)?,
            b"load_balancing_policy" => policy = scanner.skip()?,
            _ => _ = scanner.skip()?,
        }
        Ok(())
    })?;
    if policy.windows(DESTINATION.len()).any(|part| part == DESTINATION.as_bytes()) {
        steered.push(name.into_owned());
    }
    Ok(())
}

/// Reads an object with `read` for the value of the key `name`.
fn field(
    scanner: &mut Scanner<'_>,
    name: &[u8],
    read: &mut dyn FnMut(&mut Scanner<'_>) -> JsonResult<()>,
) -> JsonResult<()> {
    scanner.object(|scanner, key| if &*key == name { read(scanner) } else { scanner.skip().map(drop) })
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
        for (from, to) in [(DESTINATION, "x-other"), ("load_balancing_policy", "x")] {
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
