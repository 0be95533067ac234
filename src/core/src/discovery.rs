//! The story of discovery: ask Envoy which hosts the clusters have that requests go to, and make them the pods of the pool.
//!
//! A pod is known once per Envoy, by its address, however many clusters name it; a cluster only lists candidates. Not ready
//! is not gone: a host that drains stays a pod that is scraped and whose holdings are believed, and so does, for a while, a
//! host that no cluster lists any more, because a rule that moves takes its hosts from one cluster to another.

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
    /// Goes on from the `table` that is shared already. The pods are the hosts of `pods_of`, or of the clusters that requests
    /// go to.
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

    /// Whether there is something to ask that should not wait: a cluster that was noted since, or one of which it is not known
    /// whether it sends where it is told.
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

    /// Takes in the answer to a query. A cluster that is not in it does not exist, and is wanted no more until the next request
    /// to it.
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

    /// The pods of the pool as they are known now. Those that only linger come last, and leave first when there are too many.
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

    /// The cluster through which the pod at `address` can be scraped: one that lists it, and sends where it is told.
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

/// Whether `name` is that of a backend of a cluster, as Envoy Gateway writes it into localities: `CLUSTER/backend/2`.
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
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::shared::pod_table::Pod;
    use crate::shared::store::Map;

    const ROUTE: &str = "httproute/default/chat/rule/0";

    /// A cluster's entry in a page, each host with its `eds_health_status`.
    fn cluster(name: &str, hosts: &[(&str, &str)]) -> String {
        let host = |(ip, health): &(&str, &str)| {
            format!(
                r#"{{"address":{{"socket_address":{{"address":"{ip}","port_value":8000}}}},"health_status":{{"eds_health_status":"{health}"}}}}"#
            )
        };
        let hosts: Vec<String> = hosts.iter().map(host).collect();
        format!(r#"{{"name":"{name}","added_via_api":true,"host_statuses":[{}]}}"#, hosts.join(","))
    }

    #[test]
    fn the_backends_of_a_cluster_are_sets_of_candidates_of_their_own() {
        let host = |ip: &str, backend: usize| {
            format!(
                r#"{{"address":{{"socket_address":{{"address":"{ip}","port_value":8000}}}},"locality":{{"region":"{ROUTE}/backend/{backend}"}}}}"#
            )
        };
        let hosts = [host("10.0.0.1", 0), host("10.0.0.2", 1), host("10.0.0.3", 1)].join(",");
        let page = format!(r#"{{"cluster_statuses":[{{"name":"{ROUTE}","host_statuses":[{hosts}]}}]}}"#);
        let mut world = World::wanting(&[ROUTE]);
        let query = world.discovery.queries(&world.shared).remove(0);
        world.discovery.take(&query, page.as_bytes(), &mut world.shared, SECOND).unwrap();
        let members = world.discovery.members();
        let names: Vec<&str> = members.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        assert_eq!(names, [ROUTE, &format!("{ROUTE}/backend/0"), &format!("{ROUTE}/backend/1")]);
        let sets: Vec<u128> = members.pods.iter().map(|pod| pod.candidate_of.0).collect();
        assert_eq!(sets, [0b011, 0b101, 0b101]);
        // A collector that takes over asks for the cluster alone, and scrapes through it.
        let pods = members.pods.iter().enumerate().map(|(nth, pod)| Pod {
            id: nth as u32 + 1,
            address: pod.address.clone(),
            candidate_of: pod.candidate_of,
            ..Pod::default()
        });
        let table =
            PodTable { pods: pods.collect(), clusters: members.clusters.clone(), ..PodTable::default() };
        let next = Discovery::new(&world.keys, None, &table, SECOND);
        assert_eq!(next.members().clusters.len(), 1);
        assert_eq!(next.members().pods.len(), 3);
        assert_eq!(next.cluster_of("10.0.0.2:8000"), Some(ROUTE));
    }

    struct World {
        shared: Map,
        keys: Keys,
        discovery: Discovery,
    }

    impl World {
        fn wanting(names: &[&str]) -> World {
            let keys = Keys::of("p", 8);
            let mut shared = Map::default();
            for name in names {
                wanted::note(&keys.wanted, name.as_bytes(), &mut shared).unwrap();
            }
            let discovery = Discovery::new(&keys, None, &PodTable::default(), Micros::ZERO);
            World { shared, keys, discovery }
        }

        /// Envoy answers every query for hosts with these clusters; one for their settings it does not get.
        fn answers(&mut self, clusters: &[String], now: Micros) {
            let page = format!(r#"{{"cluster_statuses":[{}]}}"#, clusters.join(","));
            for query in self.discovery.queries(&self.shared) {
                if query.asks_for == Subject::Hosts {
                    self.discovery.take(&query, page.as_bytes(), &mut self.shared, now).unwrap();
                }
            }
        }

        /// Envoy tells of these clusters that they send where the header says; returns those that were asked for.
        fn tells(&mut self, steered: &[&str]) -> Vec<String> {
            let policy = |name: &&str| {
                format!(
                    r#"{{"cluster":{{"name":"{name}","load_balancing_policy":{{"policies":[{{"typed_extension_config":{{"typed_config":{{"override_host_sources":[{{"header":"x-warmpath-destination"}}]}}}}}}]}}}}}}"#
                )
            };
            let page =
                format!(r#"{{"configs":[{}]}}"#, steered.iter().map(policy).collect::<Vec<_>>().join(","));
            let mut asked = Vec::new();
            for query in self.discovery.queries(&self.shared) {
                if query.asks_for == Subject::Steering {
                    asked.extend(query.clusters.clone());
                    self.discovery.take(&query, page.as_bytes(), &mut self.shared, SECOND).unwrap();
                }
            }
            asked
        }

        /// Address and clusters of each pod.
        fn pods(&self) -> Vec<(String, Vec<usize>)> {
            let members = self.discovery.members();
            let of = |set: ClusterSet| {
                (0..members.clusters.len()).filter(|&nth| set.meets(ClusterSet::nth(nth))).collect()
            };
            members.pods.iter().map(|pod| (pod.address.clone(), of(pod.candidate_of))).collect()
        }
    }

    fn pod(address: &str, of: &[usize]) -> (String, Vec<usize>) {
        (format!("{address}:8000"), of.to_vec())
    }

    #[test]
    fn a_pod_of_two_clusters_is_one_and_a_draining_one_is_no_candidate() {
        let mut world = World::wanting(&["a", "b"]);
        world.answers(
            &[
                cluster("a", &[("1.0.0.1", "HEALTHY"), ("1.0.0.2", "DRAINING")]),
                cluster("b", &[("1.0.0.3", "HEALTHY"), ("1.0.0.1", "HEALTHY")]),
                cluster("nobody wants it", &[("1.0.0.9", "HEALTHY")]),
            ],
            Micros::ZERO,
        );
        assert_eq!(world.pods(), [pod("1.0.0.1", &[0, 1]), pod("1.0.0.2", &[]), pod("1.0.0.3", &[1])]);
    }

    #[test]
    fn a_rule_that_moves_keeps_its_pods_and_a_pod_that_stays_away_is_forgotten() {
        let mut world = World::wanting(&["a"]);
        world.answers(&[cluster("a", &[("1.0.0.1", "HEALTHY"), ("1.0.0.2", "HEALTHY")])], Micros::ZERO);
        world.answers(&[], SECOND);
        assert_eq!(world.pods(), [pod("1.0.0.1", &[]), pod("1.0.0.2", &[])]);
        assert_eq!(wanted::read(&world.keys.wanted, &world.shared).0, [""; 0]);
        wanted::note(&world.keys.wanted, b"b", &mut world.shared).unwrap();
        world.answers(&[cluster("b", &[("1.0.0.2", "HEALTHY")])], 2 * SECOND);
        assert_eq!(world.pods(), [pod("1.0.0.2", &[0]), pod("1.0.0.1", &[])]);
        world.answers(&[cluster("b", &[("1.0.0.2", "HEALTHY")])], SECOND + LINGERS);
        assert_eq!(world.pods(), [pod("1.0.0.2", &[0])]);
    }

    #[test]
    fn pods_are_scraped_once_their_cluster_sends_where_it_is_told() {
        let mut world = World::wanting(&["a", "one"]);
        let clusters = [
            cluster("a", &[("1.0.0.1", "HEALTHY"), ("1.0.0.2", "DRAINING")]),
            cluster("one", &[("1.0.0.3", "HEALTHY")]),
        ];
        world.answers(&clusters, SECOND);
        assert_eq!(world.discovery.cluster_of("1.0.0.1:8000"), None);
        assert_eq!(world.discovery.cluster_of("1.0.0.3:8000"), Some("one"), "there is no other host");
        // Its former settings are in force yet.
        assert_eq!(world.tells(&["one"]), ["a", "one"]);
        assert_eq!(world.discovery.cluster_of("1.0.0.1:8000"), None);
        assert_eq!(world.discovery.unsteered().collect::<Vec<_>>(), ["a"]);
        assert_eq!(world.tells(&["a"]), ["a"], "the other one is known");
        assert_eq!(world.discovery.cluster_of("1.0.0.2:8000"), Some("a"));
        assert_eq!(world.discovery.cluster_of("1.0.0.9:8000"), None);
        let own = clusters[0].replace(r#""added_via_api":true,"#, "");
        let mut world = World::wanting(&["a"]);
        world.answers(&[own], SECOND);
        assert_eq!(world.discovery.cluster_of("1.0.0.1:8000"), Some("a"), "of Envoy's own file");
    }

    #[test]
    fn a_cluster_of_the_same_name_with_other_hosts_is_asked_for_anew() {
        let mut world = World::wanting(&["a"]);
        let hosts = |first: &str, health| cluster("a", &[(first, health), ("1.0.0.2", "HEALTHY")]);
        world.answers(&[hosts("1.0.0.1", "HEALTHY")], SECOND);
        world.tells(&["a"]);
        world.answers(&[hosts("1.0.0.1", "DRAINING")], SECOND);
        assert!(!world.discovery.has_questions(&world.shared), "a host that drains is no other host");
        world.answers(&[hosts("1.0.0.7", "HEALTHY")], SECOND);
        assert!(world.discovery.has_questions(&world.shared));
        assert_eq!(world.discovery.cluster_of("1.0.0.7:8000"), None);
        assert_eq!(world.tells(&["a"]), ["a"]);
        assert_eq!(world.discovery.cluster_of("1.0.0.7:8000"), Some("a"));
    }

    #[test]
    fn a_cluster_that_was_noted_is_a_question_until_it_was_asked_for() {
        let mut world = World::wanting(&[]);
        assert!(!world.discovery.has_questions(&world.shared));
        wanted::note(&world.keys.wanted, b"a", &mut world.shared).unwrap();
        assert!(world.discovery.has_questions(&world.shared));
        assert_eq!(world.discovery.queries(&world.shared).len(), 1);
        assert!(!world.discovery.has_questions(&world.shared));
    }

    #[test]
    fn the_cluster_of_the_configuration_is_asked_for_whether_requests_go_to_it_or_not() {
        let mut world = World::wanting(&["a"]);
        world.discovery = Discovery::new(&world.keys, Some("vllm"), &PodTable::default(), Micros::ZERO);
        world.answers(
            &[cluster("vllm", &[("1.0.0.1", "HEALTHY")]), cluster("a", &[("1.0.0.2", "HEALTHY")])],
            SECOND,
        );
        assert_eq!(world.pods(), [pod("1.0.0.1", &[0])]);
        world.answers(&[], 2 * SECOND);
        assert_eq!(world.pods(), [pod("1.0.0.1", &[])]);
        world.answers(&[cluster("vllm", &[("1.0.0.1", "HEALTHY")])], 3 * SECOND);
        assert_eq!(world.pods(), [pod("1.0.0.1", &[0])]);
    }

    #[test]
    fn whoever_takes_over_goes_on_from_the_table() {
        let mut world = World::wanting(&["a"]);
        world.answers(&[cluster("a", &[("1.0.0.1", "HEALTHY"), ("1.0.0.2", "DRAINING")])], SECOND);
        let members = world.discovery.members();
        let pods = members.pods.iter().map(|member| Pod {
            id: 1,
            address: member.address.clone(),
            candidate_of: member.candidate_of,
            ..Pod::default()
        });
        let table =
            PodTable { pods: pods.collect(), clusters: members.clusters.clone(), ..PodTable::default() };
        let next = Discovery::new(&world.keys, None, &table, 2 * SECOND);
        assert_eq!(next.members(), members);
    }

    #[test]
    fn names_are_asked_for_literally_and_in_few_queries() {
        let mut world = World::wanting(&[ROUTE, "a.b+c(d)"]);
        let paths: Vec<String> =
            world.discovery.queries(&world.shared).into_iter().map(|query| query.path).collect();
        let path =
            "/clusters?format=json&filter=%5E(httproute/default/chat/rule/0%7Ca%5C.b%5C%2Bc%5C(d%5C))%24";
        assert_eq!(paths, [path]);
        let long: Vec<String> = (0..wanted::MOST).map(|n| format!("{n}{}", "x".repeat(400))).collect();
        let mut world = World::wanting(&long.iter().map(String::as_str).collect::<Vec<_>>());
        let queries = world.discovery.queries(&world.shared);
        assert!(queries.iter().all(|query| query.path.len() < LONGEST_PATH + 400));
        assert_eq!(queries.iter().map(|query| query.clusters.len()).sum::<usize>(), wanted::MOST);
    }

    #[test]
    fn a_page_that_is_no_list_of_clusters_changes_nothing() {
        let mut world = World::wanting(&["a"]);
        world.answers(&[cluster("a", &[("1.0.0.1", "HEALTHY")])], Micros::ZERO);
        let before = world.discovery.members();
        let query = world.discovery.queries(&world.shared).remove(0);
        for page in ["", "upstream connect error", "[]", r#"{"cluster_statuses":3}"#] {
            assert_eq!(
                world.discovery.take(&query, page.as_bytes(), &mut world.shared, SECOND),
                Err(NotClusters),
                "{page}"
            );
            assert_eq!(world.discovery.members(), before);
        }
    }
}
