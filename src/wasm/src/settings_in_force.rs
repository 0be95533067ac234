//! The settings that a request is routed by, from where the configuration says.

use std::sync::Arc;

use proxy_wasm::types::Bytes;
use warmpath::config::{Config, SettingsFrom};
use warmpath::settings::PoolSettings;
use warmpath::settings::route::{News, RouteSettings};
use warmpath::shared::store::Keys;

use crate::host::{self, Host, Metric};
use crate::log_once::LogOnce;
use crate::metrics::RouterMetrics;

/// Where the settings of one VM come from.
#[derive(Debug)]
pub enum SettingsInForce {
    /// The plugin configuration.
    Configured,
    /// The route of each request.
    OfRoutes(Box<OfRoutes>),
}

/// The settings of the routes.
#[derive(Debug)]
pub struct OfRoutes {
    routes: RouteSettings,
    /// Whether the newest document of a route is bad.
    bad: Metric,
    refused: Metric,
    log: LogOnce,
}

impl SettingsInForce {
    /// As `config` says; `configured` is what stands in it.
    pub fn new(
        config: &Config,
        keys: &Keys,
        configured: Arc<PoolSettings>,
        metrics: &RouterMetrics,
    ) -> SettingsInForce {
        match config.settings_from {
            SettingsFrom::Configuration => SettingsInForce::Configured,
            SettingsFrom::Route => SettingsInForce::OfRoutes(Box::new(OfRoutes {
                routes: RouteSettings::new(keys.settings.clone(), configured),
                bad: metrics.bad_settings,
                refused: metrics.refused_settings,
                log: LogOnce::new(keys.started("settings")),
            })),
        }
    }

    /// The settings of the request at hand; `None` when they never change.
    pub fn of_request(&mut self) -> Option<Arc<PoolSettings>> {
        match self {
            SettingsInForce::Configured => None,
            SettingsInForce::OfRoutes(of) => Some(of.of_request()),
        }
    }
}

impl OfRoutes {
    fn of_request(&mut self) -> Arc<PoolSettings> {
        let metadata = xds("route_metadata");
        let (settings, news) = self.routes.of_request(&metadata, xds, &mut Host);
        match news {
            News::Nothing => return settings,
            News::Taken { rule } => {
                let line = format!("warmpath: settings of route \"{rule}\": {}", settings.summary());
                if self.log.is_news(&line) {
                    log::info!("{line}");
                }
            }
            News::Refused { rule, error } => {
                self.refused.count();
                let line = format!(
                    "warmpath: settings of route \"{rule}\" are refused, those before stay in force: {error}"
                );
                if self.log.is_news(&line) {
                    log::error!("{line}");
                }
            }
        }
        self.bad.set(u64::from(self.routes.any_refused()));
        settings
    }
}

fn xds(name: &'static str) -> Bytes {
    host::property(&["xds", name]).unwrap_or_default()
}
