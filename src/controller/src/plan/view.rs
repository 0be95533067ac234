//! RoutedPool, our own object: one for each pool and namespace of routes.
//!
//! It shows people what a pool is, and it makes Envoy Gateway ask the hooks again: Envoy Gateway translates
//! anew when the spec of a policy changes that targets a route. So whatever Envoy is told of a pool changes
//! the spec, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::names::{ObjectKey, PoolGroup, PoolKey};
use super::settings::{Settings, Strategy};
use super::wiring::{self, Hook};
use super::world::{PoolState, World};

/// The group of our objects.
pub const GROUP: &str = "warmpath.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Their kind.
pub const KIND: &str = "RoutedPool";
/// The plural of their kind.
pub const PLURAL: &str = "routedpools";

/// The name of the object of a pool: readable, and another for another pool.
pub fn name(pool: &PoolKey) -> String {
    let whole = format!("{}/{}/{}", pool.group.name(), pool.namespace, pool.name);
    let hash: String = Sha256::digest(whole).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let head: String = pool.name.chars().take(200).collect();
    format!("{head}-{hash}")
}

/// The specs that there shall be, without their revisions.
pub fn desired(world: &World) -> BTreeMap<ObjectKey, Json> {
    let mut routes: BTreeMap<(&str, &PoolKey), Vec<&str>> = BTreeMap::new();
    for (key, route) in &world.routes {
        for pool in route.pools() {
            routes.entry((&key.namespace, pool)).or_default().push(&key.name);
        }
    }
    let spec = |((namespace, pool), names): ((&str, &PoolKey), Vec<&str>)| {
        // The object of a pool that cannot be read stays as it is.
        let state = world.pools.get(pool).filter(|state| state.generation != i64::MAX)?;
        let target =
            |name: &str| json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": name});
        let spec = json!({
            "pool": {"group": pool.group.name(), "kind": "InferencePool", "namespace": pool.namespace, "name": pool.name},
            "targetRefs": names.into_iter().map(target).collect::<Vec<_>>(),
            "strategy": state.settings.strategy.name(),
            "failOpen": state.settings.fail_open,
            "maxBodyBytes": state.settings.max_body,
            "pods": state.members.len(),
            "ready": state.ready(),
            "digest": state.digest,
        });
        Some((ObjectKey::new(namespace, name(pool)), spec))
    };
    routes.into_iter().filter_map(spec).collect()
}

/// What a RoutedPool says of itself: its pool and its revision. `None` where it is none.
pub fn identity(object: &Json) -> Option<(PoolKey, u64)> {
    if object.get("kind")?.as_str()? != KIND {
        return None;
    }
    let pool = object.pointer("/spec/pool")?;
    let text = |key: &str| pool.get(key)?.as_str();
    let key = PoolKey {
        group: PoolGroup::parse(text("group")?)?,
        namespace: text("namespace")?.into(),
        name: text("name")?.into(),
    };
    Some((key, revision(object)))
}

/// The settings that were in force when a RoutedPool was written, for a start with an annotation that is
/// wrong.
pub fn settings(object: &Json) -> Option<Settings> {
    let spec = object.get("spec")?;
    let default = Settings::default();
    Some(Settings {
        strategy: spec.get("strategy")?.as_str().and_then(Strategy::parse)?,
        fail_open: spec.get("failOpen").and_then(Json::as_bool).unwrap_or(default.fail_open),
        max_body: spec.get("maxBodyBytes").and_then(Json::as_u64).unwrap_or(default.max_body),
    })
}

/// The revision of a RoutedPool, 0 where it has none.
pub fn revision(object: &Json) -> u64 {
    object.pointer("/spec/revision").and_then(Json::as_u64).unwrap_or(0)
}

/// The hooks that any replica was asked about the pool of a RoutedPool.
pub fn asked(object: &Json) -> BTreeSet<Hook> {
    annotation(object, wiring::ASKED).map(wiring::read).unwrap_or_default()
}

/// The annotation that names places of ready pods that refuse connections. Envoy Gateway does not look at it.
pub const REFUSING: &str = "warmpath.dev/refusing";

/// Most places that the annotation names.
const MOST_REFUSING: usize = 8;

