//! The story of discovery: ask Envoy which hosts the clusters have that requests go to, and make them the
//! pods of the pool.
//!
//! A pod is known once per Envoy, by its address, however many clusters name it; a cluster only lists
//! candidates. Not ready is not gone: a host that drains stays a pod that is scraped and whose holdings are
//! believed, and so does, for a while, a host that no cluster lists any more, because a rule that moves takes
//! its hosts from one cluster to another.

pub mod admin_page;
pub mod config_dump;

use std::collections::HashSet;

use crate::Micros;
use crate::discovery::admin_page::{ClusterHosts, Host, NotClusters};
use crate::shared::clusters::{Cluster, ClusterSet};
use crate::shared::pod_table::{MAX_PODS, PodTable};
use crate::shared::store::{Keys, NEVER_WRITTEN, SharedData};
use crate::shared::wanted;

/// How long a pod that no cluster lists any more is believed to be there.
const LINGERS: Micros = Micros::from_seconds(60);
/// Longest path of a query, in bytes: Envoy refuses request headers above 60 KiB.
const LONGEST_PATH: usize = 8192;

/// The clusters that are wanted, and their hosts.
#[derive(Clone, Debug)]
pub struct Discovery {
    wanted: Wanted,
    clusters: Vec<KnownCluster>,
    /// Pods that no cluster lists any more, and since when.
    lingering: Vec<(String, Micros)>,
}

/// Which clusters are asked for.
#[derive(Clone, Debug)]
enum Wanted {
    /// Those that requests go to, noted under this key; with the version of the list that was last asked for.
    Noted { key: String, asked: u32 },
    /// The one of the configuration.
    Fixed(String),
}

#[derive(Clone, Debug)]
struct KnownCluster {
    name: String,
    /// Whether it sends where it is told; `None` while that is to be asked.
    steered: Option<bool>,
    hosts: Vec<Host>,
}

/// A page to ask Envoy's admin interface for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Path with its query.
    pub path: String,
    asks_for: Subject,
    clusters: Vec<String>,
}

/// What a query asks of its clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Hosts,
    Steering,
}

/// The pods of the pool, and which clusters they are candidates of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The clusters; the place in the list is the place in [`Member::candidate_of`].
    pub clusters: Vec<Cluster>,
    /// The pods, at most [`MAX_PODS`].
    pub pods: Vec<Member>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `ip:port`, IPv6 in brackets.
    pub address: String,
    /// The clusters that may send to it.
    pub candidate_of: ClusterSet,
}

impl Discovery {
    /// Goes on from the `table` that is shared already. The pods are the hosts of `pods_of`, or of the
    /// clusters that requests go to.
    pub fn new(keys: &Keys, pods_of: Option<&str>, table: &PodTable, now: Micros) -> Discovery {
        // The backends of a cluster are found anew with its hosts.
        let whole = |cluster: &&Cluster| {
            !table.clusters.iter().any(|other| is_backend_of(&cluster.name, &other.name))
        };
        let clusters = table.clusters.iter().filter(whole).map(|cluster| KnownCluster {
            name: cluster.name.clone(),
            steered: cluster.steered.then_some(true),
            hosts: table
                .addresses()
                .filter(|(_, pod)| {
                    table.cluster(cluster.name.as_bytes()).is_some_and(|set| pod.candidate_of.meets(set))
                })
                .map(|(_, pod)| Host { address: pod.address.clone(), candidate: true, region: String::new() })
                .collect(),
        });
        let clusters: Vec<KnownCluster> = clusters.collect();
        let lingering = table
            .addresses()
            .filter(|(_, pod)| pod.candidate_of == ClusterSet::NONE)
            .map(|(_, pod)| (pod.address.clone(), now))
            .collect();
        let wanted = match pods_of {
            Some(name) => Wanted::Fixed(name.to_owned()),
            None => Wanted::Noted { key: keys.wanted.clone(), asked: NEVER_WRITTEN },
        };
        Discovery { wanted, clusters, lingering }
    }

