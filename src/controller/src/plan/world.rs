//! What follows from all that is known at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::binding::Binding;
use super::facts::{Backend, Facts, Pool, Route};
use super::members::{Member, members, places};
use super::models::{self, PoolModels};
use super::names::{ClusterName, ObjectKey, PoolKey};
use super::settings::Settings;
use crate::xds::endpoints::Place;

/// What follows from the facts. Made anew whenever they change; never changed.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The pools.
    pub pools: BTreeMap<PoolKey, PoolState>,
    /// The routes, as they are.
    pub routes: BTreeMap<ObjectKey, Route>,
    /// Ports of listeners to which a route with a pool wants to attach.
    ports: BTreeSet<u16>,
}

/// A pool as Envoy and people are told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolState {
    /// The pool's generation.
    pub generation: i64,
    /// Whether its pods speak HTTP/2 without TLS.
    pub h2c: bool,
    /// Its pods that have an address.
    pub members: Vec<Member>,
    /// Each port of each of them.
    pub places: Vec<Place>,
    /// What its annotations say.
    pub settings: Settings,
    /// What is wrong with its annotations, a sentence each.
    pub problems: Vec<String>,
    /// Why nothing is sent to it; `None` where it is served.
    pub refused: Option<Refusal>,
    /// Models and objectives that refer to it.
    pub models: PoolModels,
    /// Twelve hexadecimal digits that change with whatever Envoy is told of the pool.
    pub digest: String,
}

