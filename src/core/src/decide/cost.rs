//! What a request costs on a pod, in seconds: one pure function that returns every term of its sum.
//!
//! ```text
//! uncached     = prompt tokens - matched tokens                    at least 1: what the pod would have to compute
//! attributable = uncached - popular_discount * popular             at least 1: without a prefix that deserves a copy there
//! queue_ahead  = outstanding tokens + foreign waiting requests * mean work
//! queue        = requests that wait: the pool's mean, or by local_queue_share the pod's own where that is less
//! cost         = (attributable + queue_ahead + delay_to_others + decode + eviction + kv_pressure + adapter)
//!              / tokens_per_second
//!
//! delay_to_others = (own_work_weight + backlog_weight * queue) * attributable
//! decode          = per_inflight_tokens * requests in flight
//! eviction        = eviction_weight * share of the believed cache in use * attributable
//! kv_pressure     = kv_occupancy_tokens * share of the KV cache in use
//!                 + no_room_tokens * missing share of what the request needs
//!                 + kv_wait_tokens * missing share of the KV cache
//! adapter         = seconds until the request's LoRA adapter is ready * tokens_per_second
//! ```
//! All terms are prompt tokens; the pod's rate turns them into seconds.

/// The constants of the cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostConstants {
    /// Weight of a request's own work without a backlog, because work on a pod delays the requests after it.
    /// At 0, overloaded groups wait longer.
    pub own_work_weight: f32,
    /// How much that weight grows per waiting request, mean over the pool. At 0, overloaded groups wait much
    /// longer.
    pub backlog_weight: f32,
    /// Share of the pod's own backlog in that mean, where the pod's own is the shorter one: work on a pod
    /// where nobody waits delays nobody. At 0, a new and cold pod stays idle while the others are busy.
    pub local_queue_share: f32,
    /// Tokens per request in flight: what decoding takes from every request of the batch. Far above the
    /// default, a popular prefix takes longer.
    pub per_inflight_tokens: f32,
    /// Weight of evictions: a cold prompt goes where the cache has room.
    pub eviction_weight: f32,
    /// Tokens that a KV cache costs which running requests use completely: the blocks that they hold are lost
    /// to the prompts of clients that come back. At 0, agents are put where other contexts have to be
    /// evicted, and the slowest of them take several times as long.
    pub kv_occupancy_tokens: f32,
    /// Tokens that a pod without room for the request costs: the request waits there until another one ends.
    pub no_room_tokens: f32,
    /// Tokens of waiting until a whole KV cache is free, when the waiting requests need more than is free.
    pub kv_wait_tokens: f32,
    /// Discount on recomputing a popular prefix here, since later requests profit. Below 1, so that of two
    /// idle pods the one that already holds the prefix wins.
    pub popular_discount: f32,
    /// Tokens that an answer is expected to have. They need KV cache too.
    pub expected_answer_tokens: f32,
    /// Tokens that a pod could compute before its first token reaches Envoy, which count as waiting until
    /// then: the batch step under way, and the step of the request. At 0, requests meet in one step while
    /// other pods have none.
    pub first_token_lag_tokens: f32,
    /// Believed capacity relative to the reported one. Slightly above 1: a prompt at the edge is still cached
    /// half of the time, and nothing is lost if it is not. In an overload with many prefixes this keeps
    /// requests that share a prefix together. Far above 1, agents stay on pods that have no room for them.
    pub believed_capacity: f32,
    /// Two pods are tied when their costs differ by at most this share of the request's work.
    pub tie_band: f32,
    /// Seconds that it costs to have a pod load a LoRA adapter: more than the load itself takes, for it takes
    /// the place of another one sooner or later. At 0, adapters follow prefixes and load alone, and each pod
    /// loads one after the other.
    pub adapter_load_seconds: f32,
}

impl Default for CostConstants {
    fn default() -> Self {
        CostConstants {
            own_work_weight: 1.0,
            backlog_weight: 1.0,
            local_queue_share: 0.2,
            per_inflight_tokens: 50.0,
            eviction_weight: 0.6,
            kv_occupancy_tokens: 7_500.0,
            no_room_tokens: 8_000.0,
            kv_wait_tokens: 8_000.0,
            popular_discount: 0.9,
            expected_answer_tokens: 100.0,
            first_token_lag_tokens: 150.0,
            believed_capacity: 1.05,
            tie_band: 0.05,
            adapter_load_seconds: 1.0,
        }
    }
}

