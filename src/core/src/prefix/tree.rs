//! Which pod is believed to hold which block: a radix tree over block hashes, one replica a worker.
//!
//! It believes what vLLM does. A match is contiguous from the start of the prompt, for each pod by itself. Heads outlive
//! tails: a use makes every block of a prompt recent, the first one most, and the tail of the least recently used prompt
//! goes first. A pod holds no more than its KV cache, and a pod that restarts holds nothing.
//!
//! A run of blocks that no other prompt shares is one node, four bytes a block; a conversation of 32 blocks costs about
//! 200 bytes. Each pod's share of a node is a holding, and all holdings of a pod stand in one list from the most to the
//! least recently used.

use hashbrown::HashTable;

use crate::Slot;
use crate::prefix::slab::Slab;
use crate::request::blocks::bytes_of;

/// How large an [`PrefixIndex`] may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLimits {
    /// Memory in bytes, as [`PrefixIndex::memory`] counts it.
    pub memory: usize,
    /// Holdings, over all pods.
    pub holdings: usize,
}

/// The index of one worker.
#[derive(Debug)]
pub struct PrefixIndex {
    limits: IndexLimits,
    nodes: Slab<Node>,
    holdings: Slab<Holding>,
    /// From (parent, first hash) to the node.
    children: HashTable<u32>,
    pods: Vec<PodHoldings>,
    /// Hashes in all nodes.
    hashes: usize,
    /// Ticks once a prompt; orders uses over all pods.
    clock: u32,
    /// The nodes of the prompt that is being put in, and how many blocks of each; kept for its memory.
    path: Path,
}

/// The way of a chain through the tree: nodes from the first on, and how many blocks of each are the chain's.
type Path = Vec<(u32, u16)>;

/// What [`PrefixIndex::look_up`] has found of a chain; kept for its memory.
#[derive(Clone, Debug, Default)]
pub struct PrefixMatch {
    path: Path,
    matches: Vec<u16>,
}

impl PrefixMatch {
    /// How many leading blocks the pod in `slot` holds.
    pub fn blocks(&self, slot: Slot) -> u16 {
        self.matches.get(usize::from(slot)).copied().unwrap_or(0)
    }
}

/// When a pod used a prompt, counted in the prompts of that pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UseStamp {
    /// This use.
    pub at: u32,
    /// The use before it of the last block that the pod held of the prompt; `None` when it held nothing.
    pub previous: Option<u32>,
}

/// A run of blocks: what follows its parent's last block.
#[derive(Debug)]
struct Node {
    parent: u32,
    children: u32,
    first_holding: u32,
    /// Prompts that went through it, older ones counting less, as of `counted_at`; those that go on where the last one ended are
    /// the same conversation, and do not count.
    popularity: f32,
    counted_at: u32,
    hashes: Box<[u32]>,
}

/// A pod's share of a node: its first `blocks` blocks.
#[derive(Debug)]
struct Holding {
    node: u32,
    slot: Slot,
    blocks: u16,
    /// Blocks before the node, so that bytes can be told without walking up.
    depth: u16,
    /// When it was used last: in prompts of all pods, to compare pods, and in prompts of its own pod.
    index_clock: u32,
    pod_clock: u32,
    newer: u32,
    older: u32,
    next_in_node: u32,
}

/// What one pod is believed to hold.
#[derive(Clone, Debug)]
struct PodHoldings {
    newest: u32,
    oldest: u32,
    bytes: u64,
    capacity: u64,
    /// Ticks once a prompt of this pod. All replicas count the same prompts in the order of the log, so that the time between
    /// two uses is the same number in each.
    pod_clock: u32,
}

/// About how many prompts back popularity looks.
const POPULARITY_WINDOW: f32 = 200.0;
/// Prompts that are no evidence yet: the first with a prefix says nothing of others.
const POPULARITY_DOUBT: f32 = 1.0;
/// How near to its share of the pods a prefix must come to be worth the next copy: of 8 pods, one that all prompts start
/// with has a copy on each after 13 prompts, and with 0 after 429, as older prompts count less.
const POPULARITY_SLACK: f32 = 0.5;
/// No node, no holding.
const NONE: u32 = u32::MAX;
/// The parent of all first nodes; stands in no table.
const ROOT: u32 = u32::MAX - 1;

impl Default for PodHoldings {
    fn default() -> Self {
        PodHoldings { newest: NONE, oldest: NONE, bytes: 0, capacity: u64::MAX, pod_clock: 0 }
    }
}

