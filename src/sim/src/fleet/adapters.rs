//! The LoRA adapters of a pod in the fleet: requests for one wait until it is loaded, and only then come to
//! the engine.

use std::collections::BTreeMap;

use super::Fleet;
use super::events::FleetEvent;
use crate::engine::{AdapterSlots, EngineRequest};
use crate::workload::AdapterSetup;

/// The adapters of one pod.
#[derive(Debug)]
pub struct FleetAdapters {
    setup: AdapterSetup,
    slots: AdapterSlots,
    /// Requests at the pod, by adapter.
    requests: BTreeMap<String, usize>,
    /// When the next look is in the queue for.
    look: Option<f64>,
}

/// What an adapter is called in requests and on metrics pages.
pub fn name(adapter: u32) -> String {
    format!("lora-{adapter}")
}

impl FleetAdapters {
    /// No adapter is loaded.
    pub fn new(setup: AdapterSetup) -> FleetAdapters {
        let slots = AdapterSlots::new(setup.slots, setup.load_seconds);
        FleetAdapters { setup, slots, requests: BTreeMap::new(), look: None }
    }

    /// The line of a metrics page, which tells those that have requests.
    pub fn line(&self, now: f64) -> String {
        let active = self.requests.keys().map(String::as_str).collect::<Vec<_>>().join(",");
        let most = self.setup.slots;
        format!(
            "vllm:lora_requests_info{{max_lora=\"{most}\",running_lora_adapters=\"{active}\",waiting_lora_adapters=\"\"}} {now}\n"
        )
    }

    /// The list of models, as far as it is read.
    pub fn list(&self) -> String {
        let card = |adapter| format!(r#"{{"id":"{}","parent":"m"}}"#, name(adapter));
        format!(r#"{{"data":[{}]}}"#, (0..self.setup.count).map(card).collect::<Vec<_>>().join(","))
    }

    /// A request has come.
    pub(super) fn push(&mut self, request: EngineRequest, adapter: String) {
        *self.requests.entry(adapter.clone()).or_default() += 1;
        self.slots.push(0, request, adapter);
    }

    /// A request has left.
    pub(super) fn ended(&mut self, adapter: &str) {
        if let Some(requests) = self.requests.get_mut(adapter) {
            *requests -= 1;
            if *requests == 0 {
                self.requests.remove(adapter);
            }
        }
    }

    /// As after a restart.
    pub(super) fn clear(&mut self) {
        *self = FleetAdapters::new(self.setup);
    }
}

impl Fleet<'_> {
    /// Gives places to adapters that requests wait for, and hands on those whose adapter is there.
    pub(super) fn load_adapters(&mut self, pod: usize) {
        let (now, state) = (self.now, &mut self.pods[pod]);
        if let Some(FleetAdapters { slots, requests, look, .. }) = &mut state.adapters {
            let in_use: Vec<String> = requests
                .iter()
                .filter(|(name, requests)| **requests > slots.without_slot(name))
                .map(|(name, _)| name.clone())
                .collect();
            slots.assign(now, |adapter| in_use.iter().any(|name| name == adapter));
            while let Some(ready) = slots.take_ready(now) {
                // Workloads are checked to fit.
                let submitted = state.engine.submit(now, ready.request);
                debug_assert_eq!(submitted, Ok(()));
            }
            let next = slots.next_ready();
            if let Some(at) = next.filter(|_| next != *look) {
                self.queue.push(at, FleetEvent::AdapterReady { pod });
            }
            *look = next;
        }
        self.schedule(pod);
    }
}
