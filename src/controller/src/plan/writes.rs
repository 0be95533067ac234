//! All that is to be written: the difference between what shall be and what is there. Nothing to do is an
//! empty list.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value as Json, json};

use super::condition::{Condition, News, merge, news};
use super::facts::Facts;
use super::models::{self, Verdict};
use super::names::{ObjectKey, PoolKey};
use super::status::{NewStatus, Wiring, pool_status};
use super::view;
use super::world::World;

/// One write to the API server. `version` is the `resourceVersion` that it follows from: where the object has
/// changed since, the write is refused, and what follows from the change is written instead.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A RoutedPool that is not there.
    CreateView {
        /// Its name.
        key: ObjectKey,
        /// Its spec.
        spec: Json,
    },
    /// A RoutedPool with another spec.
    UpdateView {
        /// Its name.
        key: ObjectKey,
        /// Its spec.
        spec: Json,
        /// What it follows from.
        version: String,
    },
    /// A RoutedPool with another annotation, which Envoy Gateway does not look at.
    AnnotateView {
        /// Its name.
        key: ObjectKey,
        /// The annotation.
        name: &'static str,
        /// Its value; `None` takes it away.
        value: Option<String>,
        /// What is new, for people, and of which pool.
        news: Option<(PoolKey, News)>,
        /// What it follows from.
        version: String,
    },
    /// A RoutedPool whose pool or routes are gone.
    DeleteView {
        /// Its name.
        key: ObjectKey,
    },
    /// The status of an InferencePool.
    PoolStatus {
        /// The pool.
        pool: PoolKey,
        /// The fields of the status that change.
        status: Json,
        /// What is new in it.
        news: Vec<News>,
        /// What it follows from.
        version: String,
    },
    /// The status of an InferenceModel or InferenceObjective.
    ModelStatus {
        /// Which of the two.
        kind: ModelKind,
        /// Its name.
        key: ObjectKey,
        /// The status.
        status: Json,
        /// What is new in it.
        news: Vec<News>,
        /// What it follows from.
        version: String,
    },
}

/// A kind whose objects refer to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// InferenceModel.
    Model,
    /// InferenceObjective.
    Objective,
}

/// What `writes` is told beside the facts.
pub struct Circumstances<'a> {
    /// The controller name of Envoy Gateway's classes.
    pub envoy_gateway: &'a str,
    /// What is known of the wiring, for each pool.
    pub wiring: &'a dyn Fn(&PoolKey) -> Wiring,
    /// Places that refuse connections; `None` while it is too early to say.
    pub refusing: Option<&'a BTreeSet<SocketAddr>>,
    /// RFC 3339, UTC.
    pub now: &'a str,
}

/// All that is to be written.
pub fn writes(facts: &Facts, world: &World, circumstances: &Circumstances<'_>) -> Vec<Write> {
    let mut writes = views(facts, world);
    if let Some(refusing) = circumstances.refusing {
        writes.extend(refusals(facts, world, refusing));
    }
    for (key, pool) in &facts.pools {
        let (Ok(pool), Some(state)) = (pool, world.pools.get(key)) else { continue };
        let Circumstances { envoy_gateway, wiring, now, .. } = circumstances;
        let new = pool_status(key, pool, state, facts, envoy_gateway, &wiring(key), now);
        writes.extend(new.map(|NewStatus { status, news }| Write::PoolStatus {
            pool: key.clone(),
            status,
            news,
            version: pool.version.clone(),
        }));
    }
    let exists = |pool: &PoolKey| facts.pools.contains_key(pool);
    let of_models = models::verdicts(&facts.models, exists);
    let of_objectives = models::objective_verdicts(&facts.objectives, exists);
    for (kind, objects, verdicts) in [
        (ModelKind::Model, &facts.models, of_models),
        (ModelKind::Objective, &facts.objectives, of_objectives),
    ] {
        for (key, verdict) in verdicts {
            writes.extend(
                objects
                    .get(&key)
                    .and_then(|object| model_status(kind, key, object, verdict, circumstances.now)),
            );
        }
    }
    writes
}

fn views(facts: &Facts, world: &World) -> Vec<Write> {
    let desired = view::desired(world);
    let mut writes = Vec::new();
    for (key, spec) in &desired {
        let existing = facts.views.get(key);
        let Some(spec) = view::write(existing, spec, false) else { continue };
        writes.push(match existing {
            None => Write::CreateView { key: key.clone(), spec },
            Some(object) => Write::UpdateView { key: key.clone(), spec, version: version(object) },
        });
    }
    for (key, object) in &facts.views {
        // A pool that cannot be read for a moment is still there, and so is its object.
        let unreadable =
            view::identity(object).is_some_and(|(pool, _)| matches!(facts.pools.get(&pool), Some(Err(_))));
        if !desired.contains_key(key) && !unreadable {
            writes.push(Write::DeleteView { key: key.clone() });
        }
    }
    writes
}

/// What RoutedPools say of places that refuse connections.
fn refusals(facts: &Facts, world: &World, refusing: &BTreeSet<SocketAddr>) -> Vec<Write> {
    let annotate = |(key, object): (&ObjectKey, &Json)| {
        let (pool, _) = view::identity(object)?;
        let value = view::refusing(world.pools.get(&pool)?, refusing);
        if value.as_deref() == view::annotation(object, view::REFUSING) {
            return None;
        }
        let news = match &value {
            Some(places) => News {
                warning: true,
                reason: "NotListening".into(),
                message: format!("ready and refuses connections: {places}"),
            },
            None => News {
                warning: false,
                reason: "Listening".into(),
                message: "no ready pod refuses connections any more".into(),
            },
        };
        Some(Write::AnnotateView {
            key: key.clone(),
            name: view::REFUSING,
            value,
            news: Some((pool, news)),
            version: version(object),
        })
    };
    facts.views.iter().filter_map(annotate).collect()
}

