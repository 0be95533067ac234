//! The steps that a decision is made of, and what a worker keeps from one decision to the next.

use std::sync::Arc;

use super::adapters::Adapters;
use super::demand::{Demand, NoPod, RouteBy};
use super::index_repair;
use crate::account::ledger::Ledger;
use crate::account::refusal::{Cause, Causes};
use crate::account::ticket::{Belief, Booking, PICKS, PromptTrace, Ticket};
use crate::config::Config;
use crate::decide::candidates::{Candidates, Pool, PromptView, score_all};
use crate::decide::cost::CostConstants;
use crate::decide::pick::{Candidate, Picks, Rank, pick};
use crate::decide::reason::{Reason, reason};
use crate::decide::shedding::{contended, kept, none_open};
use crate::prefix::index::{IndexLimits, PrefixMatch};
use crate::prefix::replica::PrefixReplica;
use crate::request::blocks::{Chain, mix};
use crate::request::parse_cache::{ParseCache, ParsedRequest};
use crate::settings::criticality::Criticality;
use crate::settings::{PoolSettings, Strategy};
use crate::shared::clusters::ClusterSet;
use crate::shared::model_names::ModelNames;
use crate::shared::pod_table::PodKey;
use crate::shared::store::{Keys, SharedData};
use crate::{Bytes, DEFAULT_BYTES_PER_TOKEN, Micros, ModelId, Slot, Tokens};

/// Sealed log segments that one decision may apply; the rest waits for the next decision.
const SEGMENTS_PER_DECISION: usize = 128;

/// How long after a request that may be shed others are expected, on other gateways too.
const SHEDDABLE_FOR: Micros = Micros::from_seconds(10);

/// A step of a decision that has just been made, for an observer that measures how long each takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionStep {
    /// The prompt is a chain of hashes.
    Hash,
    /// The ledger is read, and what others wrote to the log is applied.
    CatchUp,
    /// It is known which blocks of the prompt each pod holds.
    LookUp,
    /// The pods are chosen.
    Choose,
    /// The ledger has the request and the log its record; neither is written yet.
    Book,
    /// The ledger is written, and the index has the prompt.
    Keep,
}

/// The steps of a decision. Each works on what the steps before it left here; only the ledger is handed from
/// one to the next.
#[derive(Debug)]
pub(super) struct Steps {
    settings: Arc<PoolSettings>,
    strategy: Strategy,
    /// Whether the log is followed: from the first request on that goes by prefix, whatever the later ones go
    /// by.
    follows: bool,
    constants: CostConstants,
    pub replica: PrefixReplica,
    pub parse_cache: ParseCache,
    /// The prompt that is being decided, as its chain of block hashes.
    chain: Chain,
    /// Its model, and what a pod may refuse it for besides the prompt.
    model: Option<ModelId>,
    kind: Cause,
    pub found: PrefixMatch,
    candidates: Candidates,
    /// The engines that all of them have.
    common_engines: u16,
    adapters: Adapters,
    names_key: String,
    /// Which lists of models are taken over ([`crate::shared::pod_table::PodTable::model_lists`]).
    model_lists: u32,
    /// When the last request came that may be shed.
    sheddable_at: Option<Micros>,
    /// Counts decisions.
    decisions: u64,
    observer: Option<fn(DecisionStep)>,
}

impl Steps {
    pub fn new(config: &Config, keys: Keys, writer: u32) -> Steps {
        let constants = CostConstants::default();
        let limits = IndexLimits { memory: config.index.memory, holdings: config.index.holdings };
        let mut steps = Steps {
            settings: Arc::default(),
            strategy: Strategy::default(),
            follows: false,
            adapters: Adapters::new(&keys),
            names_key: keys.model_names.clone(),
            model_lists: 0,
            sheddable_at: None,
            replica: PrefixReplica::new(keys, limits, writer, constants.believed_capacity)
                .with_pod_tokens(config.index.pod_tokens.unwrap_or(0)),
            constants,
            parse_cache: ParseCache::new(u64::from(writer)),
            chain: Chain::default(),
            model: None,
            kind: Cause::NONE,
            found: PrefixMatch::default(),
            candidates: Candidates::default(),
            common_engines: 0,
            decisions: 0,
            observer: None,
        };
        steps.set_settings(Arc::new(config.settings.clone()));
        steps
    }