    /// Whether there is something to ask that should not wait: a cluster that was noted since, or one of
    /// which it is not known whether it sends where it is told.
    pub fn has_questions(&self, shared: &impl SharedData) -> bool {
        let noted = match &self.wanted {
            Wanted::Noted { key, asked } => shared.get(key).is_some_and(|(_, version)| version != *asked),
            Wanted::Fixed(_) => false,
        };
        noted || self.clusters.iter().any(|known| known.steered.is_none())
    }

    /// What to ask for all clusters that are wanted.
    pub fn queries(&mut self, shared: &impl SharedData) -> Vec<Query> {
        let names = match &mut self.wanted {
            Wanted::Noted { key, asked } => {
                let (names, version) = wanted::read(key, shared);
                *asked = version;
                names
            }
            Wanted::Fixed(name) => vec![name.clone()],
        };
        let unsteered = self.clusters.iter().filter(|known| known.steered != Some(true));
        let unsteered = unsteered.map(|known| known.name.clone()).collect();
        let mut queries = ask(Subject::Hosts, names);
        queries.extend(ask(Subject::Steering, unsteered));
        queries
    }

    /// Takes in the answer to a query. A cluster that is not in it does not exist, and is wanted no more
    /// until the next request to it.
    ///
    /// # Errors
    /// [`NotClusters`] when the page is no list of clusters; nothing has changed then.
    pub fn take(
        &mut self,
        query: &Query,
        page: &[u8],
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<(), NotClusters> {
        match query.asks_for {
            Subject::Hosts => self.take_hosts(query, admin_page::parse(page)?, shared, now),
            Subject::Steering => {
                let steered = config_dump::steered(page)?;
                for known in self.clusters.iter_mut().filter(|known| query.clusters.contains(&known.name)) {
                    known.steered = Some(steered.contains(&known.name));
                }
            }
        }
        Ok(())
    }

    fn take_hosts(
        &mut self,
        query: &Query,
        mut found: Vec<ClusterHosts>,
        shared: &mut impl SharedData,
        now: Micros,
    ) {
        let before: Vec<String> = self.addresses().map(str::to_owned).collect();
        for name in &query.clusters {
            let at = self.clusters.iter().position(|known| known.name == *name);
            match (found.iter_mut().find(|cluster| cluster.name == *name), at) {
                (Some(cluster), Some(at)) => {
                    if let Some(known) = self.clusters.get_mut(at) {
                        known.become_like(cluster);
                    }
                }
                (Some(cluster), None) => self.clusters.push(KnownCluster::new(cluster)),
                (None, at) => {
                    if let Wanted::Noted { key, .. } = &self.wanted {
                        wanted::forget(key, name, shared);
                    }
                    at.map(|at| self.clusters.remove(at));
                }
            }
        }
        self.clusters.truncate(wanted::MOST);
        let now_listed: HashSet<String> = self.addresses().map(str::to_owned).collect();
        self.lingering
            .retain(|(address, since)| !now_listed.contains(address) && now.since(*since) < LINGERS);
        for address in before {
            if !now_listed.contains(&address) && !self.lingering.iter().any(|(other, _)| *other == address) {
                self.lingering.push((address, now));
            }
        }
    }

    /// The pods of the pool as they are known now. Those that only linger come last, and leave first when
    /// there are too many.
    pub fn members(&self) -> Members {
        let mut members = Members::default();
        let mut places = std::collections::HashMap::<&str, usize>::new();
        for cluster in &self.clusters {
            let nth = members.clusters.len();
            let of_name =
                |name: &str| Cluster { name: name.to_owned(), steered: cluster.steered == Some(true) };
            members.clusters.push(of_name(&cluster.name));
            // Where there is one backend, it is the cluster.
            let several = cluster.hosts.windows(2).any(|two| matches!(two, [a, b] if a.region != b.region));
            for host in &cluster.hosts {
                let backend = (several && is_backend_of(&host.region, &cluster.name)).then(|| {
                    let backends = members.clusters.get(nth..).unwrap_or_default();
                    let known = backends.iter().position(|other| other.name == host.region);
                    known.map_or_else(
                        || {
                            members.clusters.push(of_name(&host.region));
                            members.clusters.len() - 1
                        },
                        |at| nth + at,
                    )
                });
                let place = *places.entry(&host.address).or_insert_with(|| {
                    members
                        .pods
                        .push(Member { address: host.address.clone(), candidate_of: ClusterSet::NONE });
                    members.pods.len() - 1
                });
                if let Some(member) = members.pods.get_mut(place).filter(|_| host.candidate) {
                    let of_backend = backend.map_or(ClusterSet::NONE, ClusterSet::nth);
                    member.candidate_of = member.candidate_of.with(ClusterSet::nth(nth)).with(of_backend);
                }
            }
        }
        let lingering = self.lingering.iter().map(|(address, _)| address.clone());
        members.pods.extend(lingering.map(|address| Member { address, candidate_of: ClusterSet::NONE }));
        members.pods.truncate(MAX_PODS);
        members
    }

    /// The cluster through which the pod at `address` can be scraped: one that lists it, and sends where it
    /// is told.
    pub fn cluster_of(&self, address: &str) -> Option<&str> {
        // Whatever a cluster with one host does, it reaches that one.
        let sure = |cluster: &&KnownCluster| cluster.steered == Some(true) || cluster.hosts.len() == 1;
        let lists = |cluster: &&KnownCluster| cluster.hosts.iter().any(|host| host.address == address);
        self.clusters.iter().filter(sure).find(lists).map(|cluster| cluster.name.as_str())
    }

    /// The clusters that are known not to send where they are told.
    pub fn unsteered(&self) -> impl Iterator<Item = &str> {
        self.clusters.iter().filter(|known| known.steered == Some(false)).map(|known| known.name.as_str())
    }

    fn addresses(&self) -> impl Iterator<Item = &str> {
        self.clusters.iter().flat_map(|cluster| &cluster.hosts).map(|host| host.address.as_str())
    }
}

/// Whether `name` is that of a backend of a cluster, as Envoy Gateway writes it into localities:
/// `CLUSTER/backend/2`.
fn is_backend_of(name: &str, cluster: &str) -> bool {
    name.strip_prefix(cluster).is_some_and(|rest| rest.starts_with("/backend/"))
}

impl KnownCluster {
    fn new(found: &mut ClusterHosts) -> KnownCluster {
        // A cluster of Envoy's own file never changes, and is what its author made of it.
        KnownCluster {
            name: found.name.clone(),
            steered: (!found.by_xds).then_some(true),
            hosts: std::mem::take(&mut found.hosts),
        }
    }

