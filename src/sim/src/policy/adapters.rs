//! The LoRA adapters of a pod in the fleet: requests for one wait until it is loaded, and only then come to
//! the engine.

use std::collections::BTreeMap;

use crate::engine::{AdapterSlots, EngineRequest};
use crate::workload::{AdapterSetup, adapter_name};

/// The adapters of one pod.
#[derive(Debug)]
pub struct FleetAdapters {
    setup: AdapterSetup,
    slots: AdapterSlots,
    /// Requests at the pod, by adapter.
    requests: BTreeMap<String, usize>,
    /// When the fleet looks next, in virtual seconds.
    look: Option<f64>,
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
        let card = |adapter| format!(r#"{{"id":"{}","parent":"m"}}"#, adapter_name(adapter));
        format!(r#"{{"data":[{}]}}"#, (0..self.setup.count).map(card).collect::<Vec<_>>().join(","))
    }

    /// A request has come.
    pub fn push(&mut self, request: EngineRequest, adapter: String) {
        *self.requests.entry(adapter.clone()).or_default() += 1;
        self.slots.push(0, request, adapter);
    }

    /// A request has left.
    pub fn ended(&mut self, adapter: &str) {
        if let Some(requests) = self.requests.get_mut(adapter) {
            *requests -= 1;
            if *requests == 0 {
                self.requests.remove(adapter);
            }
        }
    }

    /// Gives slots to adapters that requests wait for, and takes out the requests whose adapter is there.
    pub fn load(&mut self, now: f64) -> impl Iterator<Item = EngineRequest> {
        self.slots.assign(now, |adapter| self.requests.get(adapter).copied().unwrap_or(0));
        std::iter::from_fn(move || Some(self.slots.take_ready(now)?.request))
    }

    /// When the next adapter is there, in virtual seconds, if the fleet does not look then already.
    pub fn next_look(&mut self) -> Option<f64> {
        let before = std::mem::replace(&mut self.look, self.slots.next_ready());
        self.look.filter(|_| self.look != before)
    }

    /// As after a restart.
    pub fn clear(&mut self) {
        *self = FleetAdapters::new(self.setup);
    }
}
