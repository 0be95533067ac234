//! Takes the prompt of a request apart: messages, pieces of content, texts, token ids.

use crate::request::body::Part;
use crate::request::json::{JsonResult, Kind, Scanner, Text, natural};

/// Most parts of a prompt that are taken apart: messages, pieces of content, texts. A body of 32 MiB could
/// name eleven million, at many times its size in memory that a VM never gives back. A prompt with more is
/// opaque.
pub(in crate::request) const MAX_PARTS: usize = 1 << 16;

/// Parts for which there is room from the start, those of eight messages: growing to them costs more than the
/// rest of a short body.
const COMMON_PARTS: usize = 16;

/// Most token ids that are taken apart, 16 MiB of them. A prompt with more is opaque.
pub(in crate::request) const MAX_TOKENS: usize = 1 << 22;

/// Messages from the first one on, and where they stand in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::request) struct Span {
    /// Offset of the bracket before them.
    pub start: usize,
    /// Offset after the last of them.
    pub end: usize,
    /// How many parts they have.
    pub parts: usize,
}

/// Where the messages of a chat stand in its body.
#[derive(Clone, Copy, Debug)]
pub(in crate::request) struct MessageSpans {
    /// Whether reading began after a known span.
    pub resumed: bool,
    /// The first message, if it was read and there are others.
    pub first: Option<Span>,
    /// All messages, the known ones included.
    pub all: Span,
}

