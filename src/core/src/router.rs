//! The story of a request: read what all workers share, choose, write it down; then learn from the answer.
//!
//! [`Router`] is the mind of one worker. What it must share goes through [`SharedData`]; what it keeps are replicas: the
//! table as last fetched, and the prefix index as far as the log was read.

use crate::account::learning;
use crate::account::ledger::{DEFAULT_BYTES_PER_TOKEN, DEFAULT_RATE, Ledger, PodAccount};
use crate::answer::usage::Usage;
use crate::config::{Config, Strategy};
use crate::decide::cost::{CostConstants, PodView, RequestView, cost};
use crate::decide::pick::{Candidate, Picks, Rank, pick};
use crate::prefix::index::{IndexLimits, PopularBlocks, PrefixIndex, PrefixMatch, UseStamp};
use crate::prefix::log::{Correction, Cursor, LogRecord, seal, unseal};
use crate::request::blocks::{Chain, bytes_of, mix};
use crate::request::body::{Api, BodyError};
use crate::request::parse_cache::{ParseCache, ParsedRequest};
use crate::shared::codec::{CodecError, Reader};
use crate::shared::pod_table::{Pod, PodState, PodTable};
use crate::shared::store::{Keys, NEVER_WRITTEN, SharedData};
use crate::{Micros, SECOND, Slot};

/// Tries to write a decision over others'. Each conflict means that another worker decided, so the fleet as a whole goes on;
/// this many in a row do not happen by chance.
const TRIES: usize = 16;
/// Sealed segments that one decision may apply, about 7 prompts of 2 KB and 0.013 ms each; the rest waits for the next.
const SEGMENTS_A_DECISION: usize = 128;
/// Age at which scraped load begins to count less, and at which it counts for nothing.
const FRESH: Micros = 2 * SECOND;
const STALE: Micros = 10 * SECOND;
/// Rates this close to the pool's mean are taken as equal: what is learned is noisy, and noise must not unbalance a fleet of
/// equal pods.
const EQUAL_RATES: f32 = 0.35;
/// Samples from which on a pod's own rate counts.
const RELIABLE: u32 = 4;

/// Weight of an answer in the mean of bytes a token: it follows within some twenty answers.
const RATIO_GAIN: f32 = 0.1;

/// The slot and identity of no pod.
const NOWHERE: (Slot, u32) = (Slot::MAX, 0);

/// The mind of one worker.
#[derive(Debug)]
pub struct Router {
    keys: Keys,
    strategy: Strategy,
    constants: CostConstants,
    table: PodTable,
    index: PrefixIndex,
    /// Version of the shared value that the table was read from.
    table_version: u32,
    /// Canonical bytes a token that the pods' capacities were reckoned with.
    bytes_per_token: f32,
    /// Mean of what recent answers taught of it.
    mean_ratio: f32,
    cursor: Cursor,
    /// Names this replica in the log.
    writer: u32,
    /// What it has read before.
    parse_cache: ParseCache,
    /// The prompt of the request that is being decided.
    chain: Chain,
    hash_bytes: Vec<u8>,
    /// What the index knows of it.
    found: PrefixMatch,
    entries: Vec<(Slot, PodAccount)>,
    candidates: Vec<Candidate>,
    lost_segments: u64,
    /// Counts decisions.
    turn: u64,
    /// Whom to tell of each step of a decision, if anybody.
    timed: Option<fn(DecisionStep)>,
}

/// A step of a decision that has just been done, for those who want to know how long each takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionStep {
    /// The prompt is a chain of hashes.
    Hash,
    /// The ledger is there, and what others wrote to the log is applied.
    CatchUp,
    /// It is known what each pod holds of the prompt.
    LookUp,
    /// The pods are chosen.
    Choose,
    /// The ledger has the request and the log its record; nothing is shared yet.
    Book,
    /// The index has the prompt.
    Keep,
}

/// What a request asks of a pod.
#[derive(Clone, Copy, Debug)]
pub enum RouteBy<'a> {
    /// An inference request.
    Prompt(&'a ParsedRequest<'a>),
    /// Anything else: only load counts.
    Load,
}

/// Where a request goes, and why.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The pods, best first.
    pub picks: Picks,
    /// Canonical bytes of the prompt.
    pub bytes: u64,
    /// Canonical bytes of it that the best pod is believed to hold.
    pub matched_bytes: u64,
    /// The request's account in the ledger.
    pub ticket: Ticket,
}

