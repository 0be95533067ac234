//! The settings that come with the route of each request. They are compared as bytes, and parsed only when
//! they are new.
//!
//! A controller writes one object for each rule, with all pools that the rule sends to
//! (`docs/adr/controller-and-module.md`): `{"cluster": NAME, "pools": [{"strategy": ..., ...}]}`. By hand,
//! the settings stand there themselves.

use std::sync::Arc;

use crate::settings::PoolSettings;
use crate::settings::backends::Backend;
use crate::settings::document::Value;
use crate::settings::error::SettingError;
use crate::settings::metadata::{self, NotMetadata};
use crate::settings::object::{Object, UnknownKeys};
use crate::shared::documents;
use crate::shared::store::SharedData;

/// Most backends of a rule: the Gateway API has room for 16.
const MOST_BACKENDS: usize = 64;
/// Routes whose settings are remembered. Of more routes, each request may be parsed anew.
const ROUTES: usize = 32;

/// The settings of the routes that requests came by, the last one first.
#[derive(Debug)]
pub struct RouteSettings {
    /// Where the last good documents are shared.
    key: String,
    /// In force where a route has none.
    configured: Arc<PoolSettings>,
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    metadata: Vec<u8>,
    /// Backend of the rule, where a rule has several.
    backend: Vec<u8>,
    /// Names the rule: `cluster` of the document, empty in one that was written by hand.
    rule: String,
    settings: Arc<PoolSettings>,
    /// Why the document is refused; the settings are then those of the one before.
    error: Option<SettingError>,
}

impl Route {
    fn is_of_the_rule_of(&self, other: &Route) -> bool {
        self.rule == other.rule && self.backend == other.backend
    }

    fn news(&self) -> News {
        let rule = self.rule.clone();
        match self.error.clone() {
            None => News::Taken { rule },
            Some(error) => News::Refused { rule, error },
        }
    }
}

/// What is new of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    Nothing,
    /// The settings have changed.
    Taken {
        /// The rule, empty when the document does not name one.
        rule: String,
    },
    /// The document is bad, and what was in force stays.
    Refused {
        /// The rule, empty when the document does not name one.
        rule: String,
        /// What is wrong and how to fix it.
        error: SettingError,
    },
}

impl RouteSettings {
    /// No route is known yet; `key` is that of the documents which the workers share.
    pub fn new(key: String, configured: Arc<PoolSettings>) -> RouteSettings {
        RouteSettings { key, configured, routes: Vec::new() }
    }

