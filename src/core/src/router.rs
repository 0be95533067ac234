//! The story of a request: read what all workers share, choose a pod, book the request there, and learn from
//! the answer.

mod adapters;
mod answers;
mod decision;
mod demand;
mod fair_shares;
mod index_repair;
mod steps;

use std::sync::Arc;

use crate::Micros;
pub use crate::account::ticket::{End, Ticket};
use crate::account::transaction::LedgerStore;
use crate::config::Config;
use crate::decide::cost::CostConstants;
use crate::decide::pick::Candidate;
use crate::prefix::index::PrefixIndex;
use crate::request::blocks::bytes_of;
use crate::request::body::{Api, BodyError};
use crate::request::parse_cache::ParsedRequest;
use crate::settings::PoolSettings;
use crate::shared::codec::CodecError;
use crate::shared::pod_table::PodTable;
use crate::shared::store::{Keys, SharedData};
pub use decision::Decision;
pub use demand::{Demand, NoPod, RouteBy};
use fair_shares::FairShares;
pub use steps::DecisionStep;
use steps::Steps;

/// The router of one worker.
///
/// It keeps replicas of what the workers share, and writes through [`SharedData`]. It has no clock: `now` is
/// read on one clock for all workers of an Envoy, which never runs backwards. One request is:
///
/// 1. [`read`](Self::read), once its body is whole; not for a request without a prompt.
/// 2. [`decide`](Self::decide), once. On success the request is booked, and the [`Ticket`] stands for it from
///    then on.
/// 3. [`failed_over`](Self::failed_over), at most once, when another pod than the first one answers.
///    [`unanswered`](Self::unanswered), at most once, when no pod does.
/// 4. [`start`](Self::start) at the first byte of a streamed answer's body; further calls do nothing. A whole
///    answer needs none.
/// 5. [`failed_upstream`](Self::failed_upstream), at most once, when the pod that the request is booked on
///    says 503 or breaks its answer off.
/// 6. [`close`](Self::close), exactly once, whatever the end was.
///
/// Besides, [`refresh`](Self::refresh) whenever the table's generation has moved, before `decide`; and
/// [`follow`](Self::follow) once when the worker starts and then every second, so that a worker without
/// requests keeps up.
///
/// Steps 2 to 6 each are one transaction on the ledger. When other workers write first at every try, it has
/// no effect at all, and the caller gets [`Contended`](crate::shared::store::Contended) (or
/// [`NoPod::Contended`]) to count; it does not call again. A request that could not be closed stays in the
/// ledger until the collector reconciles it with what the pod reports.
#[derive(Debug)]
pub struct Router {
    store: LedgerStore,
    steps: Steps,
    tenants: FairShares,
}

impl Router {
    /// The router of a worker; `writer` tells its log records from those of other workers.
    pub fn new(config: &Config, writer: u32) -> Router {
        let keys = Keys::of(&config.pool, config.index.log_segments);
        Router {
            store: LedgerStore::new(keys.clone()),
            tenants: FairShares::new(&keys),
            steps: Steps::new(config, keys, writer),
        }
    }

    /// The same with other constants of the cost, for experiments.
    pub fn with_constants(mut self, constants: CostConstants) -> Router {
        self.steps.set_constants(constants);
        self
    }

    /// The same with another key of the parse cache's hash, which is `writer` unless it is set: a random
    /// number that clients cannot know.
    pub fn with_hash_seed(mut self, seed: u64) -> Router {
        self.steps.set_hash_seed(seed);
        self
    }

    /// The same, and `observer` is called after each step of a decision.
    pub fn with_observer(mut self, observer: fn(DecisionStep)) -> Router {
        self.steps.set_observer(observer);
        self
    }

    /// Requests that are read from now on have these settings. What is known of prefixes stays.
    pub fn set_settings(&mut self, settings: Arc<PoolSettings>) {
        self.steps.set_settings(settings);
    }

    /// Fetches the table: call it when its generation has moved.
    ///
    /// # Errors
    /// [`CodecError`] when the shared value is no table; the router keeps the one that it has.
    pub fn refresh(&mut self, shared: &impl SharedData) -> Result<(), CodecError> {
        self.steps.replica.refresh(shared)?;
        self.steps.refresh_models(shared);
        Ok(())
    }

