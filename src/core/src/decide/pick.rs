//! The best pod, and the runners-up that take over when it fails.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::Slot;
pub use crate::account::ticket::PICKS;
use crate::decide::cost::CostTerms;

/// How willingly a pod is sent to, before any cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Nothing is known against it.
    Ready,
    /// Its last scrape got no answer.
    Unreachable,
    /// It has refused such requests, which others may serve.
    Refusing,
    /// It answered with errors of its own, and is cooling down. The client would get such an error, so a pod
    /// that may not be there at all is better; but an error is better than no answer.
    Erring,
    /// It failed a request, and is cooling down.
    CoolingDown,
    /// It has requests, and computes nothing.
    Hanging,
    /// It serves nothing until it is woken: no request goes there, whatever the others are.
    Asleep,
}

/// A pod, as it is scored in a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The pod.
    pub slot: Slot,
    /// The place of its engine, where it has several.
    pub engine: Option<u16>,
    /// Its rank; a better one wins whatever the cost.
    pub rank: Rank,
    /// Prompt tokens that it is believed to hold.
    pub matched: f32,
    /// Seconds that the work takes which waits there, none of it taken for done.
    pub waits: f32,
    /// Its cost.
    pub terms: CostTerms,
}

/// The chosen pods, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Picks([Option<Slot>; PICKS]);

impl Picks {
    /// The pods in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        self.0.iter().flatten().copied()
    }

    /// The same with this pod first, whatever it costs.
    pub fn led_by(self, first: Slot) -> Picks {
        let mut picks = [Some(first), None, None];
        let others = self.iter().filter(|&slot| slot != first).map(Some);
        picks.iter_mut().skip(1).zip(others).for_each(|(place, slot)| *place = slot);
        Picks(picks)
    }

    /// The best pod.
    pub fn best(&self) -> Option<Slot> {
        self.iter().next()
    }
}

/// Chooses by rank, then by cost. Pods whose cost is within `tie_band` of the request's work of the best are
/// tied; the rendezvous hash of the prompt's `head` and the pod's address decides between them, so that
/// gateways which share nothing agree. Runners-up follow by rank and cost alone. A pod that is asleep is
/// never chosen.
///
/// Where pods have several engines, one header names the engine for every attempt. So all choices have the
/// same place among the engines of their address, if it is one of the first `common`, which every pod has.
/// Any other is named to no pod: each then chooses among its own, and is one choice.
pub fn pick<'a>(
    candidates: &[Candidate],
    tie_band: f32,
    head: u64,
    common: u16,
    address: impl Fn(Slot) -> &'a [u8],
) -> Picks {
    let awake = || candidates.iter().filter(|candidate| candidate.rank != Rank::Asleep);
    let Some(least) = awake().min_by(|a, b| order(a, b)) else { return Picks::default() };
    let band = least.terms.seconds + tie_band * least.terms.uncached / least.terms.tokens_per_second.max(1.0);
    let best = awake()
        .filter(|candidate| candidate.rank == least.rank && candidate.terms.seconds <= band)
        .max_by_key(|candidate| rendezvous(head, address(candidate.slot), candidate.engine));
    let named = best.and_then(|candidate| candidate.engine).filter(|&engine| engine < common);
    let mut picks = [best.map(|candidate| candidate.slot), None, None];
    for nth in 1..PICKS {
        let is_there = |candidate: &Candidate| {
            picks.iter().flatten().any(|&slot| address(slot) == address(candidate.slot))
        };
        let next = awake()
            .filter(|candidate| !picks.contains(&Some(candidate.slot)))
            .filter(|candidate| match named {
                Some(_) => candidate.engine == named,
                None => candidate.engine.is_none() || !is_there(candidate),
            })
            .min_by(|a, b| order(a, b))
            .map(|candidate| candidate.slot);
        if let Some(place) = picks.get_mut(nth) {
            *place = next;
        }
    }
    Picks(picks)
}

/// The rank of a pod for a prompt, the same on every gateway: the highest wins. Rendezvous hashing (Thaler
/// and Ravishankar, 1998).
fn rendezvous(head: u64, address: &[u8], engine: Option<u16>) -> u64 {
    xxh3_64_with_seed(address, head.wrapping_add(engine.unwrap_or(0).into()))
}

fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    a.rank.cmp(&b.rank).then(a.terms.seconds.total_cmp(&b.terms.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(slot: Slot, rank: Rank, seconds: f32) -> Candidate {
        Candidate {
            slot,
            engine: None,
            rank,
            matched: 0.0,
            waits: 0.0,
            terms: CostTerms { seconds, uncached: 100.0, tokens_per_second: 1000.0, ..CostTerms::default() },
        }
    }

    fn picks(candidates: &[Candidate], head: u64) -> Vec<u16> {
        const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
        pick(candidates, 0.05, head, 0, |slot| NAMES[usize::from(slot)]).iter().map(|slot| slot.0).collect()
    }

    #[test]
    fn runners_up_have_the_engine_of_the_best() {
        let at = |slot, engine, seconds| Candidate { engine, ..candidate(Slot(slot), Rank::Ready, seconds) };
        let pool = [at(0, Some(0), 0.3), at(1, Some(1), 0.1), at(2, Some(0), 0.2), at(3, Some(1), 9.0)];
        let address = |slot: Slot| if slot < Slot(2) { &b"a:1"[..] } else { b"b:1" };
        let picks = |common| pick(&pool, 0.0, 7, common, address).iter().collect::<Vec<_>>();
        assert_eq!(picks(2), [Slot(1), Slot(3)]);
        // An engine that some pods lack is not named, and no pod is asked twice.
        assert_eq!(picks(1), [Slot(1), Slot(2)]);
        let mixed = [pool[1], pool[2], at(4, None, 0.2), at(5, None, 0.3)];
        let address = |slot: Slot| [&b"a"[..], b"a", b"b", b"b", b"c", b"d"][usize::from(slot)];
        let picks = pick(&mixed, 0.0, 7, 0, address).iter().collect::<Vec<_>>();
        assert_eq!(picks, [Slot(1), Slot(2), Slot(4)]);
    }

    #[test]
    fn least_cost_first() {
        let all = [
            candidate(Slot(0), Rank::Ready, 3.0),
            candidate(Slot(1), Rank::Ready, 1.0),
            candidate(Slot(2), Rank::Ready, 2.0),
            candidate(Slot(3), Rank::Ready, 9.0),
        ];
        assert_eq!(picks(&all, 1), [1, 2, 0]);
        assert_eq!(picks(&all[..1], 1), [0]);
        assert!(picks(&[], 1).is_empty());
    }

    #[test]
    fn a_pod_that_must_lead_leads() {
        let all: Vec<Candidate> =
            (0..4).map(|slot| candidate(Slot(slot), Rank::Ready, f32::from(slot))).collect();
        let picks = pick(&all, 0.05, 1, 0, |_| b"");
        let led = |first| picks.led_by(Slot(first)).iter().map(|slot| slot.0).collect::<Vec<_>>();
        assert_eq!((led(0), led(2), led(3)), (vec![0, 1, 2], vec![2, 0, 1], vec![3, 0, 1]));
        assert_eq!(Picks::default().led_by(Slot(1)).iter().count(), 1);
    }

    #[test]
    fn rank_comes_before_cost() {
        let all = [
            candidate(Slot(0), Rank::CoolingDown, 0.1),
            candidate(Slot(1), Rank::Erring, 0.2),
            candidate(Slot(2), Rank::Unreachable, 0.3),
            candidate(Slot(3), Rank::Ready, 5.0),
        ];
        assert_eq!(picks(&all, 1), [3, 2, 1]);
        assert_eq!(picks(&all[..2], 1), [1, 0]);
    }

    #[test]
    fn near_ties_go_by_the_prompt_and_are_spread() {
        let all: Vec<Candidate> =
            (0..5).map(|slot| candidate(Slot(slot), Rank::Ready, 1.0 + f32::from(slot) * 0.001)).collect();
        let mut counts = [0; 5];
        for head in 0..5000u64 {
            let best = picks(&all, head)[0];
            assert_eq!(best, picks(&all, head)[0], "the same prompt, the same pod");
            counts[usize::from(best)] += 1;
        }
        assert!(counts.iter().all(|&c| (850..1150).contains(&c)), "{counts:?}");
        // Beyond the band (5 ms here) there is no tie.
        let apart = [candidate(Slot(0), Rank::Ready, 1.0), candidate(Slot(1), Rank::Ready, 1.006)];
        assert!((0..100).all(|head| picks(&apart, head)[0] == 0));
    }

    #[test]
    fn a_sleeping_pod_is_no_runner_up() {
        let all = [
            candidate(Slot(0), Rank::Asleep, 0.1),
            candidate(Slot(1), Rank::Hanging, 0.2),
            candidate(Slot(2), Rank::Ready, 5.0),
        ];
        assert_eq!(picks(&all, 1), [2, 1]);
        assert!(picks(&all[..1], 1).is_empty());
    }
}