impl Default for Holding {
    /// A holding that is free.
    fn default() -> Self {
        Holding {
            node: NONE,
            slot: 0,
            blocks: 0,
            depth: 0,
            index_clock: 0,
            pod_clock: 0,
            newer: NONE,
            older: NONE,
            next_in_node: NONE,
        }
    }
}

impl Default for Node {
    /// A node that is free: nobody holds it.
    fn default() -> Self {
        Node {
            parent: NONE,
            children: 0,
            first_holding: NONE,
            popularity: 0.0,
            counted_at: 0,
            hashes: Box::default(),
        }
    }
}

fn key(parent: u32, first: u32) -> u64 {
    // Hashes are uniform already; one multiplication mixes the parent in.
    (u64::from(parent) << 32 | u64::from(first)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

impl PrefixIndex {
    /// An empty index.
    pub fn new(limits: IndexLimits) -> PrefixIndex {
        PrefixIndex {
            limits,
            nodes: Slab::default(),
            holdings: Slab::default(),
            children: HashTable::new(),
            pods: Vec::new(),
            hashes: 0,
            clock: 0,
            path: Vec::new(),
        }
    }

    /// Looks up how many leading blocks of `chain` each of so many pods holds.
    pub fn look_up(&self, chain: &[u32], pods: usize, found: &mut PrefixMatch) {
        self.find(chain, &mut found.path);
        let matches = &mut found.matches;
        matches.clear();
        matches.resize(pods, 0);
        let mut depth = 0;
        for &(id, common) in &found.path {
            let Some(node) = self.nodes.get(id) else { return };
            let (mut holding, mut goes_on) = (node.first_holding, false);
            while let Some(h) = self.holdings.get(holding) {
                if let Some(m) = matches.get_mut(usize::from(h.slot))
                    && *m == depth
                {
                    *m += h.blocks.min(common);
                    goes_on |= h.blocks >= common;
                }
                holding = h.next_in_node;
            }
            if !goes_on {
                return;
            }
            depth += common;
        }
    }

    /// How many leading blocks of a chain that was looked up are popular: so large a share of all prompts starts with them that the
    /// pods which hold them are fewer than their share of `pods`. Then how many are in use: of `in_flight` requests each pod
    /// that holds them has at least one.
    pub fn popularity(&self, found: &PrefixMatch, pods: f32, in_flight: f32) -> (usize, usize) {
        let (mut popular, mut used, mut depth) = (0, 0, 0);
        let all = self.aged(POPULARITY_WINDOW, 0).min(self.clock as f32) + POPULARITY_DOUBT;
        for &(id, common) in &found.path {
            let Some(node) = self.nodes.get(id) else { break };
            let share = (self.aged(node.popularity, self.clock.wrapping_sub(node.counted_at))
                - POPULARITY_DOUBT)
                .max(0.0)
                / all;
            let (mut holding, mut holders) = (node.first_holding, 0.0);
            while let Some(h) = self.holdings.get(holding) {
                holders += f32::from(u8::from(h.blocks >= common));
                holding = h.next_in_node;
            }
            let goes_on_hot = popular == depth && share > 0.0 && share * pods + POPULARITY_SLACK > holders;
            let goes_on_used = used == depth && share * in_flight >= holders;
            depth += usize::from(common);
            if goes_on_hot {
                popular = depth;
            }
            if goes_on_used {
                used = depth;
            }
            if !goes_on_hot && !goes_on_used {
                break;
            }
        }
        (popular, used)
    }

    fn aged(&self, popularity: f32, prompts: u32) -> f32 {
        popularity * (-(prompts as f32) / POPULARITY_WINDOW).exp()
    }

    /// The pod in `slot` has computed the prompt `chain`: it holds all of it now, and used it last.
    pub fn insert(&mut self, slot: Slot, chain: &[u32]) -> UseStamp {
        let mut done = UseStamp { at: self.pod_clock(slot), previous: None };
        if chain.is_empty() {
            return done;
        }
        self.clock = self.clock.wrapping_add(1);
        done.at = done.at.wrapping_add(1);
        self.holdings_of_pod(slot).pod_clock = done.at;
        let mut path = std::mem::take(&mut self.path);
        let grown = self.walk(slot, chain, &mut path);
        let mut depth = path.iter().map(|&(_, blocks)| blocks).sum::<u16>();
        // The last part first, so that the first part ends up as the most recent.
        for &(node, blocks) in path.iter().rev() {
            if grown != Some(node) {
                self.count_prompt(node);
            }
            depth -= blocks;
            let before = self.hold(slot, node, depth, blocks, done.at);
            done.previous = done.previous.or(before);
        }
        path.clear();
        self.path = path;
        self.fit(slot);
        done
    }

    /// The pod's count of prompts.
    pub fn pod_clock(&self, slot: Slot) -> u32 {
        self.pods.get(usize::from(slot)).map_or(0, |pod| pod.pod_clock)
    }

    /// The pod in `slot` did not compute in its `turn` what it was sent then: beyond the first `keep` blocks of `chain` it
    /// holds only what another prompt has used since.
    pub fn trim(&mut self, slot: Slot, chain: &[u32], keep: usize, at: u32) {
        let mut path = Path::new();
        self.find(chain, &mut path);
        let mut depth = path.iter().map(|&(_, common)| usize::from(common)).sum::<usize>();
        for (id, common) in path.into_iter().rev() {
            depth -= usize::from(common);
            if keep >= depth + usize::from(common) {
                break;
            }
            if let Some(holding) = self.holding_of(id, slot)
                && self.holdings.get(holding).is_some_and(|h| h.pod_clock == at)
            {
                self.shorten(holding, keep.saturating_sub(depth));
            }
        }
    }

    /// The pod in `slot` has lost something that it used last in its `turn`: with it went all that it used no later, for the
    /// least recently used goes first.
    pub fn evict(&mut self, slot: Slot, up_to: u32) {
        let Some(now) = self.pods.get(usize::from(slot)).map(|pod| pod.pod_clock) else { return };
        while let Some(oldest) = self.pods.get(usize::from(slot)).map(|pod| pod.oldest)
            && let Some(holding) = self.holdings.get(oldest)
            && now.wrapping_sub(holding.pod_clock) >= now.wrapping_sub(up_to)
        {
            self.shorten(oldest, 0);
        }
    }

    /// The pod in `slot` holds nothing any more.
    pub fn flush(&mut self, slot: Slot) {
        while let Some(oldest) = self.pods.get(usize::from(slot)).map(|p| p.oldest).filter(|&o| o != NONE) {
            self.shorten(oldest, 0);
        }
    }

    /// Sets how many canonical bytes the pod in `slot` can hold.
    pub fn set_capacity(&mut self, slot: Slot, bytes: u64) {
        self.holdings_of_pod(slot).capacity = bytes;
        self.fit(slot);
    }

    /// Share of its capacity that the pod in `slot` is believed to use, 0 to 1.
    pub fn fill(&self, slot: Slot) -> f32 {
        self.pods.get(usize::from(slot)).map_or(0.0, |p| (p.bytes as f64 / p.capacity.max(1) as f64) as f32)
    }

    /// Canonical bytes that the pod in `slot` is believed to hold.
    pub fn held(&self, slot: Slot) -> u64 {
        self.pods.get(usize::from(slot)).map_or(0, |p| p.bytes)
    }

    /// Shares of nodes that pods hold, over all pods.
    pub fn holdings(&self) -> usize {
        self.holdings.len()
    }

    /// Memory that is taken, in bytes, whether in use or not: the tables, and the runs of hashes with 16 bytes of the allocator
    /// each.
    pub fn memory(&self) -> usize {
        self.nodes.memory()
            + self.holdings.memory()
            + self.children.allocation_size()
            + self.nodes.len() * 16
            + self.hashes * size_of::<u32>()
    }

    // --- the tree ---

    /// Finds the way of `chain` as far as the tree knows it.
    fn find(&self, chain: &[u32], path: &mut Path) {
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

    fn child(&self, parent: u32, chain: &[u32], depth: usize) -> Option<u32> {
        let first = *chain.get(depth)?;
        self.children.find(key(parent, first), |&id| self.is(id, parent, first)).copied()
    }

    fn is(&self, id: u32, parent: u32, first: u32) -> bool {
        self.nodes.get(id).is_some_and(|n| n.parent == parent && n.hashes.first() == Some(&first))
    }

    /// Finds the nodes of `chain`, makes what is missing, and writes them into `path` from the first to the last. Returns the
    /// last one if the prompt goes on where another ended.
    ///
    /// A node of which the pod in `slot` holds more than the prompt uses is cut where the prompt ends: what follows was not
    /// used, and grows old.
    fn walk(&mut self, slot: Slot, chain: &[u32], path: &mut Path) -> Option<u32> {
        let (mut parent, mut depth) = (ROOT, 0);
        while let Some(rest) = chain.get(depth..).filter(|rest| !rest.is_empty()) {
            let Some(id) = self.child(parent, chain, depth) else {
                let id = self.add_node(parent, rest.into());
                path.push((id, rest.len() as u16));
                return None;
            };
            let node = self.nodes.get_mut(id)?;
            let common = common(&node.hashes, rest);
            if common == rest.len() {
                let longer = common < node.hashes.len() && self.holds_more(id, slot, common);
                path.push((if longer { self.split(id, common) } else { id }, common as u16));
                return None;
            }
            if common == node.hashes.len() {
                if node.children == 0 {
                    // A conversation that grows: its last node grows with it.
                    let mut hashes = std::mem::take(&mut node.hashes).into_vec();
                    let new = rest.get(common..).unwrap_or_default();
                    hashes.reserve_exact(new.len());
                    hashes.extend_from_slice(new);
                    node.hashes = hashes.into_boxed_slice();
                    self.hashes += new.len();
                    path.push((id, rest.len() as u16));
                    return Some(id);
                }
                path.push((id, common as u16));
                parent = id;
            } else {
                let upper = self.split(id, common);
                path.push((upper, common as u16));
                parent = upper;
            }
            depth += common;
        }
        None
    }

    fn add_node(&mut self, parent: u32, hashes: Box<[u32]>) -> u32 {
        self.hashes += hashes.len();
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children += 1;
        }
        let node = Node {
            parent,
            children: 0,
            first_holding: NONE,
            popularity: 0.0,
            counted_at: self.clock,
            hashes,
        };
        let id = self.nodes.insert(node);
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

    /// Cuts the node `id` after `at` blocks; returns the new node that takes the upper part.
    fn split(&mut self, id: u32, at: usize) -> u32 {
        self.leave(id);
        let Some(node) = self.nodes.get_mut(id) else { return NONE };
        let mut hashes = std::mem::take(&mut node.hashes).into_vec();
        let lower = hashes.split_off(at);
        let (parent, popularity, counted_at) = (node.parent, node.popularity, node.counted_at);
        node.hashes = lower.into_boxed_slice();
        self.hashes -= hashes.len();
        // `add_node` counts a child that the parent has already.
        let upper = self.add_node(parent, hashes.into_boxed_slice());
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children -= 1;
        }
        if let Some(upper) = self.nodes.get_mut(upper) {
            upper.children = 1;
            (upper.popularity, upper.counted_at) = (popularity, counted_at);
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.parent = upper;
        }
        self.enter(id);
        self.split_holdings(id, upper, at as u16);
        // Of a leaf with a tail that nobody holds, nothing is left.
        self.prune(id);
        upper
    }

    /// Every holding of `lower` gives its first `at` blocks to `upper`.
    fn split_holdings(&mut self, lower: u32, upper: u32, at: u16) {
        let mut next = self.nodes.get(lower).map_or(NONE, |n| n.first_holding);
        while let Some(h) = self.holdings.get_mut(next) {
            let (id, slot, depth, newer) = (next, h.slot, h.depth, h.newer);
            let (index_clock, pod_clock) = (h.index_clock, h.pod_clock);
            next = h.next_in_node;
            let taken = h.blocks.min(at);
            h.blocks -= taken;
            h.depth += at;
            let emptied = h.blocks == 0;
            // The bytes stay with the pod: what one loses the other takes.
            let new = self.add_holding(Holding {
                node: upper,
                slot,
                blocks: taken,
                depth,
                index_clock,
                pod_clock,
                newer: NONE,
                older: NONE,
                next_in_node: NONE,
            });
            self.link(new, newer, id);
            if emptied {
                self.drop_holding(id);
            }
        }
    }

    /// Removes the node `id` and its parents as long as nobody holds them and nothing follows them.
    fn prune(&mut self, mut id: u32) {
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

    /// A prompt goes through a node.
    fn count_prompt(&mut self, id: u32) {
        let clock = self.clock;
        let Some(node) = self.nodes.get(id) else { return };
        let popularity = self.aged(node.popularity, clock.wrapping_sub(node.counted_at)) + 1.0;
        if let Some(node) = self.nodes.get_mut(id) {
            (node.popularity, node.counted_at) = (popularity, clock);
        }
    }

    // --- the holdings ---

    fn holding_of(&self, node: u32, slot: Slot) -> Option<u32> {
        let mut id = self.nodes.get(node)?.first_holding;
        loop {
            let holding = self.holdings.get(id)?;
            if holding.slot == slot {
                return Some(id);
            }
            id = holding.next_in_node;
        }
    }

    fn holds_more(&self, node: u32, slot: Slot, blocks: usize) -> bool {
        self.holding_of(node, slot)
            .and_then(|id| self.holdings.get(id))
            .is_some_and(|holding| usize::from(holding.blocks) > blocks)
    }

    /// The pod holds the first `blocks` blocks of `node`, and used them just now, in its `turn`; returns when before.
    fn hold(&mut self, slot: Slot, node: u32, depth: u16, blocks: u16, pod_clock: u32) -> Option<u32> {
        let index_clock = self.clock;
        let known = self.holding_of(node, slot);
        let before = known.and_then(|id| self.holdings.get(id)).map(|holding| holding.pod_clock);
        let id = match known {
            Some(id) => {
                self.unlink(id);
                id
            }
            None => self.add_holding(Holding {
                node,
                slot,
                blocks: 0,
                depth,
                index_clock,
                pod_clock,
                newer: NONE,
                older: NONE,
                next_in_node: NONE,
            }),
        };
        let newest = self.holdings_of_pod(slot).newest;
        self.link(id, NONE, newest);
        if let Some(holding) = self.holdings.get_mut(id) {
            (holding.index_clock, holding.pod_clock) = (index_clock, pod_clock);
            let held = span(holding);
            holding.blocks = holding.blocks.max(blocks);
            let grown = span(holding) - held;
            self.holdings_of_pod(slot).bytes += grown;
        }
        before
    }

    /// Puts a holding into its node; the caller links it into its pod's list.
    fn add_holding(&mut self, mut holding: Holding) -> u32 {
        let node = holding.node;
        holding.next_in_node = self.nodes.get(node).map_or(NONE, |node| node.first_holding);
        let id = self.holdings.insert(holding);
        if let Some(node) = self.nodes.get_mut(node) {
            node.first_holding = id;
        }
        id
    }

    /// Takes an empty holding out of its pod's list and its node.
    fn drop_holding(&mut self, id: u32) {
        self.unlink(id);
        let Some(holding) = self.holdings.get(id) else { return };
        let (node, next) = (holding.node, holding.next_in_node);
        self.holdings.remove(id);
        let Some(node) = self.nodes.get_mut(node) else { return };
        if node.first_holding == id {
            node.first_holding = next;
            return;
        }
        let mut at = node.first_holding;
        while let Some(holding) = self.holdings.get_mut(at) {
            if holding.next_in_node == id {
                holding.next_in_node = next;
                return;
            }
            at = holding.next_in_node;
        }
    }

    /// Lets a holding keep its first `keep` blocks; drops it, and what of the tree only it kept alive, at 0.
    fn shorten(&mut self, id: u32, keep: usize) {
        let Some(holding) = self.holdings.get_mut(id) else { return };
        let before = span(holding);
        holding.blocks = holding.blocks.min(keep as u16);
        let freed = before - span(holding);
        let (node, slot, emptied) = (holding.node, holding.slot, holding.blocks == 0);
        self.holdings_of_pod(slot).bytes -= freed;
        if emptied {
            self.drop_holding(id);
            self.prune(node);
        }
        self.shrink(node);
    }

    /// Frees the tail of a leaf that nobody holds any more.
    fn shrink(&mut self, id: u32) {
        let Some(node) = self.nodes.get(id) else { return };
        if node.children > 0 || node.first_holding == NONE {
            return;
        }
        let (mut longest, mut at) = (0, node.first_holding);
        while let Some(holding) = self.holdings.get(at) {
            longest = longest.max(usize::from(holding.blocks));
            at = holding.next_in_node;
        }
        let Some(node) = self.nodes.get_mut(id) else { return };
        // An eighth at a time, so that a run that loses block after block is not copied for each.
        if longest + longest / 8 < node.hashes.len() {
            self.hashes -= node.hashes.len() - longest;
            let mut hashes = std::mem::take(&mut node.hashes).into_vec();
            hashes.truncate(longest);
            node.hashes = hashes.into_boxed_slice();
        }
    }

    /// Lets go of what is over the pod's capacity, then of what is over the limits of the index.
    fn fit(&mut self, slot: Slot) {
        let Some(pod) = self.pods.get(usize::from(slot)) else { return };
        let (mut over, mut oldest) = (pod.bytes.saturating_sub(pod.capacity), pod.oldest);
        while over > 0 && oldest != NONE {
            self.give_up(oldest, over);
            let Some(pod) = self.pods.get(usize::from(slot)) else { return };
            (over, oldest) = (pod.bytes.saturating_sub(pod.capacity), pod.oldest);
        }
        while self.is_full() {
            // Tables keep the room they once needed. A load of another kind, that leaves most of it empty and needs the memory
            // elsewhere, would be held in what little is left: better to begin anew, with little to lose.
            if self.nodes.idle() + self.holdings.idle() > self.limits.memory / 2 {
                return self.clear();
            }
            let clock = self.clock;
            let Some(oldest) = self
                .pods
                .iter()
                .filter_map(|pod| Some((pod.oldest, self.holdings.get(pod.oldest)?.index_clock)))
                .max_by_key(|&(_, used)| clock.wrapping_sub(used))
            else {
                return;
            };
            self.shorten(oldest.0, 0);
        }
    }

    /// Whether something must go. A table that is full up to the limit counts, for to let go of its entries gives no memory
    /// back: it must have room for a prompt before it needs another chunk.
    fn is_full(&self) -> bool {
        const PROMPT: usize = 64;
        let left = self.limits.memory.checked_sub(self.memory());
        left.is_none_or(|left| {
            left < Slab::<Node>::CHUNK_MEMORY && self.nodes.room() < PROMPT
                || left < Slab::<Holding>::CHUNK_MEMORY && self.holdings.room() < PROMPT
        }) || self.holdings() > self.limits.holdings
    }

    /// Forgets everything but the pods' capacities and counts of prompts.
    fn clear(&mut self) {
        (self.nodes, self.holdings, self.children, self.hashes) = Default::default();
        for pod in &mut self.pods {
            (pod.newest, pod.oldest, pod.bytes) = (NONE, NONE, 0);
        }
    }

    /// Takes at least `bytes` from the tail of a holding, or all of it.
    fn give_up(&mut self, id: u32, bytes: u64) {
        let Some(holding) = self.holdings.get(id) else { return };
        let left = span(holding).saturating_sub(bytes);
        let mut keep = holding.blocks;
        while keep > 0 && span_of(holding.depth, keep) > left {
            keep -= 1;
        }
        self.shorten(id, usize::from(keep));
    }

    // --- each pod's list, from the most to the least recently used ---

    fn holdings_of_pod(&mut self, slot: Slot) -> &mut PodHoldings {
        let at = usize::from(slot);
        if self.pods.len() <= at {
            self.pods.resize(at + 1, PodHoldings::default());
        }
        #[expect(clippy::indexing_slicing, reason = "made long enough just above")]
        &mut self.pods[at]
    }

    fn unlink(&mut self, id: u32) {
        let Some(holding) = self.holdings.get(id) else { return };
        let (slot, newer, older) = (holding.slot, holding.newer, holding.older);
        self.set_older(slot, newer, older);
        self.set_newer(slot, older, newer);
    }

    /// Puts `id` between two neighbours of its pod's list.
    fn link(&mut self, id: u32, newer: u32, older: u32) {
        let Some(holding) = self.holdings.get_mut(id) else { return };
        holding.newer = newer;
        holding.older = older;
        let slot = holding.slot;
        self.set_older(slot, newer, id);
        self.set_newer(slot, older, id);
    }

    fn set_older(&mut self, slot: Slot, of: u32, to: u32) {
        match self.holdings.get_mut(of) {
            Some(holding) => holding.older = to,
            None => self.holdings_of_pod(slot).newest = to,
        }
    }

    fn set_newer(&mut self, slot: Slot, of: u32, to: u32) {
        match self.holdings.get_mut(of) {
            Some(holding) => holding.newer = to,
            None => self.holdings_of_pod(slot).oldest = to,
        }
    }
}

/// Canonical bytes of a holding.
fn span(holding: &Holding) -> u64 {
    span_of(holding.depth, holding.blocks)
}

fn span_of(depth: u16, blocks: u16) -> u64 {
    bytes_of(usize::from(depth) + usize::from(blocks)) - bytes_of(usize::from(depth))
}

/// How many leading hashes are the same.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests;
