//! What a request would cost on a pod, in seconds: one pure function, with every term in the answer.
//!
//! ```text
//! work  = prompt tokens - match                          at least 1: what the pod would have to compute
//! own   = work - hot                                     at least 1: without a prefix that is worth a copy there anyway
//! wait  = work outstanding + what other gateways' waiting requests will need
//! queue = requests that wait: the pool's mean, or by the share `here` the pod's own where that is less
//! cost  = (own + wait + (alpha + backlog * queue) * own + delta * active + epsilon * fill * own + room) / rate
//! room  = usage * share of the cache in use + pressure * share of its need that is short + turnover * share of the
//!         cache that is short
//! ```
//! The amounts are prompt tokens; the rate turns them into seconds.

/// The constants of the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Weight of a request's own work without a backlog: work on one pod delays those behind it. At 0, overloaded groups wait 4 %
    /// longer.
    pub alpha: f32,
    /// How much the weight grows with each request that waits, mean over the pool. At 0, overloaded groups wait 14 % longer.
    pub backlog: f32,
    /// How much of that weight is the pod's own backlog where it is the shorter: work on a pod where nobody waits delays
    /// nobody. At 0, a pod that is new and cold stays idle while the others are busy.
    pub here: f32,
    /// Tokens a request in flight: what decoding takes from everyone in the batch. At 200, a hot prefix takes 4 % longer.
    pub delta: f32,
    /// Weight of evictions: a cold prompt goes where the cache has room.
    pub epsilon: f32,
    /// Tokens that a KV cache costs which running requests use whole: what they hold is lost to the prompts of those who will
    /// come back. At 0, agents are put where others' contexts have to go, and their slowest percent takes four times as long.
    pub usage: f32,
    /// Tokens that a pod without room for the request costs: it waits there until another ends.
    pub pressure: f32,
    /// Tokens of waiting for a whole KV cache to come free, when what is waiting there needs more than is free.
    pub turnover: f32,
    /// How much of the work on a prefix that the pod should hold is left out of the count: those who come after it profit. Not all,
    /// so that of idle pods one that holds it already is better.
    pub hot: f32,
    /// Tokens an answer is expected to have, which need KV cache too.
    pub answer: f32,
    /// Tokens that a pod could have computed by the time its first tokens arrive, and that count as waiting until then: the
    /// step that was under way, and the step's own time. At 0, requests meet in one step while other pods have none.
    pub lag: f32,
    /// What a pod is believed to hold, by its capacity. A prompt just over the edge is there half of the time, and its pod is as
    /// good as any other when it is not: in an overload with many prefixes, sending it there keeps those who share it together. At
    /// 1.5, agents stay on pods that have no room for them.
    pub held: f32,
    /// Two pods are as good as tied when their costs differ by no more than this share of the request's work.
    pub tie: f32,
}

impl Default for Constants {
    fn default() -> Self {
        Constants {
            alpha: 1.0,
            backlog: 1.0,
            here: 0.2,
            delta: 50.0,
            epsilon: 0.6,
            usage: 7_500.0,
            pressure: 8_000.0,
            turnover: 8_000.0,
            hot: 0.9,
            answer: 100.0,
            lag: 150.0,
            held: 1.05,
            tie: 0.05,
        }
    }
}

/// A pod as a request sees it. Amounts of work are prompt tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct View {
    /// Prompt tokens it is believed to hold.
    pub matched: f32,
    /// Work outstanding, of all workers of this Envoy.
    pub work: f32,
    /// Requests that wait for a first token, of all workers of this Envoy.
    pub waiting: f32,
    /// Requests in flight, of all workers of this Envoy.
    pub in_flight: f32,
    /// Running requests of other gateways.
    pub foreign_running: f32,
    /// Waiting requests of other gateways.
    pub foreign_waiting: f32,
    /// Share of its cache capacity that prefixes are believed to use, 0 to 1.
    pub fill: f32,
    /// Prompt tokens it is not believed to hold, but should: so many prompts start with them.
    pub hot: f32,
    /// Share of its KV cache that running requests use, as scraped, 0 to 1.
    pub usage: f32,
    /// Tokens of KV cache that the request would take which no other request there uses.
    pub need: f32,
    /// Tokens of KV cache that no request uses or will use before.
    pub free: f32,
    /// Tokens of KV cache that it has; 0 when that is not known.
    pub capacity: f32,
    /// Prompt tokens a second.
    pub rate: f32,
}

/// What is the same for all pods of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ask {
    /// Tokens of the prompt.
    pub tokens: f32,
    /// Requests that wait for a first token, mean over the pool.
    pub backlog: f32,
    /// Mean work of a request, for those of which only the number is known.
    pub mean_work: f32,
}

/// The cost of one pod, term by term. All but the last two are prompt tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// What it would have to compute.
    pub work: f32,
    /// The part of it that this request has to answer for.
    pub own: f32,
    /// What it has to compute before that.
    pub wait: f32,
    /// What the request's work costs those behind it.
    pub delay: f32,
    /// What decoding takes.
    pub decode: f32,
    /// What the request's blocks would evict.
    pub evict: f32,
    /// What it takes of a KV cache that others need, and what a nearly full one makes it wait.
    pub pressure: f32,
    /// Prompt tokens a second.
    pub rate: f32,
    /// The cost in seconds.
    pub seconds: f32,
}

