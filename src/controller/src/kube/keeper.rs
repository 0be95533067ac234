//! Keeps the facts: takes in what the watches see, and tells what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use serde_json::Value as Json;
use tokio::sync::{mpsc, watch};

use super::kinds::Kind;
use super::watch::Change;
use crate::plan::facts::{Gateway, PodFact, Pool, Route};
use crate::plan::{Facts, ObjectKey, PoolGroup, PoolKey, World, view};
use crate::telemetry::Metrics;

/// The facts and what follows from them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The facts.
    pub facts: Arc<Facts>,
    /// What follows.
    pub world: Arc<World>,
}

/// Takes changes in until nobody sends any. Nothing is told before so many kinds were listed once.
pub async fn keep(
    mut changes: mpsc::Receiver<Change>,
    kinds: usize,
    worlds: watch::Sender<Arc<World>>,
    snapshots: watch::Sender<Option<Snapshot>>,
    metrics: Arc<Metrics>,
) {
    let mut keeper = Keeper::default();
    while let Some(change) = changes.recv().await {
        let mut changed = keeper.take(change);
        // What has come meanwhile is one step.
        while let Ok(change) = changes.try_recv() {
            changed |= keeper.take(change);
        }
        if !changed || keeper.listed.len() < kinds {
            continue;
        }
        let snapshot = keeper.snapshot(&worlds.borrow());
        metrics.tell(&snapshot.facts, &snapshot.world);
        worlds.send_replace(snapshot.world.clone());
        snapshots.send_replace(Some(snapshot));
    }
}

#[derive(Default)]
struct Keeper {
    facts: Facts,
    tls: BTreeMap<ObjectKey, BTreeSet<PoolKey>>,
    listed: BTreeSet<Kind>,
}

impl Keeper {
    /// Takes a change in; `false` where nothing follows from it.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::All { kind, objects, .. } => {
                let first = self.listed.insert(kind);
                let before = std::mem::take(&mut self.facts);
                let tls = self.tls.clone();
                self.facts = before.clone();
                self.clear(kind);
                for object in objects {
                    self.set(kind, object);
                }
                first || self.tls != tls || !same(&self.facts, &before)
            }
            Change::Set(kind, object) => self.set(kind, *object),
            Change::Gone(kind, object) => self.gone(kind, &object),
        }
    }

    fn snapshot(&mut self, before: &World) -> Snapshot {
        self.facts.tls = self.tls.values().flatten().cloned().collect();
        let good = |pool: &PoolKey| {
            let of_pool = |object: &&Json| view::identity(object).is_some_and(|(key, _)| key == *pool);
            self.facts.views.values().find(of_pool).and_then(view::settings)
        };
        let world = Arc::new(World::of(&self.facts, before, good));
        Snapshot { facts: Arc::new(self.facts.clone()), world }
    }

    fn clear(&mut self, kind: Kind) {
        match kind {
            Kind::Pool(group) => self.facts.pools.retain(|key, _| key.group != group),
            Kind::Pod => self.facts.pods.clear(),
            Kind::Route => self.facts.routes.clear(),
            Kind::Gateway => self.facts.gateways.clear(),
            Kind::Class => self.facts.classes.clear(),
            Kind::Service => self.facts.services = Some(BTreeSet::new()),
            Kind::TlsPolicy => self.tls.clear(),
            Kind::Model => self.facts.models.clear(),
            Kind::Objective => self.facts.objectives.clear(),
            Kind::View => self.facts.views.clear(),
        }
    }

    fn set(&mut self, kind: Kind, object: DynamicObject) -> bool {
        let key = key(&object);
        // A pod is by far the most frequent, and most of its changes concern nobody here.
        if kind == Kind::Pod {
            return match object.try_parse::<Pod>() {
                Ok(pod) => put(&mut self.facts.pods, key, PodFact::of(&pod)),
                Err(error) => {
                    tracing::warn!(pod = %key, %error, "the pod cannot be read and is left out");
                    self.facts.pods.remove(&key).is_some()
                }
            };
        }
        let json = match serde_json::to_value(object) {
            Ok(json) => json,
            Err(error) => {
                tracing::warn!(kind = kind.label(), object = %key, %error, "the object cannot be read");
                return false;
            }
        };
        let facts = &mut self.facts;
        match kind {
            Kind::Pod => false,
            Kind::Pool(group) => put(&mut facts.pools, pool_key(group, key), Pool::parse(&json)),
            Kind::Route => read(&mut facts.routes, kind, key.clone(), Route::parse(&key.namespace, &json)),
            Kind::Gateway => read(&mut facts.gateways, kind, key, Gateway::parse(&json)),
            Kind::Class => {
                let controller =
                    json.pointer("/spec/controllerName").and_then(Json::as_str).unwrap_or_default();
                put(&mut facts.classes, key.name, controller.to_owned())
            }
            Kind::Service => facts.services.get_or_insert_default().insert(key),
            Kind::TlsPolicy => put(&mut self.tls, key.clone(), tls_targets(&key.namespace, &json)),
            Kind::Model => put(&mut facts.models, key, json),
            Kind::Objective => put(&mut facts.objectives, key, json),
            Kind::View => put(&mut facts.views, key, json),
        }
    }

    fn gone(&mut self, kind: Kind, object: &DynamicObject) -> bool {
        let key = key(object);
        let facts = &mut self.facts;
        match kind {
            Kind::Pool(group) => facts.pools.remove(&pool_key(group, key)).is_some(),
            Kind::Pod => facts.pods.remove(&key).is_some(),
            Kind::Route => facts.routes.remove(&key).is_some(),
            Kind::Gateway => facts.gateways.remove(&key).is_some(),
            Kind::Class => facts.classes.remove(&key.name).is_some(),
            Kind::Service => facts.services.get_or_insert_default().remove(&key),
            Kind::TlsPolicy => self.tls.remove(&key).is_some(),
            Kind::Model => facts.models.remove(&key).is_some(),
            Kind::Objective => facts.objectives.remove(&key).is_some(),
            Kind::View => facts.views.remove(&key).is_some(),
        }
    }
}