/// The value of [`REFUSING`] of a pool; `None` where each of its places opens.
pub fn refusing(state: &PoolState, refusing: &BTreeSet<SocketAddr>) -> Option<String> {
    let refused = state.ready_places().filter(|(place, _)| refusing.contains(place));
    let named: Vec<String> = refused.map(|(place, pod)| format!("{pod} {place}")).collect();
    let more = named.len().saturating_sub(MOST_REFUSING);
    let mut text = named.into_iter().take(MOST_REFUSING).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text += &format!(", and {more} more");
    }
    (!text.is_empty()).then_some(text)
}

/// An annotation of a RoutedPool.
pub fn annotation<'a>(object: &'a Json, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(name)?.as_str()
}

/// The spec to write: `existing` is the object that is there, `raise` asks for a new revision though nothing
/// else changes. `None` where nothing is to be written.
pub fn write(existing: Option<&Json>, desired: &Json, raise: bool) -> Option<Json> {
    let spec = existing.and_then(|object| object.get("spec")?.as_object());
    let same = spec.is_some_and(|spec| {
        desired
            .as_object()
            .is_some_and(|wanted| wanted.iter().all(|(key, value)| spec.get(key) == Some(value)))
    });
    if same && !raise {
        return None;
    }
    let mut spec = desired.clone();
    if let Json::Object(spec) = &mut spec {
        spec.insert("revision".into(), json!(existing.map_or(0, revision) + 1));
    }
    Some(spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    fn desired_one() -> (ObjectKey, Json) {
        let world = World::of(&testing::facts(), &World::default(), |_| None);
        desired(&world).pop_first().unwrap()
    }

    fn object(spec: Json) -> Json {
        json!({"kind": KIND, "spec": spec, "status": {"ancestors": []}})
    }

    #[test]
    fn a_pool_and_a_namespace_of_routes_have_one_object() {
        let mut facts = testing::facts();
        let route = facts.routes.values().next().unwrap().clone();
        facts.routes.insert(ObjectKey::new("default", "again"), route.clone());
        facts.routes.insert(ObjectKey::new("other", "far"), route);
        let desired = desired(&World::of(&facts, &World::default(), |_| None));
        let targets = |spec: &Json| spec["targetRefs"].as_array().unwrap().len();
        assert_eq!(
            desired.iter().map(|(k, s)| (k.namespace.as_str(), targets(s))).collect::<Vec<_>>(),
            [("default", 2), ("other", 1)]
        );
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let (_, spec) = desired_one();
        let first = write(None, &spec, false).unwrap();
        assert_eq!(first["revision"], 1);
        let existing = object(first);
        assert_eq!(write(Some(&existing), &spec, false), None);
        assert_eq!(write(Some(&existing), &spec, true).unwrap()["revision"], 2);
        let mut changed = spec;
        changed["ready"] = json!(1);
        assert_eq!(write(Some(&existing), &changed, false).unwrap()["revision"], 2);
    }

    #[test]
    fn an_object_says_which_pool_it_is_of() {
        let (_, spec) = desired_one();
        let written = object(write(None, &spec, false).unwrap());
        assert_eq!(identity(&written), Some((testing::pool("pool"), 1)));
        assert_eq!(settings(&written), Some(Settings::default()));
        assert_eq!(identity(&json!({"kind": "Other"})), None);
    }

    #[test]
    fn places_that_refuse_are_named_with_their_pods() {
        let world = World::of(&testing::facts(), &World::default(), |_| None);
        let state = world.pools.values().next().unwrap();
        let told =
            |places: &[&str]| refusing(state, &places.iter().map(|place| place.parse().unwrap()).collect());
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["10.244.0.99:8000"]), None, "another pool's");
        assert_eq!(told(&["10.244.0.12:8000"]).unwrap(), "pod-12 10.244.0.12:8000");
        assert_eq!(
            told(&["10.244.0.11:8000", "10.244.0.12:8000"]).unwrap(),
            "pod-11 10.244.0.11:8000, pod-12 10.244.0.12:8000"
        );
    }

    #[test]
    fn pools_of_one_name_have_objects_of_two_names() {
        let stable = testing::pool("twin");
        let old = PoolKey { group: PoolGroup::Experimental, ..stable.clone() };
        assert_ne!(name(&stable), name(&old));
        assert!(name(&PoolKey { name: "x".repeat(253), ..stable }).len() < 253);
    }
}
