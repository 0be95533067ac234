//! What is said of a pool in its status: one entry for each Gateway of Envoy Gateway's that refers to it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::condition::{Condition, News, merge, news};
use super::facts::{Facts, Pool, Route};
use super::names::{ObjectKey, PoolGroup, PoolKey};
use super::world::PoolState;

/// Who we are in `controllerName`.
pub const CONTROLLER: &str = "warmpath.dev/controller";
/// Whether Envoy Gateway asks about the pool.
pub const SERVING: &str = "warmpath.dev/Serving";
/// Whether the annotations can be read; also the mark of our entries in the API that has no `controllerName`.
const SETTINGS: &str = "warmpath.dev/SettingsValid";
const ROUTES: &str = "warmpath.dev/RoutesComplete";

/// What is known of the wiring to Envoy Gateway: `None` while it is too early to say, a sentence where
/// something lacks.
pub type Wiring = Option<Result<(), String>>;

/// A status to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewStatus {
    /// The fields of the status that change.
    pub status: Json,
    /// What is new in it, each thing once.
    pub news: Vec<News>,
}

/// The status that the pool shall have, `None` where it has it. `envoy_gateway`: the controller name of its
/// GatewayClasses.
pub fn pool_status(
    key: &PoolKey,
    pool: &Pool,
    state: &PoolState,
    facts: &Facts,
    envoy_gateway: &str,
    wiring: &Wiring,
    now: &str,
) -> Option<NewStatus> {
    let field = match key.group {
        PoolGroup::Stable => "parents",
        PoolGroup::Experimental => "parent",
    };
    let before = pool.status.get(field).and_then(Json::as_array).cloned().unwrap_or_default();
    let (ours, others): (Vec<Json>, Vec<Json>) = before.iter().cloned().partition(is_ours);
    let mut entries: Vec<Json> = others.into_iter().filter(|entry| !is_placeholder(entry)).collect();
    let mut told = BTreeSet::new();
    for (gateway, accepted) in parents(key, facts, envoy_gateway) {
        let entry = ours.iter().find(|entry| gateway_of(entry, &key.namespace).as_ref() == Some(&gateway));
        let existing = entry.and_then(|entry| entry.get("conditions")).unwrap_or(&Json::Null);
        let wanted = conditions(key, pool, state, facts, accepted, wiring);
        let merged = merge(existing, &wanted, pool.generation, now);
        told.extend(news(existing, &merged));
        let mut written = Map::new();
        written.insert("conditions".into(), Json::Array(merged));
        if key.group == PoolGroup::Stable {
            written.insert("controllerName".into(), json!(CONTROLLER));
        }
        let reference = json!({
            "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": gateway.namespace, "name": gateway.name,
        });
        written.insert("parentRef".into(), reference);
        entries.push(Json::Object(written));
    }
    if entries.is_empty() && key.group == PoolGroup::Experimental {
        // The API asks for the placeholder back when nobody manages the pool.
        entries.extend(before.iter().find(|entry| is_placeholder(entry)).cloned().or_else(|| {
            (!ours.is_empty()).then(|| json!({"parentRef": {"kind": "Status", "name": "default"}, "conditions": [{
                "type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "Waiting for controller",
                "lastTransitionTime": "1970-01-01T00:00:00Z"}]}))
        }));
    }
    (!same(&before, &entries))
        .then(|| NewStatus { status: json!({field: entries}), news: told.into_iter().collect() })
}

/// The Gateways of Envoy Gateway's that routes to the pool attach to, and whether one of these routes is
/// accepted there.
fn parents(key: &PoolKey, facts: &Facts, envoy_gateway: &str) -> BTreeMap<ObjectKey, bool> {
    let mut parents = BTreeMap::new();
    for (route_key, route) in &facts.routes {
        if !route.pools().contains(key) {
            continue;
        }
        for status in route.status.iter().filter(|status| status.controller == envoy_gateway) {
            let foreign = key.namespace != route_key.namespace;
            let refused = foreign && status.unresolved.as_deref() == Some("RefNotPermitted");
            let asked_for = route.parents.contains(&status.parent);
            if let Some(accepted) = status.accepted.filter(|_| !refused && asked_for)
                && facts.gateways.contains_key(&status.parent.gateway)
            {
                *parents.entry(status.parent.gateway.clone()).or_insert(false) |= accepted;
            }
        }
    }
    parents
}

