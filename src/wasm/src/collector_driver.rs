//! The collector at work: sends what is due, hands in what comes back. Used by the singleton, and by a
//! router's root context that stands in for it.

use std::time::Duration;

use warmpath::collector::{Collector, DueScrape, ScrapeFailure};
use warmpath::config::{Config, Destination, Scrape};
use warmpath::discovery::Members;
use warmpath::monitor::left_alone::LeftAlone;
use warmpath::shared::clusters::ClusterSet;
use warmpath::shared::pod_table::PodState;
use warmpath::{MILLISECOND, Micros};

use crate::calls::Calls;
use crate::discovery_driver::DiscoveryDriver;
use crate::host::{self, Host};
use crate::left_alone_log;
use crate::log_batch::REPEAT_AFTER;
use crate::metrics::CollectorMetrics;
use crate::model_lists::ModelLists;
use crate::pod_changes::PodChanges;
use crate::round_trips::RoundTrips;
use crate::settings_driver::SettingsDriver;

/// Longest metrics page that is taken in: vLLM's has 55 KB, and grows with engines and adapters. A longer one
/// would hold Envoy's main thread up, and its copy stays in the VM's memory for good.
const LONGEST_PAGE: usize = 4 << 20;

/// A collector with its calls under way.
#[derive(Debug)]
pub struct CollectorDriver {
    config: Config,
    collector: Collector,
    /// Present when pods are discovered.
    discovery: Option<DiscoveryDriver>,
    /// What discovery has found, as last handed on.
    members: Option<Members>,
    metrics: CollectorMetrics,
    lists: ModelLists,
    trips: RoundTrips,
    /// Present when settings are fetched.
    settings: Option<SettingsDriver>,
    /// The scrapes, when each was sent, and whether its connection is closed after it.
    under_way: Calls<(DueScrape, Micros, bool)>,
    /// Changes that are to be logged.
    changes: PodChanges,
    /// Pods that are left alone, as last logged.
    left_alone: LeftAlone,
    /// When it was last logged that Envoy sends no scrapes.
    unsent_logged_at: Micros,
}

impl CollectorDriver {
    /// Starts to collect for the pool of `config`, and publishes its pods at once, so that requests find them
    /// before the first scrape.
    pub fn start(config: &Config, seed: u64, now: Micros) -> CollectorDriver {
        let collector = Collector::new(config, &Host, seed, now);
        let mut driver = CollectorDriver {
            discovery: DiscoveryDriver::start(config, collector.table(), now),
            members: None,
            collector,
            metrics: CollectorMetrics::of(&config.pool),
            config: config.clone(),
            lists: ModelLists::default(),
            trips: RoundTrips::default(),
            settings: SettingsDriver::start(config),
            under_way: Calls::default(),
            changes: PodChanges::default(),
            left_alone: LeftAlone::default(),
            unsent_logged_at: Micros::ZERO,
        };
        driver.publish(now);
        driver
    }

    /// How often [`CollectorDriver::tick`] wants to be called: often enough to spread a fleet over its
    /// interval.
    pub fn period(config: &Config) -> Duration {
        Duration::from_millis((config.scrape.interval.0 / MILLISECOND.0 / 5).clamp(5, 1000))
    }

    /// Sends what is due.
    pub fn tick(&mut self, now: Micros) {
        let timeout = Duration::from_micros(self.config.scrape.timeout.0);
        if let Some(discovery) = &mut self.discovery {
            discovery.tick(self.collector.doubts(), now);
        }
        for due in self.collector.due(&Host, now) {
            let Some(through) = through(&self.config, self.discovery.as_ref(), &due.address) else {
                self.collector.done(&due, None, now);
                continue;
            };
            let scrape = &self.config.scrape;
            let address = page_address(scrape, &due.address);
            let authorization = scrape.authorization.as_ref().map(|value| ("authorization", &*value.0));
            let closes = self.collector.take_close(&due, now);
            let connection = closes.then_some(("connection", "close"));
            match host::fetch(through, &address, &scrape.path, &[authorization, connection], timeout) {
                Some(call) => {
                    self.under_way.made(call, (due, now, closes));
                }
                None => {
                    // The cluster is not there, or not yet: says nothing of the pod.
                    self.metrics.unsent.count();
                    self.collector.done(&due, None, now);
                    if now.since(self.unsent_logged_at) >= REPEAT_AFTER {
                        self.unsent_logged_at = now;
                        log::warn!(
                            "warmpath: Envoy does not send the scrape of {}: `scrape.cluster` is \"{}\", name a cluster that Envoy has",
                            due.address,
                            through
                        );
                    }
                }
            }
        }
        if let Some(settings) = &mut self.settings {
            settings.tick(&self.metrics, now);
        }
        let CollectorDriver { config, collector, discovery, lists, .. } = self;
        lists.tick(collector, &config.scrape, |address| through(config, discovery.as_ref(), address), now);
        self.publish(now);
    }

