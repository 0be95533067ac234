//! Reads the fields of a request body that matter to a router, of all five APIs.
//!
//! A field of another API is passed over. Of duplicate keys the last counts, as it does for vLLM.

use crate::request::body::{Api, BodyError, MAX_MODEL_BYTES, Part, Prompt, Request};
use crate::request::json::{JsonError, JsonResult, Kind, Scanner, Text, natural};

/// Most parts of a prompt that are taken apart: messages, pieces of content, texts. A body of 32 MiB could
/// name eleven million, at many times its size in memory that a VM never gives back. A prompt with more is
/// opaque.
pub(super) const MAX_PARTS: usize = 1 << 16;

/// Parts for which there is room from the start, those of eight messages: growing to them costs more than the
/// rest of a short body.
const COMMON_PARTS: usize = 16;

/// Most token ids that are taken apart, 16 MiB of them. A prompt with more is opaque.
pub(super) const MAX_TOKENS: usize = 1 << 22;

/// Messages from the first one on, and where they stand in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Offset of the bracket before them.
    pub start: usize,
    /// Offset after the last of them.
    pub end: usize,
    /// How many parts they have.
    pub parts: usize,
}

/// Where the messages of a chat stand in its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageSpans {
    /// Whether reading began after a known span.
    pub resumed: bool,
    /// The first message, if it was read and there are others.
    pub first: Option<Span>,
    /// All messages, the known ones included.
    pub all: Span,
}

/// Reads a body.
///
/// With `known`, the caller knows that these messages of the body are valid, and wants only those after them;
/// they are skipped, unless a later `messages` key replaces them.
///
/// The spans are there if the prompt is a chat whose messages are one array of the body.
///
/// # Errors
/// [`BodyError`] when it cannot be read. Anything else is for the pod to judge.
pub(super) fn read(
    api: Api,
    body: &[u8],
    known: Option<Span>,
) -> Result<(Request<'_>, Option<MessageSpans>), BodyError> {
    let mut fields = Fields { known, ..Fields::default() };
    let mut scanner = Scanner::new(body);
    let scanned = match scanner.kind() {
        Ok(Kind::Object) => scanner.object(|scanner, key| fields.read(api, scanner, &key)),
        Ok(_) => {
            return scanner
                .skip()
                .and_then(|_| scanner.end())
                .map_err(|error| located(error, body))
                .and(Err(BodyError::NotAnObject));
        }
        Err(error) => Err(error),
    };
    scanned.and_then(|()| scanner.end()).map_err(|error| located(error, body))?;
    if let Some(at) = scanner.not_utf8() {
        // Python's reader takes a surrogate that is encoded like a character.
        let surrogate = matches!(body.get(at..at + 2), Some([0xED, 0xA0..0xC0]));
        return Err(if surrogate { BodyError::Surrogate } else { located(JsonError::Syntax { at }, body) });
    }
    fields.into_request(api, body)
}

