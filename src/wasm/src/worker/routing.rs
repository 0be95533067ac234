//! What a worker does with a request: has it routed, names the pods to Envoy, logs and counts the decision.

use std::sync::Arc;

use warmpath::Micros;
use warmpath::config::Destination;
use warmpath::decide::pick::Picks;
use warmpath::monitor::decisions;
use warmpath::request::body::{Api, BodyError};
use warmpath::request::parse_cache::{NameRefused, ParsedRequest};
use warmpath::router::{Decision, Demand, NoPod, RouteBy, Ticket};
use warmpath::settings::Strategy;
use warmpath::settings::backends::draw;
use warmpath::settings::criticality::Criticality;
use warmpath::shared::clusters::ClusterSet;
use warmpath::shared::pod_table::PodKey;
use warmpath::shared::responses;
use warmpath::shared::tenants::TenantId;

use super::Worker;
use crate::answer_hint::AnswerHint;
#[cfg(feature = "blind")]
use crate::blind::{self, Observed};
use crate::decision_log::PREFIX_HIT;
use crate::host::{self, Host};
use crate::observations::{RoutedBy, Seen};
use crate::profile;
use crate::receipt::Receipt;

/// The headers that the clusters read, attempt by attempt.
const DESTINATIONS: [&str; 3] =
    ["x-warmpath-destination-0", "x-warmpath-destination-1", "x-warmpath-destination-2"];
/// The header by which vLLM is told which of its engines computes a request.
const ENGINE: &str = "x-data-parallel-rank";
/// The header by which Envoy is told how often it may retry. A client's is removed before.
const MAX_RETRIES: &str = "x-envoy-max-retries";
/// The headers by which a request names its objective.
const OBJECTIVES: [&str; 2] = ["x-gateway-inference-objective", "x-llm-d-inference-objective"];

/// A request that was sent to a pod.
#[derive(Debug)]
#[must_use = "the request is booked: its ticket must be closed"]
pub struct Routed {
    /// Its account.
    pub ticket: Ticket,
    /// What is observed of it at its end.
    pub seen: Seen,
    /// Its own record.
    pub receipt: Receipt,
}

