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
use crate::request::json::Text;
use crate::request::opening::Opening;
use crate::request::parse;
use crate::request::prompt::{before_messages, canonical, parts};
use crate::settings::criticality::Criticality;
use crate::settings::models::Asked;
use crate::settings::{self, PoolSettings};
use crate::shared::model_names::ModelNames;

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
    /// What becomes of the name of its model.
    pub naming: Naming<'a>,
}

/// What the settings make of the name of a request's model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming<'a> {
    /// How much the request matters by its model.
    pub criticality: Criticality,
    /// The name that the client asked for, where the request's model has become another one.
    pub asked: Option<Text<'a>>,
    /// Why the name is refused.
    pub refused: Option<NameRefused>,
}

/// Why the name of a model is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRefused {
    /// It is reserved and has no target.
    NoTarget,
    /// The settings do not know it, and refuse it therefore.
    Unknown,
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
        ParsedRequest {
            api: None,
            request,
            known: None,
            new_entries: [None, None],
            naming: Naming::default(),
        }
    }
}

/// The starts of bodies that a worker knows.
#[derive(Debug)]
pub struct ParseCache {
    key: HashKey,
    entries: Entries,
    /// Whether prompts are only counted and not hashed. The chains of the entries are of one kind or the
    /// other.
    counts: bool,
    /// What becomes of the names of models; `None` while they all pass.
    settings: Option<Arc<PoolSettings>>,
    /// Names of one model begin their chains with the same one.
    names: ModelNames,
}

impl ParseCache {
    /// An empty cache. `seed` keys its hash: a random number that clients cannot know.
    pub fn new(seed: u64) -> ParseCache {
        ParseCache {
            key: HashKey::new(seed),
            entries: Entries::new(MEMORY),
            counts: false,
            settings: None,
            names: ModelNames::default(),
        }
    }

    /// The requests that are read from now on have these settings. Entries that were made with others, as far
    /// as that makes a difference to a chain, are not used then, and are replaced.
    pub fn set_settings(&mut self, settings: &Arc<PoolSettings>) {
        self.counts = settings.strategy == settings::Strategy::LoadOnly;
        self.settings = (!settings.models.pass_all()).then(|| Arc::clone(settings));
    }

    /// The same for names of one model.
    pub fn set_names(&mut self, names: ModelNames) {
        self.names = names;
    }

    /// Reads a request body, from the end of its longest known start.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn read<'a>(&mut self, api: Api, body: &'a [u8]) -> Result<ParsedRequest<'a>, BodyError> {
        let hashed = HashedBody::new(&self.key, api, body);
        if hashed.hashes().is_empty() {
            // Shorter than a chunk.
            return parse(api, body).map(|mut request| {
                let (naming, _) = self.name(&mut request, Opening::default());
                ParsedRequest { api: Some(api), naming, ..ParsedRequest::from(request) }
            });
        }
        if let Some(known) = self.entries.find(&hashed)
            && let Some(parsed) = self.resume(known, api, body, &hashed)
        {
            return Ok(parsed);
        }
        let (mut request, spans) = fields::read(api, body, None)?;
        let (naming, opens) = self.name(&mut request, Opening::default());
        let made = Made { preamble: self.preamble(&request), opens: opens.then(Opening::default) };
        let new_entries = new_entries(&request, spans, None, made, &hashed);
        Ok(ParsedRequest { api: Some(api), request, known: None, new_entries, naming })
    }

    /// Makes the chain of a prompt, to which `add` adds pieces, and keeps the new entries.
    pub fn chain(&mut self, parsed: &ParsedRequest<'_>, chain: &mut Chain, add: impl Fn(&mut Chain, &[u8])) {
        let ParsedRequest { request, known, new_entries, .. } = parsed;
        match known {
            Some(known) => chain.resume(&known.chain),
            None => chain.start(self.names.one_of(&request.model), request.cache_salt.as_deref()),
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

    /// Reads a body after its known start. `None` if the entry does not apply: a later `messages` key
    /// replaces those messages, the model, salt, tools or system text differ, or the rest is no valid body
    /// (the caller then reads all of it, so that errors do not depend on what was known).
    fn resume<'a>(
        &self,
        known: Arc<CacheEntry>,
        api: Api,
        body: &'a [u8],
        hashed: &HashedBody<'_, 'a>,
    ) -> Option<ParsedRequest<'a>> {
        let (mut request, spans) = fields::read(api, body, Some(known.key.messages)).ok()?;
        let (naming, opens) = self.name(&mut request, known.key.opening.unwrap_or_default());
        let made = Made { preamble: self.preamble(&request), opens: known.key.opening };
        // Whoever needs the opening must have read all of it.
        if !spans?.resumed || known.key.preamble != made.preamble || (opens && made.opens.is_none()) {
            return None;
        }
        let new_entries = new_entries(&request, spans, Some(&known), made, hashed);
        Some(ParsedRequest { api: Some(api), request, known: Some(known), new_entries, naming })
    }

    /// Gives a request the name that the pod is asked for. Also returns whether the opening of the
    /// conversation, which was `known` up to the messages that were read, has drawn it.
    fn name<'a>(&self, request: &mut Request<'a>, known: Opening) -> (Naming<'a>, bool) {
        let Some(settings) = &self.settings else { return (Naming::default(), false) };
        let models = &settings.models;
        let draws = models.draws(&request.model);
        let opening = if draws { Opening::of(&request.prompt, known).hash() } else { 0 };
        let mut naming = Naming::default();
        match models.asked(&request.model, opening) {
            Asked::AsItIs(criticality) => naming.criticality = criticality,
            Asked::Renamed(target, criticality) => {
                let target = Text::Owned(target.as_bytes().to_vec());
                naming.criticality = criticality;
                naming.asked = Some(std::mem::replace(&mut request.model, target));
            }
            Asked::NoTarget => naming.refused = Some(NameRefused::NoTarget),
            Asked::Unknown => naming.refused = Some(NameRefused::Unknown),
        }
        (naming, draws)
    }

    /// A hash of all that the chain of a prompt has before its messages, and of its kind.
    fn preamble(&self, request: &Request<'_>) -> u64 {
        let mut digest = self.key.hash(self.names.one_of(&request.model), u64::from(self.counts));
        if let Some(salt) = &request.cache_salt {
            digest = self.key.hash(salt, !digest);
        }
        before_messages(&request.prompt, |piece| digest = self.key.hash(piece, digest));
        digest
    }
}

/// What the entries of a request have in common.
#[derive(Clone, Copy, Debug)]
struct Made {
    preamble: u64,
    /// The opening before the messages that were read, if entries are to know it.
    opens: Option<Opening>,
}

/// The entries that a request adds to those which are `known`.
fn new_entries(
    request: &Request<'_>,
    spans: Option<MessageSpans>,
    known: Option<&CacheEntry>,
    made: Made,
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
        let opening = made.opens.map(|opening| opening.after(messages.get(..new).unwrap_or(messages)));
        let fingerprint = hashed.fingerprint(span.end)?;
        Some(CacheKey { fingerprint, messages: span, opening, media, preamble: made.preamble, shared })
    };
    [spans.first.and_then(|first| entry(first, true)), entry(spans.all, false)]
}

#[cfg(test)]
mod tests;
