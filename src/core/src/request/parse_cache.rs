//! Beginnings of bodies that were read before. A conversation comes again with each of its rounds, and up to its last messages
//! a body has the bytes of the one before it: those need not be scanned and hashed once more.
//!
//! A beginning ends with the last message of a body, and goes when the conversation goes on; or with the first message, which
//! may be a system prompt that many share. Kept of it are its name, how it was taken apart, and the chain of the prompt up to
//! there. The name is a hash of all its bytes: in V8 that takes 1.8 us of 32 KiB, where scanning takes 4 and the hashes of
//! blocks 5.
//!
//! Which pod holds a prompt is the index' business: this only saves time, and what it finds is what [`body::parse`] and the
//! chain would have found, which its twin in the tests checks. Who makes two beginnings of one name makes the router believe
//! that a prompt is where it is not, as with two blocks of one hash. The request goes to a pod all the same: a body that is
//! not JSON behind what was known is read once more as a whole.
//!
//! [`body::parse`]: crate::request::body::parse

use std::sync::Arc;

use crate::request::blocks::{Chain, chained};
use crate::request::body::{Api, BodyError, Messages, Prompt, Request, Span, parse, parse_behind};
use crate::request::prompt::{before_messages, canonical, parts};

/// Bytes from one place to the next at which a body is looked up; shorter ones are not.
const STEP: usize = 4096;
/// Beginnings that are found by the same steps: of conversations that have only the system prompt in common so far, and that
/// prompt.
const WAYS: usize = 4;
const SETS: usize = 1024;
/// Bytes that all beginnings of a worker may take: some 3,000 of 32 KiB.
const MEMORY: usize = 4 << 20;
/// Share of that for one: the part of a block at its end grows with it, to a megabyte in a body of 32 MiB.
const LARGEST_SHARE: usize = 64;

/// A request, and what was known of it before.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The request; its messages are those that were not known.
    pub request: Request<'a>,
    /// What stands before them.
    behind: Option<Arc<Beginning>>,
    /// What it teaches, the shorter one first.
    teaches: [Option<Lesson>; 2],
}

/// A beginning, but for its chain.
#[derive(Clone, Copy, Debug)]
struct Lesson {
    name: Name,
    messages: Span,
    preamble: u64,
    /// Whether it ends with the first of several messages.
    shared: bool,
}

/// Names the first bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    /// All whole steps of them.
    steps: u64,
    /// All of them.
    whole: u64,
}

#[derive(Debug)]
struct Beginning {
    lesson: Lesson,
    /// The chain of the prompt up to there.
    chain: Chain,
}

/// Beginnings with the hashes of their steps, the most recently used one first: as large as a line of the CPU's cache, so that
/// looking for one that is not there costs no more than that.
type Set = [Way; WAYS];
type Way = Option<(u64, Arc<Beginning>)>;

/// The beginnings that a worker knows.
#[derive(Debug)]
pub struct Beginnings {
    limit: usize,
    /// By the hash of their steps.
    sets: Vec<Set>,
    memory: usize,
    /// The set that has to give something up next, when memory is short.
    hand: usize,
}

impl Default for Beginnings {
    /// None, and room for as many as a worker may know.
    fn default() -> Self {
        Beginnings::new(MEMORY)
    }
}

impl<'a> From<Request<'a>> for Reading<'a> {
    /// A request of which nothing was known.
    fn from(request: Request<'a>) -> Self {
        Reading { request, behind: None, teaches: [None, None] }
    }
}

impl Beginnings {
    fn new(limit: usize) -> Beginnings {
        Beginnings { limit, sets: Vec::new(), memory: 0, hand: 0 }
    }