impl Decision {
    /// Share of the prompt that the best pod is believed to hold, 0 to 1.
    pub fn match_ratio(&self) -> f64 {
        self.matched_bytes as f64 / self.bytes.max(1) as f64
    }
}

/// Why no pod could be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPod {
    /// There is no table yet, or it is empty.
    NoTable,
    /// Every pod has failed, and is in its pause; one that answers at all, be it errors, is not among them.
    AllCoolingDown,
    /// Other workers wrote first again and again.
    Contended,
}

/// A request's account in the ledger: what was put there and must be taken out again.
#[derive(Clone, Debug)]
pub struct Ticket {
    slot: Slot,
    id: u32,
    /// The pods of the decision with their identities at that time, best first.
    picks: [Option<(Slot, u32)>; crate::decide::pick::PICKS],
    /// Prompt tokens the pod has to compute, as booked.
    work: u32,
    opened_at: Micros,
    started: bool,
    model: u32,
    bytes: u64,
    /// Blocks that were believed to be held; 0 without a prompt.
    matched: u16,
    /// Hashes of the prompt, to take it back or to put it to another pod.
    hashes: Box<[u32]>,
    /// Requests that waited for a first token on the pod when this one was sent.
    ahead: u32,
    /// When the pod used the prompt, and what it held of it, by the count of the index.
    used: UseStamp,
    /// Whether bytes a token can be learned from the answer: not from token ids or shapes that are not known.
    learns: bool,
}

impl Ticket {
    /// The pod that is booked.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Whether the first byte has come.
    pub fn started(&self) -> bool {
        self.started
    }

    /// The pods that Envoy tried with so many attempts.
    fn tried(&self, attempts: usize) -> impl Iterator<Item = (Slot, u32)> {
        self.picks.iter().take(attempts).flatten().copied()
    }

    /// The turn of the pod up to which it has lost what it held, if the answer shows so.
    ///
    /// A pod that held less than was believed has evicted, and the least recently used first: with the missing blocks went all
    /// that it had used no later than them. The prompt itself it has computed since, and holds whole. A miss says nothing when
    /// the prompt that was to put the blocks there was not computed yet. vLLM computes first what came first, so that can
    /// only be one of as many as waited there when this request was sent; what has been used before those was there.
    fn lost(&self, usage: &Usage) -> Option<u32> {
        let previous = self.used.previous?;
        (self.used.at.wrapping_sub(previous) > self.ahead
            && learning::missed(usage, self.bytes, usize::from(self.matched)))
        .then_some(previous)
    }

    /// Releases the work, and learns how long it took.
    fn book_start(&self, entry: &mut PodAccount, now: Micros) {
        let began = entry.since.max(self.opened_at);
        learning::learn_rate(entry, self.work, now.saturating_sub(began));
        entry.start(self.work, self.opened_at, now);
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer, which may have reported its usage. One that came whole, its first byte with its last, need not have
    /// been started: both are booked at once.
    Answered {
        /// What the answer reported.
        usage: Option<Usage>,
        /// When it ended.
        at: Micros,
    },
    /// With an error of the pod's own: 500, 502 or 504. Others tell of the request (4xx), or are failures at once (503).
    UpstreamError {
        /// When it ended.
        at: Micros,
    },
    /// Without one: the client went away, the stream was reset, or the pod refused the request.
    Aborted,
}

impl Router {
    /// A worker's mind; `writer` tells its log records from those of other workers.
    pub fn new(config: &Config, writer: u32) -> Router {
        Router {
            keys: Keys::of(&config.pool, config.index.log_segments),
            strategy: config.strategy,
            constants: CostConstants::default(),
            table: PodTable::default(),
            index: PrefixIndex::new(IndexLimits {
                memory: config.index.memory,
                holdings: config.index.holdings,
            }),
            table_version: NEVER_WRITTEN,
            bytes_per_token: DEFAULT_BYTES_PER_TOKEN,
            mean_ratio: DEFAULT_BYTES_PER_TOKEN,
            cursor: Cursor::default(),
            writer,
            parse_cache: ParseCache::new(u64::from(writer)),
            chain: Chain::default(),
            hash_bytes: Vec::new(),
            found: PrefixMatch::default(),
            entries: Vec::new(),
            candidates: Vec::new(),
            lost_segments: 0,
            turn: 0,
            timed: None,
        }
    }

    /// The same with other constants, for experiments.
    pub fn with_constants(mut self, constants: CostConstants) -> Router {
        self.constants = constants;
        self
    }

