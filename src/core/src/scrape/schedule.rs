//! When to scrape which pod.
//!
//! Each pod has its own time with a random part, so that the scrapes of a fleet are spread over the interval.
//! The interval grows with the fleet, so that taking in pages uses a bounded share of its thread: Envoy's
//! main thread, which also handles configuration and name resolution. It grows with the time that a pod takes
//! for its page, too: that time is taken from the thread that streams the pod's tokens. How far away the pod
//! is does not count: now and then it is asked for something that costs it next to nothing, and the time of
//! that answer is taken off.

use crate::config::Scrape;
use crate::{Micros, Random, Slot};

/// Share of the thread that scraping may take.
const THREAD_SHARE: f64 = 0.05;
/// Time that Envoy itself spends on a scrape: request, response and its copy into the VM, in microseconds.
const HOST_COST: f64 = 150.0;
/// Time that a page is expected to take before one has come, in microseconds.
const FIRST_PAGE_COST: f64 = 50.0;
/// Weight of a page in the mean time per page.
const COST_GAIN: f64 = 0.1;
/// Most that one page may count for. A page that takes far longer than usual met a thread that was held up,
/// which tells nothing of the next page.
const LONGEST_SAMPLE: Micros = Micros::from_millis(5);
/// Cap of the stretched interval, unless [`LONGEST_STRETCH`] times the configured one is longer: load that is
/// older counts for nothing.
const LONGEST_INTERVAL: Micros = Micros::from_seconds(10);
/// How many times the configured interval may stretch, where that is more than [`LONGEST_INTERVAL`].
const LONGEST_STRETCH: u64 = 10;
/// Time without a new request after which there is no traffic.
const IDLE_AFTER: Micros = Micros::from_seconds(3);

/// Share of a pod's time that its pages may take.
const POD_SHARE: f64 = 0.01;
/// The same while requests of others come and go fast: their number is known from the page alone.
const POD_SHARE_IN_HASTE: f64 = 0.04;
/// Cap of the interval that a pod's time leads to. Load that is a little older counts in full or nearly so.
const LONGEST_FOR_POD: Micros = Micros::from_seconds(3);
/// How fast the least time of a pod's page rises again, page by page: pages grow with their labels.
const RISE: f64 = 1.02;
/// The same for its round trip, answer by answer: paths change seldom.
const TRIP_RISE: f64 = 1.05;
/// Time between two looks at the round trip to a pod.
const TRIP_EVERY: Micros = Micros::from_seconds(5);
/// Looks that a pod gets at first, one after each page: a single one may have met a busy thread.
const FIRST_TRIPS: u8 = 3;

/// Whether a pod is scraped, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScrapeState {
    /// There is no pod in the slot.
    Absent,
    /// A scrape of it is under way.
    UnderWay,
    /// It is due at this time.
    Due(Micros),
}

/// What is known of a pod's pages.
#[derive(Clone, Copy, Debug, Default)]
struct PodPages {
    /// The least time in which one came, in microseconds: it waited for nothing else. 0 before the first.
    least: f64,
    /// The least time in which an answer came that costs nothing, in microseconds; 0 before the first.
    trip: f64,
    /// How many such answers came, as far as it matters.
    trips: u8,
    /// When it was asked for one last.
    trip_asked_at: Micros,
    /// The last one showed that requests of others come and go fast.
    in_haste: bool,
}

/// When each pod is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// By slot.
    states: Vec<ScrapeState>,
    /// What is known of the pages of each pod, by slot.
    pages: Vec<PodPages>,
    /// Mean time that the thread takes for a page, in microseconds.
    page_cost: f64,
    /// Requests that were ever routed, as last noted.
    routed: u64,
    active_at: Micros,
    random: Random,
}

impl Schedule {
    /// A schedule without pods; `seed` spreads the scrapes of several gateways.
    pub fn new(seed: u64) -> Schedule {
        Schedule {
            states: Vec::new(),
            pages: Vec::new(),
            page_cost: FIRST_PAGE_COST,
            routed: 0,
            active_at: Micros::ZERO,
            random: Random::new(seed),
        }
    }

    /// A pod has come into `slot`: it is due at once.
    pub fn add(&mut self, slot: Slot, now: Micros) {
        let at = usize::from(slot);
        if self.states.len() <= at {
            self.states.resize(at + 1, ScrapeState::Absent);
            self.pages.resize(at + 1, PodPages::default());
        }
        if let Some(pages) = self.pages.get_mut(at) {
            *pages = PodPages::default();
        }
        self.set(slot, ScrapeState::Due(now));
    }

    /// The pod in `slot` has gone.
    pub fn remove(&mut self, slot: Slot) {
        self.set(slot, ScrapeState::Absent);
    }

    fn set(&mut self, slot: Slot, state: ScrapeState) {
        if let Some(place) = self.states.get_mut(usize::from(slot)) {
            *place = state;
        }
    }

