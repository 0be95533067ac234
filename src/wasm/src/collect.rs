//! The collector at work: sends what is due, hands in what comes back. Used by the singleton, and by a router's root context
//! that stands in for it.

use std::collections::HashMap;
use std::time::Duration;

use warmpath::collector::{Collector, Due, Trouble};
use warmpath::config::Config;
use warmpath::table::State;
use warmpath::{MILLISECOND, Micros};

use crate::host::{self, Host};
use crate::metrics::CollectorMetrics;

/// Longest metrics page that is taken in: vLLM's has 55 KB, and grows with engines and adapters. A longer one would hold
/// Envoy's main thread up, and its copy stays in the VM's memory for good.
const LONGEST_PAGE: usize = 4 << 20;

/// A collector with its calls under way.
#[derive(Debug)]
pub struct Collecting {
    config: Config,
    collector: Collector,
    metrics: CollectorMetrics,
    under_way: HashMap<u32, Due>,
}

impl Collecting {
    /// Starts to collect for the pool of `config`, and publishes its pods at once, so that requests find them before the
    /// first scrape.
    pub fn start(config: &Config, seed: u64, now: Micros) -> Collecting {
        let mut collecting = Collecting {
            collector: Collector::new(config, &Host, seed, now),
            metrics: CollectorMetrics::of(&config.pool),
            config: config.clone(),
            under_way: HashMap::new(),
        };
        collecting.publish(now);
        collecting
    }

    /// How often [`Collecting::tick`] wants to be called: often enough to spread a fleet over its interval.
    pub fn period(config: &Config) -> Duration {
        Duration::from_millis((config.scrape.interval / MILLISECOND / 5).clamp(5, 1000))
    }

    /// Sends what is due.
    pub fn tick(&mut self, now: Micros) {
        let timeout = Duration::from_micros(self.config.scrape.timeout);
        for due in self.collector.due(&Host, now) {
            match host::fetch(&self.config.scrape.cluster, &due.address, &self.config.scrape.path, timeout) {
                Some(call) => {
                    self.under_way.insert(call, due);
                }
                None => {
                    // The cluster is not there, or not yet: says nothing of the pod.
                    self.metrics.unsent.count();
                    self.collector.done(&due, None, now);
                }
            }
        }
        self.publish(now);
    }

    /// Takes in what was fetched.
    pub fn answered(&mut self, call: u32, body_size: usize) {
        let Some(due) = self.under_way.remove(&call) else { return };
        let began = host::now();
        let mut cost = None;
        let answer =
            if body_size > LONGEST_PAGE { Some(Default::default()) } else { host::fetched(body_size) };
        match answer {
            Some((status, page)) if status == b"200" => {
                let leaked = self.collector.leaked();
                self.collector.take(&due, &page, &mut Host, began);
                self.metrics.leaked.add(self.collector.leaked() - leaked);
                let readable =
                    self.collector.table().pod(due.slot).is_some_and(|pod| pod.state == State::Ready);
                if readable {
                    self.metrics.scraped.count()
                } else {
                    self.metrics.unreadable.count()
                }
                cost = Some(host::now().saturating_sub(began));
            }
            // Envoy's own words for a pod that does not answer.
            Some((status, _)) if status == b"503" || status == b"504" => {
                self.metrics.unreachable.count();
                self.collector.fail(&due, Trouble::Unreachable);
            }
            Some(_) => {
                self.metrics.unreadable.count();
                self.collector.fail(&due, Trouble::Unreadable);
            }
            None => {
                self.metrics.unreachable.count();
                self.collector.fail(&due, Trouble::Unreachable);
            }
        }
        self.collector.done(&due, cost, began);
        if self.under_way.is_empty() {
            self.publish(began);
        }
    }

    fn publish(&mut self, now: Micros) {
        if let Some(generation) = self.collector.publish(&mut Host, now) {
            self.metrics.table_generation.set(generation);
            let in_flight = self.collector.in_flight(&Host);
            self.metrics.in_flight.set(in_flight.in_flight);
            self.metrics.waiting.set(in_flight.waiting);
            self.metrics.outstanding_tokens.set(in_flight.work);
            let table = self.collector.table();
            self.metrics.pods.set(table.live().count() as u64);
            self.metrics
                .ready_pods
                .set(table.live().filter(|(_, pod)| pod.state == State::Ready).count() as u64);
        }
    }
}
