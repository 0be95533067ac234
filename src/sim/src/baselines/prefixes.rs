//! Which pod is believed to hold which block: an LRU set for each pod, as the approximate indexes of GIE and
//! Higress.

use std::collections::{HashMap, VecDeque};

/// Block hashes by recency, with a weight each.
#[derive(Debug, Default)]
pub struct Lru {
    capacity: u64,
    used: u64,
    stamp: u64,
    /// Stamp of the last touch, and weight.
    held: HashMap<u64, (u64, u64)>,
    /// Touches in order; those whose stamp is not the last are void.
    touches: VecDeque<(u64, u64)>,
}

impl Lru {
    /// An empty set that holds `capacity` together.
    pub fn new(capacity: u64) -> Lru {
        Lru { capacity, ..Lru::default() }
    }

    /// Whether a block is believed to be held.
    pub fn contains(&self, hash: u64) -> bool {
        self.held.contains_key(&hash)
    }

    /// Puts a block in, or makes it the most recent; the least recent ones make room.
    pub fn touch(&mut self, hash: u64, weight: u64) {
        self.stamp += 1;
        self.touches.push_back((self.stamp, hash));
        if self.held.insert(hash, (self.stamp, weight)).is_none() {
            self.used += weight;
        }
        while self.used > self.capacity || self.touches.len() > 2 * self.held.len() + 64 {
            let Some((stamp, hash)) = self.touches.pop_front() else { break };
            let Some(&(last, weight)) = self.held.get(&hash) else { continue };
            if last != stamp {
                continue;
            }
            if self.used > self.capacity {
                self.held.remove(&hash);
                self.used -= weight;
            } else {
                // Only void touches were to go.
                self.touches.push_front((stamp, hash));
                self.compact();
            }
        }
    }

    fn compact(&mut self) {
        let held = &self.held;
        self.touches.retain(|(stamp, hash)| held.get(hash).is_some_and(|(last, _)| last == stamp));
    }
}

/// Every `step`-th hash of a chain of blocks: the same chain cut into larger blocks. What does not fill one
/// is left out.
pub fn coarse(blocks: &[u64], step: usize) -> impl Iterator<Item = u64> + '_ {
    blocks.iter().copied().skip(step - 1).step_by(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recent_goes_first() {
        let mut lru = Lru::new(3);
        for hash in [1, 2, 3, 1, 4] {
            lru.touch(hash, 1);
        }
        assert!(lru.contains(1) && lru.contains(3) && lru.contains(4) && !lru.contains(2));
        lru.touch(9, 3);
        assert!(lru.contains(9) && !lru.contains(4));
        (0..10_000).for_each(|_| lru.touch(9, 3));
        assert!(lru.touches.len() < 100);
    }

    #[test]
    fn coarse_blocks_end_where_fine_ones_do() {
        assert_eq!(coarse(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 4).collect::<Vec<_>>(), [4, 8]);
    }
}
