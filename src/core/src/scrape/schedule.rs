//! When to scrape which pod.
//!
//! Each pod has its own time with a random part, so that the scrapes of a fleet are spread over the interval. The interval
//! grows with the fleet, so that taking in pages uses a bounded share of its thread: Envoy's main thread, which also handles
//! configuration and name resolution.

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
/// Most that one page may count for. A page that takes far longer than usual met a thread that was held up, which tells
/// nothing of the next page.
const LONGEST_SAMPLE: Micros = Micros::from_millis(5);
/// Cap of the stretched interval, unless [`LONGEST_STRETCH`] times the configured one is longer: load that is older counts
/// for nothing.
const LONGEST_INTERVAL: Micros = Micros::from_seconds(10);
/// How many times the configured interval may stretch, where that is more than [`LONGEST_INTERVAL`].
const LONGEST_STRETCH: u64 = 10;
/// Time without a new request after which there is no traffic.
const IDLE_AFTER: Micros = Micros::from_seconds(3);

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

/// When each pod is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// By slot.
    states: Vec<ScrapeState>,
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

    /// A scrape has ended, and the thread took `cost` for its page; the pod is due again an interval later.
    pub fn done(&mut self, slot: Slot, cost: Option<Micros>, config: &Scrape, now: Micros) {
        if let Some(cost) = cost {
            self.page_cost += (cost.min(LONGEST_SAMPLE).0 as f64 - self.page_cost) * COST_GAIN;
        }
        let interval = self.interval(config, now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MILLISECOND, SECOND};

    fn config() -> Scrape {
        crate::config::Config::parse(b"{}").unwrap().scrape
    }

    #[test]
    fn a_pod_is_due_once_an_interval() {
        let (mut schedule, config) = (Schedule::new(3), config());
        schedule.add(Slot(0), Micros::ZERO);
        schedule.note_traffic(1, Micros::ZERO);
        assert_eq!(schedule.take_due(Micros::ZERO), [Slot(0)]);
        assert!(schedule.take_due(SECOND).is_empty(), "not while it is under way");
        schedule.done(Slot(0), Some(Micros(50)), &config, Micros::ZERO);
        assert!(schedule.take_due(87 * MILLISECOND).is_empty());
        assert_eq!(schedule.take_due(113 * MILLISECOND), [Slot(0)]);
    }

    #[test]
    fn idle_pods_are_scraped_seldom_and_traffic_wakes_them() {
        let (mut schedule, config) = (Schedule::new(3), config());
        schedule.add(Slot(0), Micros::ZERO);
        schedule.note_traffic(1, Micros::ZERO);
        assert_eq!(schedule.interval(&config, SECOND), 100 * MILLISECOND);
        assert_eq!(schedule.interval(&config, 4 * SECOND), SECOND);
        schedule.take_due(4 * SECOND);
        schedule.done(Slot(0), None, &config, 4 * SECOND);
        assert!(schedule.take_due(4 * SECOND + 500 * MILLISECOND).is_empty());
        schedule.note_traffic(2, 4 * SECOND + 500 * MILLISECOND);
        assert_eq!(schedule.take_due(4 * SECOND + 500 * MILLISECOND), [Slot(0)]);
    }

    #[test]
    fn a_large_fleet_stretches_the_interval_to_five_percent() {
        let (mut schedule, config) = (Schedule::new(3), config());
        (0..100).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
        schedule.note_traffic(1, Micros::ZERO);
        let interval = schedule.interval(&config, Micros::ZERO);
        assert_eq!(interval, Micros((100.0 * (FIRST_PAGE_COST + HOST_COST) / THREAD_SHARE) as u64));
        assert!(schedule.take_due(Micros::ZERO).len() == 100);
    }

    #[test]
    fn a_thread_that_was_held_up_does_not_stop_the_scrapes() {
        let (mut schedule, config) = (Schedule::new(3), config());
        (0..100).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
        schedule.note_traffic(1, Micros::ZERO);
        schedule.done(Slot(0), Some(SECOND), &config, Micros::ZERO);
        assert!(
            schedule.interval(&config, Micros::ZERO) < 2 * SECOND,
            "{:?}",
            schedule.interval(&config, Micros::ZERO)
        );
        (0..500).for_each(|_| schedule.done(Slot(0), Some(SECOND), &config, Micros::ZERO));
        assert_eq!(schedule.interval(&config, Micros::ZERO), LONGEST_INTERVAL);
        let slow = Scrape { interval: 2 * SECOND, ..config.clone() };
        (100..1000).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
        assert_eq!(schedule.interval(&slow, Micros::ZERO), 20 * SECOND);
    }

    #[test]
    fn a_fleet_that_shrinks_is_scraped_more_often_again() {
        let (mut schedule, config) = (Schedule::new(3), config());
        (0..100).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
        schedule.note_traffic(1, Micros::ZERO);
        let before = schedule.interval(&config, Micros::ZERO);
        (10..100).for_each(|slot| schedule.remove(Slot(slot)));
        assert!(before > 3 * config.interval);
        assert_eq!(schedule.interval(&config, Micros::ZERO), config.interval);
    }

    #[test]
    fn a_pod_that_has_gone_is_not_due() {
        let mut schedule = Schedule::new(1);
        schedule.add(Slot(0), Micros::ZERO);
        schedule.add(Slot(1), Micros::ZERO);
        schedule.remove(Slot(0));
        assert_eq!(schedule.take_due(Micros::ZERO), [Slot(1)]);
    }
}
