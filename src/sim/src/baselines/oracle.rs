//! What no router can know: every queue and every cache as they are now, over all gateways. The pod whose
//! first token would come first gets the request. Greedy, so not a bound of what is possible, but a measure
//! of what knowing gives.

use crate::policy::{FleetPod, Policy, RouteRequest, World};

/// The oracle.
#[derive(Debug)]
pub struct Oracle;

/// When the first token of a request would come, in seconds from now.
fn predicted(pod: &FleetPod, ask: &RouteRequest<'_>) -> f64 {
    let config = pod.engine.config();
    let load = pod.engine.load();
    let uncached = ask.prompt_tokens - pod.engine.cached_tokens(ask.blocks, ask.prompt_tokens);
    let running = f64::from(load.running);
    let budget = (f64::from(config.max_num_batched_tokens) - running).max(1.0);
    let held = load.kv_usage * f64::from(config.capacity_tokens());
    let decodes = running * config.decode_seconds_per_seq + held * config.decode_seconds_per_context_token;
    let tokens = pod.backlog as f64 + f64::from(uncached);
    let steps = (tokens / budget).ceil();
    steps * (config.step_seconds + decodes) + tokens / config.prefill_tokens_per_second
}

impl Policy for Oracle {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        let candidates: Vec<usize> =
            (0..world.pods.len()).filter(|&pod| world.pods[pod].listed && world.pods[pod].up).collect();
        let mut times: Vec<(f64, usize)> =
            candidates.into_iter().map(|pod| (predicted(&world.pods[pod], ask), pod)).collect();
        times.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        times.into_iter().map(|(_, pod)| pod).take(warmpath::decide::pick::PICKS).collect()
    }
}
