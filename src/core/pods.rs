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
/// Time without a new request after which there is no traffic.
const IDLE_AFTER: Micros = 3 * SECOND;

/// When each pod is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// By slot; `None` where no pod is, or while a scrape of it is under way.
    due: Vec<Option<Micros>>,
    /// Mean time to take in a page, in microseconds of the thread.
    cost: f64,
    opened: u64,
    active_at: Micros,
    random: u64,
}

impl Schedule {
    /// A schedule without pods; `seed` spreads the jitter of several gateways.
    pub fn new(seed: u64) -> Schedule {
        Schedule { due: Vec::new(), cost: 50.0, opened: 0, active_at: 0, random: seed | 1 }
    }

    /// A pod has come into `slot`: it is due at once.
    pub fn add(&mut self, slot: Slot, now: Micros) {
        let at = usize::from(slot);
        if self.due.len() <= at {
            self.due.resize(at + 1, None);
        }
        if let Some(due) = self.due.get_mut(at) {
            *due = Some(now);
        }
    }

    /// The pod in `slot` has gone.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(due) = self.due.get_mut(usize::from(slot)) {
            *due = None;
        }
    }

    /// Notes how many requests were ever opened, which tells whether there is traffic.
    pub fn note_traffic(&mut self, opened: u64, now: Micros) {
        if opened != self.opened {
            self.opened = opened;
            if now.saturating_sub(self.active_at) > IDLE_AFTER {
                // Traffic after a pause: what is known of every pod is old.
                self.due.iter_mut().flatten().for_each(|due| *due = now);
            }
            self.active_at = now;
        }
    }

    /// The pods that are due; each stays out of the schedule until [`Schedule::done`].
    pub fn take_due(&mut self, now: Micros) -> Vec<Slot> {
        let mut slots = Vec::new();
        for (slot, due) in (0..).zip(&mut self.due) {
            if due.is_some_and(|at| at <= now) {
                *due = None;
                slots.push(slot);
            }
        }
        slots
    }

    /// A scrape has ended, and the page took `cost` microseconds to take in; the pod is due again an interval later.
    pub fn done(&mut self, slot: Slot, cost: Option<Micros>, config: &Scrape, now: Micros) {
        if let Some(cost) = cost {
            self.cost += (cost as f64 - self.cost) * 0.1;
        }
        let interval = self.interval(config, now);
        // An eighth either way.
        let jitter = self.next_random() % (interval / 4).max(1);
        if let Some(due) = self.due.get_mut(usize::from(slot)) {
            *due = Some(now + interval - interval / 8 + jitter);
        }
    }

    /// Time between two scrapes of one pod.
    pub fn interval(&self, config: &Scrape, now: Micros) -> Micros {
        let wished = if now.saturating_sub(self.active_at) > IDLE_AFTER {
            config.idle_interval
        } else {
            config.interval
        };
        let affordable = self.due.len() as f64 * (self.cost + HOST_COST) / SHARE;
        wished.max(affordable as Micros)
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
    fn a_pod_that_has_gone_is_not_due() {
        let mut schedule = Schedule::new(1);
        schedule.add(0, 0);
        schedule.add(1, 0);
        schedule.remove(0);
        assert_eq!(schedule.take_due(0), [1]);
    }
}
