//! The root context of a router: keeps its worker up to date, and stands in for a dead collector.

use std::rc::Rc;
use std::time::Duration;

use warmpath::Micros;
use warmpath::config::{Config, Destination};
use warmpath::shared::lease::{self, Holder};
use warmpath::shared::membership::{NotAnnounced, PodList, announce};
use warmpath::shared::store::Keys;

use crate::collector_driver::CollectorDriver;
use crate::host::{self, Host};
use crate::metrics::CollectorMetrics;
use crate::stop_iteration::StopIteration;
use crate::worker::{SharedWorker, Worker};

/// How often a router checks whether the collector lives, and applies what other workers wrote to the log.
const PERIOD: Duration = Duration::from_secs(1);
/// The same until it is known whether Envoy hands over the bodies of held requests: where it does not, the
/// next tick lets them go, and none of them is to wait for longer than a second.
const UNTIL_PROVEN: Duration = Duration::from_millis(500);
/// Log segments that a router applies before its first request: all of the ring, at its default length. That
/// takes a fraction of a second, while a prompt that is sent to a pod which does not hold it costs seconds.
/// The rest of a longer ring is applied tick by tick.
const SEGMENTS_AT_START: usize = 8192;
/// Log segments that a router applies per tick.
const SEGMENTS_PER_TICK: usize = 512;
/// The same for a router that has routed nothing: a worker that waits for its first client keeps up with a
/// few hundred prompts per second, and Envoy's main thread, which has a VM but never a client, has other
/// work.
const SEGMENTS_PER_IDLE_TICK: usize = 64;

/// The router of one VM.
#[derive(Debug)]
pub struct RouterRole {
    config: Config,
    worker: Rc<SharedWorker>,
    keys: Keys,
    /// Envoy's number of the root context.
    root: u32,
    /// Names this root context in the lease.
    holder: Holder,
    /// Present while this VM stands in for the collector.
    collector: Option<CollectorDriver>,
    /// Time between two ticks.
    period: Duration,
}

impl RouterRole {
    /// Starts to route with `config`; `seed` is a random number, `root` is Envoy's number of the root
    /// context.
    pub fn start(config: Config, root: u32, seed: u64, now: Micros) -> RouterRole {
        // By it a worker knows its own records in the log, and its own lease: two VMs may start in the same
        // microsecond.
        let holder = Holder { id: seed as u32, since: now };
        let keys = Keys::of(&config.pool, config.index.log_segments);
        announce_pods(&config, &keys);
        let mut worker = Worker::new(&config, holder.id);
        worker.follow(SEGMENTS_AT_START);
        host::tick_every(UNTIL_PROVEN);
        let worker = Rc::new(SharedWorker::new(worker, StopIteration::new(&config), &config));
        RouterRole { config, worker, keys, root, holder, collector: None, period: UNTIL_PROVEN }
    }

    /// What its filters share.
    pub fn worker(&self) -> Rc<SharedWorker> {
        Rc::clone(&self.worker)
    }

    /// Keeps up with the other workers, and collects if nobody else does.
    pub fn tick(&mut self, now: Micros) {
        self.worker.stop_iteration.tick(self.root);
        let abandoned = self.worker.with(|worker| {
            let segments = if worker.has_routed() { SEGMENTS_PER_TICK } else { SEGMENTS_PER_IDLE_TICK };
            worker.follow(segments);
            worker.tick(now);
            lease::abandoned(worker.table(), now)
        });
        match &mut self.collector {
            Some(driver) => {
                if lease::take(&self.keys.lease, self.holder, &mut Host, now) {
                    driver.tick(now);
                } else {
                    self.collector = None;
                }
            }
            // Without a table there never was a collector: one may still come, after its own grace.
            None if (abandoned == Some(true)
                || (self.config.discovery.is_some()
                    && lease::is_held_by_an_older(&self.keys.lease, self.holder, &Host, now)))
                && (self.config.pods.is_some() || self.config.discovery.is_some())
                && lease::take(&self.keys.lease, self.holder, &mut Host, now) =>
            {
                // With a list of destinations there is no other collector, unless one is configured.
                if self.config.destination == Destination::Headers {
                    log::warn!(
                        "warmpath: the collector of pool {} gives no sign of life, this VM collects",
                        self.config.pool
                    );
                    CollectorMetrics::of(&self.config.pool).takeovers.count();
                }
                self.collector = Some(CollectorDriver::start(&self.config, now.0, now));
            }
            None => {}
        }
        self.keep_pace();
    }

    /// Asks for ticks as often as it needs them now.
    fn keep_pace(&mut self) {
        let mut period = match &self.collector {
            Some(_) => CollectorDriver::period(&self.config),
            None => PERIOD,
        };
        if self.worker.stop_iteration.is_unproven() {
            period = period.min(UNTIL_PROVEN);
        }
        if period != self.period {
            self.period = period;
            host::tick_every(period);
        }
    }

    /// Takes in the response to a scrape.
    pub fn answered(&mut self, call: u32, headers: usize, body_size: usize) {
        if let Some(driver) = &mut self.collector {
            driver.answered(call, headers, body_size);
        }
    }
}

/// Makes the configuration's list of pods the one that holds, and says so if it does not.
fn announce_pods(config: &Config, keys: &Keys) {
    let Some(pods) = config.pods.clone() else { return };
    let list = PodList { revision: config.revision, pods };
    match announce(&keys.pods, &list, &mut Host) {
        Ok(()) => {}
        Err(NotAnnounced::Superseded { by }) => log::warn!(
            "warmpath: `pods` is not used: its `revision` is {}, and a list with revision {by} holds; give it a higher revision",
            list.revision
        ),
        Err(NotAnnounced::Contended) => {
            log::warn!("warmpath: `pods` is not used: other workers wrote theirs at every try")
        }
    }
}
