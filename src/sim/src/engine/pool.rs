//! The KV blocks of one pod: reference counts, the cache by block hash, and the LRU list of free blocks.
//!
//! Invariants: a block is in the free list exactly when nothing refers to it; a free block keeps its hash,
//! and so its content, until it is taken for something else.

#![expect(clippy::indexing_slicing, reason = "block numbers come from this pool, whose length never changes")]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// No block.
const NONE: u32 = u32::MAX;

/// `hash` of a block whose content is not in the cache.
const UNNAMED: u64 = 0;

#[derive(Clone, Debug)]
struct Block {
    hash: u64,
    refs: u32,
    /// Neighbours in the free list; meaningless while `refs > 0`.
    prev: u32,
    next: u32,
    /// The next block with the same hash. Two requests that compute the same prefix at the same time leave
    /// two copies behind, as in vLLM, which never merges block tables.
    twin: u32,
}

/// All blocks of one pod.
#[derive(Clone, Debug)]
pub(super) struct BlockPool {
    blocks: Vec<Block>,
    /// First block of each hash; further ones hang on `twin`.
    cached: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    /// Least recently used, next to be taken.
    head: u32,
    tail: u32,
    free: u32,
}

impl BlockPool {
    /// `total` blocks, all free and empty.
    pub(super) fn new(total: u32) -> BlockPool {
        let mut pool = BlockPool {
            blocks: vec![
                Block { hash: UNNAMED, refs: 0, prev: NONE, next: NONE, twin: NONE };
                total as usize
            ],
            cached: HashMap::default(),
            head: NONE,
            tail: NONE,
            free: 0,
        };
        for block in 0..total {
            pool.push_free(block);
        }
        pool
    }

    pub(super) fn total(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks nothing refers to, whether they hold cached content or not.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// The block that holds `hash`, if any does.
    pub(super) fn find(&self, hash: u64) -> Option<u32> {
        self.cached.get(&hash).copied()
    }

    /// Whether nothing refers to `block`, so that using it costs a free block.
    pub(super) fn is_free(&self, block: u32) -> bool {
        self.blocks[block as usize].refs == 0
    }

    /// One more reference to a cached block.
    pub(super) fn hold(&mut self, block: u32) {
        if self.is_free(block) {
            self.unlink(block);
        }
        self.blocks[block as usize].refs += 1;
    }

    /// Takes the least recently used free block and forgets what it held.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.head;
        if block == NONE {
            return None;
        }
        self.unlink(block);
        self.forget(block);
        self.blocks[block as usize].refs = 1;
        Some(block)
    }

    /// Records that `block`, which the caller holds, has the content `hash`.
    pub(super) fn name(&mut self, block: u32, hash: u64) {
        // A chain hash of 0 is one in 2^64: the block is then just not cached.
        if hash == UNNAMED {
            return;
        }
        self.forget(block);
        let first = self.cached.entry(hash).or_insert(block);
        let twin = if *first == block { NONE } else { std::mem::replace(first, block) };
        let entry = &mut self.blocks[block as usize];
        entry.hash = hash;
        entry.twin = twin;
    }

    /// Drops every block from the cache by hash; what holds them and their order stay.
    pub(super) fn forget_all(&mut self) {
        self.cached.clear();
        for block in &mut self.blocks {
            (block.hash, block.twin) = (UNNAMED, NONE);
        }
    }

    /// One reference fewer; the last one puts the block at the end of the free list.
    pub(super) fn release(&mut self, block: u32) {
        let entry = &mut self.blocks[block as usize];
        entry.refs -= 1;
        if entry.refs == 0 {
            self.push_free(block);
        }
    }

    /// Drops `block` from the cache by hash.
    fn forget(&mut self, block: u32) {
        let hash = std::mem::replace(&mut self.blocks[block as usize].hash, UNNAMED);
        if hash == UNNAMED {
            return;
        }
        let next = std::mem::replace(&mut self.blocks[block as usize].twin, NONE);
        let Some(first) = self.cached.get_mut(&hash) else { return };
        if *first == block {
            if next == NONE {
                self.cached.remove(&hash);
            } else {
                *first = next;
            }
            return;
        }
        let mut at = *first;
        while at != NONE {
            let twin = self.blocks[at as usize].twin;
            if twin == block {
                self.blocks[at as usize].twin = next;
                return;
            }
            at = twin;
        }
    }

