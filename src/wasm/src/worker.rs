//! What the filters of one VM share: the router, its metrics and its log.

mod answers;
mod fullness;
mod routing;
mod test_endpoints;

use std::cell::RefCell;
use std::sync::Arc;

use warmpath::config::{Config, Destination};
use warmpath::router::Router;
use warmpath::settings::PoolSettings;
use warmpath::shared::pod_table::PodTable;
use warmpath::shared::store::Keys;
use warmpath::{MILLISECOND, Micros, Random};

use crate::decision_log::DecisionLog;
use crate::decision_watch::DecisionWatch;
use crate::discovery_driver::UnknownClusters;
use crate::host::{self, Host, Metric};
use crate::metrics::RouterMetrics;
use crate::observations::Observations;
use crate::profile;
use crate::receipt;
use crate::settings_in_force::SettingsInForce;
use crate::stop_iteration::StopIteration;
pub use routing::Routed;

/// Least time between two looks for what others may have changed; a pod is scraped a hundred times less
/// often, and an operator waits for nothing.
const REFRESH_AFTER: Micros = MILLISECOND;

/// A worker, and the way for filters to reach it.
#[derive(Debug)]
pub struct SharedWorker {
    worker: RefCell<Worker>,
    /// Whether requests may be held.
    pub stop_iteration: StopIteration,
    /// Whether clients choose pods by the header of the conformance tests.
    pub test_endpoint_header: bool,
    busy: Metric,
}

impl SharedWorker {
    /// Lets filters reach `worker`.
    pub fn new(worker: Worker, stop_iteration: StopIteration, config: &Config) -> SharedWorker {
        SharedWorker {
            busy: worker.metrics.busy,
            stop_iteration,
            test_endpoint_header: config.test_endpoint_header,
            worker: RefCell::new(worker),
        }
    }

    /// Runs `with` on the worker. `None`, and counted, while it runs already: then Envoy has called the
    /// module within one of the module's own calls, which the configuration rules out (only
    /// `dispatch_http_call` could).
    pub fn with<T>(&self, with: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        match self.worker.try_borrow_mut() {
            Ok(mut worker) => Some(with(&mut worker)),
            Err(_) => {
                self.busy.count();
                None
            }
        }
    }
}

/// The state of one VM.
#[derive(Debug)]
pub struct Worker {
    router: Router,
    metrics: RouterMetrics,
    log: DecisionLog,
    /// The pod table that the router has, by number.
    generation: u64,
    /// Last look of a request for what others may have changed; 0 before the first request.
    refreshed_at: Micros,
    in_force: SettingsInForce,
    /// The settings of the request at hand.
    settings: Arc<PoolSettings>,
    destination: Destination,
    /// Which parts of a request's record stand by themselves.
    parts: receipt::Parts,
    /// Present when the candidates of a request are the hosts of its cluster.
    unknown: Option<UnknownClusters>,
    said_names_stay: bool,
    observations: Observations,
    watch: DecisionWatch,
    told: fullness::Told,
    keys: Keys,
    dice: Random,
}

impl Worker {
    /// The worker of a VM; `writer` names the VM in the log of the prefix index.
    pub fn new(config: &Config, writer: u32) -> Worker {
        let router = Router::new(config, writer).with_hash_seed(host::random());
        #[cfg(feature = "profile")]
        let router = router.with_observer(profile::step);
        let keys = Keys::of(&config.pool, config.index.log_segments);
        let metrics = RouterMetrics::of(&config.pool);
        metrics.index_limit_bytes.set(config.index.memory as u64);
        metrics.index_limit_holdings.set(config.index.holdings as u64);
        let settings = Arc::new(config.settings.clone());
        let mut worker = Worker {
            router,
            metrics,
            log: DecisionLog::new(),
            generation: 0,
            refreshed_at: Micros::ZERO,
            in_force: SettingsInForce::new(config, &keys, Arc::clone(&settings), &metrics),
            settings,
            destination: config.destination,
            parts: receipt::Parts::of(config),
            unknown: (config.destination == Destination::List && config.discovery.is_some())
                .then(|| UnknownClusters::new(&keys)),
            said_names_stay: false,
            observations: Observations::new(&config.pool, &keys.models),
            watch: DecisionWatch::default(),
            told: fullness::Told::default(),
            keys,
            dice: Random::new(host::random()),
        };
        worker.refresh();
        worker
    }

    /// Whether it has routed a request yet: the VM of Envoy's main thread never does.
    pub fn has_routed(&self) -> bool {
        self.refreshed_at > Micros::ZERO
    }

    /// Fetches a new pod table, and applies what other workers wrote to the log, at most `segments` segments.
    pub fn follow(&mut self, segments: usize) {
        self.refresh();
        self.router.follow(&Host, segments);
    }

    /// Prints log lines that were held back, and tells what was observed since the last tick.
    pub fn tick(&mut self, now: Micros) {
        if self.log.debug() {
            let index = self.router.index();
            log::debug!("warmpath: the index has {} holdings in {} bytes", index.holdings(), index.memory());
        }
        self.log.tick(now);
        self.observations.flush(&self.metrics);
        self.watch.tick(&self.keys.looked, &self.keys.decisions, now);
        if self.has_routed() {
            self.told.tell(&self.router, &self.metrics, &self.keys);
        }
        if let Some(unknown) = &mut self.unknown {
            unknown.tick();
        }
        profile::print();
    }

    /// The pod table as last fetched.
    pub fn table(&self) -> &PodTable {
        self.router.table()
    }

    /// Takes over what others have changed, unless it was looked at just now.
    fn refresh_now_and_then(&mut self, now: Micros) {
        if now.since(self.refreshed_at) >= REFRESH_AFTER {
            self.refreshed_at = now;
            self.refresh();
        }
    }

    /// Takes over the log level as it is now, and a new pod table if there is one: a look at a gauge, most of
    /// the time.
    #[inline(never)]
    fn refresh(&mut self) {
        self.log.refresh();
        let generation = self.metrics.pod_table_generation.get();
        if generation != self.generation {
            self.generation = generation;
            if let Err(error) = self.router.refresh(&Host) {
                self.metrics.bad_pod_table.count();
                log::error!("warmpath: the pod table: {error}");
            }
            self.in_force.refresh(self.router.table().settings);
        }
    }
}
