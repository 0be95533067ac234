//! InferenceModels and InferenceObjectives: which names a pool is asked for, and how they matter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::names::{ObjectKey, PoolGroup, PoolKey};

/// Models and objectives of one pool, as the module is told of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolModels {
    /// The models that are accepted, by name.
    pub models: Vec<Model>,
    /// The objectives that are accepted, by name.
    pub objectives: Vec<Objective>,
}

/// A model name that clients ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Model {
    /// The name in the request.
    pub name: String,
    /// `Critical`, `Standard` or `Sheddable`.
    pub criticality: String,
    /// What the pods call it, with weights; empty: the same name.
    pub targets: Vec<Target>,
}

/// A model as the pods know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The name that the pod is asked for.
    pub name: String,
    /// Its share; all weights of a model are set or none is, and then all are 1.
    pub weight: u32,
}

/// A class of requests, named by header `x-gateway-inference-objective`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Objective {
    /// Its name.
    pub name: String,
    /// The higher, the more it matters; below 0 is shed first.
    pub priority: i32,
}

impl PoolModels {
    /// What the module is told.
    pub fn metadata(&self) -> Map<String, Json> {
        let mut object = Map::new();
        object.insert("models".into(), json!(self.models));
        object.insert("objectives".into(), json!(self.objectives));
        object
    }
}

/// What is said of an InferenceModel or InferenceObjective in its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is accepted.
    pub accepted: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

