//! What identifies an object, and the names that Envoy Gateway gives to clusters.

use std::fmt;

/// The API group and version of an InferencePool. Two groups may have pools of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PoolGroup {
    /// `inference.networking.k8s.io/v1`.
    Stable,
    /// `inference.networking.x-k8s.io/v1alpha2`.
    Experimental,
}

impl PoolGroup {
    /// Both, the stable one first.
    pub const ALL: [PoolGroup; 2] = [PoolGroup::Stable, PoolGroup::Experimental];

    /// The group's name.
    pub fn name(self) -> &'static str {
        match self {
            PoolGroup::Stable => "inference.networking.k8s.io",
            PoolGroup::Experimental => "inference.networking.x-k8s.io",
        }
    }

    /// The version of the group that has InferencePool.
    pub fn version(self) -> &'static str {
        match self {
            PoolGroup::Stable => "v1",
            PoolGroup::Experimental => "v1alpha2",
        }
    }

    /// The group of that name.
    pub fn parse(name: &str) -> Option<Self> {
        PoolGroup::ALL.into_iter().find(|group| group.name() == name)
    }
}

/// A namespaced object of a kind that the context says.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The object `name` of `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An InferencePool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// Its group.
    pub group: PoolGroup,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.group.name())
    }
}

/// The name of a cluster of Envoy Gateway's: `httproute/NAMESPACE/NAME/rule/I` is the rule's own,
/// `.../backend/J` that of one backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName {
    /// The HTTPRoute.
    pub route: ObjectKey,
    /// The index of the rule.
    pub rule: usize,
    /// The index of the backend within the rule, where the cluster is for one alone.
    pub backend: Option<usize>,
}

impl ClusterName {
    /// Reads a cluster's name, or a locality's region, which is made the same way. `None` where it is
    /// neither.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('/');
        if parts.next()? != "httproute" {
            return None;
        }
        let route = ObjectKey::new(parts.next()?, parts.next()?);
        if parts.next()? != "rule" {
            return None;
        }
        let rule = parts.next()?.parse().ok()?;
        let backend = match parts.next() {
            None => None,
            Some("backend") => Some(parts.next()?.parse().ok()?),
            Some(_) => return None,
        };
        parts.next().is_none().then_some(ClusterName { route, rule, backend })
    }

    /// The cluster of the rule that a route is made of, by the route's name:
    /// `httproute/NAMESPACE/NAME/rule/I/match/...`.
    pub fn of_route(name: &str) -> Option<Self> {
        let mut ends = name.match_indices('/').map(|(at, _)| at);
        ClusterName::parse(ends.nth(4).and_then(|end| name.get(..end)).unwrap_or(name))
    }

    /// The name of the rule's own cluster.
    pub fn of_rule(&self) -> ClusterName {
        ClusterName { backend: None, ..self.clone() }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "httproute/{}/{}/rule/{}", self.route.namespace, self.route.name, self.rule)?;
        self.backend.map_or(Ok(()), |backend| write!(f, "/backend/{backend}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_is_read_as_it_is_written(
            namespace in "[a-z0-9-]{1,20}", name in "[a-z0-9.-]{1,20}", rule in 0usize..100, backend in prop::option::of(0usize..100),
        ) {
            let cluster = ClusterName { route: ObjectKey::new(namespace, name), rule, backend };
            prop_assert_eq!(ClusterName::parse(&cluster.to_string()), Some(cluster));
        }
    }

    #[test]
    fn a_route_says_its_rule() {
        let of = |name: &str| ClusterName::of_route(name).map(|cluster| cluster.to_string());
        assert_eq!(of("httproute/a/b/rule/3/match/0/*").as_deref(), Some("httproute/a/b/rule/3"));
        assert_eq!(of("httproute/a/b/rule/3").as_deref(), Some("httproute/a/b/rule/3"));
        assert_eq!(of("grpcroute/a/b/rule/3/match/0"), None);
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "",
            "prometheus_stats",
            "httproute/a/b",
            "httproute/a/b/rule/x",
            "httproute/a/b/rule/0/backend/-1",
            "grpcroute/a/b/rule/0",
            "httproute/a/b/rule/0-mirror-0",
            "httproute/a/b/rule/0/backend/1/zone",
            "httproute/a/b/rule/0/other/1",
        ] {
            assert_eq!(ClusterName::parse(name), None, "{name}");
        }
    }
}
