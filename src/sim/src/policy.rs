//! What a routing policy sees of a fleet, and what the fleet asks of it. One policy decides for one gateway;
//! ours and every baseline implement the same trait.

mod adapters;

pub use adapters::FleetAdapters;

use crate::engine::{Engine, EngineLoad, QueueLimits, Queued};
use crate::workload::{RequestClass, Span};

/// A pod of the fleet.
#[derive(Debug)]
pub struct FleetPod {
    /// The model of the pod.
    pub engine: Engine,
    /// Whether it answers.
    pub up: bool,
    /// Whether discovery lists it.
    pub listed: bool,
    /// Whether Envoy's health checks find it up: follows `up` with a lag.
    pub healthy: bool,
    /// When its process started, in seconds.
    pub started_at: f64,
    /// Prompt tokens that requests on their way to it or waiting there have still to compute: the truth,
    /// which only the oracle may look at.
    pub backlog: u64,
    /// When it refuses requests.
    pub limits: QueueLimits,
    /// What counts against its limits.
    pub queued: Queued,
    /// Its LoRA adapters, if it has any.
    pub adapters: Option<FleetAdapters>,
}

impl FleetPod {
    /// What a scrape says now, if it is answered.
    pub fn scrape(&self) -> Option<EngineLoad> {
        self.up.then(|| self.engine.load())
    }
}

/// The fleet as a policy may see it.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// Seconds.
    pub now: f64,
    /// By their number.
    pub pods: &'a [FleetPod],
}

impl World<'_> {
    /// The pods that may be chosen: listed and healthy; all that are listed when none is healthy, as Envoy's
    /// panic mode.
    pub fn candidates(&self) -> Vec<usize> {
        let numbers = |with: fn(&FleetPod) -> bool| -> Vec<usize> {
            self.pods.iter().enumerate().filter(|(_, pod)| with(pod)).map(|(n, _)| n).collect()
        };
        let healthy = numbers(|pod| pod.listed && pod.healthy);
        if healthy.is_empty() { numbers(|pod| pod.listed) } else { healthy }
    }
}

/// A request that needs a pod.
#[derive(Clone, Copy, Debug)]
pub struct RouteRequest<'a> {
    /// Unique in a run.
    pub id: u64,
    /// The worker thread of the gateway that has it.
    pub worker: usize,
    /// The prompt, piece by piece.
    pub spans: &'a [Span],
    /// Chained hashes of the prompt's full KV blocks.
    pub blocks: &'a [u64],
    /// Tokens of one block.
    pub block_size: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// What it is besides its prompt.
    pub class: RequestClass,
}

/// What an answer says of itself.
#[derive(Clone, Copy, Debug)]
pub struct AnswerReport {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of it that came from the cache.
    pub cached_tokens: u32,
}

/// How a request ended at the gateway.
#[derive(Clone, Copy, Debug)]
pub enum RequestEnd {
    /// It was answered.
    Answered(AnswerReport),
    /// The pod broke off in the middle of the answer.
    Broken,
    /// Every pod that was tried was full.
    Refused,
    /// This many pods were tried, and none answered.
    Failed {
        /// How many.
        attempts: usize,
    },
}

/// A gateway's way to choose pods.
pub trait Policy {
    /// Chooses pods for a request, best first; Envoy tries those after the first when one fails. Empty when
    /// there is none.
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize>;

    /// Whether the policy has just refused a request for which it chose no pod: the client hears so, and
    /// leaves it at that.
    fn has_shed(&self, _id: u64) -> bool {
        false
    }

    /// A pod that was not the first choice answers, since those before it failed.
    fn on_moved(&mut self, _world: &World<'_>, _id: u64, _to: usize) {}

    /// A pod was full and refused the request, which is healthy all the same; Envoy goes on to the next
    /// choice.
    fn on_refused(&mut self, _world: &World<'_>, _id: u64, _pod: usize) {}

    /// The first byte of the answer has come.
    fn on_first_token(&mut self, _world: &World<'_>, _id: u64) {}

    /// The request is over.
    fn on_end(&mut self, _world: &World<'_>, _id: u64, _outcome: RequestEnd) {}

    /// Called at the start, and then at the times it returns, in seconds; `None` ends that.
    fn on_timer(&mut self, _world: &World<'_>) -> Option<f64> {
        None
    }
}