#[derive(Deserialize)]
struct Raw<S> {
    #[serde(default)]
    metadata: RawMeta,
    spec: S,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawMeta {
    creation_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawModel {
    model_name: String,
    criticality: Option<String>,
    #[serde(default)]
    target_models: Vec<RawTarget>,
    pool_ref: RawPoolRef,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawObjective {
    #[serde(default)]
    priority: i32,
    pool_ref: RawPoolRef,
}

#[derive(Deserialize)]
struct RawTarget {
    name: String,
    weight: Option<u32>,
}

#[derive(Deserialize)]
struct RawPoolRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
}

impl RawPoolRef {
    /// The pool, in the namespace of the object that refers to it. Without a group it is one of the
    /// experimental group: the default of the API of InferenceModel.
    fn pool(&self, namespace: &str, default: PoolGroup) -> Result<PoolKey, String> {
        if self.kind.as_deref().is_some_and(|kind| kind != "InferencePool") {
            return Err(format!("spec.poolRef.kind: {:?} is not InferencePool", self.kind));
        }
        if self.namespace.as_deref().is_some_and(|other| other != namespace) {
            return Err("spec.poolRef.namespace: a pool of another namespace cannot be referred to".into());
        }
        let group = match self.group.as_deref() {
            None | Some("") => default,
            Some(name) => PoolGroup::parse(name)
                .ok_or_else(|| format!("spec.poolRef.group: {name:?} has no InferencePool"))?,
        };
        Ok(PoolKey { group, namespace: namespace.into(), name: self.name.clone() })
    }
}

/// Models and objectives that refer to the pool and are accepted.
pub fn of_pool(
    pool: &PoolKey,
    models: &BTreeMap<ObjectKey, Json>,
    objectives: &BTreeMap<ObjectKey, Json>,
) -> PoolModels {
    let mut oldest: BTreeMap<String, (Age, Model)> = BTreeMap::new();
    for (key, object) in in_namespace(models, &pool.namespace) {
        let Ok((of, age, model)) = read_model(key, object) else { continue };
        if of == *pool && oldest.get(&model.name).is_none_or(|(other, _)| age < *other) {
            oldest.insert(model.name.clone(), (age, model));
        }
    }
    let objective = |(key, object): (&ObjectKey, &Json)| {
        let (of, objective) = read_objective(key, object).ok()?;
        (of == *pool).then_some(objective)
    };
    PoolModels {
        models: oldest.into_values().map(|(_, model)| model).collect(),
        objectives: in_namespace(objectives, &pool.namespace).filter_map(objective).collect(),
    }
}

/// What is to be said of each InferenceModel. Of two with one name at one pool the older is accepted.
pub fn verdicts(
    models: &BTreeMap<ObjectKey, Json>,
    exists: impl Fn(&PoolKey) -> bool,
) -> BTreeMap<ObjectKey, Verdict> {
    let mut oldest: BTreeMap<(PoolKey, String), (Age, ObjectKey)> = BTreeMap::new();
    for (key, object) in models {
        if let Ok((pool, age, model)) = read_model(key, object) {
            let claim = (pool, model.name);
            if oldest.get(&claim).is_none_or(|(other, _)| age < *other) {
                oldest.insert(claim, (age, key.clone()));
            }
        }
    }
    let verdict = |(key, object): (&ObjectKey, &Json)| {
        let verdict = match read_model(key, object) {
            Err(message) => Verdict { accepted: false, reason: "Invalid", message },
            Ok((pool, _, model)) => match oldest.get(&(pool.clone(), model.name.clone())) {
                Some((_, first)) if first != key => Verdict {
                    accepted: false,
                    reason: "ModelNameInUse",
                    message: format!(
                        "modelName {:?} is taken by the older InferenceModel {} at the same pool",
                        model.name, first.name
                    ),
                },
                _ if !exists(&pool) => Verdict {
                    accepted: false,
                    reason: "PoolNotFound",
                    message: format!("there is no InferencePool {pool}"),
                },
                _ => Verdict {
                    accepted: true,
                    reason: "Accepted",
                    message: "read and sent to the gateways of the pool".into(),
                },
            },
        };
        (key.clone(), verdict)
    };
    models.iter().map(verdict).collect()
}

/// What is to be said of each InferenceObjective.
pub fn objective_verdicts(
    objectives: &BTreeMap<ObjectKey, Json>,
    exists: impl Fn(&PoolKey) -> bool,
) -> BTreeMap<ObjectKey, Verdict> {
    let verdict = |(key, object): (&ObjectKey, &Json)| {
        let verdict = match read_objective(key, object) {
            Err(message) => Verdict { accepted: false, reason: "Invalid", message },
            Ok((pool, _)) if !exists(&pool) => Verdict {
                accepted: false,
                reason: "PoolNotFound",
                message: format!("there is no InferencePool {pool}"),
            },
            Ok(_) => Verdict {
                accepted: true,
                reason: "Accepted",
                message: "read and sent to the gateways of the pool".into(),
            },
        };
        (key.clone(), verdict)
    };
    objectives.iter().map(verdict).collect()
}

/// The older is the smaller; RFC 3339 in UTC sorts as text. Names break ties, so that every replica decides
/// alike.
type Age = (String, String);

fn in_namespace<'a>(
    objects: &'a BTreeMap<ObjectKey, Json>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Json)> {
    objects.range(ObjectKey::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace)
}

fn read_model(key: &ObjectKey, object: &Json) -> Result<(PoolKey, Age, Model), String> {
    let raw = Raw::<RawModel>::deserialize(object).map_err(|error| error.to_string())?;
    let spec = raw.spec;
    let pool = spec.pool_ref.pool(&key.namespace, PoolGroup::Experimental)?;
    if spec.model_name.is_empty() {
        return Err("spec.modelName: a name is needed".into());
    }
    let weights = spec.target_models.iter().filter(|target| target.weight.is_some()).count();
    if weights != 0 && weights != spec.target_models.len() {
        return Err("spec.targetModels: either each target has a weight or none has".into());
    }
    let criticality = spec.criticality.unwrap_or_else(|| "Standard".into());
    if !["Critical", "Standard", "Sheddable"].contains(&criticality.as_str()) {
        return Err(format!("spec.criticality: {criticality:?} is not Critical, Standard or Sheddable"));
    }
    let target = |target: RawTarget| Target { name: target.name, weight: target.weight.unwrap_or(1) };
    let targets = spec.target_models.into_iter().map(target).collect();
    let age = (raw.metadata.creation_timestamp.unwrap_or_default(), key.name.clone());
    Ok((pool, age, Model { name: spec.model_name, criticality, targets }))
}

fn read_objective(key: &ObjectKey, object: &Json) -> Result<(PoolKey, Objective), String> {
    let raw = Raw::<RawObjective>::deserialize(object).map_err(|error| error.to_string())?;
    let pool = raw.spec.pool_ref.pool(&key.namespace, PoolGroup::Stable)?;
    Ok((pool, Objective { name: key.name.clone(), priority: raw.spec.priority }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, created: &str, group: Option<&str>, targets: Json) -> Json {
        let mut pool = json!({"name": "pool"});
        if let Some(group) = group {
            pool["group"] = json!(group);
        }
        json!({"metadata": {"creationTimestamp": created}, "spec": {"modelName": name, "poolRef": pool, "targetModels": targets}})
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    fn pool(group: PoolGroup) -> PoolKey {
        PoolKey { group, namespace: "default".into(), name: "pool".into() }
    }

    #[test]
    fn without_a_group_a_model_belongs_to_the_older_one() {
        let models = BTreeMap::from([(
            key("m"),
            model("chat", "2026-01-01T00:00:00Z", None, json!([{"name": "base", "weight": 100}])),
        )]);
        assert_eq!(of_pool(&pool(PoolGroup::Stable), &models, &BTreeMap::new()), PoolModels::default());
        let of = of_pool(&pool(PoolGroup::Experimental), &models, &BTreeMap::new());
        assert_eq!(of.models[0].targets, [Target { name: "base".into(), weight: 100 }]);
        assert_eq!(of.models[0].criticality, "Standard");
    }

    #[test]
    fn of_two_models_of_one_name_the_older_is_accepted() {
        let models = BTreeMap::from([
            (key("a"), model("chat", "2026-02-01T00:00:00Z", None, json!([{"name": "young"}]))),
            (key("b"), model("chat", "2026-01-01T00:00:00Z", None, json!([{"name": "old"}]))),
            (key("c"), model("chat", "2026-01-01T00:00:00Z", Some("inference.networking.k8s.io"), json!([]))),
        ]);
        let verdicts = verdicts(&models, |_| true);
        assert_eq!(
            verdicts.values().map(|v| v.reason).collect::<Vec<_>>(),
            ["ModelNameInUse", "Accepted", "Accepted"]
        );
        assert!(verdicts[&key("a")].message.contains("InferenceModel b"));
        assert_eq!(
            of_pool(&pool(PoolGroup::Experimental), &models, &BTreeMap::new()).models[0].targets[0].name,
            "old"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut elsewhere = model("chat", "", None, json!([]));
        elsewhere["spec"]["poolRef"]["namespace"] = json!("other");
        let half = model("x", "", None, json!([{"name": "a", "weight": 1}, {"name": "b"}]));
        let models = BTreeMap::from([
            (key("a"), elsewhere),
            (key("b"), half),
            (key("c"), model("y", "", None, json!([]))),
        ]);
        let verdicts = verdicts(&models, |_| false);
        assert!(verdicts[&key("a")].message.contains("another namespace"));
        assert!(verdicts[&key("b")].message.contains("spec.targetModels"));
        assert_eq!(verdicts[&key("c")].reason, "PoolNotFound");
    }

    #[test]
    fn objectives_are_read() {
        let object = json!({"spec": {"priority": -5, "poolRef": {"name": "pool"}}});
        let objectives = BTreeMap::from([(key("batch"), object)]);
        let of = of_pool(&pool(PoolGroup::Stable), &BTreeMap::new(), &objectives);
        assert_eq!(of.objectives, [Objective { name: "batch".into(), priority: -5 }]);
        assert!(objective_verdicts(&objectives, |_| true)[&key("batch")].accepted);
    }
}
