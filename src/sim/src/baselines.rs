//! What others do, each as its own paper or code defines it: the policies that ours is compared with.
//!
//! They are treated kindly. All know the exact tokens of a prompt where the originals count four bytes per
//! token; all name runners-up for Envoy to go on to, where most name one pod; scrapes take no time; health
//! checks keep dead pods out.

#![expect(clippy::indexing_slicing, reason = "pods are numbered by the fleet, and tables made as long")]

mod cache_aware;
mod dynamo;
mod endpoint_picker;
mod gie;
mod oracle;
mod plain;
mod prefixes;
mod rank;
mod ratio_gate;
mod scrape;
#[cfg(test)]
mod tests;

pub use cache_aware::CacheAware;
pub use dynamo::Dynamo;
pub use endpoint_picker::EndpointPicker;
pub use gie::Gie;
pub use oracle::Oracle;
pub use plain::{LeastRequest, Random, RoundRobin};
pub use ratio_gate::RatioGate;

use crate::policy::{FleetPod, Policy};
use crate::workload::Dice;

/// A baseline by its name.
#[derive(Clone, Copy, Debug)]
pub struct Baseline {
    /// What to call it on the command line.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    make: fn(&Place<'_>) -> Box<dyn Policy>,
}

/// Where a baseline is to work.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The fleet at the start.
    pub pods: &'a [FleetPod],
    /// Worker threads of the gateway.
    pub workers: usize,
    /// Of its chance.
    pub seed: u64,
    /// Which gateway it is.
    pub gateway: usize,
}

impl Baseline {
    /// The policy of one gateway.
    pub fn make(&self, place: &Place<'_>) -> Box<dyn Policy> {
        (self.make)(place)
    }
}

impl Place<'_> {
    fn dice(&self) -> Dice {
        Dice::new(self.seed, 100 + self.gateway as u64)
    }
}

/// Every baseline, in the order of reports.
pub const ALL: &[Baseline] = &[
    Baseline { name: "random", about: "any pod", make: |p| Box::new(Random::new(p.dice())) },
    Baseline {
        name: "round-robin",
        about: "one pod after another",
        make: |p| Box::new(RoundRobin::new(p.gateway)),
    },
    Baseline {
        name: "least-request",
        about: "Envoy's LEAST_REQUEST: of two random pods the one with fewer requests in flight",
        make: |p| Box::new(LeastRequest::new(p.pods.len(), p.dice())),
    },
    Baseline {
        name: "gie",
        about: "Gateway API Inference Extension / llm-d: queue 2, KV cache 2, prefix 3; scraped every 50 ms",
        make: |p| Box::new(Gie::new(p.pods, p.dice())),
    },
    Baseline {
        name: "ratio-gate",
        about: "the reference: best match when more than half of the prompt matches, else the tree of GIE v0.3",
        make: |p| Box::new(RatioGate::new(p.pods, p.dice())),
    },
    Baseline {
        name: "sglang",
        about: "SGLang's cache_aware: longest match above 0.3, or least load when out of balance (64, 1.5)",
        make: |p| Box::new(CacheAware::new(p.pods.len(), p.dice())),
    },
    Baseline {
        name: "dynamo",
        about: "NVIDIA Dynamo: least prefill blocks + decode blocks, with exact KV events",
        make: |p| Box::new(Dynamo::new(p.pods.len(), p.dice())),
    },
    Baseline {
        name: "higress",
        about: "Higress' ai-endpoint-picker: queue 2, KV cache 2, prefix 3, in flight 1; an index in each worker, scraped every 2 s",
        make: |p| Box::new(EndpointPicker::new(p.pods, p.workers, p.dice())),
    },
    Baseline {
        name: "oracle",
        about: "no router can have it: sees every true queue and cache now, least predicted first token",
        make: |_| Box::new(Oracle),
    },
];
