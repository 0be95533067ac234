//! Who is refused when the pool is saturated: requests that may be shed, and no others.
//!
//! A pod is free when what waits there takes less than a bound: then the next request there has its first token in time. A request
//! that may be shed is taken while enough pods stay free for those that may not. Only work that really waits counts: the gateway's
//! own, from the ledger, and that of others, which fades with the age of the page that told it.

use crate::Micros;
use crate::decide::pick::{Candidate, Rank};

/// Of so many ready pods, so many are kept free, and at least one: critical requests come in groups, and with fewer free pods
/// some of them meet in one batch step.
const KEPT_FREE: usize = 3;
const OF_PODS: usize = 8;
/// Longest time after which a client is told to come again, in seconds: a queue may empty sooner than it seems.
const LONGEST_WAIT: f32 = 60.0;

/// If the pool has no room for a request that may be shed: the seconds after which it may have.
pub fn saturated(candidates: &[Candidate], bound: Micros) -> Option<u32> {
    let bound = bound.as_seconds();
    let wait = |candidate: &Candidate| candidate.waits;
    let ready = || candidates.iter().filter(|candidate| candidate.rank == Rank::Ready);
    let free = ready().filter(|candidate| wait(candidate) <= bound).count();
    // One is taken by the request itself.
    let needed = ready().count().min(1 + (ready().count() * KEPT_FREE / OF_PODS).max(1));
    if free >= needed {
        return None;
    }
    // When so many are free that one more request is taken.
    let mut waits: Vec<f32> = ready().map(|candidate| wait(candidate) - bound).collect();
    waits.sort_unstable_by(f32::total_cmp);
    let seconds = waits.get(needed.saturating_sub(1)).copied().unwrap_or(0.0);
    Some(seconds.ceil().clamp(1.0, LONGEST_WAIT) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::cost::CostTerms;
    use crate::{MILLISECOND, Slot};

    const BOUND: Micros = Micros(100 * MILLISECOND.0);

    /// Pods of 1,000 tokens per second, with so many tokens before a request.
    fn pool(queues: &[f32]) -> Vec<Candidate> {
        let candidate = |(slot, &tokens): (usize, &f32)| Candidate {
            slot: Slot(slot as u16),
            engine: None,
            rank: Rank::Ready,
            matched: 0.0,
            waits: tokens / 1000.0,
            terms: CostTerms::default(),
        };
        queues.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn a_request_is_taken_while_a_pod_stays_free_for_others() {
        assert_eq!(saturated(&pool(&[0.0, 0.0, 9000.0]), BOUND), None);
        assert_eq!(saturated(&pool(&[0.0, 5000.0, 9000.0]), BOUND), Some(5));
        assert_eq!(saturated(&pool(&[100.0, 100.0]), BOUND), None, "within the bound");
        assert_eq!(saturated(&pool(&[100.0, 101.0]), BOUND), Some(1));
        assert_eq!(saturated(&pool(&[1e9, 1e9]), BOUND), Some(60));
    }

    #[test]
    fn the_only_pod_takes_one_when_nothing_waits() {
        assert_eq!(saturated(&pool(&[0.0]), BOUND), None);
        assert_eq!(saturated(&pool(&[3000.0]), BOUND), Some(3));
    }

    #[test]
    fn pods_that_serve_nothing_are_not_free() {
        let mut pods = pool(&[0.0, 0.0]);
        pods[0].rank = Rank::CoolingDown;
        assert_eq!(saturated(&pods, BOUND), None, "one ready pod is all there is");
        pods[1].waits = 2.0;
        assert_eq!(saturated(&pods, BOUND), Some(2));
        assert_eq!(saturated(&[], BOUND), None, "that is for others to say");
    }
}