fn conditions(
    key: &PoolKey,
    pool: &Pool,
    state: &PoolState,
    facts: &Facts,
    accepted: bool,
    wiring: &Wiring,
) -> Vec<Condition> {
    let said = |kind, status, reason, message: String| Condition { kind, status, reason, message };
    let mut all = vec![if accepted {
        said("Accepted", true, "Accepted", "the Gateway routes to this pool".into())
    } else {
        said(
            "Accepted",
            false,
            "HTTPRouteNotAccepted",
            "no HTTPRoute to this pool is accepted by the Gateway; its status says why".into(),
        )
    }];
    let unused = pool.picker.as_ref().map_or_else(String::new, |picker| {
        format!("; {} {} is not asked, for Warmpath chooses pods inside Envoy", picker.kind, picker.name)
    });
    all.push(match &state.refused {
        None => said("ResolvedRefs", true, "ResolvedRefs", format!("all references are resolved{unused}")),
        Some(refusal) => said("ResolvedRefs", false, refusal.reason, refusal.message.clone()),
    });
    match wiring {
        None => {}
        Some(Ok(())) => {
            all.push(said(SERVING, true, "Asked", "Envoy Gateway asks Warmpath about this pool".into()))
        }
        Some(Err(lack)) => all.push(said(SERVING, false, "NotAsked", lack.clone())),
    }
    all.push(if state.problems.is_empty() {
        said(SETTINGS, true, "Valid", format!("strategy {}", state.settings.strategy.name()))
    } else {
        said(SETTINGS, false, "Invalid", state.problems.join("; "))
    });
    let lacks: Vec<String> =
        facts.routes.iter().flat_map(|(name, route)| not_served(key, name, route)).collect();
    all.push(if lacks.is_empty() {
        said(ROUTES, true, "Served", "everything that stands in the routes beside this pool is served".into())
    } else {
        said(ROUTES, false, "NotServed", lacks.join("; "))
    });
    all
}

/// What a route has beside a pool that Envoy Gateway does not serve for it, a sentence each.
fn not_served(key: &PoolKey, name: &ObjectKey, route: &Route) -> Vec<String> {
    let mut lacks = Vec::new();
    for (index, rule) in route.rules.iter().enumerate() {
        if rule.backends.iter().any(|backend| backend.filters && backend.pool.as_ref() == Some(key)) {
            lacks.push(format!("HTTPRoute {name}, rule {index}: filters of a backendRef to a pool are not served; put them on the rule"));
        }
        // A pool that gets nothing but copies has no Gateway in its status, so its neighbours tell.
        let is_backend = rule.backends.iter().any(|backend| backend.pool.as_ref() == Some(key));
        if rule.mirrors.contains(key) || (is_backend && !rule.mirrors.is_empty()) {
            lacks.push(format!(
                "HTTPRoute {name}, rule {index}: Envoy Gateway cannot do a RequestMirror to a pool, and answers every request of \
                 the rule with 500; mirror to a Service"
            ));
        }
    }
    lacks
}

/// An entry is ours by its controller, or by our mark where the API has no controller.
fn is_ours(entry: &Json) -> bool {
    match entry.get("controllerName").and_then(Json::as_str) {
        Some(controller) => controller == CONTROLLER,
        None => entry
            .pointer("/conditions")
            .and_then(Json::as_array)
            .is_some_and(|all| all.iter().any(|c| c.get("type").and_then(Json::as_str) == Some(SETTINGS))),
    }
}

/// The entry that the older API's default writes: nobody manages the pool.
fn is_placeholder(entry: &Json) -> bool {
    entry.pointer("/parentRef/kind").and_then(Json::as_str) == Some("Status")
}

fn gateway_of(entry: &Json, namespace: &str) -> Option<ObjectKey> {
    let reference = entry.get("parentRef")?;
    let text = |key: &str| reference.get(key).and_then(Json::as_str);
    Some(ObjectKey::new(text("namespace").unwrap_or(namespace), text("name")?))
}

