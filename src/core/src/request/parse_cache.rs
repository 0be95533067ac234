//! Remembers the starts of bodies that were read before, so that the next round of a conversation is read
//! from where the last one ended.
//!
//! A conversation comes again with each of its rounds, and a round begins with the bytes of the one before
//! it. An entry of the cache stands for the bytes up to the end of the last message, and is replaced as the
//! conversation goes on; or for the bytes up to the end of the first message, which may be a system prompt
//! that many conversations share. It has the keyed hash of the bytes, where the messages stand in them, and
//! the chain of the prompt up to there.
//!
//! Which pod holds a prompt is not decided here: the cache only saves time, and its results are those of
//! [`parse`] and a new chain, which a naive twin in the tests checks. Two starts with one hash would make the
//! router believe that a prompt is where it is not. The request would still be served: a body that is no JSON
//! after its known start is read again as a whole. Why there is a cache at all:
//! `docs/adr/0003-parse-cache.md`.

mod entries;
mod fingerprint;

use std::sync::Arc;

use self::entries::{CacheEntry, CacheKey, Entries};
use self::fingerprint::{HashKey, HashedBody};
use crate::request::blocks::Chain;
use crate::request::body::{Api, BodyError, Part, Prompt, Request};
use crate::request::fields::{self, MessageSpans, Span};
use crate::request::parse;
use crate::request::prompt::{before_messages, canonical, parts};

/// Bytes that the entries of a worker may take: some 3,000 conversations of 32 KiB.
const MEMORY: usize = 4 << 20;

/// A request, and what the cache knows about it.
#[derive(Debug)]
pub struct ParsedRequest<'a> {
    /// The API that it is for; `None` when that is not known.
    pub api: Option<Api>,
    /// The request; its messages are those that the cache did not know.
    pub request: Request<'a>,
    /// The entry that stands for the messages before them.
    known: Option<Arc<CacheEntry>>,
    /// Entries to be made of this request, the shorter one first.
    new_entries: [Option<CacheKey>; 2],
}

impl ParsedRequest<'_> {
    /// As [`Prompt::is_text`], of the whole prompt.
    pub fn is_text(&self) -> bool {
        self.request.prompt.is_text() && !self.known.as_ref().is_some_and(|known| known.key.media)
    }
}

impl<'a> From<Request<'a>> for ParsedRequest<'a> {
    /// A request about which nothing was known.
    fn from(request: Request<'a>) -> Self {
        ParsedRequest { api: None, request, known: None, new_entries: [None, None] }
    }
}

/// The starts of bodies that a worker knows.
#[derive(Debug)]
pub struct ParseCache {
    key: HashKey,
    entries: Entries,
    /// Whether prompts are only counted and not hashed. The chains of the entries are of one kind or the other.
    counts: bool,
}

impl ParseCache {
    /// An empty cache. `seed` keys its hash: a random number that clients cannot know.
    pub fn new(seed: u64) -> ParseCache {
        ParseCache { key: HashKey::new(seed), entries: Entries::new(MEMORY), counts: false }
    }

    /// Says whether the prompts that are read from now on are only counted. Entries of the other kind are not used then, and are
    /// replaced.
    pub fn set_counts(&mut self, counts: bool) {
        self.counts = counts;
    }

