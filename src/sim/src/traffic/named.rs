//! The workloads by name.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::workload::{self, Spec};

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Named {
    /// Users that ask question after question, each with a context of its own (LMCache's multi-round-qa.py).
    MultiRoundQa,
    /// Prompts of random words, so many at a time (vLLM's benchmark_serving.py --dataset-name random).
    Random,
    /// As in `fleet`: conversations of 10 rounds.
    Chats,
    /// As in `fleet`: questions about documents; simulated pods need --max-model-len 32752.
    Documents,
    /// As in `fleet`: every prompt starts with the same 6,000 tokens.
    HotPrefix,
    /// As in `fleet`: 150 prefixes of 6,000 tokens, more than the pods can serve.
    Groups,
    /// `random` in `fleet`: prompts that share nothing, at a rate.
    FleetRandom,
    /// As in `fleet`: tool loops whose prompt grows with every call; simulated pods need --max-model-len
    /// 32752.
    Agents,
    /// As in `fleet`: nothing for a while, then hundreds of requests at once.
    Bursts,
    /// As in `fleet`: 64 equal prompts at once after 200 others, cold and then warm.
    EqualPrompts,
    /// As in `fleet`: conversations. What becomes of the pods while it runs is yours to do.
    Churn,
    /// As in `fleet`: more than the pods can do; simulated pods need --max-num-queued-reqs 27.
    Overload,
    /// As in `fleet`: conversations with 40 LoRA adapters; simulated pods need --lora-modules lora-0,... up
    /// to lora-39.
    Adapters,
    /// A few requests, and beside them others that may be shed (x-gateway-inference-objective: sheddable), at
    /// three times what the pods can do.
    Criticality,
    /// A tenant with a few short prompts (x-tenant: 1), and one that sends a hundred long ones at once, every
    /// ten seconds (x-tenant: 2).
    Tenants,
    /// Requests at the times in the file of --trace.
    Trace,
}

impl Named {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Named::MultiRoundQa => "multi-round-qa",
            Named::Random => "random",
            Named::Chats => "chats",
            Named::Documents => "documents",
            Named::HotPrefix => "hot-prefix",
            Named::Groups => "groups",
            Named::FleetRandom => "fleet-random",
            Named::Agents => "agents",
            Named::Bursts => "bursts",
            Named::EqualPrompts => "equal-prompts",
            Named::Churn => "churn",
            Named::Overload => "overload",
            Named::Adapters => "adapters",
            Named::Criticality => "criticality",
            Named::Tenants => "tenants",
            Named::Trace => "trace",
        }
    }

    /// The fleet's workload, where it is one that is built in there.
    pub fn spec(self) -> Option<&'static Spec> {
        let name = match self {
            Named::MultiRoundQa | Named::Random | Named::Criticality | Named::Tenants | Named::Trace => {
                return None;
            }
            Named::FleetRandom => "random",
            other => other.name(),
        };
        workload::find(name).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_of_the_fleet_has_a_name() {
        let known: Vec<&str> =
            Named::value_variants().iter().filter_map(|named| named.spec()).map(|spec| spec.name).collect();
        assert_eq!(known, workload::ALL.iter().map(|spec| spec.name).collect::<Vec<_>>());
        for named in Named::value_variants() {
            assert_eq!(named.to_possible_value().unwrap().get_name(), named.name());
            assert_eq!(serde_json::to_value(named).unwrap(), named.name());
        }
    }
}