/// The cost of a request on a pod.
pub fn cost(pod: &View, ask: &Ask, constants: &Constants) -> Terms {
    let work = (ask.tokens - pod.matched).max(1.0);
    let wait = pod.work + pod.foreign_waiting * ask.mean_work;
    let own = (work - constants.hot * pod.hot).max(1.0);
    let waiting = (pod.waiting + pod.foreign_waiting).min(ask.backlog);
    let backlog = ask.backlog + constants.here * (waiting - ask.backlog);
    let delay = (constants.alpha + constants.backlog * backlog) * own;
    let decode = constants.delta * (pod.in_flight + pod.foreign_running + pod.foreign_waiting);
    let evict = constants.epsilon * pod.fill * own;
    let short = (pod.need - pod.free).max(0.0);
    let turns = if pod.capacity > 0.0 { short / pod.capacity } else { 0.0 };
    let pressure = constants.usage * pod.usage
        + constants.pressure * (short / pod.need.max(1.0)).min(1.0)
        + constants.turnover * turns;
    let rate = pod.rate.max(1.0);
    let seconds = (wait + own + delay + decode + evict + pressure) / rate;
    Terms { work, own, wait, delay, decode, evict, pressure, rate, seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: Ask = Ask { tokens: 1000.0, backlog: 0.0, mean_work: 500.0 };

    fn view() -> View {
        View { rate: 1000.0, free: f32::MAX, ..View::default() }
    }

    fn terms(pod: View, ask: Ask) -> Terms {
        cost(&pod, &ask, &Constants::default())
    }

    fn halfway(pod: View, ask: Ask) -> Terms {
        cost(&pod, &ask, &Constants { here: 0.5, ..Constants::default() })
    }

    #[test]
    fn an_idle_cold_pod_costs_its_work_and_its_delay() {
        let terms = terms(view(), ASK);
        assert_eq!((terms.work, terms.own, terms.delay), (1000.0, 1000.0, 1000.0));
        assert_eq!((terms.wait, terms.decode, terms.evict, terms.pressure), (0.0, 0.0, 0.0, 0.0));
        assert_eq!(terms.seconds, 2.0);
    }

    #[test]
    fn each_term_follows_its_formula() {
        assert_eq!(terms(View { matched: 900.0, ..view() }, ASK).work, 100.0);
        assert_eq!(terms(View { matched: 2000.0, ..view() }, ASK).work, 1.0);
        assert_eq!(terms(View { work: 70.0, foreign_waiting: 2.0, ..view() }, ASK).wait, 1070.0);
        assert_eq!(
            terms(View { in_flight: 2.0, foreign_running: 1.0, ..view() }, ASK).decode,
            3.0 * Constants::default().delta
        );
        assert_eq!(terms(View { fill: 0.5, ..view() }, ASK).evict, 300.0);
        assert_eq!(terms(View { waiting: 5.0, ..view() }, Ask { backlog: 3.0, ..ASK }).delay, 4000.0);
        assert_eq!(terms(View { usage: 0.5, ..view() }, ASK).pressure, Constants::default().usage / 2.0);
        assert_eq!(terms(View { rate: 2000.0, ..view() }, ASK).seconds, 1.0);
        assert!(terms(View { rate: 0.0, ..view() }, ASK).seconds.is_finite());
    }

    #[test]
    fn a_hot_prefix_is_worth_a_copy() {
        let terms = terms(View { hot: 800.0, fill: 0.5, ..view() }, ASK);
        assert_eq!((terms.work, terms.own, terms.delay), (1000.0, 280.0, 280.0));
        assert!((terms.evict - 84.0).abs() < 0.01);
    }

    #[test]
    fn a_pod_without_room_costs_in_proportion_to_what_is_missing() {
        let pressure = |free| terms(View { need: 1000.0, free, ..view() }, ASK).pressure;
        assert_eq!(
            (pressure(1000.0), pressure(500.0), pressure(0.0), pressure(-9.0)),
            (0.0, 4000.0, 8000.0, 8000.0)
        );
    }

    #[test]
    fn work_on_a_pod_where_nobody_waits_delays_fewer() {
        let delay = |waiting| halfway(View { waiting, ..view() }, Ask { backlog: 4.0, ..ASK }).delay;
        assert_eq!((delay(0.0), delay(2.0), delay(4.0), delay(9.0)), (3000.0, 4000.0, 5000.0, 5000.0));
    }

    #[test]
    fn a_cold_idle_pod_is_used_when_the_warm_ones_are_clearly_busier() {
        // Eight pods, seven of them with a queue of ten prompts of which 100 tokens are to be computed.
        let ask = Ask { backlog: 8.75, ..ASK };
        let warm = |waiting: f32| {
            let pod = View { matched: 900.0, work: 100.0 * waiting, waiting, in_flight: 32.0, ..view() };
            halfway(pod, ask).seconds
        };
        assert!(halfway(view(), ask).seconds < warm(40.0));
        assert!(halfway(view(), ask).seconds > warm(1.0), "and not before");
    }

    #[test]
    fn a_cache_that_is_short_costs_what_it_takes_to_come_free() {
        let pressure = |free| terms(View { need: 1000.0, free, capacity: 10_000.0, ..view() }, ASK).pressure;
        assert_eq!((pressure(1000.0), pressure(0.0), pressure(-9000.0)), (0.0, 8800.0, 16_000.0));
    }

    #[test]
    fn the_terms_add_up() {
        let pod = View {
            matched: 10.0,
            work: 20.0,
            waiting: 2.0,
            in_flight: 3.0,
            foreign_running: 1.0,
            foreign_waiting: 2.0,
            fill: 0.4,
            hot: 100.0,
            usage: 0.2,
            need: 1000.0,
            free: 300.0,
            capacity: 1000.0,
            rate: 700.0,
        };
        let t = terms(pod, Ask { backlog: 1.5, ..ASK });
        let sum = t.own + t.wait + t.delay + t.decode + t.evict + t.pressure;
        assert!((t.seconds - sum / t.rate).abs() < 1e-6);
    }
}
