//! Beginnings of bodies that were read before. A conversation comes again with each of its rounds, and up to its last messages
//! a body has the bytes of the one before it: those need not be scanned and hashed once more.
//!
//! A beginning ends with the last message of a body, and goes when the conversation goes on; or with the first message, which
//! may be a system prompt that many share. Kept of it are its fingerprint, how it was taken apart, and the chain of the prompt up to
//! there. The fingerprint is a hash of all its bytes: in V8 that takes 1.8 us of 32 KiB, where scanning takes 4 and the hashes of
//! blocks 5.
//!
//! Which pod holds a prompt is the index' business: this only saves time, and what it finds is what [`body::parse`] and the
//! chain would have found, which its twin in the tests checks. Who makes two beginnings of one fingerprint makes the router believe
//! that a prompt is where it is not, as with two blocks of one hash. The request goes to a pod all the same: a body that is
//! not JSON behind what was known is read once more as a whole.
//!
//! [`body::parse`]: crate::request::body::parse

use std::sync::Arc;

use crate::request::blocks::{Chain, chained};
use crate::request::body::{Api, BodyError, Messages, Prompt, Request, Span, parse, parse_after};
use crate::request::prompt::{before_messages, canonical, parts};

/// Bytes from one place to the next at which a body is looked up; shorter ones are not.
const CHUNK_BYTES: usize = 4096;
/// Entries that are found by the same chunks: of conversations that have only the system prompt in common so far, and that
/// prompt.
const WAYS: usize = 4;
const SETS: usize = 1024;
/// Bytes that all beginnings of a worker may take: some 3,000 of 32 KiB.
const MEMORY: usize = 4 << 20;
/// Share of that for one: the part of a block at its end grows with it, to a megabyte in a body of 32 MiB.
const LARGEST_SHARE: usize = 64;

/// A request, and what was known of it before.
#[derive(Debug)]
pub struct ParsedRequest<'a> {
    /// The request; its messages are those that were not known.
    pub request: Request<'a>,
    /// What stands before them.
    after: Option<Arc<CacheEntry>>,
    /// What it teaches, the shorter one first.
    new_entries: [Option<CacheKey>; 2],
}

/// A beginning, but for its chain.
#[derive(Clone, Copy, Debug)]
struct CacheKey {
    fingerprint: Fingerprint,
    messages: Span,
    preamble: u64,
    /// Whether it ends with the first of several messages.
    shared: bool,
}

/// Names the first bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    /// All whole chunks of them.
    chunks: u64,
    /// All of them.
    whole: u64,
}

#[derive(Debug)]
struct CacheEntry {
    key: CacheKey,
    /// The chain of the prompt up to there.
    chain: Chain,
}

/// Entries with the hashes of their chunks, the most recently used one first: as large as a line of the CPU's cache, so that
/// looking for one that is not there costs no more than that.
type Set = [CacheWay; WAYS];
type CacheWay = Option<(u64, Arc<CacheEntry>)>;

/// The beginnings that a worker knows.
#[derive(Debug)]
pub struct ParseCache {
    limit: usize,
    /// By the hash of their chunks.
    sets: Vec<Set>,
    memory: usize,
    /// The set that has to give something up next, when memory is short.
    hand: usize,
}

impl Default for ParseCache {
    /// None, and room for as many as a worker may know.
    fn default() -> Self {
        ParseCache::new(MEMORY)
    }
}

impl<'a> From<Request<'a>> for ParsedRequest<'a> {
    /// A request of which nothing was known.
    fn from(request: Request<'a>) -> Self {
        ParsedRequest { request, after: None, new_entries: [None, None] }
    }
}

impl ParseCache {
    fn new(limit: usize) -> ParseCache {
        ParseCache { limit, sets: Vec::new(), memory: 0, hand: 0 }
    }

