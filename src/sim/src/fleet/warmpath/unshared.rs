//! Ours with workers that share nothing: what sharing is worth.

use std::collections::HashMap;

use warmpath::settings::error::SettingError;

use super::{Warmpath, WarmpathOptions};
use crate::policy::{FleetPod, Policy, RequestEnd, RouteRequest, World};

/// One gateway with our module whose workers share nothing.
#[derive(Debug)]
pub struct Unshared {
    workers: Vec<Warmpath>,
    /// The worker of each open request.
    worker_of: HashMap<u64, usize>,
}

impl Unshared {
    /// A gateway in front of `pods`; `seed` spreads the scrapes of several.
    pub fn new(options: &WarmpathOptions, pods: &[FleetPod], seed: u64) -> Result<Unshared, SettingError> {
        let alone = WarmpathOptions { workers: 1, ..options.clone() };
        let workers = (0..options.workers.max(1) as u64)
            .map(|n| Warmpath::new(&alone, pods, seed.wrapping_add(n << 32)))
            .collect::<Result<_, _>>()?;
        Ok(Unshared { workers, worker_of: HashMap::new() })
    }

    fn of(&mut self, id: u64) -> Option<&mut Warmpath> {
        self.workers.get_mut(*self.worker_of.get(&id)?)
    }
}

impl Policy for Unshared {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        self.worker_of.insert(ask.id, ask.worker);
        let Some(worker) = self.workers.get_mut(ask.worker) else { return Vec::new() };
        worker.choose(world, &RouteRequest { worker: 0, ..*ask })
    }

    fn on_moved(&mut self, world: &World<'_>, id: u64, to: usize) {
        if let Some(worker) = self.of(id) {
            worker.on_moved(world, id, to);
        }
    }

    fn on_refused(&mut self, world: &World<'_>, id: u64, pod: usize) {
        if let Some(worker) = self.of(id) {
            worker.on_refused(world, id, pod);
        }
    }

    fn on_first_token(&mut self, world: &World<'_>, id: u64) {
        if let Some(worker) = self.of(id) {
            worker.on_first_token(world, id);
        }
    }

    fn on_end(&mut self, world: &World<'_>, id: u64, outcome: RequestEnd) {
        if let Some(worker) = self.of(id) {
            worker.on_end(world, id, outcome);
        }
        self.worker_of.remove(&id);
    }

    fn on_timer(&mut self, world: &World<'_>) -> Option<f64> {
        self.workers.iter_mut().filter_map(|worker| worker.on_timer(world)).min_by(f64::total_cmp)
    }
}
