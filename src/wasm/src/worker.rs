//! What the filters of one VM share: the router, its metrics and its log.

use std::cell::RefCell;

use proxy_wasm::types::Bytes;
use warmpath::answer::verdict::{
    BrokenBy, FailedPods, Judgement, StreamEnd, Verdict, is_plainly_served, judge, judge_end, unanswered,
};
use warmpath::config::{Config, Destination, Strategy};
use warmpath::decide::pick::Picks;
use warmpath::request::body::{Api, BodyError};
use warmpath::request::parse_cache::ParsedRequest;
use warmpath::router::{Decision, End, NoPod, RouteBy, Router, Ticket};
use warmpath::shared::clusters::ClusterSet;
use warmpath::shared::pod_table::PodTable;
use warmpath::shared::store::{Contended, Keys};
use warmpath::{MILLISECOND, Micros, Slot};

use crate::decision_log::{DecisionLog, PREFIX_HIT};
use crate::discovery_driver::UnknownClusters;
use crate::host::{self, Host, Metric};
use crate::metrics::RouterMetrics;
use crate::profile;
use crate::sent::Sent;
use crate::stop_iteration::StopIteration;

/// The headers that the clusters read, attempt by attempt.
const DESTINATIONS: [&str; 3] =
    ["x-warmpath-destination-0", "x-warmpath-destination-1", "x-warmpath-destination-2"];
/// Least time between two looks for a new pod table; a pod is scraped a hundred times less often.
const TABLE_CHECK: Micros = MILLISECOND;

/// A worker, and the way for filters to reach it.
#[derive(Debug)]
pub struct SharedWorker {
    worker: RefCell<Worker>,
    /// Whether requests may be held.
    pub stop_iteration: StopIteration,
    busy: Metric,
}

impl SharedWorker {
    /// Lets filters reach `worker`.
    pub fn new(worker: Worker, stop_iteration: StopIteration) -> SharedWorker {
        SharedWorker { busy: worker.metrics.busy, stop_iteration, worker: RefCell::new(worker) }
    }

    /// Runs `with` on the worker. `None`, and counted, while it runs already: then Envoy has called the module within one of
    /// the module's own calls, which the configuration rules out (only `dispatch_http_call` could).
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
    /// Last check for a new pod table; 0 before the first request.
    table_checked_at: Micros,
    fail_open: bool,
    destination: Destination,
    /// Present when pods are discovered.
    unknown: Option<UnknownClusters>,
    /// Whether prompts are routed by what the pods hold of them.
    by_prefix: bool,
}

impl Worker {
    /// The worker of a VM; `writer` names the VM in the log of the prefix index.
    pub fn new(config: &Config, writer: u32) -> Worker {
        let router = Router::new(config, writer).with_hash_seed(host::random());
        #[cfg(feature = "profile")]
        let router = router.with_observer(profile::step);
        let mut worker = Worker {
            router,
            metrics: RouterMetrics::of(&config.pool),
            log: DecisionLog::new(),
            generation: 0,
            table_checked_at: Micros::ZERO,
            fail_open: config.fail_open,
            destination: config.destination,
            unknown: config
                .discovery
                .is_some()
                .then(|| UnknownClusters::new(&Keys::of(&config.pool, config.index.log_segments))),
            by_prefix: config.strategy == Strategy::PrefixCache,
        };
        worker.refresh();
        worker
    }