    /// Applies what other workers wrote to the log, at most `segments` sealed segments of it.
    pub fn follow(&mut self, shared: &impl SharedData, segments: usize) {
        if let Some(ledger) = self.store.read(shared) {
            self.steps.follow(&ledger, shared, segments);
        }
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`BodyError`] when it is no request to this API.
    pub fn read<'a>(&mut self, api: Api, body: &'a [u8]) -> Result<ParsedRequest<'a>, BodyError> {
        self.steps.parse_cache.read(api, body)
    }

    /// Decides where a request goes that any pod may serve, and books it there.
    ///
    /// # Errors
    /// [`NoPod`] when no pod can be named; nothing is booked then.
    pub fn decide(
        &mut self,
        by: RouteBy<'_>,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<Decision, NoPod> {
        self.decide_for(Demand::default(), by, shared, now)
    }

    /// Decides where a request goes that demands more, and books it there.
    ///
    /// # Errors
    /// [`NoPod`] when no pod can be named; nothing is booked then.
    pub fn decide_for(
        &mut self,
        demand: Demand,
        by: RouteBy<'_>,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<Decision, NoPod> {
        let Router { store, steps, tenants } = self;
        steps.read_prompt(by);
        if steps.replica.table().live().next().is_none() {
            return Err(NoPod::NoTable);
        }
        steps.find_adapter(demand.among, shared);
        let over_share = tenants.over_share(demand.tenant, shared, now);
        let decided = store.transact(shared, |ledger, shared| {
            steps.catch_up(ledger, shared);
            steps.look_up();
            let picks = steps.choose(ledger, by, demand, over_share, now)?;
            let holder = steps.holder(demand.holder);
            let picks = holder.map_or(picks, |holder| picks.led_by(holder));
            Ok::<_, NoPod>((picks, holder.is_some(), steps.book(ledger, picks, by, now)))
        });
        let (ledger, (picks, goes_on, mut ticket)) = match decided {
            Ok(decided) => decided,
            Err(no_pod) => {
                tenants.see(demand.tenant, shared, now);
                return Err(no_pod);
            }
        };
        steps.keep(&mut ticket, &ledger);
        steps.note_adapter(ticket.pod(), shared, now);
        ticket.set_share(tenants.open(demand.tenant, ticket.tokens(), shared, now));
        let bytes = steps.prompt_bytes();
        let matched_bytes = bytes_of(usize::from(ticket.belief().matched)).min(bytes);
        let (reason, left) = steps.reason(by, ticket.slot());
        let (tokens, matched_tokens) = steps.prompt_tokens(ticket.slot());
        let (engine, restricted) = (steps.named_engine(picks), steps.restricted());
        Ok(Decision {
            picks,
            engine,
            goes_on,
            bytes,
            matched_bytes,
            tokens,
            matched_tokens,
            reason,
            left,
            restricted,
            ticket,
        })
    }

    // --- what it knows ---

    /// The table as last fetched.
    pub fn table(&self) -> &PodTable {
        self.steps.replica.table()
    }

    /// The replica of the prefix index.
    pub fn index(&self) -> &PrefixIndex {
        self.steps.replica.index()
    }

    /// Every pod as it was scored in the last decision, term by term.
    pub fn candidates(&self) -> &[Candidate] {
        self.steps.candidates()
    }

    /// Canonical bytes per token, as recent answers taught them.
    pub fn bytes_per_token(&self) -> f32 {
        self.steps.replica.bytes_per_token()
    }

    /// Log segments that were overwritten before this worker read them.
    pub fn lost_segments(&self) -> u64 {
        self.steps.replica.lost_segments()
    }

    /// How many leading blocks of the prompt each pod is believed to hold, by slot.
    pub fn matched_blocks(&mut self, request: &ParsedRequest<'_>) -> Vec<u16> {
        self.steps.read_prompt(RouteBy::Prompt(request));
        self.steps.look_up();
        self.steps.matched_blocks()
    }
}

#[cfg(test)]
mod tests;
