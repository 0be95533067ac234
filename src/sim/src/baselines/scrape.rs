//! Loads as a scrape shows them: as old as the last one.

use crate::engine::EngineLoad;
use crate::policy::World;

/// The last scrape of every pod.
#[derive(Debug)]
pub struct Scrape {
    interval: f64,
    loads: Vec<EngineLoad>,
}

impl Scrape {
    /// Scrapes every `interval` seconds.
    pub fn new(pods: usize, interval: f64) -> Scrape {
        Scrape { interval, loads: vec![EngineLoad::default(); pods] }
    }

    /// Scrapes all pods now; a pod that does not answer keeps its last load. Returns when to come again.
    pub fn take(&mut self, world: &World<'_>) -> Option<f64> {
        for (load, pod) in self.loads.iter_mut().zip(world.pods) {
            *load = pod.scrape().unwrap_or(*load);
        }
        Some(world.now + self.interval)
    }

    /// What the last scrape of a pod said.
    pub fn load(&self, pod: usize) -> EngineLoad {
        self.loads[pod]
    }

    /// `(max - queue) / (max - min)` over the candidates, and 1 when all are equal: GIE's queue scorer.
    pub fn queue_score(&self, candidates: &[usize], pod: usize) -> f64 {
        inverted(candidates, pod, |pod| self.loads[pod].waiting)
    }
}

/// `(max - count) / (max - min)` over the candidates, and 1 when all are equal.
pub fn inverted(candidates: &[usize], pod: usize, count: impl Fn(usize) -> u32) -> f64 {
    let counts = || candidates.iter().map(|&pod| count(pod));
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    if least == most { 1.0 } else { f64::from(most - count(pod)) / f64::from(most - least) }
}