    // === requests ===

    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`BodyError`] when it is no request to this API.
    pub fn read<'a>(&mut self, api: Api, body: &'a [u8]) -> Result<ParsedRequest<'a>, BodyError> {
        let read = self.router.read(api, body);
        profile::lap("parse");
        read
    }

    /// Decides where a request goes, tells Envoy in its headers, and logs and counts the decision.
    ///
    /// # Errors
    /// [`NoPod`] when no pod can be named; then the headers name none.
    pub fn route(&mut self, by: RouteBy<'_>) -> Result<Ticket, NoPod> {
        let now = host::now();
        if now.since(self.table_checked_at) >= TABLE_CHECK {
            self.table_checked_at = now;
            self.refresh();
        }
        let decided = match self.candidates(now) {
            Some(among) => self.router.decide_among(among, by, &mut Host, now),
            None => Err(NoPod::UnknownCluster),
        };
        match decided {
            Ok(decision) => {
                self.name_pods(decision.picks);
                self.count_decision(by);
                self.log_decision(&decision, now);
                Ok(decision.ticket)
            }
            Err(no_pod) => {
                self.name_pods(Picks::default());
                match no_pod {
                    NoPod::NoTable => self.metrics.no_table.count(),
                    NoPod::UnknownCluster => {
                        self.metrics.unknown_cluster.count();
                        return Err(no_pod);
                    }
                    NoPod::AllCoolingDown => self.metrics.all_cooling_down.count(),
                    NoPod::Contended => {
                        self.metrics.contended.count();
                        self.metrics.contended_decide.count();
                    }
                }
                self.log.no_pod(no_pod, self.fail_open, now);
                Err(no_pod)
            }
        }
    }

    /// The clusters whose pods may serve the request; `None` when its cluster is not known yet, which is noted.
    fn candidates(&mut self, now: Micros) -> Option<ClusterSet> {
        let Some(unknown) = &mut self.unknown else { return Some(ClusterSet::ALL) };
        let name = host::property(&["xds", "cluster_name"]).unwrap_or_default();
        let known = self.router.table().cluster(&name);
        if known.is_none() {
            unknown.note(&name, now);
        }
        known
    }

    /// Lets Envoy's own balancing serve the request.
    pub fn name_none(&self) {
        self.name_pods(Picks::default());
    }

    /// Whether requests without a pod are left to the fallback cluster.
    pub fn fails_open(&self) -> bool {
        self.fail_open
    }

    /// Counts a request whose body no pod could have read.
    pub fn count_rejected(&self) {
        self.metrics.bad_body.count();
    }

    /// Sets or removes every destination header, so that none is left from the client.
    fn name_pods(&self, picks: Picks) {
        if self.destination == Destination::List {
            let mut list = Vec::new();
            for pod in picks.iter().filter_map(|slot| self.router.table().pod(slot)) {
                if !list.is_empty() {
                    list.push(b',');
                }
                list.extend_from_slice(pod.address.as_bytes());
            }
            host::set_request_header(host::DESTINATION, (!list.is_empty()).then_some(&list));
            return;
        }
        let mut slots = picks.iter();
        for name in DESTINATIONS {
            let pod = slots.next().and_then(|slot| self.router.table().pod(slot));
            host::set_request_header(name, pod.map(|pod| pod.address.as_bytes()));
        }
    }

    fn count_decision(&self, by: RouteBy<'_>) {
        match by {
            RouteBy::Prompt(_) if self.by_prefix => self.metrics.by_prefix.count(),
            RouteBy::Prompt(_) | RouteBy::Load => self.metrics.by_load.count(),
        }
    }

    fn log_decision(&mut self, decision: &Decision, now: Micros) {
        let ratio = decision.match_ratio();
        if ratio > PREFIX_HIT {
            self.metrics.prefix_hits.count();
            let pod = self.router.table().pod(decision.ticket.slot()).map_or("-", |pod| &pod.address);
            self.log.prefix_hit(ratio, pod, now);
        }
        self.log.costs(decision, self.router.candidates(), self.router.table());
    }

    // === answers ===

    /// Notes that the first token of an answer has come.
    pub fn start(&mut self, ticket: &mut Ticket) {
        let started = self.router.start(ticket, &mut Host, host::now());
        count_contended(started, self.metrics.contended_start);
    }

    /// Judges an answer that has begun, and books what it says of the pods.
    pub fn judge(&mut self, sent: &mut Sent) -> Verdict {
        // Only an answer to the prompt reports its tokens, and a whole one reports them at once: then Envoy need not be
        // asked.
        let reports = sent.usage().is_some();
        let code = if reports { 200 } else { host::number(&["response", "code"]).unwrap_or(0) };
        let attempts = attempts();
        if is_plainly_served(code, attempts) {
            return Verdict::Served;
        }
        let Judgement { verdict, failed_over, failed } = judge(code, attempts, &code_details());
        if failed_over > 0 {
            let answers = host::property(&["upstream", "address"]).and_then(|address| self.slot_of(&address));
            self.metrics.failovers.count();
            let moved =
                self.router.failed_over(&mut sent.ticket, failed_over, answers, &mut Host, host::now());
            count_contended(moved, self.metrics.contended_failover);
        }
        if failed != FailedPods::None {
            self.metrics.upstream_failures.count();
        }
        self.book_failed(sent, failed);
        if verdict == Verdict::Failed {
            self.metrics.upstream_errors.count();
        }
        verdict
    }

    /// Counts an answer that says in its body that the pod has failed.
    pub fn count_failed(&self) {
        self.metrics.upstream_errors.count();
    }

    /// Judges a stream that has ended without the end of a body: answers without a body end so, and all that were broken off,
    /// before the headers, after them, or in the middle.
    pub fn judge_end(&mut self, sent: &mut Sent) {
        let details = code_details();
        match judge_end(sent.verdict, &details) {
            StreamEnd::Settled => {}
            StreamEnd::Answered => sent.verdict = Some(self.judge(sent)),
            StreamEnd::BrokenOff => {
                self.metrics.broken_by_pod.count();
                self.book_failed(sent, FailedPods::Answering);
            }
            StreamEnd::Unanswered(by) => {
                let failed = unanswered(attempts(), &details);
                if failed != FailedPods::None {
                    self.metrics.upstream_failures.count();
                }
                self.book_failed(sent, failed);
                match by {
                    BrokenBy::Pod => self.metrics.broken_by_pod.count(),
                    BrokenBy::Client => self.metrics.broken_by_client.count(),
                }
            }
        }
    }

    /// Books pods that have failed a request.
    fn book_failed(&mut self, sent: &Sent, failed: FailedPods) {
        let booked = match failed {
            FailedPods::None => return,
            FailedPods::First(pods) => self.router.unanswered(&sent.ticket, pods, &mut Host, host::now()),
            FailedPods::Answering => self.router.failed_upstream(&sent.ticket, &mut Host, host::now()),
        };
        count_contended(booked, self.metrics.contended_failure);
    }

    /// Closes a request's account.
    pub fn close(&mut self, sent: Sent) {
        let end = match sent.verdict {
            Some(Verdict::Served) => End::Answered {
                usage: sent.usage(),
                at: if sent.ticket.started() { Micros::ZERO } else { host::now() },
            },
            Some(Verdict::Failed) => End::UpstreamError { at: host::now() },
            _ => End::Aborted,
        };
        let closed = self.router.close(sent.ticket, end, &mut Host);
        count_contended(closed, self.metrics.contended_close);
    }

    fn slot_of(&self, address: &[u8]) -> Option<Slot> {
        self.router.table().live().find(|(_, pod)| pod.address.as_bytes() == address).map(|(slot, _)| slot)
    }

    // === the tick ===

    /// Whether it has routed a request yet: the VM of Envoy's main thread never does.
    pub fn has_routed(&self) -> bool {
        self.table_checked_at > Micros::ZERO
    }

    /// Fetches a new pod table, and applies what other workers wrote to the log, at most `segments` segments.
    pub fn follow(&mut self, segments: usize) {
        self.refresh();
        self.router.follow(&Host, segments);
    }

    /// Prints log lines that were held back.
    pub fn tick(&mut self, now: Micros) {
        if self.log.debug() {
            let index = self.router.index();
            log::debug!("warmpath: the index has {} holdings in {} bytes", index.holdings(), index.memory());
        }
        self.log.tick(now);
        if let Some(unknown) = &mut self.unknown {
            unknown.tick();
        }
        profile::print();
    }

    /// The pod table as last fetched.
    pub fn table(&self) -> &PodTable {
        self.router.table()
    }

    /// Fetches the pod table if there is a new one: a look at a gauge, most of the time.
    fn refresh(&mut self) {
        let generation = self.metrics.pod_table_generation.get();
        if generation != self.generation {
            self.generation = generation;
            if let Err(error) = self.router.refresh(&Host) {
                self.metrics.bad_pod_table.count();
                log::error!("warmpath: the pod table: {error}");
            }
        }
    }
}

/// Counts a change of the ledger that is lost, because other workers wrote first at every try.
fn count_contended(result: Result<(), Contended>, during: Metric) {
    if result == Err(Contended) {
        during.count();
    }
}

/// Envoy's word for how the stream ended, or for its own answer.
fn code_details() -> Bytes {
    host::property(&["response", "code_details"]).unwrap_or_default()
}

/// How many pods were tried.
fn attempts() -> usize {
    host::number(&["upstream", "request_attempt_count"]).unwrap_or(1) as usize
}
