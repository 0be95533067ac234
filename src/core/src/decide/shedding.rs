//! Who is refused when the pool is saturated: requests that may be shed, those of a tenant with more than its
//! share, and no others.
//!
//! A pod is free when what waits there takes less than a bound: then the next request there has its first
//! token in time. Some of the ready pods are kept for requests that may not be shed. They are chosen by their
//! addresses alone, so several gateways keep the same ones without talking. A request that may be shed is
//! taken while one of the other pods, the open ones, is free. Only work that really waits counts: the
//! gateway's own, from the ledger, and that of others, which fades with the age of the page that told it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::decide::pick::{Candidate, Rank};
use crate::{Micros, Slot, Tokens};

/// Of so many ready pods, so many are kept, and at least one of two: critical requests come in groups, and
/// with fewer free pods some of them meet in one batch step.
const KEPT: usize = 3;
const OF_PODS: usize = 8;
/// Longest time after which a client is told to come again, in seconds: a queue may empty sooner than it
/// seems.
const LONGEST_WAIT: f32 = 60.0;

fn kept_of(ready: usize) -> usize {
    if ready < 2 { 0 } else { (ready * KEPT / OF_PODS).max(1) }
}

fn ready(candidates: &[Candidate]) -> impl Iterator<Item = &Candidate> {
    candidates.iter().filter(|candidate| candidate.rank == Rank::Ready)
}

/// The pods that are kept for requests that may not be shed, in no order.
pub fn kept<'a>(candidates: &[Candidate], address: impl Fn(Slot) -> &'a [u8]) -> Vec<Slot> {
    let most = kept_of(ready(candidates).count());
    let mut kept: Vec<(u64, Slot)> = Vec::with_capacity(most + 1);
    for candidate in ready(candidates) {
        let engine = u64::from(candidate.engine.unwrap_or(0));
        let one = (xxh3_64_with_seed(address(candidate.slot), engine), candidate.slot);
        kept.insert(kept.partition_point(|other| *other < one), one);
        kept.truncate(most);
    }
    kept.into_iter().map(|(_, slot)| slot).collect()
}

/// If no open pod is free: the seconds after which one may be.
pub fn none_open(candidates: &[Candidate], kept: &[Slot], bound: Micros) -> Option<u32> {
    let open = ready(candidates).filter(|candidate| !kept.contains(&candidate.slot));
    until_free(open.map(|candidate| candidate.waits), 1, bound)
}

/// If fewer pods are free than are to be kept, beside the one that a request would take: the seconds after
/// which they may be. It is the rule for a tenant with more than its share, which has all pods as soon as it
/// is alone; `own` is the work that it has outstanding.
///
/// A tenant with little of it need not leave any pod: whoever comes finds each one free again within the
/// bound. A pool with a moment's work is not contended, whoever has most of that.
pub fn contended(candidates: &[Candidate], own: Tokens, bound: Micros) -> Option<u32> {
    let count = ready(candidates).count();
    let rate: f32 = ready(candidates).map(|candidate| candidate.terms.tokens_per_second).sum();
    // Work counts whole until its first token. On average, half of it is done by then.
    let is_little = own.as_f32() / 2.0 <= bound.as_seconds() * rate;
    let needed = if is_little { count.min(1) } else { count.min(1 + kept_of(count)) };
    let waits = ready(candidates).map(|candidate| candidate.waits);
    until_free(waits, needed, bound)
}