    /// Notes how many requests were ever routed, of any kind: a change shows that there is traffic.
    pub fn note_traffic(&mut self, routed: u64, now: Micros) {
        if routed != self.routed {
            self.routed = routed;
            if now.since(self.active_at) > IDLE_AFTER {
                // Traffic after a pause: the load of every pod is out of date.
                for state in self.states.iter_mut().filter(|state| matches!(state, ScrapeState::Due(_))) {
                    *state = ScrapeState::Due(now);
                }
            }
            self.active_at = now;
        }
    }

    /// The pods that are due; each stays out of the schedule until [`Schedule::done`].
    pub fn take_due(&mut self, now: Micros) -> Vec<Slot> {
        let mut slots = Vec::new();
        for (slot, state) in Slot::all().zip(&mut self.states) {
            if matches!(state, ScrapeState::Due(at) if *at <= now) {
                *state = ScrapeState::UnderWay;
                slots.push(slot);
            }
        }
        slots
    }

    /// A page of the pod in `slot` has come `took` after it was asked for; `in_haste` says that the load
    /// which others bring to the pod changes fast.
    pub fn note_page(&mut self, slot: Slot, took: Micros, in_haste: bool) {
        if let Some(pages) = self.pages.get_mut(usize::from(slot)) {
            pages.least = least(pages.least, took, RISE);
            pages.in_haste = in_haste;
        }
    }

    /// Whether the pod in `slot`, whose page has just come, is to be asked for something that costs it
    /// nothing, so that the round trip is known. It counts as asked. Where its pages come so fast that they
    /// cost too little to matter, it is not.
    pub fn take_trip(&mut self, slot: Slot, config: &Scrape, now: Micros) -> bool {
        let Some(pages) = self.pages.get_mut(usize::from(slot)) else { return false };
        let matters = pages.least > config.interval.0 as f64 * POD_SHARE;
        let is_due = pages.trips < FIRST_TRIPS || now.since(pages.trip_asked_at) >= TRIP_EVERY;
        if matters && is_due {
            pages.trip_asked_at = now;
        }
        matters && is_due
    }

    /// That answer has come `took` after it was asked for. A pod that was to wait longer than its pages cost
    /// is due sooner.
    pub fn note_trip(&mut self, slot: Slot, took: Micros, config: &Scrape, now: Micros) {
        let Some(pages) = self.pages.get_mut(usize::from(slot)) else { return };
        pages.trip = least(pages.trip, took, TRIP_RISE);
        pages.trips = pages.trips.saturating_add(1);
        let due = now + self.interval(config, now).max(self.affordable_for_pod(slot));
        self.hasten(slot, due);
    }

    /// The interval at which the pages of a pod take no more than their share of its time.
    fn affordable_for_pod(&self, slot: Slot) -> Micros {
        let Some(pages) = self.pages.get(usize::from(slot)) else { return Micros::ZERO };
        let share = if pages.in_haste { POD_SHARE_IN_HASTE } else { POD_SHARE };
        let cost = (pages.least - pages.trip).max(0.0);
        Micros((cost / share) as u64).min(LONGEST_FOR_POD)
    }

    /// A pod that waits for its time is due at `at`, if that is sooner.
    pub fn hasten(&mut self, slot: Slot, at: Micros) {
        if let Some(ScrapeState::Due(due)) = self.states.get_mut(usize::from(slot)) {
            *due = at.min(*due);
        }
    }

    /// A scrape has ended, and the thread took `cost` for its page; the pod is due again an interval later,
    /// and no sooner than after `least`.
    pub fn done(&mut self, slot: Slot, cost: Option<Micros>, config: &Scrape, least: Micros, now: Micros) {
        if let Some(cost) = cost {
            self.page_cost += (cost.min(LONGEST_SAMPLE).0 as f64 - self.page_cost) * COST_GAIN;
        }
        let interval = self.interval(config, now).max(self.affordable_for_pod(slot)).max(least);
        // An eighth either way.
        let jitter = Micros(self.random.below((interval / 4).0));
        self.set(slot, ScrapeState::Due(now + interval - interval / 8 + jitter));
    }

    /// Time between two scrapes of one pod.
    pub fn interval(&self, config: &Scrape, now: Micros) -> Micros {
        let wished =
            if now.since(self.active_at) > IDLE_AFTER { config.idle_interval } else { config.interval };
        let pods = self.states.iter().filter(|&&state| state != ScrapeState::Absent).count();
        let affordable = pods as f64 * (self.page_cost + HOST_COST) / THREAD_SHARE;
        let longest = LONGEST_INTERVAL.max(LONGEST_STRETCH * config.interval);
        wished.max(Micros(affordable as u64).min(longest))
    }
}

/// The least of several times, in microseconds, which rises by this factor from one to the next; `so_far` is
/// 0 before the first.
fn least(so_far: f64, took: Micros, rise: f64) -> f64 {
    let took = took.0 as f64;
    if so_far > 0.0 { took.min(so_far * rise) } else { took }
}

#[cfg(test)]
mod tests;