    fn push_free(&mut self, block: u32) {
        let tail = std::mem::replace(&mut self.tail, block);
        let entry = &mut self.blocks[block as usize];
        entry.prev = tail;
        entry.next = NONE;
        match tail {
            NONE => self.head = block,
            tail => self.blocks[tail as usize].next = block,
        }
        self.free += 1;
    }

    fn unlink(&mut self, block: u32) {
        let Block { prev, next, .. } = self.blocks[block as usize];
        match prev {
            NONE => self.head = next,
            prev => self.blocks[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => self.blocks[next as usize].prev = prev,
        }
        self.free -= 1;
    }
}

/// Block hashes are xxh3 already; hashing them again would only cost time.
#[derive(Clone, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

#[cfg(test)]
impl BlockPool {
    /// Checks the invariants against the number of references each block should have.
    pub(super) fn check(&self, refs: &[u32]) {
        let some = |block: u32| (block != NONE).then_some(block);
        let listed = std::iter::successors(some(self.head), |&b| some(self.blocks[b as usize].next))
            .inspect(|&b| assert_eq!(self.blocks[b as usize].refs, 0, "block {b} is listed free but held"))
            .count();
        let unheld = self.blocks.iter().filter(|b| b.refs == 0).count();
        assert_eq!((listed, unheld), (self.free as usize, self.free as usize));
        assert_eq!(self.blocks.iter().map(|b| b.refs).collect::<Vec<_>>(), refs);
        let named = self.blocks.iter().filter(|b| b.hash != UNNAMED).count();
        let reachable: usize = self
            .cached
            .iter()
            .map(|(&hash, &first)| {
                std::iter::successors(some(first), |&b| some(self.blocks[b as usize].twin))
                    .inspect(|&b| assert_eq!(self.blocks[b as usize].hash, hash))
                    .count()
            })
            .sum();
        assert_eq!(named, reachable, "every named block is reachable by its hash");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Too simple to be wrong: the free list as a vector, the cache as a search.
    struct Naive {
        hash: Vec<u64>,
        refs: Vec<u32>,
        free: Vec<u32>,
    }

    impl Naive {
        fn take(&mut self) -> Option<u32> {
            if self.free.is_empty() {
                return None;
            }
            let block = self.free.remove(0);
            self.hash[block as usize] = UNNAMED;
            self.refs[block as usize] = 1;
            Some(block)
        }

        fn hold(&mut self, block: u32) {
            self.free.retain(|&b| b != block);
            self.refs[block as usize] += 1;
        }

        fn release(&mut self, block: u32) {
            self.refs[block as usize] -= 1;
            if self.refs[block as usize] == 0 {
                self.free.push(block);
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_twin(total in 1u32..12, ops in prop::collection::vec((0u8..4, 0u32..12, 1u64..6), 0..200)) {
            let mut pool = BlockPool::new(total);
            let mut naive = Naive { hash: vec![UNNAMED; total as usize], refs: vec![0; total as usize], free: (0..total).collect() };
            for (op, block, hash) in ops {
                let block = block % total;
                let held = naive.refs[block as usize] > 0;
                match op {
                    0 => prop_assert_eq!(pool.take(), naive.take()),
                    1 if held => { pool.name(block, hash); naive.hash[block as usize] = hash; }
                    2 if held => { pool.release(block); naive.release(block); }
                    3 => if let Some(found) = pool.find(hash) {
                        prop_assert_eq!(naive.hash[found as usize], hash);
                        pool.hold(found);
                        naive.hold(found);
                    } else {
                        prop_assert!(!naive.hash.contains(&hash));
                    }
                    _ => {}
                }
                prop_assert_eq!(pool.free() as usize, naive.free.len());
                pool.check(&naive.refs);
            }
        }
    }
}
