//! Fetches the page with the settings of a pool, for whoever collects.

use std::sync::Arc;
use std::time::Duration;

use warmpath::Micros;
use warmpath::config::{Config, SettingsFrom, SettingsSource};
use warmpath::settings::page::{PageNews, SettingsPage};
use warmpath::shared::documents::LONGEST;
use warmpath::shared::store::Keys;

use crate::host::{self, Host};
use crate::log_batch::REPEAT_AFTER;
use crate::metrics::CollectorMetrics;

/// How long the page may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The page, and the call for it that is under way.
#[derive(Debug)]
pub struct SettingsDriver {
    source: SettingsSource,
    page: SettingsPage,
    under_way: Option<u32>,
    asked_at: Option<Micros>,
    /// The `etag` of the last page, if it had one.
    tag: String,
    failure_logged_at: Option<Micros>,
}

impl SettingsDriver {
    /// `None` when the settings come from elsewhere.
    pub fn start(config: &Config) -> Option<SettingsDriver> {
        let SettingsFrom::Page(source) = config.settings_from.clone() else { return None };
        let keys = Keys::of(&config.pool, config.index.log_segments);
        let page = SettingsPage::new(keys.settings, Arc::new(config.settings.clone()), &Host);
        Some(SettingsDriver {
            source,
            page,
            under_way: None,
            asked_at: None,
            tag: String::new(),
            failure_logged_at: None,
        })
    }

    /// Asks for the page, when it is time.
    pub fn tick(&mut self, metrics: &CollectorMetrics, now: Micros) {
        let SettingsSource { cluster, host, path, interval } = &self.source;
        if self.under_way.is_some() || self.asked_at.is_some_and(|at| now.since(at) < *interval) {
            return;
        }
        self.asked_at = Some(now);
        self.under_way = host::fetch_settings(cluster, host, path, &self.tag, TIMEOUT);
        if self.under_way.is_none() {
            self.failed("Envoy has no such cluster", metrics, now);
        }
    }

    /// Takes in what was fetched. `None` when the call is of another, else whether the workers have to take
    /// settings over.
    pub fn answered(
        &mut self,
        call: u32,
        headers: usize,
        body_size: usize,
        metrics: &CollectorMetrics,
        now: Micros,
    ) -> Option<bool> {
        self.under_way.take_if(|under_way| *under_way == call)?;
        match host::fetched(headers, body_size.min(LONGEST + 1)) {
            None => self.failed("no whole answer", metrics, now),
            Some((status, _)) if status == b"304" => {}
            Some((status, page)) if status == b"200" => return Some(self.take(&page, metrics)),
            Some((status, _)) => self.failed(&format!("it answers {}", status.escape_ascii()), metrics, now),
        }
        Some(false)
    }

    fn take(&mut self, page: &[u8], metrics: &CollectorMetrics) -> bool {
        let tag = host::fetched_header("etag").and_then(|tag| String::from_utf8(tag).ok());
        self.tag = tag.filter(|tag| tag.len() <= 256).unwrap_or_default();
        let news = self.page.take(page, &mut Host);
        metrics.bad_settings.set(u64::from(self.page.is_refused()));
        match news {
            PageNews::Nothing => false,
            PageNews::Taken { summary } => {
                log::info!("warmpath: settings of the page {}: {summary}", self.source.path);
                true
            }
            PageNews::Refused(error) => {
                metrics.refused_settings.count();
                log::error!(
                    "warmpath: settings of the page {} are refused, those before stay in force: {error}",
                    self.source.path
                );
                false
            }
        }
    }

    fn failed(&mut self, why: &str, metrics: &CollectorMetrics, now: Micros) {
        metrics.unfetched_settings.count();
        if self.failure_logged_at.is_none_or(|at| now.since(at) >= REPEAT_AFTER) {
            self.failure_logged_at = Some(now);
            let SettingsSource { cluster, path, .. } = &self.source;
            log::warn!(
                "warmpath: settings cannot be fetched, those in force stay: {path} by `settings.cluster` \"{cluster}\": {why}"
            );
        }
    }
}
