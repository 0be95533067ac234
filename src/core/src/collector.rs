//! The story of the collector: scrape what is due, take in what comes back, publish the table.
//!
//! Runs once an Envoy, in the bootstrap singleton, or in a router's root context that took the lease when the singleton is
//! dead. It also heals the ledger: it alone sees what pods say they have in flight.

use crate::account::ledger::{Ledger, LedgerTotals, PodAccount};
use crate::config::{Config, Scrape};
use crate::scrape::schedule::Schedule;
use crate::scrape::vllm;
use crate::shared::membership::announced;
use crate::shared::pod_table::{Pod, PodState, PodTable};
use crate::shared::store::{Keys, NEVER_WRITTEN, SharedData};
use crate::{Micros, SECOND, Slot};

/// Tokens a pod is believed to hold until it says: 31,250 vLLM blocks of 16, about a 7B model on 24 GB.
const DEFAULT_CAPACITY: u64 = 500_000;
/// A process that started this much later, in milliseconds, is another one; less is rounding.
const RESTART: u64 = 1_000;
/// How long the ledger must count more than a pod has before it is put right.
const HEAL_AFTER: Micros = 10 * SECOND;
/// How long a request may be with Envoy and not with the pod, on its way there and back together. Of a steady stream so many
/// are always missing at the pod, and none of them is a leak: this share of a window's requests stays in the ledger.
///
/// What takes longer than this without a break, a WebSocket that asks for nothing or clients that read an answer long after
/// it is computed, is taken out all the same. Its own end then takes out one more, and what is short in the ledger counts
/// as foreign, so the load of the pod is right even so.
const TRANSIT: Micros = SECOND / 4;

/// Collects the load of a pool.
#[derive(Clone, Debug)]
pub struct Collector {
    keys: Keys,
    scrape: Scrape,
    table: PodTable,
    notes: Vec<Note>,
    schedule: Schedule,
    /// Whether the table differs from what was published.
    moved: bool,
    published_at: Micros,
    /// Version of the list of pods that routers announced, as last followed.
    announced: u32,
    /// Requests that were taken out of the ledger because no pod had them.
    leaked: u64,
}

/// What the collector remembers of a pod besides the table.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    /// What was foreign one scrape ago: requests that ended or began between page and ledger look foreign, but not twice.
    foreign_running: f32,
    foreign_waiting: f32,
    /// Since when the ledger counts more than the pod has.
    excess: Option<Excess>,
}

/// A time in which the ledger counted more than the pod had, without a break.
#[derive(Clone, Copy, Debug)]
struct Excess {
    since: Micros,
    /// By how much at least.
    least: u32,
    /// How many at least waited, as the ledger has it: no more of the leaked ones can.
    waiting: u32,
    /// Requests that the pod had ever been sent, at the last scrape.
    opened: u16,
    /// How many it was sent in this time.
    flow: u32,
}

impl Excess {
    fn begin(own: &PodAccount, now: Micros) -> Excess {
        Excess { since: now, least: u32::MAX, waiting: u32::MAX, opened: own.opened, flow: 0 }
    }

    fn see(&mut self, excess: u32, own: &PodAccount) {
        self.least = self.least.min(excess);
        self.waiting = self.waiting.min(own.waiting);
        self.flow = self.flow.saturating_add(u32::from(own.opened.wrapping_sub(self.opened)));
        self.opened = own.opened;
    }

    /// What must be a leak by `now`.
    fn leak(&self, now: Micros) -> Leak {
        let time = now.saturating_sub(self.since).max(1);
        let under_way = u64::from(self.flow) * TRANSIT / time;
        let requests = self.least.saturating_sub(u32::try_from(under_way).unwrap_or(u32::MAX));
        Leak { requests, waiting: self.waiting.min(requests) }
    }
}

/// Requests that the ledger counts and that do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leak {
    requests: u32,
    /// Those of them that it has as waiting. Where it takes out one that is real, the counts are right again as soon as
    /// nothing waits; one too many would stay until the pod is idle.
    waiting: u32,
}

/// A page to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueScrape {
    /// The pod.
    pub slot: Slot,
    /// Its identity, to recognize an answer that comes after the slot has changed hands.
    pub id: u32,
    /// Where to fetch it.
    pub address: String,
}

/// Why a scrape brought no load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrapeFailure {
    /// Refused, reset or timed out.
    Unreachable,
    /// An answer that is not vLLM's metrics.
    Unreadable,
}

