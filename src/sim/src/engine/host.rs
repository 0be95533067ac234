//! KV blocks in host memory: what `--kv-offloading-size` adds to a pod's GPU memory. Every block that the GPU
//! computes is written through, the least recently used go first, and a prompt that finds its blocks here
//! copies them back instead of computing them.

use std::collections::{HashMap, VecDeque};

/// The block hashes that host memory holds, by recency.
#[derive(Clone, Debug, Default)]
pub(super) struct HostCache {
    /// Blocks, at most; 0 is no host memory.
    capacity: u32,
    /// The stamp of the last use of each.
    held: HashMap<u64, u64>,
    /// Uses in order; one whose stamp is not the block's last is void.
    uses: VecDeque<(u64, u64)>,
    stamp: u64,
}

impl HostCache {
    /// Room for `capacity` blocks.
    pub(super) fn new(capacity: u32) -> HostCache {
        HostCache { capacity, ..HostCache::default() }
    }

    pub(super) fn holds(&self, hash: u64) -> bool {
        self.held.contains_key(&hash)
    }

    /// Puts a block in, or makes it the most recent.
    pub(super) fn touch(&mut self, hash: u64) {
        if self.capacity == 0 {
            return;
        }
        self.stamp += 1;
        self.uses.push_back((self.stamp, hash));
        self.held.insert(hash, self.stamp);
        while self.held.len() > self.capacity as usize || self.uses.len() > 2 * self.held.len() + 64 {
            let Some((stamp, hash)) = self.uses.pop_front() else { break };
            let last = self.held.get(&hash) == Some(&stamp);
            if last && self.held.len() > self.capacity as usize {
                self.held.remove(&hash);
            } else if last {
                // Only void uses were to go.
                let held = &self.held;
                self.uses.push_front((stamp, hash));
                self.uses.retain(|(stamp, hash)| held.get(hash) == Some(stamp));
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = HostCache::new(self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_block_goes_first() {
        let mut host = HostCache::new(2);
        [1, 2, 1, 3].into_iter().for_each(|hash| host.touch(hash));
        assert!(host.holds(1) && host.holds(3) && !host.holds(2));
        (0..10_000).for_each(|_| host.touch(1));
        assert!(host.uses.len() < 100);
        host.clear();
        assert!(!host.holds(1));
    }

    #[test]
    fn without_room_nothing_is_held() {
        let mut host = HostCache::new(0);
        host.touch(1);
        assert!(!host.holds(1));
    }
}