/// A pod as a request sees it. Amounts of work are prompt tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PodView {
    /// Prompt tokens that it is believed to hold.
    pub matched: f32,
    /// Outstanding prompt tokens, of all workers of this Envoy.
    pub outstanding: f32,
    /// Requests that wait for a first token, of all workers of this Envoy.
    pub waiting: f32,
    /// Requests in flight, of all workers of this Envoy.
    pub in_flight: f32,
    /// Running requests of other gateways.
    pub foreign_running: f32,
    /// Waiting requests of other gateways.
    pub foreign_waiting: f32,
    /// Share of its believed cache capacity that prefixes use, 0 to 1.
    pub cache_fill: f32,
    /// Prompt tokens that it is not believed to hold and should, because so many prompts start with them.
    pub popular: f32,
    /// Share of its KV cache that running requests use, as scraped, 0 to 1.
    pub kv_usage: f32,
    /// Tokens of KV cache that the request would take and that no other request there uses.
    pub kv_need: f32,
    /// Tokens of KV cache that no request uses or will use before this one.
    pub kv_free: f32,
    /// Tokens of KV cache that it has; 0 when that is not known.
    pub kv_capacity: f32,
    /// Seconds until the adapter of the request is ready; 0 without one.
    pub adapter_seconds: f32,
    /// Prompt tokens per second.
    pub tokens_per_second: f32,
}

/// The part of a decision that is the same for all pods.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestView {
    /// Tokens of the prompt.
    pub tokens: f32,
    /// Requests that wait for a first token, mean over the pool.
    pub backlog: f32,
    /// Mean work of a request in prompt tokens, for waiting requests of which only the number is known.
    pub mean_work: f32,
}

/// The cost of one pod, term by term. All but the last two are prompt tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CostTerms {
    /// Tokens that the pod would have to compute.
    pub uncached: f32,
    /// The part of them that this request is charged for.
    pub attributable: f32,
    /// Tokens that the pod has to compute before the request.
    pub queue_ahead: f32,
    /// What the request's work costs the requests after it.
    pub delay_to_others: f32,
    /// What the decoding of requests in flight takes.
    pub decode: f32,
    /// What the request's blocks would evict.
    pub eviction: f32,
    /// What the request takes of a KV cache that others need, and how long a nearly full cache makes it wait.
    pub kv_pressure: f32,
    /// What the pod could compute until the request's LoRA adapter is ready.
    pub adapter: f32,
    /// Prompt tokens per second.
    pub tokens_per_second: f32,
    /// The cost in seconds.
    pub seconds: f32,
}