    /// Reads a request body, from where it is no longer known.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn read<'a>(&mut self, api: Api, body: &'a [u8]) -> Result<ParsedRequest<'a>, BodyError> {
        let chunk_hashes = chunk_hashes(api, body);
        if chunk_hashes.is_empty() {
            return parse(api, body).map(ParsedRequest::from);
        }
        let known = self.find(&chunk_hashes, body);
        if let Some(reading) = known.and_then(|known| ParsedRequest::after(known, api, &chunk_hashes, body)) {
            return Ok(reading);
        }
        let request = parse(api, body)?;
        let preamble = preamble(&request);
        Ok(ParsedRequest::of(request, None, preamble, &chunk_hashes, body))
    }

    /// Makes the chain of a prompt, for which `add` adds pieces, and keeps the beginnings that it teaches.
    pub fn chain(&mut self, reading: &ParsedRequest<'_>, chain: &mut Chain, add: impl Fn(&mut Chain, &[u8])) {
        let ParsedRequest { request, after, new_entries } = reading;
        match after {
            Some(known) => chain.resume(&known.chain),
            None => chain.start(&request.model, request.cache_salt.as_deref()),
        }
        match messages(request) {
            None => canonical(&request.prompt, |piece| add(chain, piece)),
            Some(messages) => {
                if after.is_none() {
                    before_messages(&request.prompt, |piece| add(chain, piece));
                }
                let mut done = messages.skipped.map_or(0, |skipped| skipped.parts);
                let mut rest = messages.parts.as_slice();
                for key in new_entries.iter().flatten() {
                    let count = key.messages.parts.saturating_sub(done);
                    let (new, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
                    parts(new, |piece| add(chain, piece));
                    (done, rest) = (key.messages.parts, others);
                    if let Some(known) = after.as_ref().filter(|known| !known.key.shared) {
                        self.forget(known.key.fingerprint);
                    }
                    self.keep(CacheEntry { key: *key, chain: chain.clone() });
                }
                parts(rest, |piece| add(chain, piece));
            }
        }
        chain.finish();
    }

    /// The longest beginning of `body` that is known.
    fn find(&mut self, chunk_hashes: &[u64], body: &[u8]) -> Option<Arc<CacheEntry>> {
        chunk_hashes.iter().rev().find_map(|&chunks| {
            let set = self.sets.get_mut(set_of(chunks))?;
            let found = set.iter().enumerate().filter_map(|(at, way)| {
                let (key, known) = way.as_ref()?;
                let CacheKey { fingerprint, messages, .. } = known.key;
                (*key == chunks && Fingerprint::of(chunk_hashes, body, messages.end)? == fingerprint)
                    .then_some((messages.end, at))
            });
            let (_, at) = found.max()?;
            set.get_mut(..=at)?.rotate_right(1);
            set.first()?.as_ref().map(|(_, known)| Arc::clone(known))
        })
    }

    fn forget(&mut self, fingerprint: Fingerprint) {
        let Some(set) = self.sets.get_mut(set_of(fingerprint.chunks)) else { return };
        if let Some(at) = set.iter().position(|way| is(way, fingerprint))
            && let Some(places) = set.get_mut(at..)
        {
            let gone = places.first_mut().and_then(Option::take);
            places.rotate_left(1);
            self.memory -= gone.map_or(0, |(_, known)| known.memory());
        }
    }

    fn keep(&mut self, entry: CacheEntry) {
        let memory = entry.memory();
        if memory > self.limit / LARGEST_SHARE {
            return;
        }
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Default::default);
        }
        let fingerprint = entry.key.fingerprint;
        let Some(set) = self.sets.get_mut(set_of(fingerprint.chunks)) else { return };
        // The same bytes for another model are the same beginning; else the least recently used one makes room.
        let at = set.iter().position(|way| way.is_none() || is(way, fingerprint)).unwrap_or(WAYS - 1);
        if let Some(places) = set.get_mut(..=at) {
            places.rotate_right(1);
        }
        let before = set.first_mut().and_then(|first| first.replace((fingerprint.chunks, Arc::new(entry))));
        self.memory += memory;
        self.memory -= before.map_or(0, |(_, known)| known.memory());
        while self.memory > self.limit {
            self.hand = (self.hand + 1) % SETS;
            let oldest =
                self.sets.get_mut(self.hand).and_then(|set| set.iter_mut().rev().find_map(Option::take));
            self.memory -= oldest.map_or(0, |(_, known)| known.memory());
        }
    }
}

