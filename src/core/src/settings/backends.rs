//! Draws the backend that a request goes to, where a rule has several and Envoy makes one cluster of them
//! all: the weights hold, whatever a pod holds of the prompt.

use crate::shared::clusters::ClusterSet;
use crate::shared::pod_table::PodTable;

/// A backend of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name, which is the region of its hosts.
    pub name: String,
    /// Its share of the requests, in proportion to the others.
    pub weight: u32,
}

/// The candidates of the backend that `chance`, a random number, draws: among those that have any, by weight.
/// `None` where none has.
pub fn draw(backends: &[Backend], table: &PodTable, chance: u64) -> Option<ClusterSet> {
    let candidates = |backend: &Backend| {
        let set = table.cluster(backend.name.as_bytes())?;
        let has_any = table.live().any(|(_, pod)| pod.candidate_of.meets(set));
        has_any.then_some((set, u64::from(backend.weight)))
    };
    let with_candidates = || backends.iter().filter_map(candidates);
    let sum: u64 = with_candidates().map(|(_, weight)| weight).sum();
    let mut drawn = chance.checked_rem(sum)?;
    for (set, weight) in with_candidates() {
        match drawn.checked_sub(weight) {
            None => return Some(set),
            Some(rest) => drawn = rest,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::clusters::Cluster;
    use crate::shared::pod_table::Pod;

    fn table(candidate_of: &[usize]) -> PodTable {
        let pod = |(nth, of): (usize, &usize)| Pod {
            id: nth as u32 + 1,
            candidate_of: ClusterSet::nth(*of),
            ..Pod::default()
        };
        let cluster = |name: &str| Cluster { name: name.into(), ..Cluster::default() };
        PodTable {
            pods: candidate_of.iter().enumerate().map(pod).collect(),
            clusters: ["rule", "rule/backend/0", "rule/backend/1"].map(cluster).into(),
            ..PodTable::default()
        }
    }

    fn shares(weights: &[u32], table: &PodTable) -> [usize; 2] {
        let backends: Vec<Backend> = weights
            .iter()
            .enumerate()
            .map(|(nth, &weight)| Backend { name: format!("rule/backend/{nth}"), weight })
            .collect();
        let drawn = |nth| {
            let set = Some(ClusterSet::nth(nth));
            (0..100).filter(|&chance| draw(&backends, table, chance) == set).count()
        };
        [drawn(1), drawn(2)]
    }

    #[test]
    fn each_backend_has_its_share() {
        let both = table(&[1, 2, 2]);
        assert_eq!(shares(&[7, 3], &both), [70, 30]);
        assert_eq!(shares(&[1, 0], &both), [100, 0]);
        assert_eq!(shares(&[0, 0], &both), [0, 0]);
        assert_eq!(shares(&[], &both), [0, 0]);
    }

    #[test]
    fn the_share_of_one_that_has_nobody_goes_to_the_others() {
        assert_eq!(shares(&[7, 3], &table(&[2, 2])), [0, 100]);
        assert_eq!(shares(&[7, 3], &table(&[])), [0, 0]);
        // One that the table does not name.
        assert_eq!(shares(&[1, 1, 98], &table(&[1, 2])), [50, 50]);
    }
}
