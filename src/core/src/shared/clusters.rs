//! Clusters as sets of candidates: each has a place in the pod table, and each pod knows the places of those
//! that may send to it.

/// A cluster of Envoy whose hosts are pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its name in Envoy.
    pub name: String,
    /// Whether it surely sends to the pod that is named, so that pods can be scraped through it.
    pub steered: bool,
}

/// A set of clusters, by place; at most 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSet(pub u128);

impl ClusterSet {
    /// No cluster.
    pub const NONE: ClusterSet = ClusterSet(0);
    /// Every cluster, as for pods that the configuration lists.
    pub const ALL: ClusterSet = ClusterSet(u128::MAX);

    /// The cluster at place `nth`; none from 128 on.
    pub fn nth(nth: usize) -> ClusterSet {
        ClusterSet(u32::try_from(nth).ok().and_then(|nth| 1u128.checked_shl(nth)).unwrap_or(0))
    }

    /// The clusters of both sets.
    pub fn with(self, other: ClusterSet) -> ClusterSet {
        ClusterSet(self.0 | other.0)
    }

    /// Whether a cluster is in both sets.
    pub fn meets(self, other: ClusterSet) -> bool {
        self.0 & other.0 != 0
    }
}

impl Default for ClusterSet {
    fn default() -> Self {
        ClusterSet::ALL
    }
}
