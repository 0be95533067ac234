//! The index against its naive twin: for each pod a list of whole prompts, the latest first.

use std::ops::Add;

use super::*;
use crate::prefix::holdings::Holding;
use crate::request::blocks::bytes_of;
use proptest::prelude::*;

const ROOMY: IndexLimits = IndexLimits { memory: usize::MAX, holdings: usize::MAX };

fn matches(index: &PrefixIndex, pods: usize, chain: &[u32]) -> Vec<u16> {
    found(index, pods, chain).blocks
}

fn found(index: &PrefixIndex, pods: usize, chain: &[u32]) -> PrefixMatch {
    let mut found = PrefixMatch::default();
    index.look_up(chain, pods, &mut found);
    found
}

/// Popular blocks among eight pods.
fn popular(index: &PrefixIndex, chain: &[u32]) -> usize {
    index.popular_blocks(&found(index, 8, chain), 8, 0.0).popular
}

/// Too simple to be wrong: every block of every prompt by its whole prefix, with the time of its last use.
#[derive(Default)]
struct Naive {
    /// Pod -> (prefix, used, pod clock).
    pods: Vec<Vec<(Vec<u32>, u64, u32)>>,
    clocks: Vec<u32>,
    capacity: Vec<Bytes>,
    clock: u64,
}

impl Naive {
    fn new(pods: usize) -> Naive {
        Naive {
            pods: vec![Vec::new(); pods],
            clocks: vec![0; pods],
            capacity: vec![Bytes(u64::MAX); pods],
            clock: 0,
        }
    }

    fn insert(&mut self, slot: usize, chain: &[u32]) -> UseStamp {
        let held = self.pods[slot].iter().filter(|(p, ..)| chain.starts_with(p));
        let previous = held.max_by_key(|(p, ..)| p.len()).map(|&(_, _, at)| at);
        self.clocks[slot] += 1;
        for depth in (1..=chain.len()).rev() {
            self.clock += 1;
            let prefix = chain[..depth].to_vec();
            self.pods[slot].retain(|(p, ..)| *p != prefix);
            self.pods[slot].push((prefix, self.clock, self.clocks[slot]));
        }
        self.fit(slot);
        UseStamp { at: self.clocks[slot], previous }
    }

    fn bytes(&self, slot: usize) -> Bytes {
        let blocks = self.pods[slot].iter().map(|(p, ..)| bytes_of(p.len()) - bytes_of(p.len() - 1));
        blocks.fold(Bytes::NONE, Bytes::add)
    }

    fn fit(&mut self, slot: usize) {
        while self.bytes(slot) > self.capacity[slot] {
            let oldest = (0..self.pods[slot].len()).min_by_key(|&i| self.pods[slot][i].1).unwrap();
            self.pods[slot].remove(oldest);
        }
    }

    fn trim(&mut self, slot: usize, chain: &[u32], keep: usize, at: u32) {
        self.pods[slot].retain(|(p, _, used)| !(p.len() > keep && chain.starts_with(p) && *used == at));
    }

    fn evict(&mut self, slot: usize, at: u32) {
        self.pods[slot].retain(|&(_, _, used)| used > at);
    }

    fn matches(&self, chain: &[u32]) -> Vec<u16> {
        self.pods
            .iter()
            .map(|held| {
                (1..=chain.len()).take_while(|&d| held.iter().any(|(p, ..)| *p == chain[..d])).count() as u16
            })
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(u16, Vec<u32>),
    /// Takes back the nth insertion, modulo what was done, but for so many blocks.
    Trim(usize, usize),
    /// Evicts up to what was used in the nth insertion.
    Evict(usize),
    Flush(u16),
}

fn chains() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        // Few values, so that prompts share prefixes and diverge at every place.
        prop::collection::vec(0u32..3, 1..12),
        // Long runs with one place to diverge at: nodes that are cut far behind their start, and tails that
        // are not freed.
        (1usize..40, 1usize..40, 0u32..2).prop_map(|(shared, more, tail)| {
            let mut chain: Vec<u32> = (0..shared as u32).map(|n| n % 2).collect();
            chain.extend((shared..more).map(|n| 7 + tail + n as u32 % 2));
            chain
        }),
    ]
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(
        prop_oneof![
            8 => (0u16..3, chains()).prop_map(|(s, c)| Operation::Insert(s, c)),
            5 => (0usize..60, prop_oneof![Just(0usize), 0usize..40]).prop_map(|(n, k)| Operation::Trim(n, k)),
            1 => (0usize..60).prop_map(Operation::Evict),
            1 => (0u16..3).prop_map(Operation::Flush),
        ],
        1..60,
    )
}