impl Collector {
    /// A collector for the pods of `config`. It goes on from the table that is already shared, so that pods keep their slots
    /// and identities when another collector takes over.
    pub fn new(config: &Config, shared: &impl SharedData, seed: u64, now: Micros) -> Collector {
        let keys = Keys::of(&config.pool, config.index.log_segments);
        let mut table =
            shared.get(&keys.table).and_then(|(bytes, _)| PodTable::decode(&bytes).ok()).unwrap_or_default();
        // Without a table that can be read, the ledger says which identities are taken: one that it knows as larger would
        // never be booked on.
        let booked = shared.get(&keys.ledger).and_then(|(bytes, _)| Ledger::decode(bytes).ok());
        let booked = booked.iter().flat_map(|l| (0..l.slots()).map(|slot| l.entry(slot as Slot).id));
        table.last_id = table.pods.iter().map(|pod| pod.id).chain(booked).fold(table.last_id, u32::max);
        let mut collector = Collector {
            keys,
            scrape: config.scrape.clone(),
            notes: vec![Note::default(); table.pods.len()],
            schedule: Schedule::new(seed),
            moved: true,
            published_at: table.published_at,
            announced: NEVER_WRITTEN,
            leaked: 0,
            table,
        };
        for (slot, _) in collector.table.live() {
            collector.schedule.add(slot, now);
        }
        if let Some(pods) = &config.pods {
            collector.set_pods(pods, now);
        }
        collector
    }

    /// Makes `addresses` the pods of the pool: those that stay keep their slots.
    pub fn set_pods(&mut self, addresses: &[String], now: Micros) {
        for (slot, pod) in (0..).zip(&mut self.table.pods) {
            if pod.id != 0 && !addresses.contains(&pod.address) {
                *pod = Pod::default();
                self.schedule.remove(slot);
                self.moved = true;
            }
        }
        for address in addresses {
            if self.table.live().any(|(_, pod)| pod.address == *address) {
                continue;
            }
            let id = next_id(&mut self.table.last_id);
            let pod = Pod {
                id,
                first_id: id,
                address: address.clone(),
                capacity: DEFAULT_CAPACITY,
                ..Pod::default()
            };
            let slot = match self.table.pods.iter().position(|pod| pod.id == 0) {
                Some(empty) => empty,
                None => {
                    self.table.pods.push(Pod::default());
                    self.notes.push(Note::default());
                    self.table.pods.len() - 1
                }
            };
            if let (Some(place), Some(note)) = (self.table.pods.get_mut(slot), self.notes.get_mut(slot)) {
                *place = pod;
                *note = Note::default();
            }
            self.schedule.add(slot as Slot, now);
            self.moved = true;
        }
    }

    /// The pages to fetch now. Follows the pods that routers announced since.
    pub fn due(&mut self, shared: &impl SharedData, now: Micros) -> Vec<DueScrape> {
        if let Some((list, version)) = announced(&self.keys.pods, shared)
            && version != self.announced
        {
            self.announced = version;
            self.set_pods(&list.pods, now);
        }
        if let Some(ledger) = self.ledger(shared) {
            self.schedule.note_traffic(ledger.opened(), now);
        }
        let slots = self.schedule.take_due(now);
        slots
            .into_iter()
            .filter_map(|slot| {
                let pod = self.table.pod(slot)?;
                Some(DueScrape { slot, id: pod.id, address: pod.address.clone() })
            })
            .collect()
    }

    /// A page has come for what was due; `cost` is what taking it in took the thread, in microseconds, when known.
    pub fn take(&mut self, due: &DueScrape, page: &[u8], shared: &mut impl SharedData, now: Micros) {
        match vllm::load(page) {
            Ok(load) => {
                let own = self.ledger(shared).map(|ledger| ledger.entry(due.slot));
                if let Some(leak) = self.take_load(due, &load, own, now) {
                    self.heal(due, leak, shared);
                }
            }
            Err(vllm::NotVllm) => self.fail(due, ScrapeFailure::Unreadable),
        }
    }

    /// No page has come for what was due.
    pub fn fail(&mut self, due: &DueScrape, failure: ScrapeFailure) {
        let Some(pod) = self.table.pods.get_mut(usize::from(due.slot)).filter(|pod| pod.id == due.id) else {
            return;
        };
        let state = match failure {
            ScrapeFailure::Unreachable => PodState::Unreachable,
            ScrapeFailure::Unreadable => PodState::Unreadable,
        };
        self.moved |= pod.state != state;
        pod.state = state;
    }

    /// Ends what [`Collector::due`] began, whether a page came or not; `cost` is the time a page took, in microseconds.
    pub fn done(&mut self, due: &DueScrape, cost: Option<Micros>, now: Micros) {
        // A slot may have a new pod, or a restarted one, since.
        if self.table.pod(due.slot).is_some() {
            self.schedule.done(due.slot, cost, &self.scrape, now);
        }
    }

