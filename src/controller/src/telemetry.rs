//! What is counted, as Prometheus reads it.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A hook of Envoy Gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// PostRouteModify.
    Route,
    /// PostEndpointsModify.
    Endpoints,
    /// PostClusterModify.
    Cluster,
    /// PostHTTPListenerModify.
    Listener,
}

impl Hook {
    /// Its name in Envoy Gateway's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Route => "Route",
            Hook::Endpoints => "Endpoints",
            Hook::Cluster => "Cluster",
            Hook::Listener => "HTTPListener",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    hook: &'static str,
    outcome: &'static str,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    hooks: Family<HookLabels, Counter>,
    hook_seconds: Family<HookLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("warmpath_controller");
        let seconds: fn() -> Histogram = || Histogram::new([0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.0]);
        let hooks = Family::default();
        registry.register("hooks", "Calls of Envoy Gateway's hooks, by outcome", hooks.clone());
        let hook_seconds = Family::new_with_constructor(seconds);
        registry.register("hook_seconds", "Time that a call of a hook took", hook_seconds.clone());
        Metrics { registry, hooks, hook_seconds }
    }
}

impl Metrics {
    /// Counts a call of a hook.
    pub fn hook(&self, hook: Hook, good: bool, took: Duration) {
        let labels = HookLabels { hook: hook.name(), outcome: if good { "ok" } else { "error" } };
        self.hooks.get_or_create(&labels).inc();
        self.hook_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut page = String::new();
        match encode(&mut page, &self.registry) {
            Ok(()) => page,
            Err(error) => format!("# the page cannot be written: {error}\n"),
        }
    }
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