/// Whether two lists have the same entries: their order says nothing.
fn same(before: &[Json], after: &[Json]) -> bool {
    before.len() == after.len() && after.iter().all(|entry| before.contains(entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::settings::STRATEGY;
    use crate::plan::{World, testing};

    fn status(facts: &Facts, wiring: &Wiring, now: &str) -> Option<Json> {
        let key = testing::pool("pool");
        let world = World::of(facts, &World::default(), |_| None);
        let pool = facts.pools[&key].as_ref().unwrap();
        pool_status(&key, pool, &world.pools[&key], facts, testing::CONTROLLER, wiring, now)
            .map(|new| new.status)
    }

    fn write(facts: &mut Facts, status: Json) {
        if let Some(Ok(pool)) = facts.pools.get_mut(&testing::pool("pool")) {
            pool.status = status;
        }
    }

    fn condition<'a>(status: &'a Json, entry: usize, kind: &str) -> &'a Json {
        status["parents"][entry]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
    }

    #[test]
    fn a_gateway_with_an_accepted_route_has_an_entry_and_it_is_written_once() {
        let mut facts = testing::facts();
        let first = status(&facts, &Some(Ok(())), "t1").unwrap();
        assert_eq!(first["parents"][0]["parentRef"]["name"], "eg");
        for kind in ["Accepted", "ResolvedRefs", SERVING, SETTINGS, ROUTES] {
            assert_eq!(condition(&first, 0, kind)["status"], "True", "{kind}");
        }
        write(&mut facts, first);
        assert_eq!(status(&facts, &Some(Ok(())), "t2"), None);
    }

    #[test]
    fn the_entry_goes_with_the_route_and_others_stay_to_the_byte() {
        let mut facts = testing::facts();
        let other = json!({"controllerName": "example.com/other", "parentRef": {"name": "eg"}, "conditions": [{"type": "Accepted"}], "extra": 1});
        let mut both = status(&facts, &None, "t1").unwrap();
        both["parents"].as_array_mut().unwrap().insert(0, other.clone());
        write(&mut facts, both);
        assert_eq!(status(&facts, &None, "t2"), None);
        facts.routes.clear();
        assert_eq!(status(&facts, &None, "t2"), Some(json!({"parents": [other]})));
    }

    #[test]
    fn a_route_of_another_controller_or_gateway_makes_no_entry() {
        let mut facts = testing::facts();
        facts.routes.values_mut().for_each(|route| route.status[0].controller = "example.com/other".into());
        assert_eq!(status(&facts, &None, "t"), None);
        let mut facts = testing::facts();
        facts.gateways.clear();
        assert_eq!(status(&facts, &None, "t"), None);
    }

    #[test]
    fn a_route_that_is_refused_is_said() {
        let mut facts = testing::facts();
        facts.routes.values_mut().for_each(|route| route.status[0].accepted = Some(false));
        let written = status(&facts, &None, "t").unwrap();
        assert_eq!(condition(&written, 0, "Accepted")["reason"], "HTTPRouteNotAccepted");
    }

    #[test]
    fn what_is_not_served_and_what_is_wrong_is_said() {
        let mut facts = testing::facts();
        testing::annotate(&mut facts, "pool", STRATEGY, "NONSENSE");
        facts.routes.values_mut().for_each(|route| route.rules[0].backends[0].filters = true);
        facts.tls.insert(testing::pool("pool"));
        let written = status(&facts, &Some(Err("hook Endpoints is missing".into())), "t").unwrap();
        assert!(condition(&written, 0, SETTINGS)["message"].as_str().unwrap().contains("NONSENSE"));
        assert!(condition(&written, 0, ROUTES)["message"].as_str().unwrap().contains("filters"));
        assert!(condition(&written, 0, "ResolvedRefs")["message"].as_str().unwrap().contains("TLS"));
        assert!(condition(&written, 0, SERVING)["message"].as_str().unwrap().contains("Endpoints"));
    }

    #[test]
    fn the_older_api_has_its_placeholder_back_when_nobody_refers() {
        let mut facts = testing::facts();
        let key = PoolKey { group: PoolGroup::Experimental, ..testing::pool("pool") };
        let pool = facts.pools.remove(&testing::pool("pool")).unwrap();
        facts.pools.insert(key.clone(), pool);
        let of = |facts: &Facts| {
            let world = World::of(facts, &World::default(), |_| None);
            let pool = facts.pools[&key].as_ref().unwrap();
            pool_status(&key, pool, &world.pools[&key], facts, testing::CONTROLLER, &None, "t")
                .map(|new| new.status)
        };
        let placeholder = json!({"parentRef": {"kind": "Status", "name": "default"}, "conditions": []});
        let set = |facts: &mut Facts, status: Json| {
            if let Some(Ok(pool)) = facts.pools.get_mut(&key) {
                pool.status = status;
            }
        };
        set(&mut facts, json!({"parent": [placeholder.clone()]}));
        assert_eq!(of(&facts), None);
        let refer = |facts: &mut Facts, group: PoolGroup| {
            facts
                .routes
                .values_mut()
                .for_each(|r| r.rules[0].backends[0].pool.as_mut().unwrap().group = group);
        };
        refer(&mut facts, PoolGroup::Experimental);
        let written = of(&facts).unwrap();
        assert_eq!(written["parent"].as_array().unwrap().len(), 1);
        assert_eq!(written["parent"][0]["parentRef"]["kind"], "Gateway");
        set(&mut facts, written);
        assert_eq!(of(&facts), None);
        refer(&mut facts, PoolGroup::Stable);
        assert_eq!(of(&facts).unwrap()["parent"][0]["parentRef"]["kind"], "Status");
    }
}
