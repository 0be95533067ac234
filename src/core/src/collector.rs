//! The story of the collector: scrape the pods that are due, take in their pages, publish the table.
//!
//! It runs once per Envoy: in the bootstrap singleton, or in a router's root context that took the lease when
//! the singleton is dead. It also reconciles the ledger, because it alone sees how many requests the pods
//! report.

mod engines;
mod model_lists;

pub use self::model_lists::ListNews;
use crate::account::cache_tally::CacheTally;
use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::account::transaction::LedgerStore;
use crate::config::{Config, Scrape};
use crate::discovery::Members;
use crate::scrape::cache_check::{CacheCheck, Finding};
use crate::scrape::history::{PageHistory, Signs};
use crate::scrape::leaks::{Leak, LeakDetector};
use crate::scrape::schedule::Schedule;
use crate::scrape::several::{SAME_PROCESS, Several};
use crate::scrape::vllm;
use crate::shared::clusters::ClusterSet;
use crate::shared::membership::announced;
use crate::shared::pod_table::{Pod, PodKey, PodState, PodTable};
use crate::shared::store::{Contended, Keys, NEVER_WRITTEN, SharedData};
use crate::{Micros, SECOND, Slot};

/// Tokens that a pod is believed to hold until its page tells: about those of a 7B model on a GPU with 24 GB.
const DEFAULT_CAPACITY: u64 = 500_000;
/// Requests of others that must have come or gone from one page to the next for their load to change fast.
const FAST_CHANGE: f32 = 8.0;
/// Pages in a row that are taken for another pod's. A pod that has left its cluster is scraped for less long.
const MOST_PAGES_OF_ANOTHER: u32 = 50;
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

