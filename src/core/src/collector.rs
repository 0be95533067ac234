//! The story of the collector: scrape the pods that are due, take in their pages, publish the table.
//!
//! It runs once per Envoy: in the bootstrap singleton, or in a router's root context that took the lease when
//! the singleton is dead. It also reconciles the ledger, because it alone sees how many requests the pods
//! report.

mod corrections;
mod engines;
mod load;
mod members;
mod model_lists;
mod sender;

use self::load::milliseconds;
pub use self::model_lists::ListNews;
use self::sender::Doubt;
use crate::account::ledger::Ledger;
use crate::account::transaction::LedgerStore;
use crate::config::{Config, Scrape};
use crate::scrape::cache_check::CacheCheck;
use crate::scrape::history::PageHistory;
use crate::scrape::leaks::LeakDetector;
use crate::scrape::schedule::Schedule;
use crate::scrape::several::Several;
use crate::scrape::vllm;
use crate::shared::clusters::ClusterSet;
use crate::shared::membership::announced;
use crate::shared::pod_table::{Pod, PodState, PodTable};
use crate::shared::store::{Keys, NEVER_WRITTEN, SharedData};
use crate::{Micros, SECOND, Slot};

/// Requests of others that must have come or gone from one page to the next for their load to change fast.
const FAST_CHANGE: f32 = 8.0;
/// Least time between two scrapes of a pod that gets no requests.
const SELDOM: Micros = SECOND;

/// Collects the load of a pool.
#[derive(Clone, Debug)]
pub struct Collector {
    keys: Keys,
    store: LedgerStore,
    scrape: Scrape,
    table: PodTable,
    /// By slot.
    histories: Vec<PodHistory>,
    schedule: Schedule,
    lists: model_lists::Lists,
    /// Whether the table differs from the one that was published.
    changed: bool,
    published_at: Micros,
    /// Version of the list of pods that routers announced, as last followed.
    announced: u32,
    /// Whether Envoy's clusters list the pods, and not a configuration.
    discovers: bool,
    /// When the clusters were looked at as they are known now.
    looked_at: Micros,
    /// When our clock was at zero, since the epoch, once that was told.
    origin: Option<Micros>,
    /// An address that is known to answer for several processes, until that was told.
    several_at: Option<String>,
    misrouted: u64,
    leaked: u64,
    emptied: u64,
    contended: u64,
}

/// What earlier pages of a pod showed.
#[derive(Clone, Copy, Debug, Default)]
struct PodHistory {
    /// Foreign requests one scrape ago: a request that ended or began between page and ledger looks foreign,
    /// but not twice.
    foreign_running: f32,
    foreign_waiting: f32,
    /// Foreign requests that came or went between the last two pages.
    changed: f32,
    pages: PageHistory,
    leaks: LeakDetector,
    cache: CacheCheck,
    /// Requests that the server has refused because its queue was full, as the last page counts them.
    rejections: Option<f64>,
    /// A process of which it is not known whether it is the pod's.
    doubt: Option<Doubt>,
    several: Several,
}

impl PodHistory {
    /// The history of a pod that another collector has scraped before.
    fn of(pod: &Pod) -> PodHistory {
        let started = (pod.started != 0).then(|| pod.started as f64 / 1e3);
        PodHistory { pages: PageHistory::of_process(started, pod.scraped_at), ..PodHistory::default() }
    }
}