    /// The settings for a request by a route with this metadata, and what is new of them. `name` gives the
    /// `cluster_name` and the `route_name` of the request.
    pub fn of_request(
        &mut self,
        metadata: &[u8],
        name: impl Fn(&'static str) -> Vec<u8>,
        shared: &mut impl SharedData,
    ) -> (Arc<PoolSettings>, News) {
        if metadata.is_empty() {
            return (Arc::clone(&self.configured), News::Nothing);
        }
        // Most gateways have one route, and a rule most often has one backend.
        if let [first, ..] = self.routes.as_slice()
            && first.backend.is_empty()
            && first.metadata == metadata
        {
            return (Arc::clone(&first.settings), News::Nothing);
        }
        let cluster = name("cluster_name");
        let backend = backend_of(&cluster);
        let known =
            self.routes.iter().position(|route| route.metadata == metadata && route.backend == backend);
        let (route, is_new) = match known.map(|at| self.routes.remove(at)) {
            Some(route) => {
                // A rule that returns to an earlier document has changed too.
                let newest = self.routes.iter().position(|other| other.is_of_the_rule_of(&route));
                (route, newest.is_some_and(|newest| known > Some(newest)))
            }
            None => self.learn(metadata, backend, name, shared),
        };
        let settings = Arc::clone(&route.settings);
        let news = if is_new { route.news() } else { News::Nothing };
        // The document before stays: a listener that drains may still use it.
        self.routes.truncate(ROUTES - 1);
        self.routes.insert(0, route);
        (settings, news)
    }

    /// Whether the newest document of any route is bad.
    pub fn any_refused(&self) -> bool {
        self.routes.iter().enumerate().any(|(at, route)| {
            let newer = self.routes.get(..at).unwrap_or_default();
            route.error.is_some() && !newer.iter().any(|newer| newer.is_of_the_rule_of(route))
        })
    }

    /// A document that was not seen before, and whether it changes anything.
    fn learn(
        &self,
        metadata: &[u8],
        backend: &[u8],
        name: impl Fn(&'static str) -> Vec<u8>,
        shared: &mut impl SharedData,
    ) -> (Route, bool) {
        let (rule, found) = read(metadata, backend, &self.configured);
        let mut route = Route {
            metadata: metadata.to_vec(),
            backend: backend.to_vec(),
            rule: rule.unwrap_or_else(|| String::from_utf8_lossy(&name("route_name")).into_owned()),
            settings: Arc::clone(&self.configured),
            error: None,
        };
        let before = self.routes.iter().find(|before| before.is_of_the_rule_of(&route));
        let was_refused = before.is_some_and(|before| before.error.is_some());
        if let Some(before) = before {
            route.settings = Arc::clone(&before.settings);
        }
        match found {
            Ok(settings) => {
                documents::keep(&self.key, &route.rule, metadata, shared);
                if settings == *route.settings {
                    return (route, was_refused);
                }
                (Route { settings: Arc::new(settings), ..route }, true)
            }
            Err(error) => {
                let good = documents::find(&self.key, &route.rule, shared);
                if let Some(Ok(good)) = good.map(|good| read(&good, backend, &self.configured).1) {
                    route.settings = Arc::new(good);
                }
                (Route { error: Some(error), ..route }, true)
            }
        }
    }
}

/// The backend of a rule in the name of a cluster that is one backend's alone, as Envoy Gateway names it;
/// else nothing.
fn backend_of(cluster: &[u8]) -> &[u8] {
    if memchr::memmem::find(cluster, b"/backend/").is_some() { cluster } else { b"" }
}

/// Reads the settings in the metadata of a route, with the name of its rule. What the document leaves out is
/// as configured.
fn read(
    bytes: &[u8],
    backend: &[u8],
    configured: &PoolSettings,
) -> (Option<String>, Result<PoolSettings, SettingError>) {
    let document = match metadata::settings(bytes) {
        Ok(Some(document)) => document,
        Ok(None) => return (None, Ok(configured.clone())),
        Err(NotMetadata) => {
            return (None, Err(SettingError::new("", "the metadata of the route cannot be read")));
        }
    };
    let rule = document.get("cluster").and_then(Value::as_text).map(str::to_owned);
    let settings = of_pool(&document, backend).and_then(|pool| {
        let settings = PoolSettings::parse(pool, configured, UnknownKeys::Ignored)?;
        Ok(PoolSettings { backends: backends(&document)?, ..settings })
    });
    (rule, settings)
}

/// The backends of a rule that has several.
fn backends(document: &Value) -> Result<Vec<Backend>, SettingError> {
    let mut document = Object::document(document, UnknownKeys::Ignored)?;
    let list = document.objects("backends", MOST_BACKENDS)?.unwrap_or_default();
    let backend = |mut object: Object<'_>| {
        let name = object.text("backend")?.unwrap_or_default().to_owned();
        let weight = object.whole("weight", 0, i64::from(u32::MAX))?.unwrap_or(1) as u32;
        Ok(Backend { name, weight })
    };
    list.into_iter().map(backend).collect()
}

/// The part of a document that is of the pool of a backend: the first pool where no backend is named.
fn of_pool<'a>(document: &'a Value, backend: &[u8]) -> Result<&'a Value, SettingError> {
    let Some(pools) = document.get("pools") else { return Ok(document) };
    let pools = pools.as_list().unwrap_or_default();
    let named = pools.iter().find(|pool| {
        pool.get("backend").and_then(Value::as_text).is_some_and(|name| name.as_bytes() == backend)
    });
    named
        .or_else(|| pools.first())
        .ok_or_else(|| SettingError::new("pools", "names no pool; list the pools of the route"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Strategy;
    use crate::settings::metadata::tests::metadata;
    use crate::shared::store::Map;

    fn settings() -> RouteSettings {
        RouteSettings::new("k".into(), Arc::new(PoolSettings { fail_open: false, ..PoolSettings::default() }))
    }

    fn route(document: &str) -> Vec<u8> {
        metadata(&[("envoy-gateway", r#"{"resources": []}"#), ("warmpath", document)])
    }

    fn nameless(_: &'static str) -> Vec<u8> {
        Vec::new()
    }

    fn of(rule: &str, strategy: &str) -> Vec<u8> {
        route(&format!(r#"{{"cluster": "{rule}", "pools": [{{"strategy": "{strategy}", "later": [1]}}]}}"#))
    }

    #[test]
    fn the_backends_of_a_rule_come_with_their_weights() {
        let mut routes = settings();
        let bytes = route(
            r#"{"cluster": "r", "pools": [{}], "backends": [{"backend": "r/backend/0", "weight": 70}, {"backend": "r/backend/1"}]}"#,
        );
        let (found, _) = routes.of_request(&bytes, nameless, &mut Map::default());
        let weights: Vec<_> = found.backends.iter().map(|each| (each.name.as_str(), each.weight)).collect();
        assert_eq!(weights, [("r/backend/0", 70), ("r/backend/1", 1)]);
    }

    #[test]
    fn a_route_without_settings_has_those_of_the_configuration() {
        let mut routes = settings();
        let others = metadata(&[("envoy-gateway", "{}")]);
        for bytes in [&[][..], &others, &route("{}")] {
            let (settings, news) = routes.of_request(bytes, nameless, &mut Map::default());
            assert_eq!(
                (settings.strategy, settings.fail_open, news),
                (Strategy::PrefixCache, false, News::Nothing)
            );
        }
    }

    #[test]
    fn a_change_is_taken_once_and_its_rule_is_named() {
        let mut routes = settings();
        let rule = "httproute/default/chat/rule/0";
        for (strategy, news) in [
            ("LOAD_ONLY", true),
            ("LOAD_ONLY", false),
            ("PREFIX_CACHE", true),
            ("LOAD_ONLY", true),
            ("LOAD_ONLY", false),
        ] {
            let (settings, said) = routes.of_request(&of(rule, strategy), nameless, &mut Map::default());
            assert_eq!(settings.strategy.name(), strategy);
            let expected = if news { News::Taken { rule: rule.into() } } else { News::Nothing };
            assert_eq!(said, expected, "{strategy}");
        }
        assert!(!routes.any_refused());
    }

    #[test]
    fn a_bad_document_leaves_the_last_good_one_of_its_rule() {
        let mut routes = settings();
        let strategy = |routes: &mut RouteSettings, rule, word| {
            let (settings, news) = routes.of_request(&of(rule, word), nameless, &mut Map::default());
            (settings.strategy, news)
        };
        strategy(&mut routes, "a", "LOAD_ONLY");
        strategy(&mut routes, "b", "PREFIX_CACHE");
        let (in_force, news) = strategy(&mut routes, "a", "FASTEST");
        assert_eq!(in_force, Strategy::LoadOnly);
        let News::Refused { rule, error } = news else { panic!("{news:?}") };
        assert_eq!((rule.as_str(), error.key.as_str()), ("a", "strategy"));
        assert!(routes.any_refused());
        // The same document again is no news.
        assert_eq!(strategy(&mut routes, "a", "FASTEST"), (Strategy::LoadOnly, News::Nothing));
        assert_eq!(strategy(&mut routes, "b", "PREFIX_CACHE").0, Strategy::PrefixCache);
        let fixed = route(r#"{"cluster": "a", "pools": [{"strategy": "LOAD_ONLY"}]}"#);
        assert_eq!(
            routes.of_request(&fixed, nameless, &mut Map::default()).1,
            News::Taken { rule: "a".into() }
        );
        assert!(!routes.any_refused());
        assert!(
            matches!(routes.of_request(b"x", nameless, &mut Map::default()).1, News::Refused { .. }),
            "not a message"
        );
    }

    #[test]
    fn a_worker_that_meets_a_bad_document_first_has_the_last_good_one_of_the_others() {
        let mut shared = Map::default();
        let (mut one, mut two) = (settings(), settings());
        one.of_request(&of("a", "LOAD_ONLY"), nameless, &mut shared);
        let (in_force, news) = two.of_request(&of("a", "FASTEST"), nameless, &mut shared);
        assert!(matches!(news, News::Refused { .. }));
        assert_eq!(in_force.strategy, Strategy::LoadOnly);
        let (of_another, _) = two.of_request(&of("b", "FASTEST"), nameless, &mut shared);
        assert_eq!(of_another.strategy, Strategy::PrefixCache);
    }

    #[test]
    fn each_backend_of_a_rule_has_its_pool() {
        let mut routes = settings();
        let document = route(
            r#"{"cluster": "r", "pools": [{"backend": "r/backend/0", "strategy": "LOAD_ONLY"},
                {"backend": "r/backend/1", "strategy": "PREFIX_CACHE"}]}"#,
        );
        let mut of = |cluster: &'static str| {
            routes.of_request(&document, |_| cluster.into(), &mut Map::default()).0.strategy
        };
        assert_eq!(of("r/backend/1"), Strategy::PrefixCache);
        assert_eq!(of("r/backend/0"), Strategy::LoadOnly);
        assert_eq!(of("r/backend/1"), Strategy::PrefixCache);
        assert_eq!(of("r"), Strategy::LoadOnly, "the first one, where Envoy has drawn none");
    }

    #[test]
    fn the_routes_are_bounded() {
        let mut routes = settings();
        for n in 0..3 * ROUTES {
            routes.of_request(&of(&format!("rule {n}"), "LOAD_ONLY"), nameless, &mut Map::default());
        }
        assert_eq!(routes.routes.len(), ROUTES);
    }
}