    pub fn set_constants(&mut self, constants: CostConstants) {
        self.replica.set_believed_capacity(constants.believed_capacity);
        self.constants = constants;
    }

    pub fn set_settings(&mut self, settings: Arc<PoolSettings>) {
        self.strategy = settings.strategy;
        self.follows |= settings.strategy == Strategy::PrefixCache;
        self.parse_cache.set_settings(&settings);
        self.settings = settings;
    }

    pub fn set_hash_seed(&mut self, seed: u64) {
        self.parse_cache = ParseCache::new(seed);
        self.parse_cache.set_settings(&self.settings);
    }

    pub fn set_observer(&mut self, observer: fn(DecisionStep)) {
        self.observer = Some(observer);
    }

    // --- the steps ---

    /// Turns the prompt into its chain of blocks; without a prompt, into an empty one.
    pub fn read_prompt(&mut self, by: RouteBy<'_>) {
        self.model = by.prompt().map(|parsed| ModelId::of(&parsed.request.model));
        // Requests without a prompt are of many kinds, which nothing here tells apart.
        let api = by.prompt().and_then(|parsed| parsed.api);
        self.kind = api.zip(self.model).map_or(Cause::NONE, |(api, model)| Cause::kind(api, model));
        match (by, self.strategy) {
            (RouteBy::Load, _) => {
                self.chain.start(b"", None);
                self.chain.finish();
            }
            (RouteBy::Prompt(request) | RouteBy::Plain(request), Strategy::PrefixCache) => {
                self.parse_cache.chain(request, &mut self.chain, Chain::push);
            }
            (RouteBy::Prompt(request) | RouteBy::Plain(request), Strategy::LoadOnly) => {
                self.parse_cache.chain(request, &mut self.chain, Chain::count);
            }
        }
        self.done(DecisionStep::Hash);
    }

    /// Brings replica and ledger up to date for a decision.
    pub fn catch_up(&mut self, ledger: &mut Ledger, shared: &impl SharedData) {
        self.synchronize(ledger, shared);
        self.done(DecisionStep::CatchUp);
    }

    /// Applies what others wrote to the log, and makes room in the ledger for every pod of the table.
    pub fn synchronize(&mut self, ledger: &mut Ledger, shared: &impl SharedData) {
        self.follow(ledger, shared, SEGMENTS_PER_DECISION);
        // The log may have named a pod of a newer table.
        ledger.grow(self.replica.table().pods.len());
    }

    /// Applies what others wrote to the log, at most `segments` sealed segments of it.
    pub fn follow(&mut self, ledger: &Ledger, shared: &impl SharedData, segments: usize) {
        if self.follows {
            self.replica.catch_up(ledger.log(), shared, segments);
        }
    }

    /// Looks up how much of the prompt each pod holds.
    pub fn look_up(&mut self) {
        self.replica.look_up(self.chain.hashes(), &mut self.found);
        self.done(DecisionStep::LookUp);
    }

    /// Takes over what a new table says of models: which have LoRA adapters, and several names.
    pub fn refresh_models(&mut self, shared: &impl SharedData) {
        let table = self.replica.table();
        self.adapters.refresh(table);
        if self.model_lists != table.model_lists {
            self.model_lists = table.model_lists;
            self.adapters.read_lists(shared);
            let names = shared.get(&self.names_key).and_then(|(bytes, _)| ModelNames::decode(&bytes).ok());
            self.parse_cache.set_names(names.unwrap_or_default());
        }
    }

    /// Finds the LoRA adapter of the request, if it is for one.
    pub fn find_adapter(&mut self, among: ClusterSet, shared: &impl SharedData) {
        self.adapters.find(self.model, self.replica.table(), among, shared);
    }

    /// Notes that the LoRA adapter of the request is used on `pod`.
    pub fn note_adapter(&self, pod: PodKey, shared: &mut impl SharedData, now: Micros) {
        if let Some(model) = self.model {
            self.adapters.note(model, pod, self.replica.table(), shared, now);
        }
    }