    /// The same with another key of the parse cache's hash, which is `writer` unless it is set: a random number that
    /// clients cannot know.
    pub fn with_hash_seed(mut self, seed: u64) -> Router {
        self.parse_cache = ParseCache::new(seed);
        self
    }

    /// The same, and `timed` is told of each step of a decision.
    pub fn with_timer(mut self, timed: fn(DecisionStep)) -> Router {
        self.timed = Some(timed);
        self
    }

    /// Fetches the table: call it when its generation has moved.
    ///
    /// # Errors
    /// [`CodecError`] when what is shared is no table; the old snapshot stays.
    pub fn refresh(&mut self, shared: &impl SharedData) -> Result<(), CodecError> {
        let Some((bytes, version)) = shared.get(&self.keys.table) else { return Ok(()) };
        if version == self.table_version {
            return Ok(());
        }
        let table = PodTable::decode(&bytes)?;
        self.table_version = version;
        let before = std::mem::replace(&mut self.table, table);
        for (slot, pod) in (0..).zip(&self.table.pods) {
            let known = before.pods.get(usize::from(slot));
            if known.is_some_and(|before| before.id != 0 && before.id != pod.id) {
                self.index.flush(slot);
            }
            if known.is_none_or(|before| (before.id, before.capacity) != (pod.id, pod.capacity)) {
                self.index.set_capacity(slot, self.holds(pod));
            }
        }
        Ok(())
    }

    /// The snapshot of the table.
    pub fn table(&self) -> &PodTable {
        &self.table
    }

    /// The replica of the prefix index.
    pub fn index(&self) -> &PrefixIndex {
        &self.index
    }

