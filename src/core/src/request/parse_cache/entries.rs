//! The entries of a parse cache: bounded, the least recently used ones go first.

use std::sync::Arc;

use super::fingerprint::{Fingerprint, HashedBody};
use crate::request::blocks::Chain;
use crate::request::fields::Span;
use crate::request::opening::Opening;

/// Entries whose fingerprints have the same chunks: conversations that so far have only the system prompt in
/// common, and that prompt. A set is as large as a cache line of the CPU, so looking for an entry that is not
/// there costs one miss.
pub(super) const WAYS: usize = 4;
const SETS: usize = 1024;
/// Share of the memory that one entry may take: the open block at the end of a chain grows with the prompt.
const LARGEST_SHARE: usize = 64;

/// Everything that is known about the first bytes of a body, but for the chain of their prompt.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheKey {
    pub fingerprint: Fingerprint,
    /// The messages among those bytes; the bytes end with them.
    pub messages: Span,
    /// The opening of the conversation as far as those messages; `None` where nobody asked for it.
    pub opening: Option<Opening>,
    /// Whether any part of the messages is media.
    pub media: bool,
    /// Hash of the parts of a prompt that come before its messages; they may stand after the messages in the
    /// body.
    pub preamble: u64,
    /// Whether the bytes end with the first of several messages, which other conversations may share.
    pub shared: bool,
}

#[derive(Debug)]
pub(super) struct CacheEntry {
    pub key: CacheKey,
    /// The chain of the prompt up to the end of the messages.
    pub chain: Chain,
}

impl CacheEntry {
    pub fn memory(&self) -> usize {
        size_of::<CacheEntry>() + self.chain.memory()
    }
}

/// A place of a set: an entry, and the hash of its chunks.
type CacheWay = Option<(u64, Arc<CacheEntry>)>;
/// The most recently used entry comes first.
type Set = [CacheWay; WAYS];

/// Entries by the hash of their chunks.
#[derive(Debug)]
pub(super) struct Entries {
    /// Bytes that all entries may take.
    limit: usize,
    memory: usize,
    /// Empty until the first entry is kept.
    sets: Vec<Set>,
    /// The set that loses its oldest entry next when memory is short.
    hand: usize,
}

impl Entries {
    pub fn new(limit: usize) -> Entries {
        Entries { limit, memory: 0, sets: Vec::new(), hand: 0 }
    }

    /// The entry of the longest known start of `body`.
    pub fn find(&mut self, body: &HashedBody<'_, '_>) -> Option<Arc<CacheEntry>> {
        body.hashes().iter().rev().find_map(|&chunks| {
            let set = self.sets.get_mut(set_of(chunks))?;
            let found = set.iter().enumerate().filter_map(|(at, way)| {
                let (hash, entry) = way.as_ref()?;
                let CacheKey { fingerprint, messages, .. } = entry.key;
                (*hash == chunks && body.fingerprint(messages.end)? == fingerprint)
                    .then_some((messages.end, at))
            });
            let (_, at) = found.max()?;
            set.get_mut(..=at)?.rotate_right(1);
            set.first()?.as_ref().map(|(_, entry)| Arc::clone(entry))
        })
    }

    pub fn forget(&mut self, fingerprint: Fingerprint) {
        let Some(set) = self.sets.get_mut(set_of(fingerprint.chunks)) else { return };
        if let Some(at) = set.iter().position(|way| is(way, fingerprint))
            && let Some(places) = set.get_mut(at..)
        {
            let gone = places.first_mut().and_then(Option::take);
            places.rotate_left(1);
            self.memory -= gone.map_or(0, |(_, entry)| entry.memory());
        }
    }

    pub fn keep(&mut self, entry: CacheEntry) {
        let memory = entry.memory();
        if memory > self.limit / LARGEST_SHARE {
            return;
        }
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Default::default);
        }
        let fingerprint = entry.key.fingerprint;
        let Some(set) = self.sets.get_mut(set_of(fingerprint.chunks)) else { return };
        // The same bytes for another model replace the entry; else the least recently used one makes room.
        let at = set.iter().position(|way| way.is_none() || is(way, fingerprint)).unwrap_or(WAYS - 1);
        if let Some(places) = set.get_mut(..=at) {
            places.rotate_right(1);
        }
        let before = set.first_mut().and_then(|first| first.replace((fingerprint.chunks, Arc::new(entry))));
        self.memory += memory;
        self.memory -= before.map_or(0, |(_, entry)| entry.memory());
        while self.memory > self.limit {
            self.hand = (self.hand + 1) % SETS;
            let oldest =
                self.sets.get_mut(self.hand).and_then(|set| set.iter_mut().rev().find_map(Option::take));
            self.memory -= oldest.map_or(0, |(_, entry)| entry.memory());
        }
    }
}

#[cfg(test)]
impl Entries {
    pub fn memory(&self) -> usize {
        self.memory
    }

    pub fn iter(&self) -> impl Iterator<Item = &CacheEntry> {
        self.sets.iter().flatten().flatten().map(|(_, entry)| &**entry)
    }
}

fn is(way: &CacheWay, fingerprint: Fingerprint) -> bool {
    way.as_ref().is_some_and(|(_, entry)| entry.key.fingerprint == fingerprint)
}

fn set_of(chunks: u64) -> usize {
    chunks as usize % SETS
}
