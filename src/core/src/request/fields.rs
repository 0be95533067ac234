//! Reads the fields of a request body that matter to a router, of all five APIs.
//!
//! A field of another API is passed over. Of duplicate keys the last counts, as it does for vLLM.

mod parts;

use std::ops::Range;

use crate::request::body::{Api, BodyError, MAX_MODEL_BYTES, Part, Prompt, Request};
use crate::request::json::{JsonError, JsonResult, Kind, Scanner, Text};
use parts::{Input, PartReader};
#[cfg(test)]
pub(super) use parts::{MAX_PARTS, MAX_TOKENS};
pub(super) use parts::{MessageSpans, Span};

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
    model_at: Range<usize>,
    has_priority: bool,
    /// `model` is neither text nor null.
    odd_model: bool,
    cache_salt: Option<Text<'a>>,
    stream: bool,
    follows: Option<Text<'a>>,
    /// `store` is false.
    stores_nothing: bool,
    include_usage: bool,
    tools: Option<&'a [u8]>,
    /// `system` of the Messages API, `instructions` of the Responses API.
    system: Vec<Part<'a>>,
    messages: Option<(Vec<Part<'a>>, MessageSpans)>,
    input: Input<'a>,
    /// `prompt_embeds`, one text or many.
    embeddings: Vec<Text<'a>>,
    /// Takes the prompt apart; knows whether a field that matters has an unknown shape.
    parts: PartReader,
}

impl<'a> Fields<'a> {
    fn read(&mut self, api: Api, scanner: &mut Scanner<'a>, key: &[u8]) -> JsonResult<()> {
        match key {
            b"model" => {
                let kind = scanner.kind()?;
                let start = scanner.at();
                (self.model, self.odd_model, self.model_at) = match kind {
                    Kind::String => (scanner.string()?, false, start..scanner.at()),
                    _ => (Text::default(), scanner.skip()? != b"null", 0..0),
                }
            }
            b"priority" => self.has_priority = scanner.skip()? != b"null",
            b"cache_salt" => {
                self.cache_salt = match scanner.kind()? {
                    Kind::String => Some(scanner.string()?),
                    _ => self.parts.unless_null(scanner)?,
                }
            }
            b"stream" => {
                self.stream = is_true(scanner.skip()?);
            }
            b"previous_response_id" if api == Api::Responses => {
                self.follows = match scanner.kind()? {
                    Kind::String => Some(scanner.string()?),
                    _ => scanner.skip().map(|_| None)?,
                }
            }
            b"store" if api == Api::Responses => self.stores_nothing = scanner.skip()? == b"false",
            b"stream_options" => self.read_stream_options(scanner)?,
            b"tools" | b"functions" => self.tools = Some(scanner.skip()?).filter(|&json| json != b"null"),
            b"system" | b"instructions" => {
                let mut system = Vec::new();
                let is_list = scanner.kind()? == Kind::Array;
                self.parts.read_content(scanner, &mut system)?;
                if is_list && api == Api::Messages {
                    system.retain(|part| !is_attribution(part));
                }
                self.system = system;
            }
            b"messages" if api.takes_messages() => match scanner.kind()? {
                Kind::Array => self.messages = Some(self.parts.read_messages(scanner, self.known)?),
                _ => self.messages = self.parts.unless_null(scanner)?,
            },
            b"prompt_embeds" if api == Api::Completions => {
                self.embeddings = self.parts.read_texts(scanner)?
            }
            b"prompt" if api == Api::Completions => self.input = self.parts.read_input(scanner)?,
            b"input" if api.takes_input() => self.input = self.parts.read_input(scanner)?,
            _ => {
                scanner.skip()?;
            }
        }
        Ok(())
    }

    fn read_stream_options(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<()> {
        if scanner.kind()? != Kind::Object {
            return self.parts.unless_null::<()>(scanner).map(drop);
        }
        scanner.object(|scanner, key| {
            let value = scanner.skip()?;
            if &*key == b"include_usage" {
                self.include_usage = is_true(value);
            }
            Ok(())
        })
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
            _ if self.parts.odd => (Prompt::Opaque(body), None),
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
            model_at: self.model_at,
            has_priority: self.has_priority,
            cache_salt: self.cache_salt,
            stream: self.stream,
            follows: self.follows,
            stores: api == Api::Responses && !self.stores_nothing,
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
