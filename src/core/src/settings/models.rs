//! The model names that clients may ask for, and what becomes of them: InferenceModel and InferenceObjective.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::request::body::MAX_MODEL_BYTES;
use crate::settings::criticality::Criticality;
use crate::settings::error::SettingError;
use crate::settings::object::Object;

/// Most models, targets of one model, and objectives.
const MOST: usize = 1024;
/// Largest weight, as the API of InferenceModel has it.
const MOST_WEIGHT: i64 = 1_000_000;

/// The models and objectives of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Models {
    /// By name, in order.
    models: Vec<Model>,
    /// By name, in order.
    objectives: Vec<Objective>,
    /// Whether a name that is not among the models is refused; else it passes as it is.
    refuses_unknown: bool,
    /// Whether `GET /v1/models` is answered with the names of the models.
    pub listed: bool,
    /// Whether answers have the name that the client asked for, in the place of the target's.
    pub restores_names: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    name: String,
    criticality: Criticality,
    targets: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    name: String,
    weight: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Objective {
    name: String,
    priority: i32,
}

/// What becomes of a model name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// The pod is asked for the same name.
    AsItIs(Criticality),
    /// The pod is asked for this name.
    Renamed(&'a str, Criticality),
    /// The name is reserved: it has targets, and each has weight 0.
    NoTarget,
    /// No such model, and the settings refuse what they do not know.
    Unknown,
}

impl Models {
    /// Reads the keys of models among those of `document`; those that it leaves out are of `default`.
    ///
    /// # Errors
    /// [`SettingError`] names the key and the fix.
    pub fn read(document: &mut Object<'_>, default: &Models) -> Result<Models, SettingError> {
        let models = document.objects("models", MOST)?.map(|list| named(list, model, |model| &model.name));
        let objectives =
            document.objects("objectives", MOST)?.map(|list| named(list, objective, |found| &found.name));
        let unknown = document.word("unknown_models", &[("pass", false), ("refuse", true)])?;
        Ok(Models {
            models: models.transpose()?.unwrap_or_else(|| default.models.clone()),
            objectives: objectives.transpose()?.unwrap_or_else(|| default.objectives.clone()),
            refuses_unknown: unknown.unwrap_or(default.refuses_unknown),
            listed: document.flag("list_models")?.unwrap_or(default.listed),
            restores_names: document.flag("restore_model_names")?.unwrap_or(default.restores_names),
        })
    }

    /// Whether every name passes as it is, and nothing else is asked of models.
    pub fn pass_all(&self) -> bool {
        self.models.is_empty() && !self.refuses_unknown
    }

    /// Whether a request for `name` needs the hash of its opening, because a target is drawn.
    pub fn draws(&self, name: &[u8]) -> bool {
        self.find(name).is_some_and(|model| model.targets.len() > 1)
    }

    /// What becomes of the model name of a request. `opening` is a hash of what all requests of a
    /// conversation begin with: the same one always draws the same target, in every gateway.
    pub fn asked(&self, name: &[u8], opening: u64) -> Asked<'_> {
        let Some(model) = self.find(name) else {
            return if self.refuses_unknown { Asked::Unknown } else { Asked::AsItIs(Criticality::default()) };
        };
        if model.targets.is_empty() {
            return Asked::AsItIs(model.criticality);
        }
        match model.draw(opening) {
            None => Asked::NoTarget,
            Some(target) if target.as_bytes() == name => Asked::AsItIs(model.criticality),
            Some(target) => Asked::Renamed(target, model.criticality),
        }
    }

    /// The priority of an objective, if there is one of that name.
    pub fn priority_of(&self, objective: &[u8]) -> Option<i32> {
        let at = self.objectives.binary_search_by(|found| found.name.as_bytes().cmp(objective)).ok()?;
        self.objectives.get(at).map(|found| found.priority)
    }

    /// Whether a request can have an objective.
    pub fn has_objectives(&self) -> bool {
        !self.objectives.is_empty()
    }

    /// How many models and objectives there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.models.len(), self.objectives.len())
    }

    /// The answer to `GET /v1/models`: the names that clients may ask for and that have a target.
    pub fn list(&self) -> String {
        let served = |model: &&Model| model.targets.is_empty() || model.total() > 0;
        let entry = |model: &Model| {
            format!(
                r#"{{"id":"{}","object":"model","created":0,"owned_by":"warmpath","root":"{}","parent":null}}"#,
                model.name, model.name
            )
        };
        let entries: Vec<String> = self.models.iter().filter(served).map(entry).collect();
        format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","))
    }

    fn find(&self, name: &[u8]) -> Option<&Model> {
        let at = self.models.binary_search_by(|model| model.name.as_bytes().cmp(name)).ok()?;
        self.models.get(at)
    }
}