/// `prompt` or `input`: one text or many, token ids, lists of them, or messages.
#[derive(Default)]
pub(super) enum Input<'a> {
    #[default]
    Nothing,
    Texts(Vec<Text<'a>>),
    Tokens(Vec<u32>),
    Items(Vec<Part<'a>>),
}

/// Reads the parts of a prompt.
#[derive(Default)]
pub(super) struct PartReader {
    /// A part has an unknown shape, or there are too many of them.
    pub odd: bool,
}

impl PartReader {
    /// Passes over a value that is not what it should be: `null` is as good as nothing, anything else is odd.
    pub fn unless_null<'a, T>(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<Option<T>> {
        self.odd |= scanner.skip()? != b"null";
        Ok(None)
    }

    /// Adds to a list that has a limit; beyond it the prompt is odd, and the list grows no more.
    fn push<T>(&mut self, list: &mut Vec<T>, item: T, limit: usize) {
        if list.len() < limit {
            list.push(item);
        } else {
            self.odd = true;
        }
    }

    fn push_json<'a>(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
        let json = scanner.skip()?;
        if json != b"null" {
            self.push(parts, Part::Json(json), MAX_PARTS);
        }
        Ok(())
    }

    fn push_text<'a>(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
        let text = scanner.string()?;
        self.push(parts, Part::Text(text), MAX_PARTS);
        Ok(())
    }

    /// The messages of a chat, and where they stand; those that are `known` are passed over.
    pub fn read_messages<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        known: Option<Span>,
    ) -> JsonResult<(Vec<Part<'a>>, MessageSpans)> {
        let start = scanner.at();
        // A second `messages` counts instead of the first.
        let known = known.filter(|known| known.start == start);
        let before = known.map_or(0, |known| known.parts);
        let mut parts = Vec::with_capacity(COMMON_PARTS);
        let (mut first, mut end) = (None, known.map_or(start, |known| known.end));
        let mut element = |scanner: &mut Scanner<'a>| {
            self.read_item(scanner, &mut parts)?;
            end = scanner.at();
            first.get_or_insert((end, parts.len()));
            Ok(())
        };
        match known {
            Some(known) => scanner.rest_of_array(known.end, &mut element)?,
            None => scanner.array(&mut element)?,
        }
        self.odd |= before + parts.len() > MAX_PARTS;
        let first = first.filter(|&(after, _)| known.is_none() && after < end);
        let spans = MessageSpans {
            resumed: known.is_some(),
            first: first.map(|(end, parts)| Span { start, end, parts }),
            all: Span { start, end, parts: before + parts.len() },
        };
        Ok((parts, spans))
    }

    /// Content: text, or parts.
    pub fn read_content<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        parts: &mut Vec<Part<'a>>,
    ) -> JsonResult<()> {
        match scanner.kind()? {
            Kind::String => self.push_text(scanner, parts)?,
            Kind::Array => scanner.array(|scanner| self.read_part(scanner, parts))?,
            _ => self.unless_null::<()>(scanner).map(drop)?,
        }
        Ok(())
    }

    /// One element of a list of content parts: an object, or a bare string.
    fn read_part<'a>(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
        match scanner.kind()? {
            Kind::String => self.push_text(scanner, parts)?,
            Kind::Object => scanner.object(|scanner, key| match &*key {
                b"text" | b"refusal" | b"thinking" if scanner.kind()? == Kind::String => {
                    self.push_text(scanner, parts)
                }
                // Marks that clients move about or that no template prints.
                b"type" | b"detail" | b"cache_control" | b"annotations" | b"citations" | b"logprobs" => {
                    scanner.skip().map(drop)
                }
                _ => self.push_json(scanner, parts),
            })?,
            _ => self.odd |= scanner.skip().map(|_| true)?,
        }
        Ok(())
    }

    /// A message, or what stands in its place: a tool call, its result, a reasoning item.
    fn read_item<'a>(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
        if scanner.kind()? != Kind::Object {
            self.odd = true;
            return scanner.skip().map(drop);
        }
        let start = parts.len();
        self.push(parts, Part::Item(Text::default()), MAX_PARTS);
        scanner.object(|scanner, key| match &*key {
            b"role" => {
                let role = match scanner.kind()? {
                    Kind::String => Some(scanner.string()?),
                    _ => self.unless_null(scanner)?,
                };
                if let (Some(place), Some(role)) = (parts.get_mut(start), role) {
                    *place = Part::Item(role);
                }
                Ok(())
            }
            b"content" => self.read_content(scanner, parts),
            b"id" | b"status" | b"refusal" | b"audio" | b"annotations" | b"cache_control" => {
                scanner.skip().map(drop)
            }
            // Tool calls and their results, reasoning, names: part of what the template prints.
            _ => self.push_json(scanner, parts),
        })
    }

    /// One text or many.
    pub fn read_texts<'a>(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<Vec<Text<'a>>> {
        match scanner.kind()? {
            Kind::String => return Ok(vec![scanner.string()?]),
            Kind::Array => {}
            _ => return Ok(self.unless_null(scanner)?.unwrap_or_default()),
        }
        let mut texts = Vec::new();
        scanner.array(|scanner| {
            if scanner.kind()? != Kind::String {
                return self.unless_null::<()>(scanner).map(drop);
            }
            let text = scanner.string()?;
            self.push(&mut texts, text, MAX_PARTS);
            Ok(())
        })?;
        Ok(texts)
    }

    /// The first element decides what a list is made of.
    pub fn read_input<'a>(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<Input<'a>> {
        match scanner.kind()? {
            Kind::String => return Ok(Input::Texts(vec![scanner.string()?])),
            Kind::Array => {}
            _ => return self.unless_null::<()>(scanner).map(|_| Input::Nothing),
        }
        let mut input = Input::Nothing;
        scanner.array(|scanner| {
            match (&mut input, scanner.kind()?) {
                (Input::Nothing, Kind::String) => input = Input::Texts(vec![scanner.string()?]),
                (Input::Texts(texts), Kind::String) => {
                    let text = scanner.string()?;
                    self.push(texts, text, MAX_PARTS);
                }
                (Input::Nothing, Kind::Number | Kind::Array) => {
                    let mut ids = Vec::new();
                    self.read_tokens(scanner, &mut ids)?;
                    input = Input::Tokens(ids);
                }
                (Input::Tokens(ids), Kind::Number | Kind::Array) => self.read_tokens(scanner, ids)?,
                (Input::Nothing, Kind::Object) => {
                    let mut parts = Vec::new();
                    self.read_item(scanner, &mut parts)?;
                    input = Input::Items(parts);
                }
                (Input::Items(parts), Kind::Object) => self.read_item(scanner, parts)?,
                _ => {
                    self.odd = true;
                    scanner.skip()?;
                }
            }
            Ok(())
        })?;
        Ok(input)
    }

    /// A token id, or a list of them.
    fn read_tokens<'a>(&mut self, scanner: &mut Scanner<'a>, ids: &mut Vec<u32>) -> JsonResult<()> {
        if scanner.kind()? == Kind::Array {
            return scanner.array(|scanner| self.read_token(scanner, ids));
        }
        self.read_token(scanner, ids)
    }

    fn read_token<'a>(&mut self, scanner: &mut Scanner<'a>, ids: &mut Vec<u32>) -> JsonResult<()> {
        match natural(scanner.skip()?) {
            Some(id) => self.push(ids, id, MAX_TOKENS),
            None => self.odd = true,
        }
        Ok(())
    }
}