    /// Where every pod stood in the last decision, term by term.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Log segments that were overwritten before this replica read them.
    pub fn lost_segments(&self) -> u64 {
        self.lost_segments
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`BodyError`] when it is no request to this API.
    pub fn read<'a>(&mut self, api: Api, body: &'a [u8]) -> Result<ParsedRequest<'a>, BodyError> {
        self.parse_cache.read(api, body)
    }

    /// Decides where a request goes and books it there.
    ///
    /// # Errors
    /// [`NoPod`] when no pod can be named; nothing is booked then.
    pub fn decide(
        &mut self,
        by: RouteBy<'_>,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Result<Decision, NoPod> {
        self.read_prompt(by);
        self.done(DecisionStep::Hash);
        if self.table.live().next().is_none() {
            return Err(NoPod::NoTable);
        }
        let model = match by {
            RouteBy::Prompt(reading) => xxhash_rust::xxh3::xxh3_64(&reading.request.model) as u32,
            RouteBy::Load => 0,
        };
        for _ in 0..TRIES {
            let (mut ledger, cas) = self.read_ledger(shared);
            self.catch_up(&ledger, shared, SEGMENTS_A_DECISION);
            self.done(DecisionStep::CatchUp);
            let tokens = self.chain.bytes() as f32 / bytes_per_token(by, &ledger, model);
            self.look_up();
            self.done(DecisionStep::LookUp);
            let picks = self.choose(&ledger, tokens, now)?;
            self.done(DecisionStep::Choose);
            let mut ticket = self.book(&mut ledger, picks, by, model, now);
            let sealed = self.write_record(&mut ledger, &ticket);
            self.done(DecisionStep::Book);
            if shared.set(&self.keys.ledger, ledger.encode(), Some(cas)).is_err() {
                continue;
            }
            self.commit(&mut ticket, ledger, sealed, shared);
            let matched_bytes = bytes_of(usize::from(ticket.matched)).min(self.chain.bytes());
            return Ok(Decision { picks, bytes: self.chain.bytes(), matched_bytes, ticket });
        }
        Err(NoPod::Contended)
    }

    /// The first byte of an answer's body has come, from the pod at `address`.
    pub fn start(&mut self, ticket: &mut Ticket, shared: &mut impl SharedData, now: Micros) {
        if ticket.started {
            return;
        }
        // When it could not be written the request still waits in the ledger, and its end takes it out from there.
        ticket.started = self
            .change(shared, |_, ledger| {
                ledger.change(ticket.slot, ticket.id, |entry| ticket.book_start(entry, now));
            })
            .is_some();
    }

    /// Envoy has gone on: the first `attempts` pods of the decision failed, and the request is booked on the one that answers;
    /// on none, when that one is not in the table. That pod holds the prompt now, and the first one does not.
    pub fn failed_over(
        &mut self,
        ticket: &mut Ticket,
        attempts: usize,
        to: Option<Slot>,
        shared: &mut impl SharedData,
        now: Micros,
    ) {
        let to = to.and_then(|slot| self.table.pod(slot).map(|pod| (slot, pod.id)));
        let from = (ticket.slot, ticket.id);
        let mut ahead = 0;
        self.change_and_tell(shared, |router, ledger, segments| {
            // One that answers after all has not failed.
            for (slot, id) in ticket.tried(attempts).filter(|&pod| Some(pod) != to) {
                router.claim_slot(ledger, slot, id);
                ledger.change(slot, id, |entry| entry.fail(ticket.opened_at, now));
            }
            ledger.change(ticket.slot, ticket.id, |entry| entry.close(Some(ticket.work)));
            if let Some((slot, id)) = to {
                router.claim_slot(ledger, slot, id);
                ahead = ledger.entry(slot).waiting;
                ledger.change(slot, id, |entry| entry.open(ticket.work, now));
            }
            if to != Some(from) {
                segments.extend(router.retract(ledger, ticket));
                if let Some((slot, id)) = to {
                    segments.extend(router.append_record(ledger, slot, id, None, &ticket.hashes));
                }
            }
        });
        // The time before now was not this pod's.
        ticket.opened_at = now;
        if to != Some(from) {
            (ticket.slot, ticket.id) = to.unwrap_or(NOWHERE);
            (ticket.ahead, ticket.used, ticket.matched) = (ahead, UseStamp::default(), 0);
            if to.is_some() && !ticket.hashes.is_empty() {
                self.index.look_up(&ticket.hashes, self.table.pods.len(), &mut self.found);
                ticket.matched = self.found.blocks(ticket.slot);
                ticket.used = self.index.insert(ticket.slot, &ticket.hashes);
            }
        }
    }

    /// The first `attempts` pods of the decision failed, and none answers.
    pub fn unanswered(
        &mut self,
        ticket: &Ticket,
        attempts: usize,
        shared: &mut impl SharedData,
        now: Micros,
    ) {
        self.change(shared, |router, ledger| {
            for (slot, id) in ticket.tried(attempts) {
                router.claim_slot(ledger, slot, id);
                ledger.change(slot, id, |entry| entry.fail(ticket.opened_at, now));
            }
        });
    }

    /// The pod that the request is booked on failed it: said 503, or broke its answer off.
    pub fn failed_upstream(&mut self, ticket: &Ticket, shared: &mut impl SharedData, now: Micros) {
        self.change(shared, |_, ledger| {
            ledger.change(ticket.slot, ticket.id, |entry| entry.fail(ticket.opened_at, now));
        });
    }

    /// The request has ended: closes its account, and learns from what the answer reported. Of a prompt whose answer never
    /// began, the pod is believed to hold what it held before: it may have refused it, or dropped it half computed.
    pub fn close(&mut self, ticket: Ticket, end: End, shared: &mut impl SharedData) {
        let (usage, answered) = match end {
            End::Answered { usage, .. } => (usage, true),
            End::UpstreamError { .. } | End::Aborted => (None, false),
        };
        let lost = usage.and_then(|usage| ticket.lost(&usage));
        let refused = !answered && !ticket.started && !ticket.hashes.is_empty();
        let mut learned = None;
        let mut settle = |ledger: &mut Ledger| {
            ledger.change(ticket.slot, ticket.id, |entry| match end {
                End::Answered { at, .. } => {
                    if !ticket.started {
                        // A whole answer: its first byte says nothing of when the prompt was computed.
                        entry.start(ticket.work, ticket.opened_at, at);
                    }
                    entry.close(None);
                }
                End::UpstreamError { .. } | End::Aborted => {
                    entry.close((!ticket.started).then_some(ticket.work));
                    if let End::UpstreamError { at } = end {
                        entry.upstream_error(ticket.opened_at, at);
                    }
                }
            });
            if let Some(usage) = usage.filter(|_| ticket.learns) {
                ledger.learn_bytes_per_token(ticket.model, ticket.bytes, usage.prompt_tokens);
                learned = Some(ledger.bytes_per_token(ticket.model));
            }
        };
        if lost.is_some() || refused {
            self.change_and_tell(shared, |router, ledger, segments| {
                settle(ledger);
                segments.extend(match lost {
                    Some(turn) => router.evict(ledger, &ticket, turn),
                    None => router.retract(ledger, &ticket),
                });
            });
        } else {
            self.change(shared, |_, ledger| settle(ledger));
        }
        if let Some(ratio) = learned {
            self.learn_capacity(ratio);
        }
    }

    /// Applies what other workers wrote, without a request: all that is in the log for a worker that has just started.
    pub fn follow(&mut self, shared: &impl SharedData, segments: usize) {
        if let Some((bytes, _)) = shared.get(&self.keys.ledger)
            && let Ok(ledger) = Ledger::decode(bytes)
        {
            self.catch_up(&ledger, shared, segments);
        }
    }

    // --- the steps of a decision ---

    fn done(&self, step: DecisionStep) {
        if let Some(timed) = self.timed {
            timed(step);
        }
    }

    /// Turns the prompt into its chain of blocks; without a prompt, into an empty one.
    fn read_prompt(&mut self, by: RouteBy<'_>) {
        let RouteBy::Prompt(reading) = by else {
            self.chain.start(b"", None);
            return self.chain.finish();
        };
        match self.strategy {
            Strategy::PrefixCache => self.parse_cache.chain(reading, &mut self.chain, Chain::push),
            Strategy::LoadOnly => self.parse_cache.chain(reading, &mut self.chain, Chain::count),
        }
    }

    /// The ledger, and the version to write over.
    fn read_ledger(&self, shared: &impl SharedData) -> (Ledger, u32) {
        let (mut ledger, cas) = match shared.get(&self.keys.ledger) {
            Some((bytes, cas)) => (Ledger::decode(bytes).unwrap_or_default(), cas),
            None => (Ledger::default(), NEVER_WRITTEN),
        };
        ledger.grow(self.table.pods.len());
        (ledger, cas)
    }

    /// Applies the log up to the ledger's end, at most `segments` sealed segments of it.
    fn catch_up(&mut self, ledger: &Ledger, shared: &impl SharedData, segments: usize) {
        if self.strategy == Strategy::LoadOnly {
            return;
        }
        let open = ledger.segment();
        let oldest = open.saturating_sub(self.keys.segments);
        if self.cursor.segment < oldest || self.cursor.segment > open {
            // Overwritten, or a log that began anew.
            self.lost_segments += oldest.saturating_sub(self.cursor.segment);
            self.cursor = Cursor { segment: oldest, offset: 0 };
        }
        for _ in 0..segments {
            if self.cursor.segment == open {
                break;
            }
            let bytes = shared
                .get(&self.keys.segment(self.cursor.segment))
                .map(|(bytes, _)| bytes)
                .unwrap_or_default();
            match unseal(&bytes) {
                Ok((number, records)) if number == self.cursor.segment => self.apply(records, shared),
                // Its writer has not come to it yet; unless later ones are there, it will be in a moment.
                _ if self.cursor.segment + 1 == open => return,
                _ => self.lost_segments += 1,
            }
            self.cursor = Cursor { segment: self.cursor.segment + 1, offset: 0 };
        }
        if self.cursor.segment == open {
            self.apply(ledger.log(), shared);
        }
    }

    /// Applies the records of one segment from the cursor on, but for those of this replica.
    ///
    /// A record of a pod that is not in the table is of one that is gone, or of one that is there already in a newer table:
    /// so that is fetched, once. What is newer still cannot be, for its writer had read it from there.
    fn apply(&mut self, records: &[u8], shared: &impl SharedData) {
        let mut reader = Reader(records.get(self.cursor.offset..).unwrap_or_default());
        let mut hashes = Vec::new();
        let mut fetched = false;
        while let Ok(record) = LogRecord::decode(&mut reader) {
            if record.writer == self.writer {
                continue;
            }
            if !self.knows(&record) {
                if !std::mem::replace(&mut fetched, true) {
                    // A table that cannot be read leaves the one that is known.
                    let _ = self.refresh(shared);
                }
                if !self.knows(&record) {
                    continue;
                }
            }
            hashes.clear();
            hashes.extend(record.hashes.as_chunks().0.iter().map(|&h| u32::from_le_bytes(h)));
            let turn = |prompts_ago| self.index.pod_clock(record.slot).wrapping_sub(prompts_ago);
            match record.correction {
                None => {
                    self.index.insert(record.slot, &hashes);
                }
                Some(Correction::KeepBlocks { blocks, prompts_ago }) => {
                    self.index.trim(record.slot, &hashes, usize::from(blocks), turn(prompts_ago));
                }
                Some(Correction::EvictUpTo { prompts_ago }) => {
                    self.index.evict(record.slot, turn(prompts_ago))
                }
            }
        }
        self.cursor.offset = records.len();
    }

    fn knows(&self, record: &LogRecord<'_>) -> bool {
        self.table.pod(record.slot).is_some_and(|pod| pod.id == record.id)
    }

    fn look_up(&mut self) {
        self.index.look_up(self.chain.hashes(), self.table.pods.len(), &mut self.found);
    }

    /// Chooses; changes nothing but the scratch that [`Router::candidates`] shows.
    fn choose(&mut self, ledger: &Ledger, tokens: f32, now: Micros) -> Result<Picks, NoPod> {
        self.stand(ledger, tokens, now);
        if self.candidates.iter().all(|s| s.rank == Rank::CoolingDown) {
            return Err(NoPod::AllCoolingDown);
        }
        // Where no prefix counts, requests go round among equals, and not in step with those of other workers.
        self.turn = self.turn.wrapping_add(1);
        let head = match self.strategy {
            Strategy::PrefixCache if self.chain.bytes() > 0 => self.chain.head(),
            _ => mix(self.turn ^ u64::from(self.writer) << 32),
        };
        Ok(pick(&self.candidates, self.constants.tie_band, head, |slot| {
            self.table.pod(slot).map_or(&[][..], |pod| pod.address.as_bytes())
        }))
    }

    /// Works out where every pod stands.
    fn stand(&mut self, ledger: &Ledger, tokens: f32, now: Micros) {
        self.entries.clear();
        self.entries.extend(self.table.live().map(|(slot, pod)| (slot, entry_of(ledger, slot, pod))));
        let pods = self.entries.len().max(1) as f32;
        let mean_rate = mean_rate(self.entries.iter().map(|(_, entry)| entry));
        let (mut waiting, mut in_flight) = (0.0, 0.0);
        for ((_, entry), (_, pod)) in self.entries.iter().zip(self.table.live()) {
            waiting += entry.waiting as f32 + pod.foreign_waiting * freshness(pod, now);
            in_flight += entry.in_flight as f32;
        }
        let request = RequestView { tokens, backlog: waiting / pods, mean_work: ledger.mean_work() };
        let PopularBlocks { popular: hot, in_use: used } =
            self.index.popular_blocks(&self.found, pods, in_flight);
        let tokens_a_byte = tokens / self.chain.bytes().max(1) as f32;
        let in_tokens = |blocks: usize| bytes_of(blocks) as f32 * tokens_a_byte;
        self.candidates.clear();
        for (&(slot, ref entry), (_, pod)) in self.entries.iter().zip(self.table.live()) {
            let fresh = freshness(pod, now);
            let matched = usize::from(self.found.blocks(slot));
            let rate = rate_of(entry, mean_rate);
            let outstanding = entry.remaining(rate, now, self.constants.first_token_lag_tokens);
            let view = PodView {
                matched: in_tokens(matched),
                outstanding,
                waiting: entry.waiting as f32,
                in_flight: entry.in_flight as f32,
                foreign_running: pod.foreign_running * fresh,
                foreign_waiting: pod.foreign_waiting * fresh,
                cache_fill: self.index.fill(slot),
                popular: in_tokens(hot.max(matched)) - in_tokens(matched),
                kv_usage: pod.kv_usage * fresh,
                kv_need: tokens + self.constants.expected_answer_tokens - in_tokens(used.min(matched)),
                kv_free: match pod.capacity {
                    0 => f32::MAX,
                    capacity => (1.0 - pod.kv_usage * fresh) * capacity as f32 - outstanding,
                },
                kv_capacity: pod.capacity as f32,
                tokens_per_second: rate,
            };
            let rank = if entry.cooling_down(now, pod.recovered_at) {
                if entry.errors > 0 { Rank::Erring } else { Rank::CoolingDown }
            } else if pod.state == PodState::Unreachable {
                Rank::Unreachable
            } else {
                Rank::Ready
            };
            let terms = cost(&view, &request, &self.constants);
            self.candidates.push(Candidate { slot, rank, matched: view.matched, terms });
        }
    }

    /// Books the request on its pod.
    fn book(&self, ledger: &mut Ledger, picks: Picks, by: RouteBy<'_>, model: u32, now: Micros) -> Ticket {
        let slot = picks.best().unwrap_or_default();
        let id = self.table.pod(slot).map_or(0, |pod| pod.id);
        let terms = self.candidates.iter().find(|s| s.slot == slot).map(|s| s.terms).unwrap_or_default();
        let work = terms.uncached as u32;
        // The table may have grown since the ledger was read.
        ledger.grow(self.table.pods.len());
        self.claim_slot(ledger, slot, id);
        let mut ahead = 0;
        ledger.change(slot, id, |entry| {
            ahead = entry.waiting;
            entry.open(work, now);
        });
        if matches!(by, RouteBy::Prompt(_)) {
            ledger.count_opened(work);
        }
        let matched = self.found.blocks(slot);
        Ticket {
            slot,
            id,
            picks: self.ids(picks),
            work,
            opened_at: now,
            started: false,
            model,
            bytes: self.chain.bytes(),
            matched,
            hashes: self.chain.hashes().into(),
            ahead,
            used: UseStamp::default(),
            learns: matches!(by, RouteBy::Prompt(reading) if reading.is_text()),
        }
    }

    /// Writes down in the log that the pod will hold the prompt.
    fn write_record(&mut self, ledger: &mut Ledger, ticket: &Ticket) -> Option<(u64, Vec<u8>)> {
        self.append_record(ledger, ticket.slot, ticket.id, None, &ticket.hashes)
    }

    /// Appends a record to the log, unless it says nothing.
    fn append_record(
        &mut self,
        ledger: &mut Ledger,
        slot: Slot,
        id: u32,
        correction: Option<Correction>,
        hashes: &[u32],
    ) -> Option<(u64, Vec<u8>)> {
        if hashes.is_empty() && correction.is_none() {
            return None;
        }
        self.hash_bytes.clear();
        self.hash_bytes.extend(hashes.iter().flat_map(|h| h.to_le_bytes()));
        ledger.append(&LogRecord { writer: self.writer, slot, id, correction, hashes: &self.hash_bytes })
    }

    /// The booked pod has not computed the prompt: takes back what was believed since it was sent, here and in the log.
    fn retract(&mut self, ledger: &mut Ledger, ticket: &Ticket) -> Option<(u64, Vec<u8>)> {
        if ticket.hashes.is_empty() || ticket.slot == NOWHERE.0 {
            return None;
        }
        let Ticket { slot, id, matched, used, .. } = *ticket;
        self.index.trim(slot, &ticket.hashes, usize::from(matched), used.at);
        let prompts_ago = self.index.pod_clock(slot).wrapping_sub(used.at);
        self.append_record(
            ledger,
            slot,
            id,
            Some(Correction::KeepBlocks { blocks: matched, prompts_ago }),
            &ticket.hashes,
        )
    }

    /// The booked pod has lost all that it used last in `turn` or before: here and in the log.
    fn evict(&mut self, ledger: &mut Ledger, ticket: &Ticket, turn: u32) -> Option<(u64, Vec<u8>)> {
        self.index.evict(ticket.slot, turn);
        let prompts_ago = self.index.pod_clock(ticket.slot).wrapping_sub(turn);
        self.append_record(ledger, ticket.slot, ticket.id, Some(Correction::EvictUpTo { prompts_ago }), &[])
    }

    /// Keeps the pods' capacities in bytes in step with what is learned of bytes a token. Models differ: the mean over
    /// recent answers counts, and less than a tenth off is not worth looking at every pod.
    fn learn_capacity(&mut self, ratio: f32) {
        self.mean_ratio += (ratio - self.mean_ratio) * RATIO_GAIN;
        if (self.mean_ratio - self.bytes_per_token).abs() <= 0.1 * self.bytes_per_token {
            return;
        }
        self.bytes_per_token = self.mean_ratio;
        for (slot, pod) in (0..).zip(&self.table.pods) {
            self.index.set_capacity(slot, self.holds(pod));
        }
    }

    /// Canonical bytes that a pod is believed to hold at most.
    fn holds(&self, pod: &Pod) -> u64 {
        (pod.capacity as f64 * f64::from(self.bytes_per_token * self.constants.believed_capacity)) as u64
    }

    /// The decision is written: it holds for this replica too.
    fn commit(
        &mut self,
        ticket: &mut Ticket,
        ledger: Ledger,
        sealed: Option<(u64, Vec<u8>)>,
        shared: &mut impl SharedData,
    ) {
        ticket.used = self.index.insert(ticket.slot, self.chain.hashes());
        self.done(DecisionStep::Keep);
        let caught_up = match &sealed {
            None => self.cursor.segment == ledger.segment(),
            Some((number, _)) => self.cursor.segment == *number,
        };
        if caught_up {
            // All up to here is applied, the own record included.
            self.cursor = Cursor { segment: ledger.segment(), offset: ledger.log().len() };
        }
        if let Some((number, records)) = sealed {
            self.seal(number, &records, shared);
        }
    }

    fn seal(&mut self, number: u64, records: &[u8], shared: &mut impl SharedData) {
        // Unconditional: only the worker whose write closed the segment comes here with its number.
        let _ = shared.set(&self.keys.segment(number), &seal(number, records), None);
    }

    /// Changes the ledger under compare-and-swap; `None` when others always wrote first, which the collector's reconciliation
    /// puts right.
    fn change<T>(
        &mut self,
        shared: &mut impl SharedData,
        mut with: impl FnMut(&Router, &mut Ledger) -> T,
    ) -> Option<T> {
        for _ in 0..TRIES {
            let (mut ledger, cas) = self.read_ledger(shared);
            let result = with(self, &mut ledger);
            if shared.set(&self.keys.ledger, ledger.encode(), Some(cas)).is_ok() {
                return Some(result);
            }
        }
        None
    }

    /// The same for a change that the log must tell of too: applies what others wrote first, so that turns are counted as in
    /// the log, and seals the segments that `with` filled. `with` may be called again, and must not mind.
    fn change_and_tell(
        &mut self,
        shared: &mut impl SharedData,
        mut with: impl FnMut(&mut Router, &mut Ledger, &mut Vec<(u64, Vec<u8>)>),
    ) {
        let mut segments = Vec::new();
        for _ in 0..TRIES {
            let (mut ledger, cas) = self.read_ledger(shared);
            self.catch_up(&ledger, shared, SEGMENTS_A_DECISION);
            ledger.grow(self.table.pods.len());
            segments.clear();
            with(self, &mut ledger, &mut segments);
            if shared.set(&self.keys.ledger, ledger.encode(), Some(cas)).is_ok() {
                for (number, records) in &segments {
                    self.seal(*number, records, shared);
                }
                return;
            }
        }
    }

    /// Makes the slot's entry that of the pod `id`, which the slot has by now; what was in flight on the one before it died
    /// with it. A pod that is gone gets no entry: what happened to it is nobody's concern any more. Nor does one whose slot has
    /// a later pod: this replica of the table is the one that is behind.
    fn claim_slot(&self, ledger: &mut Ledger, slot: Slot, id: u32) {
        if ledger.entry(slot).id < id
            && let Some(pod) = self.table.pod(slot).filter(|pod| pod.id == id)
        {
            let entry = entry_of(ledger, slot, pod);
            ledger.write(slot, &entry);
        }
    }

    fn ids(&self, picks: Picks) -> [Option<(Slot, u32)>; crate::decide::pick::PICKS] {
        let mut ids = [None; crate::decide::pick::PICKS];
        for (place, slot) in ids.iter_mut().zip(picks.iter()) {
            *place = self.table.pod(slot).map(|pod| (slot, pod.id));
        }
        ids
    }
}