/// Seconds until as many pods as are `needed` are free, by what waits on each; `None` when they are, and
/// where there are no pods, for that is for others to say.
fn until_free(waits: impl Iterator<Item = f32>, needed: usize, bound: Micros) -> Option<u32> {
    let bound = bound.as_seconds();
    // The shortest ones, in order.
    let mut shortest: Vec<f32> = Vec::with_capacity(needed + 1);
    for wait in waits {
        shortest.insert(shortest.partition_point(|&other| other < wait), wait);
        shortest.truncate(needed);
    }
    let last = shortest.last().copied().unwrap_or(0.0);
    (last > bound).then(|| (last - bound).ceil().clamp(1.0, LONGEST_WAIT) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MILLISECOND;
    use crate::decide::cost::CostTerms;

    const BOUND: Micros = Micros(100 * MILLISECOND.0);
    const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"];

    /// Pods of 1,000 tokens per second, with so many tokens before a request.
    fn pool(queues: &[f32]) -> Vec<Candidate> {
        let candidate = |(slot, &tokens): (usize, &f32)| Candidate {
            slot: Slot(slot as u16),
            engine: None,
            rank: Rank::Ready,
            matched: 0.0,
            waits: tokens / 1000.0,
            terms: CostTerms { tokens_per_second: 1000.0, ..CostTerms::default() },
        };
        queues.iter().enumerate().map(candidate).collect()
    }

    fn name(slot: Slot) -> &'static [u8] {
        NAMES[usize::from(slot)]
    }

    #[test]
    fn every_gateway_keeps_the_same_pods() {
        for (pods, count) in [(1, 0), (2, 1), (3, 1), (5, 1), (6, 2), (8, 3)] {
            let one = kept(&pool(&vec![0.0; pods]), name);
            let mut other = pool(&vec![9000.0; pods]);
            other.reverse();
            assert_eq!((one.len(), one), (count, kept(&other, name)), "{pods}");
        }
        let mut pods = pool(&[0.0; 8]);
        let before = kept(&pods, name);
        pods[usize::from(before[0])].rank = Rank::CoolingDown;
        let after = kept(&pods, name);
        assert!(after.len() == 2 && after.iter().all(|slot| before.contains(slot)), "of seven, two");
    }

    #[test]
    fn what_may_be_shed_is_taken_while_an_open_pod_is_free() {
        let kept = [Slot(2)];
        let none = |queues: &[f32]| none_open(&pool(queues), &kept, BOUND);
        assert_eq!(none(&[9000.0, 100.0, 9000.0]), None, "within the bound");
        assert_eq!(none(&[9000.0, 4101.0, 0.0]), Some(5), "the free one is kept");
        assert_eq!(none(&[1e9, 1e9, 0.0]), Some(60));
        assert_eq!(none_open(&pool(&[0.0]), &[], BOUND), None);
        assert_eq!(
            none_open(&pool(&[3000.0]), &[], BOUND),
            Some(3),
            "the only pod takes one when nothing waits"
        );
        assert_eq!(none_open(&[], &[], BOUND), None);
    }

    #[test]
    fn a_tenant_leaves_as_many_pods_free_as_are_kept() {
        let contended = |queues: &[f32]| contended(&pool(queues), Tokens(5000), BOUND);
        assert_eq!(contended(&[0.0, 0.0, 9000.0]), None);
        assert_eq!(contended(&[0.0, 5000.0, 9000.0]), Some(5));
        assert_eq!(contended(&[100.0, 100.0]), None, "within the bound");
        assert_eq!(contended(&[100.0, 101.0]), Some(1));
        assert_eq!((contended(&[0.0]), contended(&[3000.0]), contended(&[])), (None, Some(3), None));
        let mut pods = pool(&[0.0, 0.0]);
        pods[0].rank = Rank::CoolingDown;
        assert_eq!(super::contended(&pods, Tokens(5000), BOUND), None, "one ready pod is all there is");
    }

    /// Eight pods compute 800 tokens within the bound, of 1,600 that are outstanding the other half is done.
    #[test]
    fn a_tenant_with_little_work_is_refused_when_no_pod_is_free_and_not_before() {
        let one_free = pool(&[200.0, 200.0, 200.0, 200.0, 200.0, 200.0, 200.0, 0.0]);
        assert_eq!(contended(&one_free, Tokens(1600), BOUND), None);
        assert_eq!(contended(&one_free, Tokens(1601), BOUND), Some(1));
        assert_eq!(contended(&pool(&[200.0; 8]), Tokens(1600), BOUND), Some(1));
        assert_eq!(
            contended(&one_free, Tokens(1), Micros::ZERO),
            Some(1),
            "with a bound of zero nothing is little"
        );
    }
}