    /// Reads a request body, from where it is no longer known.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn read<'a>(&mut self, api: Api, body: &'a [u8]) -> Result<Reading<'a>, BodyError> {
        let trail = trail(api, body);
        if trail.is_empty() {
            return parse(api, body).map(Reading::from);
        }
        let known = self.find(&trail, body);
        if let Some(reading) = known.and_then(|known| Reading::behind(known, api, &trail, body)) {
            return Ok(reading);
        }
        let request = parse(api, body)?;
        let preamble = preamble(&request);
        Ok(Reading::of(request, None, preamble, &trail, body))
    }

    /// Makes the chain of a prompt, for which `add` adds pieces, and keeps the beginnings that it teaches.
    pub fn chain(&mut self, reading: &Reading<'_>, chain: &mut Chain, add: impl Fn(&mut Chain, &[u8])) {
        let Reading { request, behind, teaches } = reading;
        match behind {
            Some(known) => chain.resume(&known.chain),
            None => chain.start(&request.model, request.cache_salt.as_deref()),
        }
        match messages(request) {
            None => canonical(&request.prompt, |piece| add(chain, piece)),
            Some(messages) => {
                if behind.is_none() {
                    before_messages(&request.prompt, |piece| add(chain, piece));
                }
                let mut done = messages.skipped.map_or(0, |skipped| skipped.parts);
                let mut rest = messages.parts.as_slice();
                for lesson in teaches.iter().flatten() {
                    let count = lesson.messages.parts.saturating_sub(done);
                    let (new, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
                    parts(new, |piece| add(chain, piece));
                    (done, rest) = (lesson.messages.parts, others);
                    if let Some(known) = behind.as_ref().filter(|known| !known.lesson.shared) {
                        self.forget(known.lesson.name);
                    }
                    self.keep(Beginning { lesson: *lesson, chain: chain.clone() });
                }
                parts(rest, |piece| add(chain, piece));
            }
        }
        chain.finish();
    }

    /// The longest beginning of `body` that is known.
    fn find(&mut self, trail: &[u64], body: &[u8]) -> Option<Arc<Beginning>> {
        trail.iter().rev().find_map(|&steps| {
            let set = self.sets.get_mut(set_of(steps))?;
            let found = set.iter().enumerate().filter_map(|(at, way)| {
                let (key, known) = way.as_ref()?;
                let Lesson { name, messages, .. } = known.lesson;
                (*key == steps && Name::of(trail, body, messages.end)? == name).then_some((messages.end, at))
            });
            let (_, at) = found.max()?;
            set.get_mut(..=at)?.rotate_right(1);
            set.first()?.as_ref().map(|(_, known)| Arc::clone(known))
        })
    }

    fn forget(&mut self, name: Name) {
        let Some(set) = self.sets.get_mut(set_of(name.steps)) else { return };
        if let Some(at) = set.iter().position(|way| is(way, name))
            && let Some(places) = set.get_mut(at..)
        {
            let gone = places.first_mut().and_then(Option::take);
            places.rotate_left(1);
            self.memory -= gone.map_or(0, |(_, known)| known.memory());
        }
    }

    fn keep(&mut self, beginning: Beginning) {
        let memory = beginning.memory();
        if memory > self.limit / LARGEST_SHARE {
            return;
        }
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Default::default);
        }
        let name = beginning.lesson.name;
        let Some(set) = self.sets.get_mut(set_of(name.steps)) else { return };
        // The same bytes for another model are the same beginning; else the least recently used one makes room.
        let at = set.iter().position(|way| way.is_none() || is(way, name)).unwrap_or(WAYS - 1);
        if let Some(places) = set.get_mut(..=at) {
            places.rotate_right(1);
        }
        let before = set.first_mut().and_then(|first| first.replace((name.steps, Arc::new(beginning))));
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

impl<'a> Reading<'a> {
    /// The reading of a body from where it is no longer known. None where what is known does not count: other messages come
    /// behind it, or they are for another model, or with other tools; or the body is not JSON there, of which its start decides.
    fn behind(known: Arc<Beginning>, api: Api, trail: &[u64], body: &'a [u8]) -> Option<Reading<'a>> {
        let request = parse_behind(api, body, Some(known.lesson.messages)).ok()?;
        let preamble = preamble(&request);
        let counts = messages(&request)?.skipped.is_some() && known.lesson.preamble == preamble;
        counts.then(|| Reading::of(request, Some(known), preamble, trail, body))
    }

    fn of(
        request: Request<'a>,
        behind: Option<Arc<Beginning>>,
        preamble: u64,
        trail: &[u64],
        body: &[u8],
    ) -> Reading<'a> {
        let known = behind.as_ref().map_or(0, |known| known.lesson.messages.end);
        let lesson = |messages: Option<Span>, shared| {
            let messages = messages.filter(|messages| messages.end > known)?;
            Some(Lesson { name: Name::of(trail, body, messages.end)?, messages, preamble, shared })
        };
        let teaches =
            messages(&request).map_or([None, None], |m| [lesson(m.first, true), lesson(m.all, false)]);
        Reading { request, behind, teaches }
    }
}

impl Beginning {
    fn memory(&self) -> usize {
        size_of::<Beginning>() + self.chain.memory()
    }
}

impl Name {
    /// The name of the first `end` bytes of a body; they must have a step.
    fn of(trail: &[u64], body: &[u8], end: usize) -> Option<Name> {
        let whole_steps = end / STEP;
        let steps = *trail.get(whole_steps.checked_sub(1)?)?;
        let rest = body.get(whole_steps * STEP..end)?;
        Some(Name { steps, whole: chained(rest, steps) })
    }
}

/// A hash of each number of whole steps that a body has.
fn trail(api: Api, body: &[u8]) -> Vec<u64> {
    let mut before = api as u64;
    let steps = body.as_chunks::<STEP>().0.iter();
    steps
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

fn is(way: &Way, name: Name) -> bool {
    way.as_ref().is_some_and(|(_, known)| known.lesson.name == name)
}

fn set_of(steps: u64) -> usize {
    steps as usize % SETS
}

#[cfg(test)]
mod tests;