    /// The cluster has these hosts now. With others than before it may be another cluster of the same name.
    fn become_like(&mut self, found: &mut ClusterHosts) {
        let same = self.hosts.len() == found.hosts.len()
            && self.hosts.iter().all(|host| found.hosts.iter().any(|other| other.address == host.address));
        if found.by_xds && !same {
            self.steered = None;
        }
        self.hosts = std::mem::take(&mut found.hosts);
    }
}

/// As few queries as there can be for these clusters.
fn ask(subject: Subject, names: Vec<String>) -> Vec<Query> {
    let start = match subject {
        Subject::Hosts => admin_page::PATH,
        Subject::Steering => config_dump::PATH,
    };
    let mut queries: Vec<Query> = Vec::new();
    for name in names {
        let pattern = admin_page::pattern(&name);
        match queries.last_mut() {
            Some(query) if query.path.len() + pattern.len() < LONGEST_PATH => {
                query.path.push_str("%7C");
                query.path.push_str(&pattern);
                query.clusters.push(name);
            }
            _ => queries.push(Query {
                path: format!("{start}{pattern}"),
                asks_for: subject,
                clusters: vec![name],
            }),
        }
    }
    for query in &mut queries {
        query.path.push_str(admin_page::PATH_END);
    }
    queries
}

#[cfg(test)]
mod tests;
