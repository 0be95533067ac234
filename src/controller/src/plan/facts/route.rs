//! An HTTPRoute, as far as it concerns pools.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::plan::names::{ObjectKey, PoolGroup, PoolKey};

/// An HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// The Gateways that it wants to attach to.
    pub parents: Vec<ParentRef>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// What the controllers of its parents say of it.
    pub status: Vec<RouteStatus>,
}

/// A reference from a route to a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    /// The Gateway.
    pub gateway: ObjectKey,
    /// The listener, `None` for all.
    pub section: Option<String>,
    /// The port, `None` for all.
    pub port: Option<u16>,
}

/// A rule of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its backends, in order.
    pub backends: Vec<Backend>,
    /// Pools that a RequestMirror filter sends copies to.
    pub mirrors: Vec<PoolKey>,
}

/// A backend of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The pool, `None` where it is something else.
    pub pool: Option<PoolKey>,
    /// Its weight, 1 where none is set.
    pub weight: u32,
    /// Whether filters stand at this backend.
    pub filters: bool,
}

/// What one controller says of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// The parent.
    pub parent: ParentRef,
    /// Who says it.
    pub controller: String,
    /// Condition Accepted, `None` where it is not there.
    pub accepted: Option<bool>,
    /// Reason of a condition ResolvedRefs that is False.
    pub unresolved: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    parent_refs: Vec<RawParent>,
    rules: Vec<RawRule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawParent {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    section_name: Option<String>,
    port: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawRule {
    backend_refs: Vec<RawBackend>,
    filters: Vec<RawFilter>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawFilter {
    request_mirror: Option<RawMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMirror {
    backend_ref: RawBackend,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawBackend {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    weight: Option<u32>,
    filters: Vec<Json>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    parents: Vec<RawParentStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawParentStatus {
    parent_ref: RawParent,
    controller_name: String,
    conditions: Vec<RawCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    r#type: String,
    status: String,
    reason: String,
}

impl RawParent {
    /// The reference, `None` where it is to something else than a Gateway.
    fn read(self, namespace: &str) -> Option<ParentRef> {
        let gateway = self.group.is_none_or(|group| group == "gateway.networking.k8s.io")
            && self.kind.is_none_or(|kind| kind == "Gateway");
        gateway.then(|| ParentRef {
            gateway: ObjectKey::new(self.namespace.unwrap_or_else(|| namespace.into()), self.name),
            section: self.section_name,
            port: self.port,
        })
    }
}

impl RawBackend {
    fn pool(&self, namespace: &str) -> Option<PoolKey> {
        if self.kind.as_deref() != Some("InferencePool") {
            return None;
        }
        Some(PoolKey {
            group: PoolGroup::parse(self.group.as_deref()?)?,
            namespace: self.namespace.clone().unwrap_or_else(|| namespace.into()),
            name: self.name.clone(),
        })
    }

    fn read(&self, namespace: &str) -> Backend {
        Backend {
            pool: self.pool(namespace),
            weight: self.weight.unwrap_or(1),
            filters: !self.filters.is_empty(),
        }
    }
}

impl RawRule {
    fn read(&self, namespace: &str) -> Rule {
        let mirror = |filter: &RawFilter| filter.request_mirror.as_ref()?.backend_ref.pool(namespace);
        Rule {
            backends: self.backend_refs.iter().map(|backend| backend.read(namespace)).collect(),
            mirrors: self.filters.iter().filter_map(mirror).collect(),
        }
    }
}

impl RawParentStatus {
    fn read(self, namespace: &str) -> Option<RouteStatus> {
        let condition = |kind: &str| self.conditions.iter().find(|c| c.r#type == kind);
        Some(RouteStatus {
            accepted: condition("Accepted").map(|c| c.status == "True"),
            unresolved: condition("ResolvedRefs").filter(|c| c.status == "False").map(|c| c.reason.clone()),
            controller: self.controller_name,
            parent: self.parent_ref.read(namespace)?,
        })
    }
}

impl Route {
    /// Reads an HTTPRoute of that namespace.
    ///
    /// # Errors
    /// Where a field has another shape than the API says; the text names it.
    pub fn parse(namespace: &str, object: &Json) -> Result<Self, String> {
        let raw = Raw::deserialize(object).map_err(|error| error.to_string())?;
        Ok(Route {
            parents: raw.spec.parent_refs.into_iter().filter_map(|parent| parent.read(namespace)).collect(),
            rules: raw.spec.rules.iter().map(|rule| rule.read(namespace)).collect(),
            status: raw.status.parents.into_iter().filter_map(|parent| parent.read(namespace)).collect(),
        })
    }

    /// The pools that its rules send to.
    pub fn pools(&self) -> BTreeSet<&PoolKey> {
        self.rules
            .iter()
            .flat_map(|rule| &rule.backends)
            .filter_map(|backend| backend.pool.as_ref())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_is_read_with_its_backends_in_order() {
        let pool = |name: &str| json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name});
        let mut elsewhere = pool("pool");
        elsewhere["namespace"] = json!("models");
        elsewhere["filters"] = json!([{}]);
        let mut stranger = pool("stranger");
        stranger["group"] = json!("example.com");
        let route = Route::parse(
            "default",
            &json!({
                "spec": {
                    "parentRefs": [{"name": "eg", "sectionName": "routed"}, {"kind": "Service", "group": "", "name": "mesh"}],
                    "rules": [{
                        "backendRefs": [{"name": "svc", "port": 8000, "weight": 0}, elsewhere, stranger],
                        "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": pool("copy")}}],
                    }],
                },
                "status": {"parents": [{"parentRef": {"name": "eg"}, "controllerName": "x", "conditions": [
                    {"type": "Accepted", "status": "True", "reason": "Accepted"},
                    {"type": "ResolvedRefs", "status": "False", "reason": "RefNotPermitted"}]}]},
            }),
        )
        .unwrap();
        assert_eq!(route.parents.len(), 1);
        let key = PoolKey { group: PoolGroup::Stable, namespace: "models".into(), name: "pool".into() };
        let backend = |pool, weight, filters| Backend { pool, weight, filters };
        assert_eq!(
            route.rules[0].backends,
            [backend(None, 0, false), backend(Some(key.clone()), 1, true), backend(None, 1, false)]
        );
        assert_eq!(route.pools(), BTreeSet::from([&key]));
        assert_eq!(route.rules[0].mirrors[0].name, "copy");
        assert_eq!(route.status[0].accepted, Some(true));
        assert_eq!(route.status[0].unresolved.as_deref(), Some("RefNotPermitted"));
    }
}