    /// Chooses the pods. `over_share` is the outstanding work of a tenant with more than its share.
    pub fn choose(
        &mut self,
        ledger: &Ledger,
        by: RouteBy<'_>,
        demand: Demand,
        over_share: Option<Tokens>,
        now: Micros,
    ) -> Result<Picks, NoPod> {
        let Demand { among, criticality, .. } = demand;
        self.common_engines = self.replica.common_engines(among);
        let table = self.replica.table();
        let adapters = &self.adapters.places;
        let pool = Pool { table, ledger, index: self.replica.index(), among, adapters };
        let bytes = self.chain.bytes();
        let causes = Causes { kind: self.kind, prompt: Cause::prompt(self.chain.hashes()) };
        let prompt = PromptView { bytes, tokens: bytes.as_f32() / self.bytes_per_token(by, ledger), causes };
        let plain = matches!(by, RouteBy::Plain(_));
        let nothing = PrefixMatch::default();
        let found = if plain { &nothing } else { &self.found };
        score_all(&pool, prompt, found, &self.constants, now, &mut self.candidates);
        let candidates = self.candidates.list();
        if candidates.is_empty() {
            return Err(NoPod::NoTable);
        }
        if self.adapters.places.restricted() {
            // Any other pod would say that there is no such model.
            if candidates.iter().all(|candidate| candidate.rank == Rank::Asleep) {
                return Err(NoPod::AdapterAsleep);
            }
        } else if candidates
            .iter()
            .all(|candidate| matches!(candidate.rank, Rank::CoolingDown | Rank::Asleep))
        {
            return Err(NoPod::AllCoolingDown);
        }
        let bound = self.settings.shed_above;
        if let Some(own) = over_share
            && criticality == Criticality::Standard
            && let Some(seconds) = contended(candidates, own, bound)
        {
            return Err(NoPod::OverShare { seconds });
        }
        let address = |slot| table.pod(slot).map_or(&[][..], |pod| pod.address.as_bytes());
        if criticality == Criticality::Sheddable {
            self.sheddable_at = Some(now);
            let kept = kept(candidates, address);
            if let Some(seconds) = none_open(candidates, &kept, bound) {
                return Err(NoPod::Saturated { seconds });
            }
            self.candidates.leave_out(&kept);
        } else if self.sheddable_at.is_some_and(|at| now.since(at) < SHEDDABLE_FOR) {
            let kept = kept(candidates, address);
            if none_open(candidates, &kept, bound).is_some() {
                let unseen = if table.has_foreign_load() { ledger.mean_work() } else { 0.0 };
                self.candidates.hurry(&kept, unseen);
            }
        }
        let candidates = self.candidates.list();
        // Where no prefix counts, requests go round among equal pods, and not in step with those of other
        // workers.
        self.decisions = self.decisions.wrapping_add(1);
        let head = match self.strategy {
            Strategy::PrefixCache if bytes > Bytes::NONE && !plain => self.chain.head(),
            _ => mix(self.decisions ^ u64::from(self.replica.writer()) << 32),
        };
        let picks = pick(candidates, self.constants.tie_band, head, self.common_engines, address);
        if plain {
            // The pod computes what it does not hold, whatever it was chosen for.
            score_all(&pool, prompt, &self.found, &self.constants, now, &mut self.candidates);
        }
        self.done(DecisionStep::Choose);
        Ok(picks)
    }

    /// The slot of the pod that has what the request goes on from, if it is a candidate.
    pub fn holder(&self, holder: Option<PodKey>) -> Option<Slot> {
        let there = holder.filter(|&pod| self.replica.table().get(pod).is_some()).map(|pod| pod.slot);
        let candidate = there.and_then(|slot| self.candidates.get(slot));
        candidate.filter(|candidate| candidate.rank != Rank::Asleep).map(|candidate| candidate.slot)
    }

