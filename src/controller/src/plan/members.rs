//! Which pods belong to a pool, and in what order Envoy is told of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::facts::{PodFact, Pool};
use super::names::ObjectKey;
use crate::xds::endpoints::Place;

/// A pod of a pool that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The pod's name.
    pub pod: String,
    /// Its address.
    pub address: IpAddr,
    /// Whether new requests may go there.
    pub ready: bool,
}

/// The pods of the pool's namespace that its selector selects, in the order of their names, one for each
/// address.
///
/// Two pods may claim one address for a moment, when it is given anew before the old pod's object is gone:
/// the ready one has it, else the younger.
pub fn members(namespace: &str, pool: &Pool, pods: &BTreeMap<ObjectKey, PodFact>) -> Vec<Member> {
    let mut by_address: BTreeMap<IpAddr, (&str, &PodFact)> = BTreeMap::new();
    let first = ObjectKey::new(namespace, "");
    for (key, pod) in pods.range(first..).take_while(|(key, _)| key.namespace == namespace) {
        let Some(address) = pod.address.filter(|_| selects(pool, pod)) else { continue };
        let claim = |pod: &PodFact| (pod.ready, pod.created);
        if by_address.get(&address).is_none_or(|(_, other)| claim(pod) > claim(other)) {
            by_address.insert(address, (&key.name, pod));
        }
    }
    let member = |(address, (pod, fact)): (IpAddr, (&str, &PodFact))| Member {
        pod: pod.into(),
        address,
        ready: fact.ready,
    };
    let mut members: Vec<_> = by_address.into_iter().map(member).collect();
    members.sort_by(|a, b| a.pod.cmp(&b.pod));
    members
}

/// Each port of each member is a place of its own.
pub fn places(members: &[Member], ports: &[u16]) -> Vec<Place> {
    let place = |m: &Member, port: u16| Place { address: m.address, port, ready: m.ready };
    members.iter().flat_map(|m| ports.iter().map(move |port| place(m, *port))).collect()
}

fn selects(pool: &Pool, pod: &PodFact) -> bool {
    !pool.selector.is_empty() && pool.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pool() -> Pool {
        let selector = json!({"matchLabels": {"app": "vllm", "role": "stable"}});
        Pool::parse(&json!({"spec": {"selector": selector, "targetPorts": [{"number": 8000}]}})).unwrap()
    }

    fn pod(address: Option<u8>, ready: bool, labels: &[(&str, &str)], created: i64) -> PodFact {
        PodFact {
            labels: labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            created,
            address: address.map(|last| IpAddr::from([10, 244, 0, last])),
            ready,
        }
    }

    const OURS: [(&str, &str); 3] = [("app", "vllm"), ("role", "stable"), ("other", "x")];

    #[test]
    fn a_pod_is_a_member_by_all_its_labels_and_its_namespace() {
        let pods = BTreeMap::from([
            (ObjectKey::new("default", "b"), pod(Some(11), true, &OURS, 0)),
            (ObjectKey::new("default", "a"), pod(Some(12), false, &OURS, 0)),
            (
                ObjectKey::new("default", "drained"),
                pod(Some(13), true, &[("app", "vllm"), ("role", "drained")], 0),
            ),
            (ObjectKey::new("default", "pending"), pod(None, false, &OURS, 0)),
            (ObjectKey::new("other", "stranger"), pod(Some(14), true, &OURS, 0)),
        ]);
        let found = members("default", &pool(), &pods);
        assert_eq!(
            found.iter().map(|m| (m.pod.as_str(), m.ready)).collect::<Vec<_>>(),
            [("a", false), ("b", true)]
        );
        let mut nobody = pool();
        nobody.selector.clear();
        assert_eq!(members("default", &nobody, &pods), []);
    }

    #[test]
    fn an_address_belongs_to_the_ready_pod_then_to_the_younger() {
        let of = |pods: Vec<(&str, PodFact)>| {
            let pods = pods.into_iter().map(|(name, pod)| (ObjectKey::new("default", name), pod)).collect();
            members("default", &pool(), &pods).into_iter().map(|m| m.pod).collect::<Vec<_>>()
        };
        assert_eq!(
            of(vec![("new", pod(Some(11), true, &OURS, 5)), ("old", pod(Some(11), false, &OURS, 1))]),
            ["new"]
        );
        assert_eq!(
            of(vec![("a", pod(Some(11), false, &OURS, 1)), ("b", pod(Some(11), false, &OURS, 2))]),
            ["b"]
        );
    }

    #[test]
    fn each_port_is_a_place() {
        let members = [Member { pod: "a".into(), address: [10, 0, 0, 1].into(), ready: true }];
        assert_eq!(places(&members, &[8000, 8001]).iter().map(|p| p.port).collect::<Vec<_>>(), [8000, 8001]);
    }

    proptest! {
        #[test]
        fn an_address_is_named_once_and_is_ready_where_anybody_there_is(
            pods in prop::collection::vec((any::<bool>(), 0u8..6, 0i64..4), 0..20),
        ) {
            let pods: BTreeMap<_, _> = pods.iter().enumerate()
                .map(|(i, (ready, last, created))| (ObjectKey::new("default", format!("p{i}")), pod(Some(*last), *ready, &OURS, *created)))
                .collect();
            let found = members("default", &pool(), &pods);
            prop_assert_eq!(found.iter().map(|m| m.address).collect::<BTreeSet<_>>().len(), found.len());
            for member in &found {
                let claimed = pods.values().any(|p| p.ready && p.address == Some(member.address));
                prop_assert_eq!(member.ready, claimed);
            }
        }
    }
}