/// The ledger's entry of a pod. That of another pod in its slot does not count, but for what was learned of the same machine.
fn entry_of(ledger: &Ledger, slot: Slot, pod: &Pod) -> PodAccount {
    let entry = ledger.entry(slot);
    if entry.id == pod.id {
        entry
    } else if entry.id >= pod.first_id {
        PodAccount::restarted(pod.id, entry)
    } else {
        PodAccount::new(pod.id)
    }
}

/// How much scraped load still says: all of it at first, nothing once it is stale.
fn freshness(pod: &Pod, now: Micros) -> f32 {
    let age = now.saturating_sub(pod.scraped_at);
    let faded = age.saturating_sub(FRESH) as f32 / (STALE - FRESH) as f32;
    1.0 - faded.min(1.0)
}

fn mean_rate<'a>(entries: impl Iterator<Item = &'a PodAccount>) -> f32 {
    let (mut sum, mut count) = (0.0, 0.0);
    for entry in entries.filter(|e| e.samples > 0) {
        sum += entry.rate;
        count += 1.0;
    }
    if count > 0.0 { sum / count } else { DEFAULT_RATE }
}

fn rate_of(entry: &PodAccount, mean: f32) -> f32 {
    let differs = (entry.rate - mean).abs() > EQUAL_RATES * mean;
    if entry.samples >= RELIABLE && differs { entry.rate } else { mean }
}

fn bytes_per_token(by: RouteBy<'_>, ledger: &Ledger, model: u32) -> f32 {
    match by {
        RouteBy::Prompt(reading) if reading.is_text() => ledger.bytes_per_token(model),
        _ => DEFAULT_BYTES_PER_TOKEN,
    }
}

#[cfg(test)]
mod tests;
