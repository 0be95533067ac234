//! When to scrape which pod.
//!
//! Each pod has its own time, jittered, so that a fleet is spread over the interval instead of coming at once. The interval
//! stretches with the fleet: taking in pages may use 5 % of the thread that does it, which is Envoy's main thread and has
//! configuration and names to attend to.

use crate::config::Scrape;
use crate::{Micros, SECOND, Slot};

/// Share of the thread that scraping may take.
const SHARE: f64 = 0.05;
/// What Envoy itself spends on a scrape besides the module: request, response of 55 KB and its copy into the VM.
const HOST_COST: f64 = 150.0;
/// Most that one page may count for, in microseconds. A page of 55 KB takes 50; far more is a thread that was held up, which
/// says nothing of the next page.
const LONGEST_SAMPLE: Micros = 5_000;
/// Longest interval that the cost may ask for, unless ten times the wished one is longer: beyond it load is not known at all.
const LONGEST_INTERVAL: Micros = 10 * SECOND;
/// Time without a new request after which there is no traffic.
const IDLE_AFTER: Micros = 3 * SECOND;

/// When one pod is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScrapeState {
    /// There is no pod in the slot.
    Absent,
    /// A scrape of it is under way.
    UnderWay,
    Due(Micros),
}

/// When each pod is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// By slot.
    states: Vec<ScrapeState>,
    /// Mean time to take in a page, in microseconds of the thread.
    cost: f64,
    opened: u64,
    active_at: Micros,
    random: u64,
}

impl Schedule {
    /// A schedule without pods; `seed` spreads the jitter of several gateways.
    pub fn new(seed: u64) -> Schedule {
        Schedule { states: Vec::new(), cost: 50.0, opened: 0, active_at: 0, random: seed | 1 }
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

    /// Notes how many requests were ever opened, which tells whether there is traffic.
    pub fn note_traffic(&mut self, opened: u64, now: Micros) {
        if opened != self.opened {
            self.opened = opened;
            if now.saturating_sub(self.active_at) > IDLE_AFTER {
                // Traffic after a pause: what is known of every pod is old.
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
        for (slot, state) in (0..).zip(&mut self.states) {
            if matches!(state, ScrapeState::Due(at) if *at <= now) {
                *state = ScrapeState::UnderWay;
                slots.push(slot);
            }
        }
        slots
    }

    /// A scrape has ended, and the page took `cost` microseconds to take in; the pod is due again an interval later.
    pub fn done(&mut self, slot: Slot, cost: Option<Micros>, config: &Scrape, now: Micros) {
        if let Some(cost) = cost {
            self.cost += (cost.min(LONGEST_SAMPLE) as f64 - self.cost) * 0.1;
        }
        let interval = self.interval(config, now);
        // An eighth either way.
        let jitter = self.next_random() % (interval / 4).max(1);
        self.set(slot, ScrapeState::Due(now + interval - interval / 8 + jitter));
    }

    /// Time between two scrapes of one pod.
    pub fn interval(&self, config: &Scrape, now: Micros) -> Micros {
        let wished = if now.saturating_sub(self.active_at) > IDLE_AFTER {
            config.idle_interval
        } else {
            config.interval
        };
        let pods = self.states.iter().filter(|&&state| state != ScrapeState::Absent).count();
        let affordable = pods as f64 * (self.cost + HOST_COST) / SHARE;
        let longest = LONGEST_INTERVAL.max(config.interval.saturating_mul(10));
        wished.max((affordable as Micros).min(longest))
    }

    /// xorshift64 (Marsaglia, 2003): enough for jitter.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MILLISECOND;

    fn config() -> Scrape {
        crate::config::Config::parse(b"{}").unwrap().scrape
    }

    #[test]
    fn a_pod_is_due_once_an_interval() {
        let (mut schedule, config) = (Schedule::new(3), config());
        schedule.add(0, 0);
        schedule.note_traffic(1, 0);
        assert_eq!(schedule.take_due(0), [0]);
        assert!(schedule.take_due(SECOND).is_empty(), "not while it is under way");
        schedule.done(0, Some(50), &config, 0);
        assert!(schedule.take_due(87 * MILLISECOND).is_empty());
        assert_eq!(schedule.take_due(113 * MILLISECOND), [0]);
    }

    #[test]
    fn idle_pods_are_scraped_seldom_and_traffic_wakes_them() {
        let (mut schedule, config) = (Schedule::new(3), config());
        schedule.add(0, 0);
        schedule.note_traffic(1, 0);
        assert_eq!(schedule.interval(&config, SECOND), 100 * MILLISECOND);
        assert_eq!(schedule.interval(&config, 4 * SECOND), SECOND);
        schedule.take_due(4 * SECOND);
        schedule.done(0, None, &config, 4 * SECOND);
        assert!(schedule.take_due(4 * SECOND + 500 * MILLISECOND).is_empty());
        schedule.note_traffic(2, 4 * SECOND + 500 * MILLISECOND);
        assert_eq!(schedule.take_due(4 * SECOND + 500 * MILLISECOND), [0]);
    }

    #[test]
    fn a_large_fleet_stretches_the_interval_to_five_percent() {
        let (mut schedule, config) = (Schedule::new(3), config());
        (0..100).for_each(|slot| schedule.add(slot, 0));
        schedule.note_traffic(1, 0);
        let interval = schedule.interval(&config, 0);
        assert_eq!(interval, (100.0 * (50.0 + HOST_COST) / SHARE) as Micros);
        assert!(schedule.take_due(0).len() == 100);
    }

    #[test]
    fn a_thread_that_was_held_up_does_not_stop_the_scrapes() {
        let (mut schedule, config) = (Schedule::new(3), config());
        (0..100).for_each(|slot| schedule.add(slot, 0));
        schedule.note_traffic(1, 0);
        schedule.done(0, Some(SECOND), &config, 0);
        assert!(schedule.interval(&config, 0) < 2 * SECOND, "{}", schedule.interval(&config, 0));
        (0..500).for_each(|_| schedule.done(0, Some(SECOND), &config, 0));
        assert_eq!(schedule.interval(&config, 0), LONGEST_INTERVAL);
        let slow = Scrape { interval: 2 * SECOND, ..config.clone() };
        (100..1000).for_each(|slot| schedule.add(slot, 0));
        assert_eq!(schedule.interval(&slow, 0), 20 * SECOND);
    }

    #[test]
    fn a_fleet_that_shrinks_is_scraped_more_often_again() {
        let (mut schedule, config) = (Schedule::new(3), config());
        (0..100).for_each(|slot| schedule.add(slot, 0));
        schedule.note_traffic(1, 0);
        let before = schedule.interval(&config, 0);
        (10..100).for_each(|slot| schedule.remove(slot));
        assert!(before > 3 * config.interval);
        assert_eq!(schedule.interval(&config, 0), config.interval);
    }

    #[test]
    fn a_pod_that_has_gone_is_not_due() {
        let mut schedule = Schedule::new(1);
        schedule.add(0, 0);
        schedule.add(1, 0);
        schedule.remove(0);
        assert_eq!(schedule.take_due(0), [1]);
    }
}