/// Whether two collections of facts are the same, `tls` aside.
fn same(a: &Facts, b: &Facts) -> bool {
    a.pools == b.pools
        && a.pods == b.pods
        && a.routes == b.routes
        && a.gateways == b.gateways
        && a.classes == b.classes
        && a.models == b.models
        && a.objectives == b.objectives
        && a.services == b.services
        && a.views == b.views
}

fn key(object: &DynamicObject) -> ObjectKey {
    ObjectKey {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

fn pool_key(group: PoolGroup, key: ObjectKey) -> PoolKey {
    PoolKey { group, namespace: key.namespace, name: key.name }
}

fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

/// Puts what could be read; what could not is as if it were not there, and the log says why.
fn read<V: PartialEq>(
    map: &mut BTreeMap<ObjectKey, V>,
    kind: Kind,
    key: ObjectKey,
    value: Result<V, String>,
) -> bool {
    match value {
        Ok(value) => put(map, key, value),
        Err(error) => {
            tracing::warn!(kind = kind.label(), object = %key, %error, "the object cannot be read and is left out");
            map.remove(&key).is_some()
        }
    }
}

/// The pools that a BackendTLSPolicy targets, in its own namespace.
fn tls_targets(namespace: &str, policy: &Json) -> BTreeSet<PoolKey> {
    let targets =
        policy.pointer("/spec/targetRefs").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let pool = |target: &Json| {
        let text = |key: &str| target.get(key)?.as_str();
        let group = PoolGroup::parse(text("group")?)?;
        (text("kind")? == "InferencePool").then_some(())?;
        Some(PoolKey { group, namespace: namespace.into(), name: text("name")?.into() })
    };
    targets.iter().filter_map(pool).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(json: Json) -> DynamicObject {
        serde_json::from_value(json).unwrap()
    }

    fn pod(ready: &str, note: &str) -> DynamicObject {
        object(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "default", "labels": {"app": "vllm"}, "annotations": {"note": note}},
            "status": {"phase": "Running", "podIP": "10.244.0.11", "conditions": [{"type": "Ready", "status": ready}]}}))
    }

    #[test]
    fn only_what_counts_is_a_change() {
        let mut keeper = Keeper::default();
        assert!(keeper.take(Change::Set(Kind::Pod, Box::new(pod("True", "x")))));
        assert!(!keeper.take(Change::Set(Kind::Pod, Box::new(pod("True", "y")))));
        assert!(keeper.take(Change::Set(Kind::Pod, Box::new(pod("False", "y")))));
        assert!(keeper.take(Change::Gone(Kind::Pod, Box::new(pod("False", "y")))));
        assert!(!keeper.take(Change::Gone(Kind::Pod, Box::new(pod("False", "y")))));
    }

    #[test]
    fn a_new_list_takes_the_place_of_the_old_one() {
        let mut keeper = Keeper::default();
        let all = |objects: Vec<DynamicObject>| Change::All { kind: Kind::Pod, objects, absent: false };
        assert!(keeper.take(all(vec![pod("True", "x")])));
        assert!(!keeper.take(all(vec![pod("True", "y")])));
        // The pod went while the API server was away.
        assert!(keeper.take(all(vec![])));
        assert!(keeper.facts.pods.is_empty());
    }

    #[tokio::test]
    async fn nothing_is_told_before_every_kind_was_listed() {
        let (changes, receiver) = mpsc::channel(100);
        let (worlds, _world) = watch::channel(Arc::new(World::default()));
        let (snapshots, mut snapshot) = watch::channel(None);
        tokio::spawn(keep(receiver, Kind::ALL.len(), worlds, snapshots, Arc::default()));
        for kind in Kind::ALL {
            assert!(snapshot.borrow_and_update().is_none());
            changes.send(Change::All { kind, objects: vec![], absent: true }).await.unwrap();
            tokio::task::yield_now().await;
        }
        snapshot.changed().await.unwrap();
        assert!(snapshot.borrow().is_some());
    }

    #[test]
    fn a_tls_policy_is_known_by_its_targets() {
        let policy = json!({"spec": {"targetRefs": [
            {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"},
            {"group": "", "kind": "Service", "name": "s"}]}});
        assert_eq!(tls_targets("n", &policy).into_iter().map(|p| p.name).collect::<Vec<_>>(), ["p"]);
    }
}