impl Model {
    fn total(&self) -> u64 {
        self.targets.iter().map(|target| u64::from(target.weight)).sum()
    }

    /// The target of a conversation. Where the weights of two targets change, only as many conversations move
    /// as must.
    fn draw(&self, opening: u64) -> Option<&str> {
        // Two rollouts must not move the same conversations.
        let hash = xxh3_64_with_seed(self.name.as_bytes(), opening);
        let mut at = ((u128::from(hash) * u128::from(self.total())) >> 64) as u64;
        self.targets.iter().find_map(|target| {
            let weight = u64::from(target.weight);
            let here = at < weight;
            at = at.wrapping_sub(weight);
            here.then_some(target.name.as_str())
        })
    }
}

/// Reads objects that have names, no two the same, and puts them in order.
fn named<T>(
    list: Vec<Object<'_>>,
    read: impl Fn(&mut Object<'_>) -> Result<T, SettingError>,
    name: impl Fn(&T) -> &String,
) -> Result<Vec<T>, SettingError> {
    let mut all: Vec<T> = Vec::with_capacity(list.len());
    for mut object in list {
        let found = read(&mut object)?;
        match all.binary_search_by(|other| name(other).cmp(name(&found))) {
            Ok(_) => return object.refuse("name", format!("is \"{}\", which is there twice", name(&found))),
            Err(at) => all.insert(at, found),
        }
        object.end()?;
    }
    Ok(all)
}

fn model(object: &mut Object<'_>) -> Result<Model, SettingError> {
    let mut targets: Vec<Target> = Vec::new();
    let mut weighted = 0;
    for mut target in object.objects("targets", MOST)?.unwrap_or_default() {
        let weight = target.whole("weight", 0, MOST_WEIGHT)?;
        weighted += usize::from(weight.is_some());
        targets.push(Target { name: name(&mut target)?, weight: weight.unwrap_or(1) as u32 });
        target.end()?;
    }
    if weighted != 0 && weighted != targets.len() {
        return object
            .refuse("targets", "has a weight for some and not for all; give each one a weight, or none");
    }
    let criticality = object.word("criticality", &Criticality::WORDS)?.unwrap_or_default();
    Ok(Model { name: name(object)?, criticality, targets })
}

fn objective(object: &mut Object<'_>) -> Result<Objective, SettingError> {
    let priority = object.whole("priority", i64::from(i32::MIN), i64::from(i32::MAX))?.unwrap_or(0);
    Ok(Objective { name: name(object)?, priority: priority as i32 })
}

fn name(object: &mut Object<'_>) -> Result<String, SettingError> {
    match object.text("name")? {
        None | Some("") => object.refuse("name", "is missing; write a name"),
        Some(long) if long.len() > MAX_MODEL_BYTES => {
            object.refuse("name", format!("has {} bytes, the limit is {MAX_MODEL_BYTES}", long.len()))
        }
        Some(name) => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::blocks::mix;
    use crate::settings::document::Value;
    use crate::settings::object::UnknownKeys;

    fn read(json: &str) -> Result<Models, String> {
        let document = Value::parse(json.as_bytes()).unwrap();
        let mut object = Object::document(&document, UnknownKeys::Refused).unwrap();
        let models = Models::read(&mut object, &Models::default()).map_err(|error| error.to_string())?;
        object.end().map_err(|error| error.to_string())?;
        Ok(models)
    }

    /// What a rollout of 10 % has.
    fn rollout(weights: [u32; 2]) -> Models {
        let [old, new] = weights;
        read(&format!(
            r#"{{"models": [{{"name": "chat", "criticality": "Critical", "targets":
                [{{"name": "v1", "weight": {old}}}, {{"name": "v2", "weight": {new}}}]}}]}}"#
        ))
        .unwrap()
    }

    fn target(models: &Models, opening: u64) -> &str {
        match models.asked(b"chat", mix(opening)) {
            Asked::Renamed(target, Criticality::Critical) => target,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn conversations_are_drawn_by_weight_and_keep_their_target() {
        let models = rollout([90, 10]);
        let new = (0..10_000).filter(|&n| target(&models, n) == "v2").count();
        assert!((900..1100).contains(&new), "{new} of 10,000");
        // A larger share of the new version takes conversations from the old one, and moves no others.
        let more = rollout([80, 20]);
        let moved = |n: &u64| target(&models, *n) != target(&more, *n);
        assert!((0..10_000).filter(moved).all(|n| target(&more, n) == "v2"));
        assert!((900..1100).contains(&(0..10_000).filter(moved).count()));
        assert!(models.draws(b"chat") && !models.draws(b"other"));
    }

    #[test]
    fn a_name_without_targets_stands_for_itself_and_one_without_weight_is_reserved() {
        let models = read(
            r#"{"models": [{"name": "b", "criticality": "Sheddable"}, {"name": "a", "targets": [{"name": "x", "weight": 0}]},
                {"name": "c", "targets": [{"name": "c", "weight": 100}]}, {"name": "d", "targets": [{"name": "\"q\"/x"}]}]}"#,
        )
        .unwrap();
        assert_eq!(models.asked(b"b", 7), Asked::AsItIs(Criticality::Sheddable));
        assert_eq!(models.asked(b"a", 7), Asked::NoTarget);
        assert_eq!(models.asked(b"c", 7), Asked::AsItIs(Criticality::Standard));
        assert_eq!(models.asked(b"d", 7), Asked::Renamed(r#"\"q\"/x"#, Criticality::Standard));
        assert_eq!(models.asked(b"e", 7), Asked::AsItIs(Criticality::Standard));
        let refusing = read(r#"{"models": [{"name": "b"}], "unknown_models": "refuse"}"#).unwrap();
        assert_eq!((refusing.asked(b"e", 7), refusing.asked(b"", 7)), (Asked::Unknown, Asked::Unknown));
        assert!(Models::default().pass_all() && !refusing.pass_all());
    }

    #[test]
    fn objectives_have_priorities() {
        let models = read(r#"{"objectives": [{"name": "batch", "priority": -5}, {"name": "a"}]}"#).unwrap();
        let of = |name: &[u8]| models.priority_of(name).map(Criticality::of_priority);
        assert_eq!(
            [of(b"batch"), of(b"a"), of(b"b")],
            [Some(Criticality::Sheddable), Some(Criticality::Standard), None]
        );
        assert_eq!(Criticality::of_priority(3), Criticality::Critical);
    }

    #[test]
    fn the_list_has_the_form_of_vllm_and_leaves_reserved_names_out() {
        let models = read(
            r#"{"models": [{"name": "chat"}, {"name": "off", "targets": [{"name": "x", "weight": 0}]}]}"#,
        )
        .unwrap();
        let list: serde_json::Value = serde_json::from_str(&models.list()).unwrap();
        assert_eq!(list["object"], "list");
        let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
        assert_eq!(ids, ["chat"]);
    }

    #[test]
    fn errors_name_the_place() {
        for (json, says) in [
            (
                r#"{"models": [{"name": "a"}, {"name": "a"}]}"#,
                "`models[1].name` is \"a\", which is there twice",
            ),
            (r#"{"models": [{}]}"#, "`models[0].name` is missing; write a name"),
            (
                r#"{"models": [{"name": "a", "criticality": "High"}]}"#,
                "`models[0].criticality` is \"High\"; use \"Critical\"",
            ),
            (
                r#"{"models": [{"name": "a", "targets": [{"name": "x", "weight": 1}, {"name": "y"}]}]}"#,
                "`models[0].targets` has a weight for some",
            ),
            (
                r#"{"models": [{"name": "a", "targets": [{"name": "x", "weight": -1}]}]}"#,
                "`models[0].targets[0].weight` is -1; use 0 to 1000000",
            ),
            (r#"{"objectives": [{"name": "a", "prio": 1}]}"#, "`objectives[0].prio` is no setting"),
            (r#"{"unknown_models": "drop"}"#, "`unknown_models` is \"drop\"; use \"pass\" or \"refuse\""),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