fn model_status(
    kind: ModelKind,
    key: ObjectKey,
    object: &Json,
    verdict: Verdict,
    now: &str,
) -> Option<Write> {
    let generation = object.pointer("/metadata/generation").and_then(Json::as_i64).unwrap_or(0);
    let existing = object.pointer("/status/conditions").unwrap_or(&Json::Null);
    let wanted = Condition {
        kind: "Accepted",
        status: verdict.accepted,
        reason: verdict.reason,
        message: verdict.message,
    };
    let merged = Json::Array(merge(existing, &[wanted], generation, now));
    (merged != *existing).then(|| Write::ModelStatus {
        kind,
        key,
        news: news(existing, merged.as_array().map(Vec::as_slice).unwrap_or_default()),
        status: json!({"conditions": merged}),
        version: version(object),
    })
}

/// The `resourceVersion` of an object.
pub fn version(object: &Json) -> String {
    object.pointer("/metadata/resourceVersion").and_then(Json::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::Pool;
    use crate::plan::testing;

    fn all(facts: &Facts) -> Vec<Write> {
        all_with(facts, Some(&[]))
    }

    fn all_with(facts: &Facts, refusing: Option<&[&str]>) -> Vec<Write> {
        let refusing: Option<BTreeSet<SocketAddr>> =
            refusing.map(|places| places.iter().map(|place| place.parse().unwrap()).collect());
        let world = World::of(facts, &World::default(), |_| None);
        let wiring = |_: &PoolKey| Some(Ok(()));
        writes(
            facts,
            &world,
            &Circumstances {
                envoy_gateway: testing::CONTROLLER,
                wiring: &wiring,
                refusing: refusing.as_ref(),
                now: "t",
            },
        )
    }

    /// The facts after the writes are done.
    fn apply(facts: &mut Facts, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::CreateView { key, spec } | Write::UpdateView { key, spec, .. } => {
                    facts.views.insert(
                        key,
                        json!({"kind": view::KIND, "metadata": {"resourceVersion": "5"}, "spec": spec}),
                    );
                }
                Write::AnnotateView { key, name, value, .. } => {
                    facts.views.get_mut(&key).unwrap()["metadata"]["annotations"] = json!({name: value});
                }
                Write::DeleteView { key } => {
                    facts.views.remove(&key);
                }
                Write::PoolStatus { pool, status, .. } => {
                    if let Some(Ok(pool)) = facts.pools.get_mut(&pool) {
                        pool.status = status;
                    }
                }
                Write::ModelStatus { kind, key, status, .. } => {
                    let objects =
                        if kind == ModelKind::Model { &mut facts.models } else { &mut facts.objectives };
                    objects.get_mut(&key).unwrap()["status"] = status;
                }
            }
        }
    }

    #[test]
    fn after_one_round_nothing_is_left_to_write() {
        let mut facts = testing::facts();
        let model = json!({"metadata": {"generation": 1}, "spec": {"modelName": "m",
            "poolRef": {"name": "pool", "group": "inference.networking.k8s.io"}}});
        facts.models.insert(ObjectKey::new("default", "m"), model);
        let objective = json!({"spec": {"priority": 1, "poolRef": {"name": "gone"}}});
        facts.objectives.insert(ObjectKey::new("default", "o"), objective);
        let first = all(&facts);
        assert_eq!(first.len(), 4);
        apply(&mut facts, first);
        assert_eq!(all(&facts), []);
        // What alters no endpoint writes nothing.
        facts.pods.values_mut().for_each(|pod| {
            pod.labels.insert("note".into(), "x".into());
        });
        assert_eq!(all(&facts), []);
        // One pod that turns not ready is one write.
        facts.pods.values_mut().next().unwrap().ready = false;
        let after = all(&facts);
        assert!(
            matches!(after.as_slice(), [Write::UpdateView { version, .. }] if version == "5"),
            "{after:?}"
        );
    }

    #[test]
    fn a_place_that_refuses_is_annotated_once_and_unannotated_once() {
        let mut facts = testing::facts();
        let first = all(&facts);
        apply(&mut facts, first);
        const REFUSES: Option<&[&str]> = Some(&["10.244.0.12:8000"]);
        let told = all_with(&facts, REFUSES);
        let [Write::AnnotateView { value: Some(value), news: Some((_, news)), .. }] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert_eq!(value, "pod-12 10.244.0.12:8000");
        assert!(news.warning && news.message.contains("pod-12"));
        apply(&mut facts, told);
        assert_eq!(all_with(&facts, REFUSES), []);
        assert_eq!(all_with(&facts, None), [], "a replica that begins to lead knows less");
        let back = all(&facts);
        assert!(matches!(back.as_slice(), [Write::AnnotateView { value: None, .. }]), "{back:?}");
        apply(&mut facts, back);
        assert_eq!(all(&facts), []);
    }

    #[test]
    fn an_object_goes_with_its_route_but_not_with_a_pool_that_cannot_be_read() {
        let mut facts = testing::facts();
        let first = all(&facts);
        apply(&mut facts, first);
        let unreadable = Pool::parse(&json!({"spec": {}}));
        let good = facts.pools.insert(testing::pool("pool"), unreadable).unwrap();
        assert_eq!(all(&facts), []);
        facts.pools.insert(testing::pool("pool"), good);
        facts.routes.clear();
        let after = all(&facts);
        assert!(
            matches!(after.as_slice(), [Write::DeleteView { .. }, Write::PoolStatus { .. }]),
            "{after:?}"
        );
    }
}
