//! Discovery at work, on both sides of shared data: a router notes the clusters that its requests go to;
//! whoever collects asks Envoy's admin interface for their hosts.

use std::time::Duration;

use warmpath::config::{Config, DiscoveryBy};
use warmpath::discovery::{Discovery, Members, Query};
use warmpath::shared::pod_table::PodTable;
use warmpath::shared::store::Keys;
use warmpath::shared::wanted::{self, NotNoted};
use warmpath::{Micros, SECOND};

use crate::calls::Calls;
use crate::host::{self, Host};
use crate::log_batch::REPEAT_AFTER;

/// Longest page that is taken in: some 900 bytes for each host of each cluster.
const LONGEST_PAGE: usize = 4 << 20;
/// How long Envoy may take for a page.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long a cluster may go on with its former settings: Envoy waits for the endpoints of a cluster whose
/// settings have changed, 15 seconds by default.
const SETTLES_IN: Micros = Micros::from_seconds(20);
/// Time between two looks when there is something new to ask.
const SOON: Micros = Micros::from_millis(100);

/// The clusters that the requests of one VM go to and that are not known yet.
#[derive(Debug)]
pub struct UnknownClusters {
    key: String,
    /// Noted since the last tick.
    noted: Vec<Vec<u8>>,
    full_logged_at: Micros,
}

impl UnknownClusters {
    /// None yet.
    pub fn new(keys: &Keys) -> UnknownClusters {
        UnknownClusters { key: keys.wanted.clone(), noted: Vec::new(), full_logged_at: Micros::ZERO }
    }

    /// A request goes to the cluster `name`: notes it, once per tick.
    pub fn note(&mut self, name: &[u8], now: Micros) {
        if self.noted.len() >= wanted::MOST || self.noted.iter().any(|noted| noted == name) {
            return;
        }
        self.noted.push(name.to_vec());
        if wanted::note(&self.key, name, &mut Host) == Err(NotNoted::Full)
            && (self.full_logged_at == Micros::ZERO || now.since(self.full_logged_at) >= REPEAT_AFTER)
        {
            self.full_logged_at = now;
            log::warn!(
                "warmpath: requests to cluster {} are not routed: {} other clusters are, and no more can be",
                name.escape_ascii(),
                wanted::MOST
            );
        }
    }

    /// A cluster that is still unknown is noted again: the page may have come before the cluster.
    pub fn tick(&mut self) {
        self.noted.clear();
    }
}

/// Asks Envoy which hosts the wanted clusters have.
#[derive(Debug)]
pub struct DiscoveryDriver {
    by: DiscoveryBy,
    discovery: Discovery,
    under_way: Calls<Query>,
    asked_at: Micros,
    /// When the question was asked that was last answered as a whole.
    looked_at: Micros,
    /// Of the questions under way one has failed.
    failed: bool,
    failure_logged_at: Micros,
    /// Since when a cluster has not sent where it is told, until that was logged.
    unsteered_since: Option<Micros>,
    unsteered_logged: bool,
}

impl DiscoveryDriver {
    /// Goes on from `table`; `None` when the configuration lists the pods.
    pub fn start(config: &Config, table: &PodTable, now: Micros) -> Option<DiscoveryDriver> {
        let by = config.discovery.clone()?;
        let keys = Keys::of(&config.pool, config.index.log_segments);
        Some(DiscoveryDriver {
            discovery: Discovery::new(&keys, by.pods_of.as_deref(), table, now),
            by,
            under_way: Calls::default(),
            asked_at: Micros::ZERO,
            looked_at: Micros::ZERO,
            failed: false,
            failure_logged_at: Micros::ZERO,
            unsteered_since: None,
            unsteered_logged: false,
        })
    }

    /// Asks for what is wanted, when it is time; sooner if whoever collects has `doubts` about its pages.
    pub fn tick(&mut self, doubts: bool, now: Micros) {
        let since = now.since(self.asked_at);
        let due =
            since >= self.by.interval || (since >= SOON && (doubts || self.discovery.has_questions(&Host)));
        if !due || !self.under_way.is_empty() {
            return;
        }
        self.asked_at = now;
        self.failed = false;
        self.log_unsteered(now);
        for query in self.discovery.queries(&Host) {
            match host::fetch_admin(&self.by.cluster, &query.path, TIMEOUT) {
                Some(call) => {
                    self.under_way.made(call, query);
                }
                None => self.failed("Envoy has no such cluster", now),
            }
        }
    }

    /// Takes in what was fetched; returns whether the call was one of its own.
    pub fn answered(&mut self, call: u32, headers: usize, body_size: usize, now: Micros) -> bool {
        let Some(query) = self.under_way.answered(call) else { return false };
        match host::fetched(headers, body_size.min(LONGEST_PAGE)) {
            None => self.failed("no whole answer", now),
            Some((status, _)) if status != b"200" => {
                self.failed(&format!("it answers {}", status.escape_ascii()), now);
            }
            Some(_) if body_size > LONGEST_PAGE => {
                self.failed(&format!("its page has {body_size} bytes, more than {LONGEST_PAGE}"), now);
            }
            Some((_, page)) => {
                if self.discovery.take(&query, &page, &mut Host, now).is_err() {
                    self.failed("its page is no list of clusters", now);
                }
            }
        }
        if self.under_way.is_empty() && !self.failed {
            self.looked_at = self.asked_at;
        }
        true
    }

    /// When the question was asked that was last answered as a whole.
    pub fn looked_at(&self) -> Micros {
        self.looked_at
    }

    /// The pods as they are known now.
    pub fn members(&self) -> Members {
        self.discovery.members()
    }

    /// The cluster through which a pod can be scraped; `None` while no cluster is sure to reach it.
    pub fn cluster_of(&self, address: &str) -> Option<&str> {
        self.discovery.cluster_of(address)
    }

    /// Says once that a cluster does not send where it is told, if that lasts longer than a change of its
    /// settings.
    fn log_unsteered(&mut self, now: Micros) {
        let Some(name) = self.discovery.unsteered().next() else {
            self.unsteered_since = None;
            return;
        };
        let since = *self.unsteered_since.get_or_insert(now);
        if !self.unsteered_logged && now.since(since) >= SETTLES_IN {
            self.unsteered_logged = true;
            log::warn!(
                "warmpath: cluster {name} does not send where {} says, so picks have no effect and its pods' load is not \
                 read; give it the load balancing policy `override_host` with that header",
                host::DESTINATION
            );
        }
    }

    fn failed(&mut self, why: &str, now: Micros) {
        self.failed = true;
        // Envoy's admin interface answers a moment after Envoy's start.
        if self.failure_logged_at == Micros::ZERO
            || now.since(self.failure_logged_at) >= REPEAT_AFTER.max(10 * SECOND)
        {
            self.failure_logged_at = now;
            log::warn!(
                "warmpath: pods cannot be discovered, those that are known stay: `discovery.cluster` is \"{}\": {why}",
                self.by.cluster
            );
        }
    }
}
