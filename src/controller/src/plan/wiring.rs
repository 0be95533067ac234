//! Whether Envoy Gateway is configured to ask about a pool: seen by what it asks.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::names::PoolGroup;
use super::status::Wiring;

/// A hook of Envoy Gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// PostRouteModify.
    Route,
    /// PostEndpointsModify.
    Endpoints,
    /// PostClusterModify.
    Cluster,
    /// PostHTTPListenerModify.
    Listener,
}

impl Hook {
    /// All that a pool needs.
    pub const ALL: [Hook; 4] = [Hook::Route, Hook::Endpoints, Hook::Cluster, Hook::Listener];

    /// Its name in Envoy Gateway's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Route => "Route",
            Hook::Endpoints => "Endpoints",
            Hook::Cluster => "Cluster",
            Hook::Listener => "HTTPListener",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The annotation of a RoutedPool by which replicas tell each other which hooks were asked.
pub const ASKED: &str = "warmpath.dev/asked";

/// Envoy Gateway asks within milliseconds; after so long it is not going to.
const PATIENCE: Duration = Duration::from_secs(30);

/// The hooks as the annotation has them.
pub fn write(asked: &BTreeSet<Hook>) -> String {
    asked.iter().map(|hook| hook.name()).collect::<Vec<_>>().join(",")
}

/// The hooks of an annotation; a name that is none is left out.
pub fn read(annotation: &str) -> BTreeSet<Hook> {
    let named = |name: &str| Hook::ALL.into_iter().find(|hook| hook.name() == name);
    annotation.split(',').filter_map(named).collect()
}

/// What is known: `asked` by any replica, `waited` since the pool had its first route.
pub fn judge(group: PoolGroup, asked: &BTreeSet<Hook>, waited: Duration) -> Wiring {
    let lacking: Vec<&str> =
        Hook::ALL.into_iter().filter(|hook| !asked.contains(hook)).map(Hook::name).collect();
    if lacking.is_empty() {
        return Some(Ok(()));
    }
    if waited < PATIENCE {
        return None;
    }
    let of_pool = [Hook::Route, Hook::Endpoints, Hook::Cluster];
    Some(Err(if of_pool.iter().any(|hook| asked.contains(hook)) {
        format!(
            "Envoy Gateway's configuration lacks {} in extensionManager.hooks.xdsTranslator.post",
            lacking.join(" and ")
        )
    } else {
        format!(
            "Envoy Gateway does not ask Warmpath about this pool: its extensionManager needs InferencePool of {}/{} in \
             backendResources, RoutedPool of warmpath.dev/v1alpha1 in policyResources, the hooks Route, Endpoints, Cluster and \
             HTTPListener, and Warmpath's service; then it has to be restarted",
            group.name(),
            group.version(),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_is_read_as_it_is_written() {
        let all = BTreeSet::from(Hook::ALL);
        assert_eq!(read(&write(&all)), all);
        assert_eq!(read(""), BTreeSet::new());
        assert_eq!(read("Cluster,Nonsense"), BTreeSet::from([Hook::Cluster]));
    }

    #[test]
    fn what_lacks_is_said_after_a_while_and_not_before() {
        let judged = |asked: &[Hook], seconds| {
            judge(PoolGroup::Stable, &asked.iter().copied().collect(), Duration::from_secs(seconds))
        };
        assert_eq!(judged(&Hook::ALL, 0), Some(Ok(())));
        assert_eq!(judged(&[], 10), None);
        assert!(judged(&[Hook::Listener], 31).unwrap().unwrap_err().contains("does not ask"));
        let half = judged(&[Hook::Route, Hook::Cluster, Hook::Listener], 31).unwrap().unwrap_err();
        assert!(half.contains("lacks Endpoints in"), "{half}");
    }
}