/// Checks every link, count and size against a walk over the whole structure.
fn check(index: &PrefixIndex) {
    let mut holdings = 0;
    for id in index.tree.check() {
        let node = index.tree.get(id).unwrap();
        for (_, holding) in index.holdings.of_node(node.first_holding) {
            assert_eq!(holding.node, id);
            assert!(holding.blocks > 0 && usize::from(holding.blocks) <= node.hashes.len());
            holdings += 1;
        }
    }
    assert_eq!(holdings, index.holdings());
    assert_eq!(holdings, index.holdings.check());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_its_naive_twin(operations in operations(), probes in prop::collection::vec(chains(), 1..10)) {
        let (mut index, mut naive) = (PrefixIndex::new(ROOMY), Naive::new(3));
        let (mut trimmed, mut done) = (false, Vec::new());
        for operation in operations {
            match operation {
                Operation::Insert(slot, chain) => {
                    let (used, expected) = (index.insert(Slot(slot), &chain), naive.insert(slot.into(), &chain));
                    prop_assert_eq!(used.at, expected.at);
                    prop_assert!(trimmed || used == expected, "{used:?} {expected:?}");
                    done.push((slot, chain, used.at));
                }
                Operation::Trim(nth, keep) => {
                    let Some((slot, chain, at)) = done.get(nth % done.len().max(1)) else { continue };
                    index.trim(Slot(*slot), chain, keep, *at);
                    naive.trim(usize::from(*slot), chain, keep, *at);
                    trimmed = true;
                }
                Operation::Evict(nth) => {
                    let Some((slot, _, at)) = done.get(nth % done.len().max(1)) else { continue };
                    index.evict(Slot(*slot), *at);
                    naive.evict(usize::from(*slot), *at);
                }
                Operation::Flush(slot) => {
                    index.flush(Slot(slot));
                    naive.pods[usize::from(slot)].clear();
                }
            }
            check(&index);
            for probe in &probes {
                let (found, expected) = (matches(&index, 3, probe), naive.matches(probe));
                if trimmed {
                    // Behind a block that turned out to be missing the index forgets more than the twin,
                    // never less.
                    prop_assert!(found.iter().zip(&expected).all(|(f, e)| f <= e), "{found:?} {expected:?}");
                } else {
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }

    /// With a capacity the two may differ in which of two equally old tails goes first, but neither holds
    /// more than it may, the latest prompt stays as far as it fits, and what both believe is mostly the same.
    #[test]
    fn a_full_pod_keeps_what_it_used_last(chains in prop::collection::vec(chains(), 1..60), blocks in 1usize..20) {
        let (mut index, mut naive) = (PrefixIndex::new(ROOMY), Naive::new(1));
        let capacity = bytes_of(blocks);
        index.set_capacity(Slot(0), capacity);
        naive.capacity[0] = capacity;
        for chain in &chains {
            index.insert(Slot(0), chain);
            naive.insert(0, chain);
            check(&index);
            prop_assert!(index.held(Slot(0)) <= capacity);
            let kept = usize::from(matches(&index, 1, chain)[0]);
            prop_assert_eq!(kept, chain.len().min(blocks));
            prop_assert_eq!(kept, usize::from(naive.matches(chain)[0]));
        }
    }

    #[test]
    fn limits_hold_whatever_comes(chains in prop::collection::vec((0u16..4, prop::collection::vec(any::<u32>(), 1..40)), 1..200)) {
        let limits = IndexLimits { memory: 60_000, holdings: 20 };
        let mut index = PrefixIndex::new(limits);
        for (slot, chain) in &chains {
            index.insert(Slot(*slot), chain);
            check(&index);
            prop_assert!(index.holdings() <= limits.holdings);
            prop_assert!(index.memory() <= limits.memory);
        }
    }
}

#[test]
fn no_change_of_load_passes_the_limit_or_leaves_the_index_useless() {
    let limits = IndexLimits { memory: 128 << 10, holdings: usize::MAX };
    let mut index = PrefixIndex::new(limits);
    let chain = |n: u32, blocks: u32| (0..blocks).map(|at| n << 8 | at).collect::<Vec<u32>>();
    let mut n = 0;
    // Many pods that hold the same few prompts, then many short prompts, then few long ones: first one table
    // fills the memory, then the other, then the runs of hashes.
    for (prompts, blocks, pods) in [(80, 2, 200), (1_500, 1, 3), (500, 200, 3)].repeat(3) {
        for _ in 0..prompts {
            n += 1;
            for slot in 0..pods {
                index.insert(Slot(slot), &chain(n, blocks));
                assert!(index.memory() <= limits.memory);
            }
        }
        check(&index);
        // What half of the memory can hold is held.
        let each = u32::from(pods) * size_of::<Holding>() as u32 + blocks * 4 + 80;
        for n in n - limits.memory as u32 / 2 / each + 1..=n {
            let held = matches(&index, usize::from(pods), &chain(n, blocks));
            assert!(held.iter().all(|&held| u32::from(held) == blocks), "prompt {n} of {pods} pods");
        }
    }
}

#[test]
fn a_match_is_contiguous_from_the_start_for_each_pod() {
    let mut index = PrefixIndex::new(ROOMY);
    index.insert(Slot(0), &[1, 2, 3, 4]);
    index.insert(Slot(1), &[1, 2]);
    index.insert(Slot(1), &[1, 2, 9]);
    assert_eq!(matches(&index, 2, &[1, 2, 3, 4, 5]), [4, 2]);
    assert_eq!(matches(&index, 2, &[1, 2, 9]), [2, 3]);
    assert_eq!(matches(&index, 2, &[2, 3]), [0, 0]);
    index.trim(Slot(0), &[1, 2, 3, 4], 1, 1);
    assert_eq!(matches(&index, 2, &[1, 2, 3, 4, 5]), [1, 2]);
}

#[test]
fn heads_outlive_tails() {
    let mut index = PrefixIndex::new(ROOMY);
    index.set_capacity(Slot(0), bytes_of(6));
    index.insert(Slot(0), &[1, 2, 3, 4]);
    index.insert(Slot(0), &[1, 2, 7, 8, 9]);
    // Seven blocks in all, room for six: the tail of the older prompt goes.
    assert_eq!(matches(&index, 1, &[1, 2, 3, 4]), [3]);
    assert_eq!(matches(&index, 1, &[1, 2, 7, 8, 9]), [5]);
}

#[test]
fn what_is_trimmed_twice_is_dropped_once() {
    let mut index = PrefixIndex::new(ROOMY);
    let (one, two) = (index.insert(Slot(0), &[1, 2]), index.insert(Slot(0), &[1, 3]));
    index.trim(Slot(0), &[1, 3], 0, two.at);
    index.trim(Slot(0), &[1, 2], 0, one.at);
    check(&index);
    index.trim(Slot(0), &[1, 2], 0, one.at);
    index.trim(Slot(0), &[1, 3], 0, two.at);
    check(&index);
    assert_eq!((index.holdings(), index.held(Slot(0)), index.tree.hashes()), (0, Bytes::NONE, 0));
    index.insert(Slot(1), &[5, 6]);
    index.insert(Slot(0), &[5, 7]);
    check(&index);
    assert_eq!(matches(&index, 2, &[5, 6]), [1, 2]);
}

#[test]
fn what_another_prompt_used_since_is_not_taken_back() {
    let mut index = PrefixIndex::new(ROOMY);
    let first = index.insert(Slot(0), &[1, 2, 3]);
    let second = index.insert(Slot(0), &[1, 2, 4]);
    assert_eq!(second, UseStamp { at: 2, previous: Some(1) });
    index.trim(Slot(0), &[1, 2, 3], 0, first.at);
    check(&index);
    assert_eq!(matches(&index, 1, &[1, 2, 3]), [2]);
    assert_eq!(matches(&index, 1, &[1, 2, 4]), [3]);
}

#[test]
fn with_a_lost_block_goes_all_that_is_older() {
    let mut index = PrefixIndex::new(ROOMY);
    for chain in [[1, 2, 3], [4, 5, 6], [7, 8, 9]] {
        index.insert(Slot(0), &chain);
        index.insert(Slot(1), &chain);
    }
    let again = index.insert(Slot(0), &[4, 5, 6]);
    index.evict(Slot(0), again.previous.unwrap());
    check(&index);
    assert_eq!(matches(&index, 2, &[1, 2, 3]), [0, 3]);
    assert_eq!(matches(&index, 2, &[4, 5, 6]), [3, 3], "the pod has just computed it");
    assert_eq!(matches(&index, 2, &[7, 8, 9]), [3, 3]);
}

#[test]
fn a_tail_that_nobody_holds_is_freed_when_its_node_is_cut() {
    let mut index = PrefixIndex::new(ROOMY);
    let long: Vec<u32> = (1..=20).collect();
    index.set_capacity(Slot(0), bytes_of(19));
    index.insert(Slot(0), &long);
    // A run that lost one block of twenty keeps its hash; then a prompt leaves it just there.
    let mut other = long[..19].to_vec();
    other.push(99);
    index.insert(Slot(1), &other);
    check(&index);
    assert_eq!(index.tree.hashes(), 20);
}

#[test]
fn the_tail_that_a_shorter_prompt_does_not_use_grows_old() {
    let mut index = PrefixIndex::new(ROOMY);
    index.set_capacity(Slot(0), bytes_of(8));
    index.insert(Slot(0), &[1, 2, 3, 4]);
    index.insert(Slot(0), &[5, 6]);
    index.insert(Slot(0), &[1, 2]);
    index.insert(Slot(0), &[7, 8, 9]);
    check(&index);
    assert_eq!(matches(&index, 1, &[5, 6]), [2]);
    assert!(matches(&index, 1, &[1, 2, 3, 4])[0] < 4);
}

#[test]
fn a_conversation_costs_about_two_hundred_bytes() {
    let mut index = PrefixIndex::new(ROOMY);
    let mut hash = 1u32;
    for conversation in 0..10_000u32 {
        let chain: Vec<u32> = (0..32)
            .map(|_| {
                hash = hash.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                hash
            })
            .collect();
        index.insert(Slot((conversation % 8) as u16), &chain);
    }
    let each = index.memory() / 10_000;
    assert!(each < 280, "{each} bytes");
}

#[test]
fn a_prefix_that_all_share_is_soon_on_every_pod_and_a_lone_conversation_stays() {
    // Prompts of one prefix, each with an end of its own; a pod without the prefix gets one as soon as it is
    // popular.
    let mut index = PrefixIndex::new(ROOMY);
    let mut copies = 0;
    let prompts = (1..100u32).find(|&n| {
        let prompt: Vec<u32> = (0..20).chain([1000 + n]).collect();
        let popular = copies == 0 || popular(&index, &prompt) >= 20;
        copies += u16::from(popular);
        index.insert(if popular { Slot(copies - 1) } else { Slot(0) }, &prompt);
        copies == 8
    });
    assert_eq!(prompts, Some(13));

    // A conversation that grows is all the traffic there is, and still no reason for a copy.
    let mut index = PrefixIndex::new(ROOMY);
    for round in 1..30 {
        let prompt: Vec<u32> = (0..20 * round).collect();
        assert_eq!(popular(&index, &prompt), 0, "round {round}");
        index.insert(Slot(0), &prompt);
    }
}