/// Why nothing is sent to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word, as a condition has it.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl PoolState {
    fn of(key: &PoolKey, pool: &Pool, good: Settings, facts: &Facts) -> Self {
        let members = members(&key.namespace, pool, &facts.pods);
        let refused = refusal(key, pool, facts);
        let places = if refused.is_some() { Vec::new() } else { places(&members, &pool.ports) };
        let (settings, problems) = Settings::read(&pool.annotations, good);
        let mut state = PoolState {
            generation: pool.generation,
            h2c: pool.h2c,
            members,
            places,
            settings,
            problems,
            refused,
            models: models::of_pool(key, &facts.models, &facts.objectives),
            digest: String::new(),
        };
        state.digest = state.fingerprint();
        state
    }

    /// A pool that cannot be read: nothing is sent to it, and the others are served.
    fn unreadable(error: &str, settings: Settings) -> Self {
        PoolState {
            generation: i64::MAX,
            h2c: false,
            members: Vec::new(),
            places: Vec::new(),
            settings,
            problems: Vec::new(),
            refused: Some(Refusal {
                reason: "Invalid",
                message: format!("the InferencePool cannot be read: {error}"),
            }),
            models: PoolModels::default(),
            digest: "unreadable".into(),
        }
    }

    /// The number of its pods that are ready.
    pub fn ready(&self) -> usize {
        self.members.iter().filter(|member| member.ready).count()
    }

    /// The places where new requests may go, each with the name of its pod.
    pub fn ready_places(&self) -> impl Iterator<Item = (SocketAddr, &str)> {
        let names: BTreeMap<IpAddr, &str> =
            self.members.iter().map(|m| (m.address, m.pod.as_str())).collect();
        let ready = self.places.iter().filter(|place| place.ready);
        ready.filter_map(move |place| {
            Some((SocketAddr::new(place.address, place.port), *names.get(&place.address)?))
        })
    }

    /// What the module is told of the pool.
    fn metadata(&self) -> Map<String, Json> {
        let mut object = self.settings.metadata();
        object.extend(self.models.metadata());
        object
    }

    fn fingerprint(&self) -> String {
        let places =
            self.places.iter().map(|place| format!("{} {} {}", place.address, place.port, place.ready));
        let told = json!([self.h2c, self.settings.max_body, places.collect::<Vec<_>>(), self.metadata()]);
        Sha256::digest(told.to_string()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl World {
    /// What follows from the facts. `before` is the world until now: an annotation with a value that is none
    /// leaves what was in force there.
    pub fn of(facts: &Facts, before: &World, good: impl Fn(&PoolKey) -> Option<Settings>) -> World {
        let state = |(key, pool): (&PoolKey, &Result<Pool, String>)| {
            let known = before.pools.get(key).map(|state| state.settings);
            let good = known.or_else(|| good(key)).unwrap_or_default();
            let state = match pool {
                Ok(pool) => PoolState::of(key, pool, good, facts),
                Err(error) => PoolState::unreadable(error, good),
            };
            (key.clone(), state)
        };
        World {
            pools: facts.pools.iter().map(state).collect(),
            routes: facts.routes.clone(),
            ports: routed_ports(facts),
        }
    }

    /// Our copy of a rule.
    pub fn rule(&self, cluster: &ClusterName) -> Option<&super::facts::Rule> {
        self.routes.get(&cluster.route)?.rules.get(cluster.rule)
    }

    /// Whether the pool is known as Envoy Gateway knows it, or newer.
    pub fn knows(&self, pool: &PoolKey, generation: i64) -> bool {
        self.pools.get(pool).is_some_and(|state| state.generation >= generation)
    }

    /// Whether a listener with that port inside the pod has a route to a pool. Envoy Gateway adds 10,000 to
    /// ports below 1,024.
    pub fn routed_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
            || port.checked_sub(10_000).is_some_and(|outside| outside < 1024 && self.ports.contains(&outside))
    }

    /// What the module reads as property `xds.route_metadata` under our key: see
    /// `docs/adr/controller-and-module.md`.
    pub fn route_metadata(&self, cluster: &ClusterName, binding: &Binding) -> Map<String, Json> {
        let mut object = Map::new();
        object.insert("cluster".into(), json!(cluster.to_string()));
        let describe = |pool: &PoolKey| {
            let mut of_pool = self.pools.get(pool).map(PoolState::metadata).unwrap_or_default();
            of_pool.insert("pool".into(), json!(format!("{}/{}", pool.namespace, pool.name)));
            of_pool.insert("group".into(), json!(pool.group.name()));
            of_pool
        };
        let pools: Vec<Json> = match binding {
            Binding::Only(pool) => vec![Json::Object(describe(pool))],
            Binding::ByBackend(pools) => {
                let weights: Vec<u32> = self
                    .rule(cluster)
                    .map(|rule| rule.backends.iter().map(|b| b.weight).collect())
                    .unwrap_or_default();
                let with_place = |(index, pool): (usize, &Option<PoolKey>)| {
                    let mut of_pool = describe(pool.as_ref()?);
                    let backend = ClusterName { backend: Some(index), ..cluster.clone() };
                    of_pool.insert("backend".into(), json!(backend.to_string()));
                    of_pool.insert("weight".into(), json!(weights.get(index)));
                    Some(Json::Object(of_pool))
                };
                pools.iter().enumerate().filter_map(with_place).collect()
            }
        };
        object.insert("pools".into(), Json::Array(pools));
        // What has no share is not drawn.
        let backends = self.rule(cluster).map(|rule| rule.backends.as_slice()).unwrap_or_default();
        let drawn = backends.iter().enumerate().filter(|(_, backend)| backend.weight > 0);
        let shares = drawn.map(|(index, backend)| {
            let name = ClusterName { backend: Some(index), ..cluster.clone() };
            json!({"backend": name.to_string(), "weight": backend.weight})
        });
        let shares: Vec<Json> = shares.collect();
        if shares.len() > 1 {
            object.insert("backends".into(), Json::Array(shares));
        }
        object
    }

    /// The clusters of the rule's pools, where each backend has one, with their weights.
    pub fn weighted_clusters(&self, cluster: &ClusterName, binding: &Binding) -> Vec<(String, u32)> {
        let backends = self.rule(cluster).map(|rule| rule.backends.as_slice()).unwrap_or_default();
        let weighted = |(index, backend): (usize, &Backend)| {
            binding.pool(index)?;
            let name = ClusterName { backend: Some(index), ..cluster.clone() };
            (backend.pool.is_some() && backend.weight > 0).then(|| (name.to_string(), backend.weight))
        };
        backends.iter().enumerate().filter_map(weighted).collect()
    }

    /// The largest body that any of the pools takes, bytes.
    pub fn max_body(&self, binding: &Binding) -> u64 {
        let of = |pool: &PoolKey| self.pools.get(pool).map(|state| state.settings.max_body);
        binding.pools().into_iter().filter_map(of).max().unwrap_or(Settings::default().max_body)
    }
}

fn refusal(key: &PoolKey, pool: &Pool, facts: &Facts) -> Option<Refusal> {
    if facts.tls.contains(key) {
        let message = "a BackendTLSPolicy asks for TLS to this pool, which Envoy Gateway does not give to InferencePools; nothing is \
                       sent to it in plain text";
        return Some(Refusal { reason: "NotServed", message: message.into() });
    }
    let (services, picker) = (facts.services.as_ref()?, pool.picker.as_ref()?);
    let there = picker.kind == "Service" && services.contains(&ObjectKey::new(&key.namespace, &picker.name));
    (!there).then(|| Refusal {
        reason: "InvalidExtensionRef",
        message: format!("there is no {} {} in the pool's namespace", picker.kind, picker.name),
    })
}

/// The ports of the listeners that routes with pools name: by section, by port, or all of a Gateway.
fn routed_ports(facts: &Facts) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for route in facts.routes.values().filter(|route| !route.pools().is_empty()) {
        for parent in &route.parents {
            let listeners =
                facts.gateways.get(&parent.gateway).map(|g| g.listeners.as_slice()).unwrap_or_default();
            let named = |(name, port): &&(String, u16)| {
                parent.section.as_ref().is_none_or(|section| section == name)
                    && parent.port.is_none_or(|p| p == *port)
            };
            ports.extend(listeners.iter().filter(named).map(|(_, port)| *port));
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::settings::{STRATEGY, Strategy};
    use crate::plan::testing;

    fn world(facts: &Facts, before: &World) -> World {
        World::of(facts, before, |_| None)
    }

    #[test]
    fn the_digest_changes_with_what_envoy_is_told_and_nothing_else() {
        let mut facts = testing::facts();
        let first = world(&facts, &World::default());
        let digest = |world: &World| world.pools[&testing::pool("pool")].digest.clone();
        facts.pods.values_mut().for_each(|pod| {
            pod.labels.insert("other".into(), "x".into());
        });
        assert_eq!(digest(&world(&facts, &first)), digest(&first));
        facts.pods.values_mut().next().unwrap().ready = false;
        let second = world(&facts, &first);
        assert_ne!(digest(&second), digest(&first));
        testing::annotate(&mut facts, "pool", STRATEGY, "DEFAULT");
        assert_ne!(digest(&world(&facts, &second)), digest(&second));
    }

    #[test]
    fn an_unknown_strategy_leaves_the_last_good_one() {
        let mut facts = testing::facts();
        testing::annotate(&mut facts, "pool", STRATEGY, "DEFAULT");
        let first = world(&facts, &World::default());
        testing::annotate(&mut facts, "pool", STRATEGY, "NONSENSE");
        let second = world(&facts, &first);
        let state = &second.pools[&testing::pool("pool")];
        assert_eq!(state.settings.strategy, Strategy::LoadOnly);
        assert_eq!(state.problems.len(), 1);
        assert_eq!(state.digest, first.pools[&testing::pool("pool")].digest);
        // After a restart, what was in force is read from our own object.
        let good = Settings { strategy: Strategy::LoadOnly, ..Settings::default() };
        let restarted = World::of(&facts, &World::default(), |_| Some(good));
        assert_eq!(restarted.pools[&testing::pool("pool")].settings.strategy, Strategy::LoadOnly);
    }

    #[test]
    fn only_the_listeners_that_a_route_names_are_routed() {
        let world = world(&testing::facts(), &World::default());
        assert!(world.routed_port(8081) && !world.routed_port(8080) && !world.routed_port(18081));
        let mut facts = testing::facts();
        for route in facts.routes.values_mut() {
            route.parents[0].section = None;
            facts.gateways.values_mut().for_each(|g| g.listeners.push(("web".into(), 80)));
        }
        let world = World::of(&facts, &world, |_| None);
        assert!(
            world.routed_port(8080)
                && world.routed_port(80)
                && world.routed_port(10_080)
                && !world.routed_port(10_081)
        );
    }

    #[test]
    fn a_pool_without_its_picker_is_refused_only_where_that_is_asked_for() {
        let mut facts = testing::facts();
        let key = testing::pool("pool");
        if let Some(Ok(pool)) = facts.pools.get_mut(&key) {
            pool.picker = Some(crate::plan::facts::Picker { kind: "Service".into(), name: "picker".into() });
        }
        let state = |facts: &Facts| world(facts, &World::default()).pools[&key].clone();
        assert_eq!(state(&facts).places.len(), 2);
        facts.services = Some(BTreeSet::new());
        let refused = state(&facts);
        assert_eq!((refused.refused.unwrap().reason, refused.places.len()), ("InvalidExtensionRef", 0));
        facts.services = Some(BTreeSet::from([ObjectKey::new("default", "picker")]));
        assert_eq!(state(&facts).places.len(), 2);
    }

    #[test]
    fn the_module_is_told_the_shares_of_a_rule_with_several_backends() {
        let mut facts = testing::facts();
        for route in facts.routes.values_mut() {
            let backend = |weight| Backend { pool: None, weight, filters: false };
            route.rules[0].backends.extend([backend(0), backend(3)]);
        }
        let world = world(&facts, &World::default());
        let cluster = ClusterName::parse("httproute/default/pooled/rule/0").unwrap();
        let told = world.route_metadata(&cluster, &Binding::Only(testing::pool("pool")));
        assert_eq!(
            told["backends"],
            json!([{"backend": "httproute/default/pooled/rule/0/backend/0", "weight": 1},
                   {"backend": "httproute/default/pooled/rule/0/backend/2", "weight": 3}])
        );
    }

    #[test]
    fn the_module_is_told_the_pool_and_its_strategy() {
        let world = world(&testing::facts(), &World::default());
        let cluster = ClusterName::parse("httproute/default/pooled/rule/0").unwrap();
        let told = world.route_metadata(&cluster, &Binding::Only(testing::pool("pool")));
        assert_eq!(
            Json::Object(told),
            json!({"cluster": "httproute/default/pooled/rule/0", "pools": [{
                "pool": "default/pool", "group": "inference.networking.k8s.io", "strategy": "PREFIX_CACHE", "fail_open": true,
                "models": [], "objectives": []}]})
        );
    }
}