/// The cost of a request on a pod.
pub fn cost(pod: &PodView, request: &RequestView, constants: &CostConstants) -> CostTerms {
    let uncached = (request.tokens - pod.matched).max(1.0);
    let queue_ahead = pod.outstanding + pod.foreign_waiting * request.mean_work;
    let attributable = (uncached - constants.popular_discount * pod.popular).max(1.0);
    let local_queue = (pod.waiting + pod.foreign_waiting).min(request.backlog);
    let queue = request.backlog + constants.local_queue_share * (local_queue - request.backlog);
    let delay_to_others = (constants.own_work_weight + constants.backlog_weight * queue) * attributable;
    let decode = constants.per_inflight_tokens * (pod.in_flight + pod.foreign_running + pod.foreign_waiting);
    let eviction = constants.eviction_weight * pod.cache_fill * attributable;
    let missing = (pod.kv_need - pod.kv_free).max(0.0);
    let turnovers = if pod.kv_capacity > 0.0 { missing / pod.kv_capacity } else { 0.0 };
    let kv_pressure = constants.kv_occupancy_tokens * pod.kv_usage
        + constants.no_room_tokens * (missing / pod.kv_need.max(1.0)).min(1.0)
        + constants.kv_wait_tokens * turnovers;
    let tokens_per_second = pod.tokens_per_second.max(1.0);
    let adapter = pod.adapter_seconds * tokens_per_second;
    let seconds = (queue_ahead + attributable + delay_to_others + decode + eviction + kv_pressure + adapter)
        / tokens_per_second;
    CostTerms {
        uncached,
        attributable,
        queue_ahead,
        delay_to_others,
        decode,
        eviction,
        kv_pressure,
        adapter,
        tokens_per_second,
        seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: RequestView = RequestView { tokens: 1000.0, backlog: 0.0, mean_work: 500.0 };

    fn pod() -> PodView {
        PodView { tokens_per_second: 1000.0, kv_free: f32::MAX, ..PodView::default() }
    }

    fn terms(pod: PodView, request: RequestView) -> CostTerms {
        cost(&pod, &request, &CostConstants::default())
    }

    fn halfway(pod: PodView, request: RequestView) -> CostTerms {
        cost(&pod, &request, &CostConstants { local_queue_share: 0.5, ..CostConstants::default() })
    }

    #[test]
    fn an_idle_cold_pod_costs_its_work_and_its_delay() {
        let terms = terms(pod(), REQUEST);
        assert_eq!((terms.uncached, terms.attributable, terms.delay_to_others), (1000.0, 1000.0, 1000.0));
        assert_eq!(
            (terms.queue_ahead, terms.decode, terms.eviction, terms.kv_pressure),
            (0.0, 0.0, 0.0, 0.0)
        );
        assert_eq!(terms.seconds, 2.0);
    }

    #[test]
    fn each_term_follows_its_formula() {
        assert_eq!(terms(PodView { matched: 900.0, ..pod() }, REQUEST).uncached, 100.0);
        assert_eq!(terms(PodView { matched: 2000.0, ..pod() }, REQUEST).uncached, 1.0);
        assert_eq!(
            terms(PodView { outstanding: 70.0, foreign_waiting: 2.0, ..pod() }, REQUEST).queue_ahead,
            1070.0
        );
        assert_eq!(
            terms(PodView { in_flight: 2.0, foreign_running: 1.0, ..pod() }, REQUEST).decode,
            3.0 * CostConstants::default().per_inflight_tokens
        );
        assert_eq!(terms(PodView { cache_fill: 0.5, ..pod() }, REQUEST).eviction, 300.0);
        assert_eq!(
            terms(PodView { waiting: 5.0, ..pod() }, RequestView { backlog: 3.0, ..REQUEST }).delay_to_others,
            4000.0
        );
        assert_eq!(
            terms(PodView { kv_usage: 0.5, ..pod() }, REQUEST).kv_pressure,
            CostConstants::default().kv_occupancy_tokens / 2.0
        );
        assert_eq!(terms(PodView { adapter_seconds: 0.5, ..pod() }, REQUEST).adapter, 500.0);
        assert_eq!(terms(PodView { tokens_per_second: 2000.0, ..pod() }, REQUEST).seconds, 1.0);
        assert!(terms(PodView { tokens_per_second: 0.0, ..pod() }, REQUEST).seconds.is_finite());
    }

    #[test]
    fn a_popular_prefix_is_worth_a_copy() {
        let terms = terms(PodView { popular: 800.0, cache_fill: 0.5, ..pod() }, REQUEST);
        assert_eq!((terms.uncached, terms.attributable, terms.delay_to_others), (1000.0, 280.0, 280.0));
        assert!((terms.eviction - 84.0).abs() < 0.01);
    }

    #[test]
    fn a_pod_without_room_costs_in_proportion_to_what_is_missing() {
        let pressure = |free| terms(PodView { kv_need: 1000.0, kv_free: free, ..pod() }, REQUEST).kv_pressure;
        assert_eq!(
            (pressure(1000.0), pressure(500.0), pressure(0.0), pressure(-9.0)),
            (0.0, 4000.0, 8000.0, 8000.0)
        );
    }

    #[test]
    fn work_on_a_pod_where_nobody_waits_delays_fewer() {
        let delay = |waiting| {
            halfway(PodView { waiting, ..pod() }, RequestView { backlog: 4.0, ..REQUEST }).delay_to_others
        };
        assert_eq!((delay(0.0), delay(2.0), delay(4.0), delay(9.0)), (3000.0, 4000.0, 5000.0, 5000.0));
    }

    #[test]
    fn a_cold_idle_pod_is_used_when_the_warm_ones_are_clearly_busier() {
        // Eight pods, seven of them with a queue of ten prompts of which 100 tokens are to be computed.
        let request = RequestView { backlog: 8.75, ..REQUEST };
        let warm = |waiting: f32| {
            let pod =
                PodView { matched: 900.0, outstanding: 100.0 * waiting, waiting, in_flight: 32.0, ..pod() };
            halfway(pod, request).seconds
        };
        assert!(halfway(pod(), request).seconds < warm(40.0));
        assert!(halfway(pod(), request).seconds > warm(1.0), "and not before");
    }

    #[test]
    fn a_cache_that_is_short_costs_what_it_takes_to_come_free() {
        let pressure = |free| {
            terms(PodView { kv_need: 1000.0, kv_free: free, kv_capacity: 10_000.0, ..pod() }, REQUEST)
                .kv_pressure
        };
        assert_eq!((pressure(1000.0), pressure(0.0), pressure(-9000.0)), (0.0, 8800.0, 16_000.0));
    }

    #[test]
    fn the_terms_add_up() {
        let pod = PodView {
            matched: 10.0,
            outstanding: 20.0,
            waiting: 2.0,
            in_flight: 3.0,
            foreign_running: 1.0,
            foreign_waiting: 2.0,
            cache_fill: 0.4,
            popular: 100.0,
            kv_usage: 0.2,
            kv_need: 1000.0,
            kv_free: 300.0,
            kv_capacity: 1000.0,
            adapter_seconds: 0.5,
            tokens_per_second: 700.0,
        };
        let t = terms(pod, RequestView { backlog: 1.5, ..REQUEST });
        let sum = t.attributable
            + t.queue_ahead
            + t.delay_to_others
            + t.decode
            + t.eviction
            + t.kv_pressure
            + t.adapter;
        assert!((t.seconds - sum / t.tokens_per_second).abs() < 1e-6);
    }
}