    /// Reads a request body, from the end of its longest known start.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn read<'a>(&mut self, api: Api, body: &'a [u8]) -> Result<ParsedRequest<'a>, BodyError> {
        let hashed = HashedBody::new(&self.key, api, body);
        if hashed.hashes().is_empty() {
            // Shorter than a chunk.
            let parsed = parse(api, body).map(ParsedRequest::from)?;
            return Ok(ParsedRequest { api: Some(api), ..parsed });
        }
        if let Some(known) = self.entries.find(&hashed)
            && let Some(parsed) = self.resume(known, api, body, &hashed)
        {
            return Ok(parsed);
        }
        let (request, spans) = fields::read(api, body, None)?;
        let preamble = self.preamble(&request);
        let new_entries = new_entries(&request, spans, None, preamble, &hashed);
        Ok(ParsedRequest { api: Some(api), request, known: None, new_entries })
    }

    /// Makes the chain of a prompt, to which `add` adds pieces, and keeps the new entries.
    pub fn chain(&mut self, parsed: &ParsedRequest<'_>, chain: &mut Chain, add: impl Fn(&mut Chain, &[u8])) {
        let ParsedRequest { request, known, new_entries, .. } = parsed;
        match known {
            Some(known) => chain.resume(&known.chain),
            None => chain.start(&request.model, request.cache_salt.as_deref()),
        }
        let Prompt::Chat { messages, .. } = &request.prompt else {
            canonical(&request.prompt, |piece| add(chain, piece));
            return chain.finish();
        };
        if known.is_none() {
            before_messages(&request.prompt, |piece| add(chain, piece));
        }
        let mut done = known.as_ref().map_or(0, |known| known.key.messages.parts);
        let mut rest = messages.as_slice();
        for key in new_entries.iter().flatten() {
            let count = key.messages.parts.saturating_sub(done);
            let (new, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            parts(new, |piece| add(chain, piece));
            (done, rest) = (key.messages.parts, others);
            if let Some(known) = known.as_ref().filter(|known| !known.key.shared) {
                // The conversation has gone on.
                self.entries.forget(known.key.fingerprint);
            }
            self.entries.keep(CacheEntry { key: *key, chain: chain.clone() });
        }
        parts(rest, |piece| add(chain, piece));
        chain.finish();
    }

    /// Reads a body after its known start. `None` if the entry does not apply: a later `messages` key replaces
    /// those messages, the model, salt, tools or system text differ, or the rest is no valid body (the caller
    /// then reads all of it, so that errors do not depend on what was known).
    fn resume<'a>(
        &self,
        known: Arc<CacheEntry>,
        api: Api,
        body: &'a [u8],
        hashed: &HashedBody<'_, 'a>,
    ) -> Option<ParsedRequest<'a>> {
        let (request, spans) = fields::read(api, body, Some(known.key.messages)).ok()?;
        let preamble = self.preamble(&request);
        if !spans?.resumed || known.key.preamble != preamble {
            return None;
        }
        let new_entries = new_entries(&request, spans, Some(&known), preamble, hashed);
        Some(ParsedRequest { api: Some(api), request, known: Some(known), new_entries })
    }

    /// A hash of all that the chain of a prompt has before its messages, and of its kind.
    fn preamble(&self, request: &Request<'_>) -> u64 {
        let mut digest = self.key.hash(&request.model, u64::from(self.counts));
        if let Some(salt) = &request.cache_salt {
            digest = self.key.hash(salt, !digest);
        }
        before_messages(&request.prompt, |piece| digest = self.key.hash(piece, digest));
        digest
    }
}

/// The entries that a request adds to those which are `known`.
fn new_entries(
    request: &Request<'_>,
    spans: Option<MessageSpans>,
    known: Option<&CacheEntry>,
    preamble: u64,
    hashed: &HashedBody<'_, '_>,
) -> [Option<CacheKey>; 2] {
    let (Some(spans), Prompt::Chat { messages, .. }) = (spans, &request.prompt) else { return [None, None] };
    let known = known.map(|known| known.key);
    let entry = |span: Span, shared| {
        if span.end <= known.map_or(0, |known| known.messages.end) {
            return None;
        }
        let new = span.parts - known.map_or(0, |known| known.messages.parts);
        let media = known.is_some_and(|known| known.media) || messages.iter().take(new).any(Part::is_media);
        Some(CacheKey { fingerprint: hashed.fingerprint(span.end)?, messages: span, media, preamble, shared })
    };
    [spans.first.and_then(|first| entry(first, true)), entry(spans.all, false)]
}

#[cfg(test)]
mod tests;
