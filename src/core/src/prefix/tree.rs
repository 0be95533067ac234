//! A radix tree over block hashes: every prefix that some pod holds.
//!
//! A run of blocks that no other prompt shares is one node, four bytes per block; a conversation of 32 blocks
//! costs about 200 bytes. Who holds a node stands in [`crate::prefix::holdings`].

use hashbrown::HashTable;

use crate::prefix::popularity::Popularity;
use crate::prefix::slab::{NONE, Slab};

/// The parent of all first nodes; stands in no table.
pub(super) const ROOT: u32 = u32::MAX - 1;

/// The way of a chain through the tree: nodes from the first on, and how many blocks of each are the chain's.
pub(super) type Path = Vec<(u32, u16)>;

/// A run of blocks: those that follow its parent's last block.
#[derive(Debug)]
pub(super) struct Node {
    pub parent: u32,
    pub children: u32,
    /// Head of the list of holdings of this node.
    pub first_holding: u32,
    pub popularity: Popularity,
    pub hashes: Box<[u32]>,
}

impl Default for Node {
    /// A node that is free: nobody holds it.
    fn default() -> Self {
        Node {
            parent: NONE,
            children: 0,
            first_holding: NONE,
            popularity: Popularity::default(),
            hashes: Box::default(),
        }
    }
}

/// The nodes of an index.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Slab<Node>,
    /// From (parent, first hash) to the node.
    children: HashTable<u32>,
    /// Hashes in all nodes.
    hashes: usize,
}

impl Tree {
    #[inline]
    pub fn get(&self, id: u32) -> Option<&Node> {
        self.nodes.get(id)
    }

    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Node> {
        self.nodes.get_mut(id)
    }

    /// Finds the way of `chain` as far as the tree knows it.
    pub fn find(&self, chain: &[u32], path: &mut Path) {
        path.clear();
        let (mut parent, mut depth) = (ROOT, 0);
        while let Some(id) = self.child(parent, chain, depth)
            && let Some(node) = self.nodes.get(id)
        {
            let common = common(&node.hashes, chain.get(depth..).unwrap_or_default());
            path.push((id, common as u16));
            if common < node.hashes.len() {
                break;
            }
            parent = id;
            depth += common;
        }
    }

    /// The child of `parent` that begins with the block of `chain` at `depth`.
    pub fn child(&self, parent: u32, chain: &[u32], depth: usize) -> Option<u32> {
        let first = *chain.get(depth)?;
        self.children.find(key(parent, first), |&id| self.is(id, parent, first)).copied()
    }

    fn is(&self, id: u32, parent: u32, first: u32) -> bool {
        self.nodes.get(id).is_some_and(|n| n.parent == parent && n.hashes.first() == Some(&first))
    }