/// A metrics page to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueScrape {
    /// The pod.
    pub slot: Slot,
    /// Its identity, to recognize an answer that comes after the slot was given to another pod.
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
    /// A collector for the pods of `config`. It goes on from the table that is already shared, so that pods
    /// keep their slots and identities when another collector takes over.
    pub fn new(config: &Config, shared: &impl SharedData, seed: u64, now: Micros) -> Collector {
        let keys = Keys::of(&config.pool, config.index.log_segments);
        let mut table =
            shared.get(&keys.table).and_then(|(bytes, _)| PodTable::decode(&bytes).ok()).unwrap_or_default();
        // Without a table that can be read, the ledger tells which identities are taken. A pod with a smaller
        // identity than the one in its account would never be booked.
        let store = LedgerStore::new(keys.clone());
        let booked = store.read(shared);
        let booked = booked.iter().flat_map(|ledger| ledger.accounts().map(|account| account.id));
        table.last_id = table.pods.iter().map(|pod| pod.id).chain(booked).fold(table.last_id, u32::max);
        let mut collector = Collector {
            store,
            lists: model_lists::Lists::new(&keys, shared),
            keys,
            scrape: config.scrape.clone(),
            histories: table.pods.iter().map(PodHistory::of).collect(),
            schedule: Schedule::new(seed),
            changed: true,
            published_at: table.published_at,
            announced: NEVER_WRITTEN,
            discovers: config.discovery.is_some(),
            looked_at: Micros::ZERO,
            origin: None,
            several_at: None,
            misrouted: 0,
            leaked: 0,
            emptied: 0,
            contended: 0,
            table,
        };
        for (slot, _) in collector.table.addresses() {
            collector.schedule.add(slot, now);
        }
        if let Some(pods) = &config.pods {
            collector.set_pods(pods, now);
        }
        collector
    }

    /// The pages to fetch now. Follows the pods that routers announced since.
    pub fn due(&mut self, shared: &impl SharedData, now: Micros) -> Vec<DueScrape> {
        if !self.discovers
            && let Some((list, version)) = announced(&self.keys.pods, shared)
            && version != self.announced
        {
            self.announced = version;
            self.set_pods(&list.pods, now);
        }
        if let Some(ledger) = self.store.read(shared) {
            self.schedule.note_traffic(ledger.routed(), now);
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

    /// A page has come for the scrape `due`.
    pub fn take(&mut self, due: &DueScrape, page: &[u8], shared: &mut impl SharedData, now: Micros) {
        let Ok(page) = vllm::Page::parse(page) else {
            return self.fail(due, ScrapeFailure::Unreadable);
        };
        let whole = page.total();
        if let Some(history) = self.discovered(due)
            && history.several.see(milliseconds(whole.started), now)
        {
            self.several_at = Some(due.address.clone());
        }
        if self.is_of_another(due, &whole, now) {
            self.misrouted += 1;
            return;
        }
        let ledger = self.store.read(shared);
        for (pod, engine) in self.engines_of(due, page.ranks.len()) {
            self.take_adapters(pod, &page.adapters);
            let load = engine.map_or(whole, |engine| page.of_engine(engine));
            let own = ledger.as_ref().map(|ledger| ledger.account(pod.slot));
            if let Some(leak) = self.take_load(pod, &load, own, now) {
                self.reconcile(pod, leak, shared);
            }
            if let Some(own) = own {
                self.check_cache(pod, &load, &own, shared, now);
            }
            self.check_rejections(pod, &load, shared, now);
        }
    }

    /// No page has come for the scrape `due`.
    pub fn fail(&mut self, due: &DueScrape, failure: ScrapeFailure) {
        let state = match failure {
            ScrapeFailure::Unreachable => PodState::Unreachable,
            ScrapeFailure::Unreadable => PodState::Unreadable,
        };
        for (key, _) in self.engines_as_known(due) {
            let slot = usize::from(key.slot);
            let (Some(pod), Some(history)) = (self.table.pods.get_mut(slot), self.histories.get_mut(slot))
            else {
                continue;
            };
            self.changed |= pod.state != state;
            pod.state = state;
            if failure == ScrapeFailure::Unreachable {
                history.pages.failed();
            }
        }
    }

    /// The page of the scrape `due`, which is taken in, came `took` after it was asked for.
    pub fn note_page(&mut self, due: &DueScrape, took: Micros) {
        let pods = self.engines_as_known(due).into_iter().map(|(pod, _)| usize::from(pod.slot));
        let changed: f32 =
            pods.filter_map(|slot| self.histories.get(slot)).map(|history| history.changed).sum();
        self.schedule.note_page(due.slot, took, changed >= FAST_CHANGE);
    }

    /// Whether the pod of the scrape `due`, whose page is taken in, is to be asked for something that costs
    /// it nothing, so that it is known how far away it is. It counts as asked.
    pub fn take_trip(&mut self, due: &DueScrape, now: Micros) -> bool {
        self.table.pod(due.slot).is_some_and(|pod| pod.id == due.id)
            && self.schedule.take_trip(due.slot, &self.scrape, now)
    }

    /// That answer came `took` after it was asked for.
    pub fn note_trip(&mut self, due: &DueScrape, took: Micros, now: Micros) {
        if self.table.pod(due.slot).is_some_and(|pod| pod.id == due.id) {
            self.schedule.note_trip(due.slot, took, &self.scrape, now);
        }
    }

    /// The scrape `due` has ended, whether a page came or not; `cost` is the time that the thread took for
    /// the page.
    pub fn done(&mut self, due: &DueScrape, cost: Option<Micros>, now: Micros) {
        // The slot may have a new pod by now, or a restarted one, and be due all the same.
        if let Some(pod) = self.table.pod(due.slot) {
            let least = if pod.candidate_of == ClusterSet::NONE { SELDOM } else { Micros::ZERO };
            let hangs = pod.state == PodState::Hanging;
            self.schedule.done(due.slot, cost, &self.scrape, least, now);
            if hangs {
                // It computes nothing that a page could delay, and a prompt that only took long must not be
                // held against it.
                self.schedule.hasten(due.slot, now + self.scrape.interval);
            }
        }
    }

    /// Writes the table if it has changed, and every second as a sign of life; returns its new generation.
    pub fn publish(&mut self, shared: &mut impl SharedData, now: Micros) -> Option<u64> {
        if !self.changed && now.since(self.published_at) < SECOND {
            return None;
        }
        self.changed = false;
        self.published_at = now;
        self.table.published_at = now;
        self.table.generation = self.table.generation.wrapping_add(1);
        // Only one collector writes; should two overlap for a moment, the later table is as good.
        shared.set(&self.keys.table, &self.table.encode(), None).ok()?;
        Some(self.table.generation)
    }

    /// Settings were fetched that the workers do not have yet.
    pub fn new_settings(&mut self) {
        self.table.settings = self.table.settings.wrapping_add(1).max(1);
        self.changed = true;
    }

    /// The ledger as it is now; an empty one before the first request.
    pub fn ledger(&self, shared: &impl SharedData) -> Ledger {
        self.store.read(shared).unwrap_or_default()
    }

    /// Requests that were taken out of the ledger because no pod had them.
    pub fn leaked(&self) -> u64 {
        self.leaked
    }

    /// Caches that pages have shown to be empty, against what was believed.
    pub fn emptied(&self) -> u64 {
        self.emptied
    }

    /// Pages that another pod has sent; they did not count.
    pub fn misrouted(&self) -> u64 {
        self.misrouted
    }

    /// Leaks that could not be taken out of the ledger because routers wrote first at every try.
    pub fn contended(&self) -> u64 {
        self.contended
    }

    /// The table as it will be published.
    pub fn table(&self) -> &PodTable {
        &self.table
    }
}

#[cfg(test)]
mod tests;
