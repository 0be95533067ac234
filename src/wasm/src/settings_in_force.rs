//! The settings that a request is routed by, from where the configuration says.

use std::sync::Arc;

use crate::abi::Bytes;
use warmpath::config::{Config, SettingsFrom};
use warmpath::settings::PoolSettings;
use warmpath::settings::page;
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
    /// A page that the collector fetches.
    OfPage(Box<OfPage>),
}

/// The settings of the page.
#[derive(Debug)]
pub struct OfPage {
    key: String,
    configured: Arc<PoolSettings>,
    /// Which of the collector's these are ([`warmpath::shared::pod_table::PodTable::settings`]).
    version: u32,
    settings: Arc<PoolSettings>,
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
        match &config.settings_from {
            SettingsFrom::Configuration => SettingsInForce::Configured,
            SettingsFrom::Route => SettingsInForce::OfRoutes(Box::new(OfRoutes {
                routes: RouteSettings::new(keys.settings.clone(), configured),
                bad: metrics.bad_settings,
                refused: metrics.refused_settings,
                log: LogOnce::new(keys.started("settings")),
            })),
            SettingsFrom::Page(_) => SettingsInForce::OfPage(Box::new(OfPage {
                key: keys.settings.clone(),
                version: 0,
                settings: Arc::clone(&configured),
                configured,
            })),
        }
    }

    /// Whether they change with the pod table.
    pub fn follows_the_table(&self) -> bool {
        matches!(self, SettingsInForce::OfPage(_))
    }

    /// Takes over what the collector has fetched, by the number in its table.
    #[inline(never)]
    pub fn refresh(&mut self, version: u32) {
        if let SettingsInForce::OfPage(of) = self
            && of.version != version
        {
            of.version = version;
            if let Some(settings) = page::of_workers(&of.key, &of.configured, &Host) {
                of.settings = Arc::new(settings);
            }
        }
    }

    /// The settings of the request at hand; `None` when they never change.
    pub fn of_request(&mut self) -> Option<Arc<PoolSettings>> {
        match self {
            SettingsInForce::Configured => None,
            SettingsInForce::OfRoutes(of) => Some(of.of_request()),
            SettingsInForce::OfPage(of) => Some(Arc::clone(&of.settings)),
        }
    }
}

impl OfRoutes {
    #[inline(never)]
    fn of_request(&mut self) -> Arc<PoolSettings> {
        let metadata = host::property("xds\0route_metadata").unwrap_or_default();
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
    host::property(&["xds", name].join("\0")).unwrap_or_default()
}