impl<'a> ParsedRequest<'a> {
    /// The reading of a body from where it is no longer known. None where what is known does not count: other messages come
    /// behind it, or they are for another model, or with other tools; or the body is not JSON there, of which its start decides.
    fn after(
        known: Arc<CacheEntry>,
        api: Api,
        chunk_hashes: &[u64],
        body: &'a [u8],
    ) -> Option<ParsedRequest<'a>> {
        let request = parse_after(api, body, Some(known.key.messages)).ok()?;
        let preamble = preamble(&request);
        let counts = messages(&request)?.skipped.is_some() && known.key.preamble == preamble;
        counts.then(|| ParsedRequest::of(request, Some(known), preamble, chunk_hashes, body))
    }

    fn of(
        request: Request<'a>,
        after: Option<Arc<CacheEntry>>,
        preamble: u64,
        chunk_hashes: &[u64],
        body: &[u8],
    ) -> ParsedRequest<'a> {
        let known = after.as_ref().map_or(0, |known| known.key.messages.end);
        let key = |messages: Option<Span>, shared| {
            let messages = messages.filter(|messages| messages.end > known)?;
            Some(CacheKey {
                fingerprint: Fingerprint::of(chunk_hashes, body, messages.end)?,
                messages,
                preamble,
                shared,
            })
        };
        let new_entries =
            messages(&request).map_or([None, None], |m| [key(m.first, true), key(m.all, false)]);
        ParsedRequest { request, after, new_entries }
    }
}

impl CacheEntry {
    fn memory(&self) -> usize {
        size_of::<CacheEntry>() + self.chain.memory()
    }
}

impl Fingerprint {
    /// The fingerprint of the first `end` bytes of a body; they must have a step.
    fn of(chunk_hashes: &[u64], body: &[u8], end: usize) -> Option<Fingerprint> {
        let whole_chunks = end / CHUNK_BYTES;
        let chunks = *chunk_hashes.get(whole_chunks.checked_sub(1)?)?;
        let rest = body.get(whole_chunks * CHUNK_BYTES..end)?;
        Some(Fingerprint { chunks, whole: chained(rest, chunks) })
    }
}

/// A hash of each number of whole chunks that a body has.
fn chunk_hashes(api: Api, body: &[u8]) -> Vec<u64> {
    let mut before = api as u64;
    let chunks = body.as_chunks::<CHUNK_BYTES>().0.iter();
    chunks
        .map(|step| {
            before = chained(step, before);
            before
        })
        .collect()
}

/// A hash of all that the chain of a prompt has before its messages: it may stand behind them in the body.
fn preamble(request: &Request<'_>) -> u64 {
    let mut digest = chained(&request.model, 0);
    if let Some(salt) = &request.cache_salt {
        digest = chained(salt, !digest);
    }
    before_messages(&request.prompt, |piece| digest = chained(piece, digest));
    digest
}

fn messages<'r, 'a>(request: &'r Request<'a>) -> Option<&'r Messages<'a>> {
    match &request.prompt {
        Prompt::Chat { messages, .. } => Some(messages),
        _ => None,
    }
}

fn is(way: &CacheWay, fingerprint: Fingerprint) -> bool {
    way.as_ref().is_some_and(|(_, known)| known.key.fingerprint == fingerprint)
}

fn set_of(chunks: u64) -> usize {
    chunks as usize % SETS
}

#[cfg(test)]
mod tests;