impl Worker {
    /// Looks up by which settings the request is routed that was whole at `now`. First of all, in the
    /// callback that routes it.
    pub fn look_up_settings(&mut self, now: Micros) {
        if self.in_force.follows_the_table() {
            self.refresh_now_and_then(now);
        }
        if let Some(settings) = self.in_force.of_request()
            && !Arc::ptr_eq(&settings, &self.settings)
        {
            self.router.set_settings(Arc::clone(&settings));
            self.settings = settings;
        }
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`BodyError`] when it is no request to this API.
    pub fn read<'a>(&mut self, api: Api, body: &'a [u8]) -> Result<ParsedRequest<'a>, BodyError> {
        let read = self.router.read(api, body);
        profile::lap("parse");
        read
    }

    /// Decides where a request goes that was whole at `now`, tells Envoy in its headers, and logs and counts
    /// the decision.
    ///
    /// # Errors
    /// [`NoPod`] when no pod can be named; then the headers name none.
    pub fn route(&mut self, by: RouteBy<'_>, criticality: Criticality, now: Micros) -> Result<Routed, NoPod> {
        let by = self.sampled(by);
        self.refresh_now_and_then(now);
        let decided = match self.candidates(now) {
            Some(among) => {
                let (holder, tenant) = (self.holder(by, now), self.tenant(by));
                let demand = Demand { among, criticality, holder, tenant };
                self.router.decide_for(demand, by, &mut Host, now)
            }
            None => Err(NoPod::UnknownCluster),
        };
        match decided {
            Ok(decision) => {
                self.name_pods(decision.picks, decision.engine);
                if decision.restricted {
                    // After them Envoy would go on to its fallback, which is any pod.
                    let retries = decision.picks.iter().count().saturating_sub(1);
                    host::set_request_header(MAX_RETRIES, Some(retries.to_string().as_bytes()));
                }
                AnswerHint::of(&decision).give();
                self.log_decision(&decision, now);
                #[cfg(feature = "blind")]
                if let less @ (Observed::Counts | Observed::Nothing) = blind::observed() {
                    return Ok(self.unobserved(decision, by, less));
                }
                let model = by.prompt().map(|parsed| &*parsed.request.model);
                let receipt = Receipt::decided(&decision, model, self.parts);
                let routed_by = self.routed_by(by);
                let took = host::now().since(now);
                let seen = self.observations.decided(&decision, routed_by, model, took);
                Ok(Routed { ticket: decision.ticket, seen, receipt })
            }
            Err(no_pod) => {
                self.without_pod(no_pod, by.prompt().is_some(), now);
                Err(no_pod)
            }
        }
    }

    /// A request of which nothing is observed but, now and then, that it came.
    #[cfg(feature = "blind")]
    fn unobserved(&self, decision: Decision, by: RouteBy<'_>, observed: Observed) -> Routed {
        if observed == Observed::Counts {
            let metrics = &self.metrics;
            match self.routed_by(by) {
                RoutedBy::Prefix => metrics.by_prefix.count(),
                RoutedBy::Load => metrics.by_load.count(),
                RoutedBy::Plain => metrics.by_plain.count(),
            }
            if decision.match_ratio() > PREFIX_HIT {
                metrics.prefix_hits.count();
            }
        }
        Routed { ticket: decision.ticket, seen: Seen::nothing(), receipt: Receipt::default() }
    }

    /// Tells Envoy, counts and logs that there is no pod for a request.
    #[cold]
    #[inline(never)]
    fn without_pod(&mut self, no_pod: NoPod, has_prompt: bool, now: Micros) {
        self.name_none(has_prompt);
        self.count_no_pod(no_pod);
        // The others are no trouble of the pool's.
        if matches!(no_pod, NoPod::NoTable | NoPod::AllCoolingDown | NoPod::AdapterAsleep | NoPod::Contended)
        {
            self.log.no_pod(no_pod, self.falls_back(no_pod), now);
        }
    }

    /// Whose the request is, where the settings give tenants fair shares. Those that name no tenant are of
    /// one, too.
    fn tenant(&self, by: RouteBy<'_>) -> Option<TenantId> {
        let header = self.settings.tenant_header.as_deref()?;
        by.prompt().map(|_| TenantId::of(&host::request_header(header).unwrap_or_default()))
    }

    /// The pod that has the stored response which the request names, in its body or its path.
    #[inline(never)]
    fn holder(&self, by: RouteBy<'_>, now: Micros) -> Option<PodKey> {
        match by.prompt() {
            Some(parsed) => {
                let id = parsed.request.follows.as_ref()?;
                responses::find(&self.keys, id, &Host, now)
            }
            None => {
                let path = host::request_header(":path")?;
                responses::find(&self.keys, Api::stored_response(&path)?, &Host, now)
            }
        }
    }

    /// The clusters whose pods may serve the request; `None` when its cluster is not known yet, which is
    /// noted.
    pub(super) fn candidates(&mut self, now: Micros) -> Option<ClusterSet> {
        let Some(unknown) = &mut self.unknown else { return Some(ClusterSet::ALL) };
        let name = host::property("xds\0cluster_name").unwrap_or_default();
        let known = self.router.table().cluster(&name);
        if known.is_none() {
            unknown.note(&name, now);
        }
        if self.settings.backends.len() > 1 && known.is_some() {
            return draw(&self.settings.backends, self.router.table(), host::random()).or(known);
        }
        known
    }

    /// Lets Envoy's own balancing serve the request.
    #[inline(never)]
    pub fn name_none(&self, has_prompt: bool) {
        self.name_pods(Picks::default(), None);
        Receipt::unrouted(has_prompt);
        AnswerHint::unrouted(has_prompt).give();
    }

    /// Whether a request that no pod was named for is left to Envoy: to the fallback cluster, or to the
    /// balancing of its own.
    pub fn falls_back(&self, no_pod: NoPod) -> bool {
        match no_pod {
            // Until the cluster's pods are known.
            NoPod::UnknownCluster => true,
            // The pods are to do less, or any other one does not have the adapter.
            NoPod::Saturated { .. } | NoPod::OverShare { .. } | NoPod::AdapterAsleep => false,
            NoPod::NoTable | NoPod::AllCoolingDown | NoPod::Contended => self.settings.fail_open,
        }
    }

    /// Counts a request whose body no pod could have read.
    pub fn count_rejected(&self) {
        self.metrics.bad_body.count();
    }

    /// Counts a request for a model that the settings refuse.
    pub fn count_refused_name(&self, refused: NameRefused) {
        match refused {
            NameRefused::Unknown => self.metrics.unknown_model.count(),
            NameRefused::NoTarget => self.metrics.no_target.count(),
        }
    }

    /// How much a request matters, and the priority that it gets for vLLM's scheduler, if it is to get one:
    /// by the objective that it names, else by its model.
    pub fn rank(&self, parsed: &ParsedRequest<'_>) -> (Criticality, Option<i32>) {
        let models = &self.settings.models;
        let objective = models
            .has_objectives()
            .then(|| OBJECTIVES.iter().find_map(|name| host::request_header(name)))
            .flatten()
            .and_then(|name| models.priority_of(&name));
        let criticality = objective.map_or(parsed.naming.criticality, Criticality::of_priority);
        let sets = self.settings.sets_priority && !parsed.request.has_priority;
        // vLLM serves the lower number first.
        let priority = objective.map_or(parsed.naming.criticality.priority(), i32::saturating_neg);
        (criticality, Some(priority).filter(|&priority| sets && priority != 0))
    }

    /// Whether answers have the name of the model that the client asked for.
    pub fn restores_names(&self) -> bool {
        self.settings.models.restores_names
    }

    /// Says, once, that names are not restored.
    #[inline(never)]
    pub fn say_names_stay(&mut self) {
        if !std::mem::replace(&mut self.said_names_stay, true) {
            log::warn!(
                "warmpath: `restore_model_names` has no effect: Envoy does not show the headers of answers; list \
                 `proxy_on_response_headers` among the router's capabilities"
            );
        }
    }

    /// The answer to a request for the list of models, if the settings give one and the request asks for it.
    pub fn model_list(&self) -> Option<String> {
        let asks = || {
            let path = host::request_header(":path").unwrap_or_default();
            let path = path.split(|&b| b == b'?').next().unwrap_or_default();
            path.ends_with(b"/v1/models")
                && host::request_header(":method").is_some_and(|method| method == b"GET")
        };
        (self.settings.models.listed && asks()).then(|| self.settings.models.list())
    }

    /// Sets or removes every destination header, so that none is left from the client. One header names the
    /// engine for all attempts; Envoy has removed that of the client.
    fn name_pods(&self, picks: Picks, engine: Option<u16>) {
        if let Some(engine) = engine {
            host::set_request_header(ENGINE, Some(engine.to_string().as_bytes()));
        }
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

    /// Makes some prompts samples of plain routing.
    fn sampled<'a>(&mut self, by: RouteBy<'a>) -> RouteBy<'a> {
        match by {
            RouteBy::Prompt(parsed)
                if self.settings.plain_percent > 0 && self.dice.below(100) < self.settings.plain_percent =>
            {
                RouteBy::Plain(parsed)
            }
            _ => by,
        }
    }

    fn routed_by(&self, by: RouteBy<'_>) -> RoutedBy {
        match by {
            RouteBy::Prompt(_) if self.settings.strategy == Strategy::PrefixCache => RoutedBy::Prefix,
            RouteBy::Prompt(_) | RouteBy::Load => RoutedBy::Load,
            RouteBy::Plain(_) => RoutedBy::Plain,
        }
    }

    #[inline(never)]
    fn count_no_pod(&self, no_pod: NoPod) {
        match no_pod {
            NoPod::NoTable => self.metrics.no_table.count(),
            NoPod::UnknownCluster => self.metrics.unknown_cluster.count(),
            NoPod::Saturated { .. } => self.metrics.shed.count(),
            NoPod::OverShare { .. } => self.metrics.over_share.count(),
            NoPod::AllCoolingDown => self.metrics.all_cooling_down.count(),
            NoPod::AdapterAsleep => self.metrics.adapter_asleep.count(),
            NoPod::Contended => {
                self.metrics.contended.count();
                self.metrics.contended_decide.count();
            }
        }
    }

    fn log_decision(&mut self, decision: &Decision, now: Micros) {
        let ratio = decision.match_ratio();
        if ratio > PREFIX_HIT {
            let pod = self.router.table().name(decision.ticket.slot());
            self.log.prefix_hit(ratio, &pod, now);
        }
        let left = |slot| self.router.candidates().iter().find(|candidate| candidate.slot == slot);
        if let Some(left) = decision.left.and_then(left) {
            self.log.left(decision, left, self.router.table(), now);
        }
        let (candidates, table) = (self.router.candidates(), self.router.table());
        self.watch.see(|| {
            let request = host::request_header("x-request-id").unwrap_or_default();
            decisions::describe(decision, candidates, table, &request, now)
        });
        self.log.costs(decision, self.router.candidates(), self.router.table());
    }
}
