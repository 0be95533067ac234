//! What is counted, as Prometheus reads it.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::plan::wiring::Hook;
use crate::plan::{Facts, PoolKey, World, view};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    hook: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    group: &'static str,
    namespace: String,
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    outcome: &'static str,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    hooks: Family<HookLabels, Counter>,
    hook_seconds: Family<HookLabels, Histogram, fn() -> Histogram>,
    objects: Family<KindLabels, Gauge>,
    pods: Family<PoolLabels, Gauge>,
    ready: Family<PoolLabels, Gauge>,
    revision: Family<PoolLabels, Gauge>,
    serving: Family<PoolLabels, Gauge>,
    writes: Family<WriteLabels, Counter>,
    leader: Gauge,
    cache_age: Gauge<f64, AtomicU64>,
    /// When the API server last answered.
    answered: Mutex<Instant>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new([0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.0]);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("warmpath_controller"),
            hooks: Family::default(),
            hook_seconds: Family::new_with_constructor(seconds),
            objects: Family::default(),
            pods: Family::default(),
            ready: Family::default(),
            revision: Family::default(),
            serving: Family::default(),
            writes: Family::default(),
            leader: Gauge::default(),
            cache_age: Gauge::default(),
            answered: Mutex::new(Instant::now()),
        };
        let registry = &mut metrics.registry;
        registry.register("hooks", "Calls of Envoy Gateway's hooks, by outcome", metrics.hooks.clone());
        registry.register("hook_seconds", "Time that a call of a hook took", metrics.hook_seconds.clone());
        registry.register("objects", "Objects in the caches", metrics.objects.clone());
        registry.register("pool_pods", "Pods of a pool that have an address", metrics.pods.clone());
        registry.register("pool_ready_pods", "Pods of a pool that are ready", metrics.ready.clone());
        registry.register(
            "pool_revision",
            "Highest revision of a pool's RoutedPools",
            metrics.revision.clone(),
        );
        registry.register(
            "pool_serving",
            "1 where Envoy Gateway asks about the pool, 0 where it does not; absent while it is too early to say",
            metrics.serving.clone(),
        );
        registry.register("writes", "Writes to the API server, by outcome", metrics.writes.clone());
        registry.register("leader", "1 where this replica writes", metrics.leader.clone());
        registry.register(
            "cache_age_seconds",
            "Time since the API server last answered: what the caches have may be so old",
            metrics.cache_age.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Counts a call of a hook.
    pub fn hook(&self, hook: Hook, good: bool, took: Duration) {
        let labels = HookLabels { hook: hook.name(), outcome: if good { "ok" } else { "error" } };
        self.hooks.get_or_create(&labels).inc();
        self.hook_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a write to the API server.
    pub fn write(&self, kind: &'static str, outcome: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind, outcome }).inc();
    }

    /// Tells whether this replica writes.
    pub fn leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Notes that the API server has answered.
    pub fn api_server_answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Tells whether Envoy Gateway asks about a pool.
    pub fn serving(&self, pool: &PoolKey, serving: Option<bool>) {
        match serving {
            Some(serving) => drop(self.serving.get_or_create(&labels(pool)).set(i64::from(serving))),
            None => drop(self.serving.remove(&labels(pool))),
        }
    }

    /// Tells how many objects there are, and how the pools are. A pool that is gone has no series.
    pub fn tell(&self, facts: &Facts, world: &World) {
        let counts = [
            ("InferencePool", facts.pools.len()),
            ("Pod", facts.pods.len()),
            ("HTTPRoute", facts.routes.len()),
            ("Gateway", facts.gateways.len()),
            ("InferenceModel", facts.models.len()),
            ("InferenceObjective", facts.objectives.len()),
            ("RoutedPool", facts.views.len()),
            ("BackendTLSPolicy", facts.tls.len()),
        ];
        for (kind, count) in counts {
            self.objects.get_or_create(&KindLabels { kind }).set(whole(count));
        }
        self.pods.clear();
        self.ready.clear();
        self.revision.clear();
        for (pool, state) in &world.pools {
            self.pods.get_or_create(&labels(pool)).set(whole(state.members.len()));
            self.ready.get_or_create(&labels(pool)).set(whole(state.ready()));
        }
        for (pool, revision) in facts.views.values().filter_map(view::identity) {
            let gauge = self.revision.get_or_create(&labels(&pool));
            let revision = i64::try_from(revision).unwrap_or(i64::MAX);
            gauge.set(gauge.get().max(revision));
        }
    }

    /// The page.
    pub fn page(&self) -> String {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        self.cache_age.set(answered.elapsed().as_secs_f64());
        let mut page = String::new();
        match encode(&mut page, &self.registry) {
            Ok(()) => page,
            Err(error) => format!("# the page cannot be written: {error}\n"),
        }
    }
}

fn labels(pool: &PoolKey) -> PoolLabels {
    PoolLabels { group: pool.group.name(), namespace: pool.namespace.clone(), pool: pool.name.clone() }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_counted_by_outcome() {
        let metrics = Metrics::default();
        metrics.hook(Hook::Endpoints, true, Duration::from_millis(3));
        metrics.hook(Hook::Endpoints, false, Duration::from_millis(3));
        metrics.hook(Hook::Endpoints, true, Duration::from_millis(3));
        let page = metrics.page();
        assert!(
            page.contains(r#"warmpath_controller_hooks_total{hook="Endpoints",outcome="ok"} 2"#),
            "{page}"
        );
        assert!(
            page.contains(
                r#"warmpath_controller_hook_seconds_bucket{le="0.005",hook="Endpoints",outcome="error"} 1"#
            ),
            "{page}"
        );
    }
}
