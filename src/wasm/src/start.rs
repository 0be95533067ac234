//! The line and the metric that say which version runs, as which role, with which settings.

use warmpath::config::{Config, SettingsFrom};
use warmpath::shared::store::{Keys, NEVER_WRITTEN, SharedData};

use crate::host::Host;
use crate::metrics::BuildMetrics;

/// Logs the start of a role, once per configuration: Envoy configures one VM per worker thread, and some
/// more.
pub fn announce(role: &str, config: &Config) {
    BuildMetrics::of(&config.pool).build_info.set(1);
    let line = format!(
        "warmpath {}: {role}, pool {}, {}, {}",
        env!("CARGO_PKG_VERSION"),
        config.pool,
        match config.pods.as_deref() {
            Some([_]) => "1 pod".to_owned(),
            Some(pods) => format!("{} pods", pods.len()),
            None if config.discovery.is_some() => "pods by discovery".to_owned(),
            None => "the collector's pods".to_owned(),
        },
        match &config.settings_from {
            SettingsFrom::Configuration => config.settings.strategy.name(),
            SettingsFrom::Route => "settings of the route",
            SettingsFrom::Page(_) => "settings of a page",
        }
    );
    let key = Keys::of(&config.pool, config.index.log_segments).started(role);
    let (said, version) = Host.get(&key).unwrap_or((Vec::new(), NEVER_WRITTEN));
    // Whoever writes the line down prints it.
    if said != line.as_bytes() && Host.set(&key, line.as_bytes(), Some(version)).is_ok() {
        log::info!("{line}");
    }
}