    /// Books the request on the best pod, and writes to the log that the pod will hold the prompt.
    pub fn book(&mut self, ledger: &mut Ledger, picks: Picks, by: RouteBy<'_>, now: Micros) -> Ticket {
        let best = picks.best().unwrap_or_default();
        let terms = self.candidates.get(best).map(|candidate| candidate.terms).unwrap_or_default();
        let booking = Booking {
            picks: self.keys_of(picks),
            tokens: Tokens::estimated(terms.uncached),
            matched: self.found.blocks(best),
            loads_adapter: terms.adapter > 0.0,
            prompt: by.prompt().zip(self.model).map(|(request, model)| PromptTrace {
                model,
                kind: self.kind,
                bytes: self.chain.bytes(),
                hashes: self.chain.hashes().into(),
                teaches_ratio: request.is_text(),
            }),
        };
        let ticket = Ticket::book(ledger, self.replica.table(), booking, now);
        index_repair::write_prompt(&mut self.replica, ledger, ticket.pod(), ticket.hashes());
        self.done(DecisionStep::Book);
        ticket
    }

    /// The decision is written: it holds for this replica too.
    pub fn keep(&mut self, ticket: &mut Ticket, ledger: &Ledger) {
        let used = self.replica.insert(ticket.slot(), ticket.hashes());
        ticket.set_belief(Belief { used, ..ticket.belief() });
        self.done(DecisionStep::Keep);
        self.replica.wrote(ledger.sealed().last().map(|segment| segment.number), ledger.log());
    }

    // --- what the last decision left ---

    /// Canonical bytes of the prompt.
    pub fn prompt_bytes(&self) -> Bytes {
        self.chain.bytes()
    }

    /// Why the request goes to the pod in the slot `chosen`, and the pod that it leaves for it.
    pub fn reason(&self, by: RouteBy<'_>, chosen: Slot) -> (Reason, Option<Slot>) {
        match by {
            RouteBy::Plain(_) => (Reason::Plain, None),
            RouteBy::Load => (Reason::Load, None),
            RouteBy::Prompt(_) => reason(self.candidates.list(), chosen),
        }
    }

    /// Tokens of the prompt, as estimated, and those of them that the pod in the slot `chosen` is believed to
    /// hold; nothing without a prompt, for the rule counts one token of work then, which is nobody's.
    pub fn prompt_tokens(&self, chosen: Slot) -> (Tokens, Tokens) {
        match self.candidates.get(chosen) {
            Some(candidate) if self.chain.bytes() > Bytes::NONE => {
                let matched = candidate.matched;
                (Tokens::estimated(candidate.terms.uncached + matched), Tokens::estimated(matched))
            }
            _ => (Tokens::NONE, Tokens::NONE),
        }
    }

    /// The engine that the request names to whichever pod it meets, where the pods have several.
    pub fn named_engine(&self, picks: Picks) -> Option<u16> {
        let best = picks.best().and_then(|slot| self.replica.table().pod(slot))?;
        best.engine.filter(|&engine| engine < self.common_engines)
    }

    /// Whether the request is for a LoRA adapter that some pods do not have.
    pub fn restricted(&self) -> bool {
        self.adapters.places.restricted()
    }

    /// Every pod as it was scored, term by term.
    pub fn candidates(&self) -> &[Candidate] {
        self.candidates.list()
    }

    /// How many leading blocks each pod holds of the prompt that was looked up, by slot.
    pub fn matched_blocks(&self) -> Vec<u16> {
        Slot::all().take(self.replica.table().pods.len()).map(|slot| self.found.blocks(slot)).collect()
    }

    fn keys_of(&self, picks: Picks) -> [Option<PodKey>; PICKS] {
        let mut keys = [None; PICKS];
        for (key, slot) in keys.iter_mut().zip(picks.iter()) {
            *key = self.replica.table().key(slot);
        }
        keys
    }

    /// Canonical bytes per token of the prompt: learned for its model, unless it is given as token ids or in
    /// an unknown shape.
    fn bytes_per_token(&self, by: RouteBy<'_>, ledger: &Ledger) -> f32 {
        let text = by.prompt().is_some_and(ParsedRequest::is_text);
        let model = self.model.filter(|_| text);
        model.map_or(DEFAULT_BYTES_PER_TOKEN, |model| ledger.bytes_per_token(model))
    }

    fn done(&self, step: DecisionStep) {
        if let Some(observer) = self.observer {
            observer(step);
        }
    }
}