fn located(error: JsonError, body: &[u8]) -> BodyError {
    match error {
        JsonError::Depth { .. } => BodyError::Depth,
        JsonError::Surrogate { .. } => BodyError::Surrogate,
        JsonError::Syntax { at } => {
            let before = body.get(..at).unwrap_or(body);
            let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
            let column = 1 + before.iter().rev().take_while(|&&b| b != b'\n').count();
            BodyError::Json { line, column }
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct Fields<'a> {
    /// Messages that need not be read.
    known: Option<Span>,
    model: Text<'a>,
    /// `model` is neither text nor null.
    odd_model: bool,
    cache_salt: Option<Text<'a>>,
    stream: bool,
    include_usage: bool,
    tools: Option<&'a [u8]>,
    /// `system` of the Messages API, `instructions` of the Responses API.
    system: Vec<Part<'a>>,
    messages: Option<(Vec<Part<'a>>, MessageSpans)>,
    input: Input<'a>,
    /// `prompt_embeds`, one text or many.
    embeddings: Vec<Text<'a>>,
    /// A field that matters has an unknown shape, or the prompt has too many parts.
    odd: bool,
}

/// `prompt` or `input`: one text or many, token ids, lists of them, or messages.
#[derive(Default)]
enum Input<'a> {
    #[default]
    Nothing,
    Texts(Vec<Text<'a>>),
    Tokens(Vec<u32>),
    Items(Vec<Part<'a>>),
}

impl<'a> Fields<'a> {
    fn read(&mut self, api: Api, scanner: &mut Scanner<'a>, key: &[u8]) -> JsonResult<()> {
        match key {
            b"model" => {
                (self.model, self.odd_model) = match scanner.kind()? {
                    Kind::String => (scanner.string()?, false),
                    _ => (Text::default(), scanner.skip()? != b"null"),
                }
            }
            b"cache_salt" => {
                self.cache_salt = match scanner.kind()? {
                    Kind::String => Some(scanner.string()?),
                    _ => self.unless_null(scanner)?,
                }
            }
            b"stream" => {
                self.stream = is_true(scanner.skip()?);
            }
            b"stream_options" => self.read_stream_options(scanner)?,
            b"tools" | b"functions" => self.tools = Some(scanner.skip()?).filter(|&json| json != b"null"),
            b"system" | b"instructions" => {
                let mut system = Vec::new();
                let is_list = scanner.kind()? == Kind::Array;
                self.read_content(scanner, &mut system)?;
                if is_list && api == Api::Messages {
                    system.retain(|part| !is_attribution(part));
                }
                self.system = system;
            }
            b"messages" if api.takes_messages() => match scanner.kind()? {
                Kind::Array => self.messages = Some(self.read_messages(scanner)?),
                _ => self.messages = self.unless_null(scanner)?,
            },
            b"prompt_embeds" if api == Api::Completions => self.embeddings = self.read_texts(scanner)?,
            b"prompt" if api == Api::Completions => self.input = self.read_input(scanner)?,
            b"input" if api.takes_input() => self.input = self.read_input(scanner)?,
            _ => {
                scanner.skip()?;
            }
        }
        Ok(())
    }

    /// Passes over a value that is not what it should be: `null` is as good as nothing, anything else is odd.
    fn unless_null<T>(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<Option<T>> {
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

    fn push_json(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
        let json = scanner.skip()?;
        if json != b"null" {
            self.push(parts, Part::Json(json), MAX_PARTS);
        }
        Ok(())
    }

    fn push_text(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
        let text = scanner.string()?;
        self.push(parts, Part::Text(text), MAX_PARTS);
        Ok(())
    }

    fn read_stream_options(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<()> {
        if scanner.kind()? != Kind::Object {
            return self.unless_null::<()>(scanner).map(drop);
        }
        scanner.object(|scanner, key| {
            let value = scanner.skip()?;
            if &*key == b"include_usage" {
                self.include_usage = is_true(value);
            }
            Ok(())
        })
    }

    fn read_messages(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<(Vec<Part<'a>>, MessageSpans)> {
        let start = scanner.at();
        // A second `messages` counts instead of the first.
        let known = self.known.filter(|known| known.start == start);
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
    fn read_content(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
        match scanner.kind()? {
            Kind::String => self.push_text(scanner, parts)?,
            Kind::Array => scanner.array(|scanner| self.read_part(scanner, parts))?,
            _ => self.unless_null::<()>(scanner).map(drop)?,
        }
        Ok(())
    }

    /// One element of a list of content parts: an object, or a bare string.
    fn read_part(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
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
    fn read_item(&mut self, scanner: &mut Scanner<'a>, parts: &mut Vec<Part<'a>>) -> JsonResult<()> {
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
    fn read_texts(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<Vec<Text<'a>>> {
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
    fn read_input(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<Input<'a>> {
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
    fn read_tokens(&mut self, scanner: &mut Scanner<'a>, ids: &mut Vec<u32>) -> JsonResult<()> {
        if scanner.kind()? == Kind::Array {
            return scanner.array(|scanner| self.read_token(scanner, ids));
        }
        self.read_token(scanner, ids)
    }

    fn read_token(&mut self, scanner: &mut Scanner<'a>, ids: &mut Vec<u32>) -> JsonResult<()> {
        match natural(scanner.skip()?) {
            Some(id) => self.push(ids, id, MAX_TOKENS),
            None => self.odd = true,
        }
        Ok(())
    }

    fn into_request(
        self,
        api: Api,
        body: &'a [u8],
    ) -> Result<(Request<'a>, Option<MessageSpans>), BodyError> {
        if self.odd_model {
            return Err(BodyError::Model);
        }
        let model = self.model;
        if model.len() > MAX_MODEL_BYTES {
            return Err(BodyError::ModelTooLong { bytes: model.len() });
        }
        let (tools, system) = (self.tools, self.system);
        let (messages, spans) = self.messages.unzip();
        let chat = |system, messages| Prompt::Chat { tools, system, messages };
        let (prompt, spans) = match (api, messages, self.input) {
            _ if self.odd => (Prompt::Opaque(body), None),
            (Api::Chat, messages, _) => (chat(Vec::new(), messages.unwrap_or_default()), spans),
            (Api::Messages, messages, _) => (chat(system, messages.unwrap_or_default()), spans),
            (Api::Embeddings, Some(messages), _) => (chat(Vec::new(), messages), spans),
            (Api::Completions, ..) if !self.embeddings.is_empty() => {
                (Prompt::Embeddings(self.embeddings), None)
            }
            (_, _, Input::Tokens(ids)) => (Prompt::Tokens(ids), None),
            (Api::Completions | Api::Embeddings, _, Input::Texts(texts)) => (Prompt::Texts(texts), None),
            (Api::Responses, _, Input::Items(items)) => (chat(system, items), None),
            (Api::Responses, _, Input::Texts(texts)) => {
                let user = std::iter::once(Part::Item(Text::Borrowed(b"user")));
                (chat(system, user.chain(texts.into_iter().map(Part::Text)).collect()), None)
            }
            (Api::Responses, _, Input::Nothing) => (chat(system, Vec::new()), None),
            (Api::Completions | Api::Embeddings, _, Input::Items(items)) => (chat(Vec::new(), items), None),
            (Api::Completions | Api::Embeddings, _, Input::Nothing) => (Prompt::Texts(Vec::new()), None),
        };
        let request = Request {
            model,
            cache_salt: self.cache_salt,
            stream: self.stream,
            // The Responses and Messages APIs end a stream with its usage unasked.
            reports_usage: !self.stream
                || self.include_usage
                || matches!(api, Api::Responses | Api::Messages),
            prompt,
        };
        Ok((request, spans))
    }
}

/// Whether a value is true to vLLM, whose models take a flag as text or as a number too, as Pydantic does.
fn is_true(json: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [b"1", b"on", b"t", b"true", b"y", b"yes"];
    match json {
        b"true" | b"1" | b"1.0" => true,
        [b'"', word @ .., b'"'] => WORDS.iter().any(|truth| word.eq_ignore_ascii_case(truth)),
        _ => false,
    }
}

/// Whether a block of the Messages API's `system` only says which client sends the request, with another
/// value in each. vLLM leaves such blocks out of the prompt.
fn is_attribution(part: &Part<'_>) -> bool {
    matches!(part, Part::Text(text) if text.starts_with(b"x-anthropic-billing-header"))
}
