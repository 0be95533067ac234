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
    let table = PodTable { pods: pods.collect(), clusters: members.clusters.clone(), ..PodTable::default() };
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
        let page = format!(r#"{{"configs":[{}]}}"#, steered.iter().map(policy).collect::<Vec<_>>().join(","));
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
    let table = PodTable { pods: pods.collect(), clusters: members.clusters.clone(), ..PodTable::default() };
    let next = Discovery::new(&world.keys, None, &table, 2 * SECOND);
    assert_eq!(next.members(), members);
}

#[test]
fn names_are_asked_for_literally_and_in_few_queries() {
    let mut world = World::wanting(&[ROUTE, "a.b+c(d)"]);
    let paths: Vec<String> =
        world.discovery.queries(&world.shared).into_iter().map(|query| query.path).collect();
    let path = "/clusters?format=json&filter=%5E(httproute/default/chat/rule/0%7Ca%5C.b%5C%2Bc%5C(d%5C))%24";
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