/// Pages that told of another process than the pod's before.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// When that process started, in milliseconds.
    started: u64,
    /// When it was told first.
    since: Micros,
    /// Pages in a row that told it.
    pages: u32,
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

    /// Tells the time since the epoch at `now`. Of a pod that is listed later it is known since when it was
    /// there.
    pub fn tell_date(&mut self, date: Micros, now: Micros) {
        self.origin = Some(date - now);
    }

    /// Makes `addresses` the pods of the pool: those that stay keep their slots.
    pub fn set_pods(&mut self, addresses: &[String], now: Micros) {
        let listed_at = self.origin.map(|origin| origin + now);
        for (slot, pod) in Slot::all().zip(&mut self.table.pods) {
            if pod.id != 0 && !addresses.contains(&pod.address) {
                *pod = Pod::default();
                self.schedule.remove(slot);
                self.changed = true;
            }
        }
        for address in addresses {
            if self.table.live().any(|(_, pod)| pod.address == *address) {
                continue;
            }
            let slot = self.add(Pod { address: address.clone(), ..Pod::default() });
            if let Some(history) = self.histories.get_mut(usize::from(slot)) {
                history.pages = PageHistory::of_listed(listed_at);
            }
            self.schedule.add(slot, now);
        }
    }

    /// Puts a new pod into an empty slot.
    fn add(&mut self, pod: Pod) -> Slot {
        let id = next_id(&mut self.table.last_id);
        let slot = match self.table.pods.iter().position(|pod| pod.id == 0) {
            Some(empty) => empty,
            None => {
                self.table.pods.push(Pod::default());
                self.histories.push(PodHistory::default());
                self.table.pods.len() - 1
            }
        };
        if let (Some(place), Some(history)) = (self.table.pods.get_mut(slot), self.histories.get_mut(slot)) {
            *place = Pod { id, first_id: id, capacity: DEFAULT_CAPACITY, ..pod };
            *history = PodHistory::default();
        }
        self.changed = true;
        Slot(slot as u16)
    }

    /// Makes what discovery has found the pods of the pool.
    pub fn set_members(&mut self, members: &Members, now: Micros) {
        let addresses: Vec<String> = members.pods.iter().map(|member| member.address.clone()).collect();
        self.set_pods(&addresses, now);
        for (slot, pod) in Slot::all().zip(&mut self.table.pods).filter(|(_, pod)| pod.id != 0) {
            if let Some(member) = members.pods.iter().find(|member| member.address == pod.address) {
                self.changed |= pod.candidate_of != member.candidate_of;
                if pod.candidate_of == ClusterSet::NONE && member.candidate_of != ClusterSet::NONE {
                    self.schedule.hasten(slot, now);
                }
                pod.candidate_of = member.candidate_of;
            }
        }
        let was_steered =
            |name: &str| self.table.clusters.iter().any(|known| known.name == name && known.steered);
        if members.clusters.iter().any(|cluster| cluster.steered && !was_steered(&cluster.name)) {
            // Now they can be scraped.
            self.table.addresses().for_each(|(slot, _)| self.schedule.hasten(slot, now));
        }
        self.changed |= self.table.clusters != members.clusters;
        self.table.clusters.clone_from(&members.clusters);
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

    /// The clusters were asked for at `asked_at`, and [`Collector::set_members`] has what they answered.
    pub fn looked_at(&mut self, asked_at: Micros) {
        self.looked_at = asked_at;
    }

    /// Whether a look at the clusters would tell if a page is of the pod that it was fetched from.
    pub fn doubts(&self) -> bool {
        let unanswered = |doubt: &Doubt| doubt.since >= self.looked_at;
        self.histories.iter().any(|history| history.doubt.as_ref().is_some_and(unanswered))
    }

    /// Whether the connection by which the scrape `due` is made is to be closed after it, to find out whether the address is that of
    /// several pods: only where it is the one host of its clusters. It counts as closed.
    pub fn take_close(&mut self, due: &DueScrape, now: Micros) -> bool {
        let Some(of) = self.table.pod(due.slot).map(|pod| pod.candidate_of) else { return false };
        let hosts = self.table.addresses().filter(|(_, other)| other.candidate_of.meets(of));
        let alone = hosts.take(2).count() == 1;
        alone && self.discovered(due).is_some_and(|history| history.several.take_close(now))
    }

    /// Nothing came of the scrape `due`, whose connection was to be closed. That says nothing of the pod.
    pub fn close_failed(&mut self, due: &DueScrape, now: Micros) {
        if let Some(history) = self.discovered(due) {
            history.several.close_failed(now);
        }
    }

    /// An address that answers for several processes, as that of a Service does; each is returned once.
    pub fn several_at(&mut self) -> Option<String> {
        self.several_at.take()
    }

    /// The history of the pod of the scrape `due`, where Envoy's clusters list the pods and it is listed still.
    fn discovered(&mut self, due: &DueScrape) -> Option<&mut PodHistory> {
        self.table.pod(due.slot).filter(|pod| self.discovers && pod.id == due.id)?;
        self.histories.get_mut(usize::from(due.slot))
    }

    /// Whether another pod may have sent the page: a cluster sends elsewhere for a moment when a pod has left
    /// it, or when it is another cluster of the same name. The page tells another process than the one that
    /// the pod ran before. It is the pod's if a page tells it still after the clusters were looked at, for a
    /// pod that has left its cluster is not scraped any more. Many such pages in a row are the pod's in any
    /// case: Envoy may not answer what its clusters are.
    fn is_of_another(&mut self, due: &DueScrape, load: &vllm::PodLoad, now: Micros) -> bool {
        let Some(pod) = self.table.pod(due.slot).filter(|pod| self.discovers && pod.id == due.id) else {
            return false;
        };
        let started = milliseconds(load.started);
        let same = started == 0 || pod.started == 0 || started.abs_diff(pod.started) <= SAME_PROCESS;
        let Some(history) = self.histories.get_mut(usize::from(due.slot)) else { return false };
        if same {
            history.doubt = None;
            return false;
        }
        let mut doubt = match history.doubt {
            Some(doubt) if doubt.started == started => doubt,
            _ => Doubt { started, since: now, pages: 0 },
        };
        doubt.pages += 1;
        let own = doubt.since < self.looked_at || doubt.pages > MOST_PAGES_OF_ANOTHER;
        history.doubt = (!own).then_some(doubt);
        !own
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
                // It computes nothing that a page could delay, and a prompt that only took long must not be held against it.
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

    /// Takes in a load; returns the requests that the ledger counts and that do not exist, once that has
    /// lasted.
    fn take_load(
        &mut self,
        key: PodKey,
        load: &vllm::PodLoad,
        own: Option<PodAccount>,
        now: Micros,
    ) -> Option<Leak> {
        let slot = usize::from(key.slot);
        let (pod, history) = (self.table.pods.get_mut(slot)?, self.histories.get_mut(slot)?);
        if pod.id != key.id {
            return None;
        }
        let own = own.filter(|account| account.id == pod.id);
        let Signs { restarted, hangs, ended } = history.pages.see(load, own.as_ref(), now);
        let own = own.filter(|_| !restarted);
        if restarted {
            // Its cache is empty and its requests are gone, so it is another pod to everyone.
            pod.id = next_id(&mut self.table.last_id);
            let PodHistory { pages, several, .. } = *history;
            *history = PodHistory { pages, several, ..PodHistory::default() };
        }
        let (own_waiting, own_in_flight) = own.map_or((0.0, 0.0), |e| (e.waiting as f32, e.in_flight as f32));
        let foreign = (load.running + load.waiting - own_in_flight - ended).max(0.0);
        // Not `clamp`, which panics where a bound is no number.
        let foreign_waiting = (load.waiting - own_waiting).max(0.0).min(foreign);
        let foreign_running = foreign - foreign_waiting;
        if pod.state == PodState::Unreachable {
            pod.recovered_at = now;
        }
        let state = match (load.asleep, hangs) {
            (true, _) => PodState::Asleep,
            (false, true) => PodState::Hanging,
            (false, false) => PodState::Ready,
        };
        if state == PodState::Asleep && pod.state != PodState::Asleep {
            // Sleeping empties the cache.
            pod.cache_epoch = pod.cache_epoch.wrapping_add(1);
        }
        pod.state = state;
        pod.started = milliseconds(load.started);
        pod.scraped_at = now;
        pod.running = load.running;
        pod.waiting = load.waiting;
        pod.kv_usage = load.kv_usage;
        pod.foreign_running = foreign_running.min(history.foreign_running);
        pod.foreign_waiting = foreign_waiting.min(history.foreign_waiting);
        pod.capacity = load.capacity.unwrap_or(DEFAULT_CAPACITY);
        history.changed = (foreign - history.foreign_running - history.foreign_waiting).abs();
        (history.foreign_running, history.foreign_waiting) = (foreign_running, foreign_waiting);
        self.changed = true;
        match own {
            Some(own) => history.leaks.see(&own, load.running + load.waiting, now),
            None => {
                history.leaks = LeakDetector::default();
                None
            }
        }
    }

    /// Compares what the pod's cache has found with what was believed, and lets the routers believe nothing
    /// where that is clearly wrong. A tally that could not be written begins with the next page.
    fn check_cache(
        &mut self,
        key: PodKey,
        load: &vllm::PodLoad,
        own: &PodAccount,
        shared: &mut impl SharedData,
        now: Micros,
    ) {
        let slot = usize::from(key.slot);
        let (Some(pod), Some(history)) = (self.table.pods.get_mut(slot), self.histories.get_mut(slot)) else {
            return;
        };
        if pod.id != key.id || own.id != key.id {
            return;
        }
        let finding = history.cache.see(load, own.cache, now);
        if finding == Finding::Emptied {
            pod.cache_epoch = pod.cache_epoch.wrapping_add(1);
            self.emptied += 1;
        }
        if finding != Finding::Undecided {
            self.change(key, shared, |account| account.cache = CacheTally::from(now));
        }
    }

    /// A server that has refused requests since its last page because its queue was full has not failed.
    /// Where nothing reads the answers of each attempt, the routers took such a refusal for a failure if
    /// another pod served the request.
    fn check_rejections(
        &mut self,
        pod: PodKey,
        load: &vllm::PodLoad,
        shared: &mut impl SharedData,
        now: Micros,
    ) {
        let Some(history) = self.histories.get_mut(usize::from(pod.slot)) else { return };
        let before = history.rejections.replace(load.rejections);
        if before.is_some_and(|before| load.rejections > before) {
            self.change(pod, shared, |account| account.health.refused_as_full(now));
        }
    }

    fn reconcile(&mut self, pod: PodKey, leak: Leak, shared: &mut impl SharedData) {
        // If it is not written, the next window shows the same leak.
        if self.change(pod, shared, |account| account.reconcile(leak.requests, leak.waiting)) {
            self.leaked += u64::from(leak.requests);
        }
    }

    /// Changes the account of a pod; returns whether the change is written, and counts one that is not.
    fn change(&mut self, pod: PodKey, shared: &mut impl SharedData, with: impl Fn(&mut PodAccount)) -> bool {
        let changed = self.store.transact(shared, |ledger, _| {
            ledger.change(pod, &with);
            Ok::<_, Contended>(())
        });
        self.contended += u64::from(changed.is_err());
        changed.is_ok()
    }
}

/// Seconds as whole milliseconds; 0 for none.
fn milliseconds(seconds: Option<f64>) -> u64 {
    seconds.map_or(0, |seconds| (seconds * 1e3) as u64)
}

/// The identity after the last one that was given; 0 is no pod. Of two identities the larger one is the later
/// one, until four billion restarts wrap them.
fn next_id(last: &mut u32) -> u32 {
    *last = last.wrapping_add(1).max(1);
    *last
}

#[cfg(test)]
mod tests;