    /// Adds a node under `parent`; the caller gives it a holding.
    pub fn add(&mut self, parent: u32, hashes: Box<[u32]>, popularity: Popularity) -> u32 {
        self.hashes += hashes.len();
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children += 1;
        }
        let id = self.nodes.insert(Node { parent, children: 0, first_holding: NONE, popularity, hashes });
        self.enter(id);
        id
    }

    /// Puts a node into the table under its parent and first hash.
    fn enter(&mut self, id: u32) {
        let nodes = &self.nodes;
        let hash = |&id: &u32| match nodes.get(id) {
            Some(Node { parent, hashes, .. }) => key(*parent, hashes.first().copied().unwrap_or_default()),
            None => 0,
        };
        self.children.insert_unique(hash(&id), id, hash);
    }

    /// Takes a node out of the table.
    fn leave(&mut self, id: u32) {
        let Some(node) = self.nodes.get(id) else { return };
        let hash = key(node.parent, node.hashes.first().copied().unwrap_or_default());
        if let Ok(entry) = self.children.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
    }

    /// Appends blocks to a leaf.
    pub fn grow(&mut self, id: u32, new: &[u32]) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let mut hashes = std::mem::take(&mut node.hashes).into_vec();
        hashes.reserve_exact(new.len());
        hashes.extend_from_slice(new);
        node.hashes = hashes.into_boxed_slice();
        self.hashes += new.len();
    }

    /// Cuts the node `id` after `at` blocks; returns the new node that takes the upper part. The caller
    /// divides the holdings between the two.
    pub fn split(&mut self, id: u32, at: usize) -> u32 {
        self.leave(id);
        let Some(node) = self.nodes.get_mut(id) else { return NONE };
        let mut hashes = std::mem::take(&mut node.hashes).into_vec();
        let lower = hashes.split_off(at);
        let (parent, popularity) = (node.parent, node.popularity);
        node.hashes = lower.into_boxed_slice();
        self.hashes -= hashes.len();
        // `add` counts a child that the parent has already.
        let upper = self.add(parent, hashes.into_boxed_slice(), popularity);
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children -= 1;
        }
        if let Some(upper) = self.nodes.get_mut(upper) {
            upper.children = 1;
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.parent = upper;
        }
        self.enter(id);
        upper
    }

    /// Removes the node `id` and its parents as long as nobody holds them and nothing follows them.
    pub fn prune(&mut self, mut id: u32) {
        while let Some(node) = self.nodes.get(id) {
            if node.children > 0 || node.first_holding != NONE {
                return;
            }
            self.leave(id);
            let Some(node) = self.nodes.get_mut(id) else { return };
            let parent = node.parent;
            self.hashes -= node.hashes.len();
            self.nodes.remove(id);
            if let Some(parent) = self.nodes.get_mut(parent) {
                parent.children -= 1;
            }
            id = parent;
        }
    }

    /// Frees the tail of a leaf of which only the first `held` blocks are held.
    pub fn free_tail(&mut self, id: u32, held: usize) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        // An eighth at a time, so that a run that loses block after block is not copied for each.
        if held + held / 8 < node.hashes.len() {
            self.hashes -= node.hashes.len() - held;
            let mut hashes = std::mem::take(&mut node.hashes).into_vec();
            hashes.truncate(held);
            node.hashes = hashes.into_boxed_slice();
        }
    }

    /// Memory that is taken, in bytes, in use or not: the tables, and the runs of hashes with 16 bytes of the
    /// allocator each.
    pub fn memory(&self) -> usize {
        self.nodes.memory()
            + self.children.allocation_size()
            + self.nodes.len() * 16
            + self.hashes * size_of::<u32>()
    }

    /// Bytes of free nodes, which only new nodes can use.
    pub fn idle(&self) -> usize {
        self.nodes.idle()
    }

    /// Nodes that can be added before the tree needs another chunk of `CHUNK_MEMORY` bytes.
    pub fn room(&self) -> usize {
        self.nodes.room()
    }

    /// Bytes by which the nodes grow.
    pub const CHUNK_MEMORY: usize = Slab::<Node>::CHUNK_MEMORY;
}

#[cfg(test)]
impl Tree {
    pub fn hashes(&self) -> usize {
        self.hashes
    }

    /// Checks every link and count of the tree; returns the nodes.
    pub fn check(&self) -> Vec<u32> {
        let live = self.nodes.live();
        for &id in &live {
            let node = self.nodes.get(id).unwrap();
            assert!(!node.hashes.is_empty());
            assert!(self.is(id, node.parent, node.hashes[0]));
            assert_eq!(self.child(node.parent, &node.hashes, 0), Some(id), "every node is found");
            let children = live.iter().filter(|&&child| self.nodes.get(child).unwrap().parent == id).count();
            assert_eq!(children, node.children as usize);
            assert!(node.children > 0 || node.first_holding != NONE, "no node without a use");
        }
        assert_eq!(
            self.hashes,
            live.iter().map(|&id| self.nodes.get(id).unwrap().hashes.len()).sum::<usize>()
        );
        assert_eq!(self.children.len(), live.len());
        live
    }
}

fn key(parent: u32, first: u32) -> u64 {
    // Hashes are uniform already; one multiplication mixes the parent in.
    (u64::from(parent) << 32 | u64::from(first)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// How many leading hashes are the same.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
