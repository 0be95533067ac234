//! Which pods a pool has, as the routers' configurations list them: written by the routers, followed by the
//! collector.
//!
//! The collector's own list, in Envoy's bootstrap, is fixed until Envoy restarts; a router's list can change
//! while Envoy runs. The list with the highest revision holds. Of lists with equal revisions, the one that
//! was configured last holds.
//!
//! Envoy configures nothing anew when a listener returns to settings that are still draining, so a rollback
//! to an earlier list needs a new, higher revision. Listeners that share a pool are expected to list the same
//! pods.

use std::net::SocketAddr;

use crate::shared::pod_table::MAX_PODS;
use crate::shared::store::{Contended, SharedData, compare_and_swap};

/// Marks a list of pods, and the version of its format.
const PODS_MARK: &str = "WPP3";

/// The pods of a pool, with the number that orders its lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodList {
    /// The highest revision holds.
    pub revision: u64,
    /// The pods, `ip:port`.
    pub pods: Vec<String>,
}

/// Why a list is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnnounced {
    /// A list with a higher revision holds.
    Superseded {
        /// The revision of the list that holds.
        by: u64,
    },
    /// Other routers wrote first at every try.
    Contended,
}

impl From<Contended> for NotAnnounced {
    fn from(_: Contended) -> Self {
        NotAnnounced::Contended
    }
}

/// Makes `list` the one that holds, unless a list with a higher revision does.
///
/// # Errors
/// [`NotAnnounced`] when the list is not used.
pub fn announce(key: &str, list: &PodList, shared: &mut impl SharedData) -> Result<(), NotAnnounced> {
    compare_and_swap(shared, key, |bytes, _| match bytes.as_deref().and_then(PodList::decode) {
        Some(holding) if holding.revision > list.revision => {
            Err(NotAnnounced::Superseded { by: holding.revision })
        }
        _ => Ok((list.encode(), ())),
    })?;
    Ok(())
}

/// The list that holds, and the version of the shared value; `None` when no router has announced any.
pub fn announced(key: &str, shared: &impl SharedData) -> Option<(PodList, u32)> {
    let (bytes, version) = shared.get(key)?;
    Some((PodList::decode(&bytes)?, version))
}

impl PodList {
    fn encode(&self) -> String {
        format!("{PODS_MARK} {}\n{}", self.revision, self.pods.join("\n"))
    }

    /// Takes only addresses from the lines: requests must never be sent to anything else that stands there.
    fn decode(bytes: &[u8]) -> Option<PodList> {
        let (head, lines) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        let revision = head.strip_prefix(PODS_MARK)?.trim().parse().ok()?;
        let is_address = |line: &&str| line.parse::<SocketAddr>().is_ok();
        let pods = lines.lines().filter(is_address).take(MAX_PODS).map(str::to_owned).collect();
        Some(PodList { revision, pods })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::{Conflict, Map};

    fn list(revision: u64, pods: &[&str]) -> PodList {
        PodList { revision, pods: pods.iter().map(|pod| format!("10.0.0.{pod}:1")).collect() }
    }

    fn holding(shared: &Map) -> PodList {
        announced("k", shared).unwrap().0
    }

    #[test]
    fn of_equal_revisions_the_list_that_was_configured_last_holds() {
        let mut shared = Map::default();
        assert_eq!(announced("k", &shared), None);
        for pods in [&["1", "2"][..], &[], &["3"], &["1", "2"]] {
            assert_eq!(announce("k", &list(0, pods), &mut shared), Ok(()));
            assert_eq!(holding(&shared), list(0, pods));
        }
    }

    #[test]
    fn the_highest_revision_holds_whatever_is_configured_after_it() {
        let mut shared = Map::default();
        announce("k", &list(7, &["1"]), &mut shared).unwrap();
        assert_eq!(announce("k", &list(6, &["2"]), &mut shared), Err(NotAnnounced::Superseded { by: 7 }));
        assert_eq!(holding(&shared), list(7, &["1"]));
        // A rollback: the pods of revision 6, with a revision of their own.
        assert_eq!(announce("k", &list(8, &["2"]), &mut shared), Ok(()));
        assert_eq!(holding(&shared), list(8, &["2"]));
    }

    #[test]
    fn bytes_that_are_no_list_hold_nothing_and_are_replaced() {
        for bytes in [&b"\xff"[..], b"", b"WPP2 0 0 0\n10.0.0.1:1", b"WPP3 x\n", b"WPP3 9"] {
            let mut shared = Map::default();
            shared.set("k", bytes, None).unwrap();
            assert_eq!(announced("k", &shared), None);
            announce("k", &list(1, &["1"]), &mut shared).unwrap();
            assert_eq!(holding(&shared), list(1, &["1"]));
        }
        let mut shared = Map::default();
        shared.set("k", b"WPP3 2\nvllm:8000\n10.0.0.1:1\n", None).unwrap();
        assert_eq!(holding(&shared), list(2, &["1"]), "names are left out");
    }

    #[test]
    fn a_list_that_comes_between_read_and_write_is_compared_too() {
        /// Shared data into which another router writes revision 9 before the first write of this one.
        struct Interrupted(Map, bool);
        impl SharedData for Interrupted {
            fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
                self.0.get(key)
            }
            fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
                if !std::mem::replace(&mut self.1, true) {
                    announce(key, &list(9, &["9"]), &mut self.0).unwrap();
                }
                self.0.set(key, value, cas)
            }
        }
        let mut shared = Interrupted(Map::default(), false);
        assert_eq!(announce("k", &list(5, &["5"]), &mut shared), Err(NotAnnounced::Superseded { by: 9 }));
        assert_eq!(holding(&shared.0), list(9, &["9"]));
    }
}