    /// Writes the table if it has changed, or is due for a sign of life; returns its new generation.
    pub fn publish(&mut self, shared: &mut impl SharedData, now: Micros) -> Option<u64> {
        if !self.moved && now.saturating_sub(self.published_at) < SECOND {
            return None;
        }
        self.moved = false;
        self.published_at = now;
        self.table.published_at = now;
        self.table.generation = self.table.generation.wrapping_add(1);
        // Only one collector writes; should two overlap for a moment, the later table is as good.
        shared.set(&self.keys.table, &self.table.encode(), None).ok()?;
        Some(self.table.generation)
    }

    /// What is in flight on all pods together, as the ledger has it.
    pub fn in_flight(&self, shared: &impl SharedData) -> LedgerTotals {
        self.ledger(shared).map(|ledger| ledger.totals()).unwrap_or_default()
    }

    /// The table as it will be published.
    pub fn table(&self) -> &PodTable {
        &self.table
    }

    /// Takes in a load; returns what the ledger counts and does not exist, when that has lasted.
    fn take_load(
        &mut self,
        due: &DueScrape,
        load: &vllm::PodLoad,
        own: Option<PodAccount>,
        now: Micros,
    ) -> Option<Leak> {
        let slot = usize::from(due.slot);
        let (pod, note) = (self.table.pods.get_mut(slot)?, self.notes.get_mut(slot)?);
        if pod.id != due.id {
            return None;
        }
        let started = load.started.map_or(0, |seconds| (seconds * 1e3) as u64);
        if pod.started != 0 && started != 0 && started.abs_diff(pod.started) > RESTART {
            // Its cache is empty and its requests are gone: to everyone it is another pod.
            pod.id = next_id(&mut self.table.last_id);
            *note = Note::default();
        }
        if started != 0 {
            pod.started = started;
        }
        let own = own.filter(|entry| entry.id == pod.id);
        let (own_waiting, own_in_flight) = own.map_or((0.0, 0.0), |e| (e.waiting as f32, e.in_flight as f32));
        let foreign = (load.running + load.waiting - own_in_flight).max(0.0);
        let foreign_waiting = (load.waiting - own_waiting).clamp(0.0, foreign);
        let foreign_running = foreign - foreign_waiting;
        if pod.state == PodState::Unreachable {
            pod.recovered_at = now;
        }
        pod.state = PodState::Ready;
        pod.scraped_at = now;
        pod.running = load.running;
        pod.waiting = load.waiting;
        pod.kv_usage = load.kv_usage;
        pod.foreign_running = foreign_running.min(note.foreign_running);
        pod.foreign_waiting = foreign_waiting.min(note.foreign_waiting);
        pod.capacity = load.capacity.unwrap_or(DEFAULT_CAPACITY);
        (note.foreign_running, note.foreign_waiting) = (foreign_running, foreign_waiting);
        self.moved = true;

        let excess = (own_in_flight - load.running - load.waiting) as u32;
        let Some(own) = own.filter(|_| excess > 0) else {
            note.excess = None;
            return None;
        };
        let seen = note.excess.get_or_insert_with(|| Excess::begin(&own, now));
        seen.see(excess, &own);
        if now.saturating_sub(seen.since) < HEAL_AFTER {
            return None;
        }
        let leak = seen.leak(now);
        note.excess = None;
        (leak.requests > 0).then_some(leak)
    }

    /// Requests that were taken out of the ledger because no pod had them: their worker trapped, or lost its account.
    pub fn leaked(&self) -> u64 {
        self.leaked
    }

    fn heal(&mut self, due: &DueScrape, leak: Leak, shared: &mut impl SharedData) {
        let Some((bytes, cas)) = shared.get(&self.keys.ledger) else { return };
        let Ok(mut ledger) = Ledger::decode(bytes) else { return };
        ledger.change(due.slot, due.id, |entry| entry.reconcile(leak.requests, leak.waiting));
        // On a conflict the next window heals.
        if shared.set(&self.keys.ledger, ledger.encode(), Some(cas)).is_ok() {
            self.leaked += u64::from(leak.requests);
        }
    }

    fn ledger(&self, shared: &impl SharedData) -> Option<Ledger> {
        shared.get(&self.keys.ledger).and_then(|(bytes, _)| Ledger::decode(bytes).ok())
    }
}

/// The identity after the last one given; 0 is no pod. Four billion restarts wrap it; until then the larger is the later.
fn next_id(last: &mut u32) -> u32 {
    *last = last.wrapping_add(1).max(1);
    *last
}

#[cfg(test)]
mod tests;
