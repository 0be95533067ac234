//! How much a fleet can take: rates are not fixed numbers. Each workload says which share of the fleet's
//! capacity it wants, given what a request is expected to compute, so that one description loads an A10 and
//! an H100 alike.

use crate::engine::EngineConfig;

/// What a workload is made for.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The pods it will meet.
    pub pods: Vec<EngineConfig>,
    /// How many requests, about.
    pub requests: usize,
    /// Requests per second; `None` for the workload's own share of the capacity.
    pub rate: Option<f64>,
    /// Of all chance in it.
    pub seed: u64,
}

/// What a request is expected to need, mean values in tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// Prompt tokens to compute after a good router's cache hits.
    pub(super) computed: f64,
    /// Tokens of context while it decodes.
    pub(super) context: f64,
    /// Tokens of the answer.
    pub(super) output: f64,
}

impl Traffic {
    /// Requests per second that use `share` of the fleet: of its compute, or of its KV memory where that ends
    /// first.
    pub(super) fn rate(&self, share: f64, need: Need) -> f64 {
        if let Some(rate) = self.rate {
            return rate;
        }
        self.pods.iter().map(|pod| share * pod_rate(pod, need)).sum()
    }
}

/// Requests per second of one pod at its limit.
fn pod_rate(pod: &EngineConfig, need: Need) -> f64 {
    let budget = f64::from(pod.max_num_batched_tokens);
    let full_step = pod.step_seconds + budget / pod.prefill_tokens_per_second;
    let decode = pod.decode_seconds_per_seq + need.context * pod.decode_seconds_per_context_token;
    let by_compute = 1.0 / (need.computed * full_step / budget + need.output * decode);
    // With some 25 requests in a batch, and half as long again for the prefills of others in between.
    let stay = need.output * (pod.step_seconds + 25.0 * decode) * 1.5;
    let by_memory = f64::from(pod.capacity_tokens()) / (need.context * stay.max(full_step));
    by_compute.min(by_memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Profile;

    #[test]
    fn a_fleet_twice_as_large_gets_twice_the_rate() {
        let need = Need { computed: 1000.0, context: 1000.0, output: 100.0 };
        let traffic =
            |pods| Traffic { pods: vec![Profile::A10.config(); pods], requests: 1, rate: None, seed: 1 };
        assert!((traffic(8).rate(0.7, need) / traffic(4).rate(0.7, need) - 2.0).abs() < 1e-9);
    }
}
