//! What the annotations of a pool say, and what of it the module is told.
//!
//! | annotation | values | default |
//! | --- | --- | --- |
//! | `inference.networking.x-k8s.io/routing-strategy` | `PREFIX_CACHE`; `DEFAULT` or `LOAD_ONLY` | `PREFIX_CACHE` |
//! | `warmpath.dev/fail-open` | `true`: with no pod to name, Envoy's own policy chooses; `false`: 503 | `true` |
//! | `warmpath.dev/max-body-bytes` | from 65536 to 1073741824; above it a request gets 413 | 33554432 |

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
pub use warmpath::settings::Strategy;

/// The annotation of the reference.
pub const STRATEGY: &str = "inference.networking.x-k8s.io/routing-strategy";
const FAIL_OPEN: &str = "warmpath.dev/fail-open";
const MAX_BODY: &str = "warmpath.dev/max-body-bytes";

/// The settings of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How pods are chosen.
    pub strategy: Strategy,
    /// Whether Envoy's own policy chooses where the module can name no pod.
    pub fail_open: bool,
    /// The largest body of a request, bytes.
    pub max_body: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { strategy: Strategy::default(), fail_open: true, max_body: 32 << 20 }
    }
}

impl Settings {
    /// What the annotations say. For an annotation with a value that is none, `good` stands, the last good
    /// one, and the second result has a sentence that names the annotation and the fix.
    pub fn read(annotations: &BTreeMap<String, String>, good: Settings) -> (Settings, Vec<String>) {
        let default = Settings::default();
        let mut problems = Vec::new();
        let mut one = |name: &str, expected: &str, read: &mut dyn FnMut(Option<&str>) -> bool| {
            let value = annotations.get(name);
            if !read(value.map(String::as_str)) {
                let value = value.map(String::as_str).unwrap_or_default();
                problems.push(format!(
                    "annotation {name}: {value:?} is not {expected}; the last good value stays in force"
                ));
            }
        };
        let mut settings = good;
        one(STRATEGY, "PREFIX_CACHE, DEFAULT or LOAD_ONLY", &mut |value| {
            set(&mut settings.strategy, value, default.strategy, Strategy::parse)
        });
        one(FAIL_OPEN, "true or false", &mut |value| {
            set(&mut settings.fail_open, value, default.fail_open, |value| value.parse().ok())
        });
        one(MAX_BODY, "a number of bytes from 65536 to 1073741824", &mut |value| {
            let bytes = |value: &str| value.parse().ok().filter(|bytes| (1 << 16..=1 << 30).contains(bytes));
            set(&mut settings.max_body, value, default.max_body, bytes)
        });
        (settings, problems)
    }

    /// The part that the module reads: see `docs/adr/controller-and-module.md`.
    pub fn metadata(&self) -> Map<String, Json> {
        let mut object = Map::new();
        object.insert("strategy".into(), json!(self.strategy.name()));
        object.insert("fail_open".into(), json!(self.fail_open));
        object
    }
}

/// Sets `place` to what the value says, or to the default where there is none; `false` where the value says
/// nothing.
fn set<T>(place: &mut T, value: Option<&str>, default: T, read: impl Fn(&str) -> Option<T>) -> bool {
    match value.map(read) {
        None => *place = default,
        Some(Some(good)) => *place = good,
        Some(None) => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_references_values_are_read() {
        for (value, strategy) in [
            ("DEFAULT", Strategy::LoadOnly),
            ("LOAD_ONLY", Strategy::LoadOnly),
            ("PREFIX_CACHE", Strategy::PrefixCache),
        ] {
            let (settings, problems) =
                Settings::read(&annotations(&[(STRATEGY, value)]), Settings::default());
            assert_eq!((settings.strategy, problems), (strategy, vec![]));
        }
    }

    #[test]
    fn an_unknown_value_leaves_the_last_good_one_and_says_so() {
        let good = Settings { strategy: Strategy::LoadOnly, fail_open: false, max_body: 1 << 20 };
        let wrong = annotations(&[(STRATEGY, "prefix_cache"), (FAIL_OPEN, "yes"), (MAX_BODY, "12")]);
        let (settings, problems) = Settings::read(&wrong, good);
        assert_eq!(settings, good);
        assert_eq!(problems.len(), 3);
        assert!(problems[0].contains(STRATEGY) && problems[0].contains("PREFIX_CACHE"), "{}", problems[0]);
    }

    #[test]
    fn an_annotation_that_goes_gives_the_default_back() {
        let good = Settings { strategy: Strategy::LoadOnly, fail_open: false, max_body: 1 << 20 };
        assert_eq!(Settings::read(&annotations(&[]), good), (Settings::default(), vec![]));
    }
}