    /// Takes in what was fetched.
    pub fn answered(&mut self, call: u32, headers: usize, body_size: usize) {
        let began = host::now();
        if let Some(discovery) = &mut self.discovery
            && discovery.answered(call, headers, body_size, began)
        {
            let (members, looked_at) = (discovery.members(), discovery.looked_at());
            if self.members.as_ref() != Some(&members) {
                self.collector.tell_date(host::date(), began);
                self.collector.set_members(&members, began);
                self.members = Some(members);
                self.publish(began);
            }
            self.collector.looked_at(looked_at);
            return;
        }
        let settings = self.settings.as_mut();
        if let Some(new) = settings.and_then(|of| of.answered(call, headers, body_size, &self.metrics, began))
        {
            if new {
                self.collector.new_settings();
                self.publish(began);
            }
            return;
        }
        if self.lists.answered(call, headers, body_size, &mut self.collector)
            || self.trips.answered(call, headers, &mut self.collector)
        {
            return;
        }
        let Some((due, sent_at, closes)) = self.under_way.answered(call) else { return };
        let before = self.state(&due);
        let mut cost = None;
        let why = match host::fetched(headers, if body_size > LONGEST_PAGE { 0 } else { body_size }) {
            // HTTP/2 has no such header. The next page is asked for as always, and tells more.
            answer if closes && answer.as_ref().is_none_or(|(status, _)| status != b"200") => {
                self.collector.close_failed(&due, began);
                String::new()
            }
            None => self.unreachable(&due, "no whole answer: refused, cut off, or too slow"),
            // Envoy's own words for a pod that does not answer.
            Some((status, _)) if status == b"503" || status == b"504" => {
                self.unreachable(&due, &format!("Envoy cannot reach it, or it answers {}", ascii(&status)))
            }
            Some((status, _)) if status != b"200" => {
                self.unreadable(&due, &format!("it answers {}", ascii(&status)))
            }
            Some(_) if body_size > LONGEST_PAGE => {
                self.unreadable(&due, &format!("its page has {body_size} bytes, more than {LONGEST_PAGE}"))
            }
            Some((_, page)) => {
                let (leaked, contended) = (self.collector.leaked(), self.collector.contended());
                let (misrouted, emptied) = (self.collector.misrouted(), self.collector.emptied());
                self.collector.take(&due, &page, &mut Host, began);
                self.metrics.leaked_requests.add(self.collector.leaked() - leaked);
                self.metrics.contended_reconcile.add(self.collector.contended() - contended);
                let misrouted = self.collector.misrouted() - misrouted;
                self.metrics.misrouted.add(misrouted);
                self.metrics.emptied_caches.add(self.collector.emptied() - emptied);
                self.collector.note_page(&due, host::fetched_after(sent_at, began));
                if let Some(address) = self.collector.several_at() {
                    log::warn!(
                        "warmpath: {address} answers for several processes, so Warmpath cannot choose among the pods behind \
                             it; give the cluster the pods' own addresses (in Envoy Gateway routingType: Endpoint)"
                    );
                }
                if self.collector.take_trip(&due, began)
                    && let Some(through) = through(&self.config, self.discovery.as_ref(), &due.address)
                {
                    let address = page_address(&self.config.scrape, &due.address);
                    let timeout = Duration::from_micros(self.config.scrape.timeout.0);
                    self.trips.ask(&due, through, &address, timeout);
                }
                cost = Some(host::now().since(began));
                if misrouted > 0 {
                    String::new()
                } else if self.collector.table().pod(due.slot).is_some_and(|pod| pod.state.tells_load()) {
                    self.metrics.scraped.count();
                    String::new()
                } else {
                    self.unreadable(&due, "its page has no metric of vLLM")
                }
            }
        };
        if let (Some(before), Some(after)) = (before, self.state(&due)) {
            self.changes.add(&due.address, before, after, &why);
        }
        self.collector.done(&due, cost, began);
        if self.under_way.is_empty() {
            self.publish(began);
        }
    }

    fn unreachable(&mut self, due: &DueScrape, why: &str) -> String {
        self.metrics.unreachable.count();
        self.collector.fail(due, ScrapeFailure::Unreachable);
        why.to_owned()
    }

    fn unreadable(&mut self, due: &DueScrape, why: &str) -> String {
        self.metrics.unreadable.count();
        self.collector.fail(due, ScrapeFailure::Unreadable);
        why.to_owned()
    }

    /// The state of the pod in the table; `None` when it has gone, or another one is in its place.
    fn state(&self, due: &DueScrape) -> Option<PodState> {
        let pod = self.collector.table().pod(due.slot)?;
        (pod.address == due.address).then_some(pod.state)
    }

    fn publish(&mut self, now: Micros) {
        self.changes.print(self.collector.table().addresses().count(), &self.config.scrape.path);
        if let Some(generation) = self.collector.publish(&mut Host, now) {
            self.metrics.pod_table_generation.set(generation);
            let ledger = self.collector.ledger(&Host);
            let in_flight = ledger.totals();
            self.metrics.in_flight.set(in_flight.in_flight);
            self.metrics.waiting.set(in_flight.waiting);
            self.metrics.outstanding_tokens.set(in_flight.outstanding);
            let table = self.collector.table();
            left_alone_log::print(&self.left_alone.see(table, &ledger), table.live().count());
            self.metrics.pods.set(table.addresses().count() as u64);
            // One that drains, loads its model or has left its cluster is not ready to serve, whatever its
            // page says.
            let ready = table
                .addresses()
                .filter(|(_, pod)| pod.state == PodState::Ready && pod.candidate_of != ClusterSet::NONE);
            self.metrics.ready_pods.set(ready.count() as u64);
        }
    }
}

/// The cluster through which a pod is reached; `None` while none is sure to reach it.
fn through<'a>(config: &'a Config, discovery: Option<&'a DiscoveryDriver>, address: &str) -> Option<&'a str> {
    match discovery {
        Some(discovery) if config.destination == Destination::List => discovery.cluster_of(address),
        _ => Some(config.scrape.cluster.as_str()),
    }
}

/// Where the metrics page of the pod at this address is.
fn page_address(scrape: &Scrape, address: &str) -> String {
    let Some(port) = scrape.port else { return address.to_owned() };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    format!("{host}:{port}")
}

/// A status for the log.
fn ascii(status: &[u8]) -> String {
    status.escape_ascii().to_string()
}
