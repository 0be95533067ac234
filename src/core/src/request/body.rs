//! From the bytes of a request to its model and the parts of its prompt.
//!
//! First step on the path of a request, in one pass over the body: text is borrowed from it, no tree of the prompt is built,
//! and what this module does not know is kept as the bytes it was written in. A body that is JSON but has an unknown shape is
//! not refused, for the pod may know it: its prompt is then the whole body, opaque.

use std::fmt;

use crate::request::json::{JsonError, JsonResult, Kind, MAX_DEPTH, Scanner, Text, natural};

/// An inference API of vLLM whose prompt decides where a request is best served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/messages`, the Anthropic API
    Messages,
}

impl Api {
    /// The API to which a `POST` of `path` goes, or `None` for what is routed by load alone.
    /// Gateways may put a prefix before `/v1`, so the end of the path decides; a query is ignored.
    pub fn of(path: &[u8]) -> Option<Api> {
        let path = path.split(|&b| b == b'?' || b == b'#').next().unwrap_or_default();
        let path = path.strip_suffix(b"/").unwrap_or(path);
        [
            (&b"/v1/chat/completions"[..], Api::Chat),
            (b"/v1/completions", Api::Completions),
            (b"/v1/responses", Api::Responses),
            (b"/v1/embeddings", Api::Embeddings),
            (b"/v1/messages", Api::Messages),
        ]
        .into_iter()
        .find_map(|(suffix, api)| path.ends_with(suffix).then_some(api))
    }

    fn takes_messages(self) -> bool {
        matches!(self, Api::Chat | Api::Messages | Api::Embeddings)
    }

    fn takes_input(self) -> bool {
        matches!(self, Api::Responses | Api::Embeddings)
    }
}

/// What a router needs to know of an inference request; borrows from the body.
#[derive(Debug, PartialEq)]
pub struct Request<'a> {
    /// The model asked for; LoRA adapters are models to vLLM.
    pub model: Text<'a>,
    /// vLLM's `cache_salt`: prompts with different salts share no cache.
    pub cache_salt: Option<Text<'a>>,
    /// Whether the answer comes as server-sent events.
    pub stream: bool,
    /// Whether the answer will report `usage`: always when whole, on request (`stream_options`) when streamed. A vLLM with
    /// `--enable-force-include-usage` reports it in streams unasked, which is not looked for: nothing tells the chunk that has
    /// it from others, so each would have to be copied into the module and searched, for what the other answers teach as
    /// well.
    pub reports_usage: bool,
    /// The prompt, in the parts that [`crate::request::prompt`] puts in order.
    pub prompt: Prompt<'a>,
}

/// The parts of a prompt, by what they are made of.
#[derive(Debug, PartialEq)]
pub enum Prompt<'a> {
    /// Tool definitions as written, then system text and messages.
    Chat {
        /// The JSON of `tools`, or of the older `functions`.
        tools: Option<&'a [u8]>,
        /// Parts of the system text or instructions, where an API has them beside the messages.
        system: Vec<Part<'a>>,
        /// The messages.
        messages: Messages<'a>,
    },
    /// Plain text; several texts are one request to the router.
    Texts(Vec<Text<'a>>),
    /// Token ids; several lists are one request to the router.
    Tokens(Vec<u32>),
    /// JSON of a shape that this module does not know: the whole body.
    Opaque(&'a [u8]),
}

impl Prompt<'_> {
    /// Whether its canonical bytes are text, so that bytes and tokens stand in a ratio that a model's tokenizer decides.
    pub fn is_text(&self) -> bool {
        match self {
            Prompt::Chat { system, messages, .. } => {
                !system.iter().any(Part::is_media)
                    && !messages
                        .all
                        .map_or_else(|| messages.parts.iter().any(Part::is_media), |all| all.media)
            }
            Prompt::Texts(_) => true,
            Prompt::Tokens(_) | Prompt::Opaque(_) => false,
        }
    }
}

/// The messages of a chat.
#[derive(Debug, Default, PartialEq)]
pub struct Messages<'a> {
    /// Those in front that were known already, and so were not read.
    pub skipped: Option<Span>,
    /// Parts of those that were read, each message beginning with [`Part::Item`].
    pub parts: Vec<Part<'a>>,
    /// Where the first one stands, if it was read and there are others.
    pub first: Option<Span>,
    /// Where all of them stand, if they are one array of the body.
    pub all: Option<Span>,
}

impl<'a> From<Vec<Part<'a>>> for Messages<'a> {
    fn from(parts: Vec<Part<'a>>) -> Self {
        Messages { parts, ..Messages::default() }
    }
}

/// Messages from the first one on, and where they stand in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of the bracket before them.
    pub start: usize,
    /// Offset behind the last of them.
    pub end: usize,
    /// Their parts.
    pub parts: usize,
    /// Whether any of those is media.
    pub media: bool,
}

/// A part of a chat.
#[derive(Clone, Debug, PartialEq)]
pub enum Part<'a> {
    /// A message begins; its role, empty where the API names none.
    Item(Text<'a>),
    /// Text.
    Text(Text<'a>),
    /// JSON as written: images and audio by URL or data, tool calls, tool results.
    Json(&'a [u8]),
}

/// JSON that is no longer counts as written: a URL or a tool call, or data of no more tokens than that.
const SHORT_JSON: usize = 4096;
/// Bytes in the middle of longer JSON that tell what it is: text has a space, a quote or a comma in as many.
const PROBE: usize = 256;

impl Part<'_> {
    /// Whether it is mostly the data of an image, of sound or of a film, in base64: a model makes far fewer tokens of it than
    /// of as much text.
    pub fn is_media(&self) -> bool {
        let Part::Json(json) = self else { return false };
        json.len() > SHORT_JSON
            && json.get(json.len() / 2..).and_then(|half| half.get(..PROBE)).is_some_and(|middle| {
                // Some writers escape the slash.
                middle.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=-_\\".contains(b))
            })
    }
}

/// Why a body is refused; always the client's to mend.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Not JSON.
    Json {
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error in bytes, from 1.
        column: usize,
    },
    /// Brackets within brackets, too many of them.
    Depth,
    /// JSON, but not an object.
    NotAnObject,
    /// No `model`, or not a string, or empty.
    Model,
    /// `model` is longer than [`MAX_MODEL_BYTES`].
    ModelTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
}

/// Longest model name that is taken. Names are paths or repository names; four kilobytes is far above any of them and
/// keeps one request from filling the error message, the log or the table of learned ratios.
pub const MAX_MODEL_BYTES: usize = 4096;

/// Most parts of a prompt that are taken apart: messages, pieces of content, texts. A body of 32 MiB could name eleven
/// million, at many times its size in memory that a VM never gives back. A prompt with more is opaque.
const MAX_PARTS: usize = 1 << 16;

/// Parts for which there is room from the start, those of eight messages: growing to them takes 500 instructions.
const COMMON_PARTS: usize = 16;

/// Most token ids that are taken apart, 16 MiB of them. A prompt with more is opaque.
const MAX_TOKENS: usize = 1 << 22;

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::Json { line, column } => {
                write!(f, "the request body is not valid JSON: error at line {line} column {column}")
            }
            BodyError::Depth => {
                write!(f, "the request body is nested too deeply, the limit is {MAX_DEPTH} levels")
            }
            BodyError::NotAnObject => write!(f, "the request body must be a JSON object"),
            BodyError::Model => write!(f, "`model` is required and must be a non-empty string"),
            BodyError::ModelTooLong { bytes } => {
                write!(f, "`model` is {bytes} bytes long, the limit is {MAX_MODEL_BYTES}")
            }
        }
    }
}

impl std::error::Error for BodyError {}

/// Reads a request body.
///
/// # Errors
/// [`BodyError`] when it is not a JSON object or names no model. Anything else is for the pod to judge.
pub fn parse(api: Api, body: &[u8]) -> Result<Request<'_>, BodyError> {
    parse_after(api, body, None)
}

/// Reads a request body up to whose byte `known.end` another one is the same, in which [`parse`] has found these messages. They
/// are skipped, unless others count.
///
/// # Errors
/// As [`parse`].
pub fn parse_after(api: Api, body: &[u8], known: Option<Span>) -> Result<Request<'_>, BodyError> {
    let mut fields = Fields { known, ..Fields::default() };
    let mut scanner = Scanner::new(body);
    let scanned = match scanner.kind() {
        Ok(Kind::Object) => scanner.object(|scanner, key| fields.read(api, scanner, &key)),
        Ok(_) => {
            return scanner
                .skip()
                .and_then(|_| scanner.end())
                .map_err(|e| located(e, body))
                .and(Err(BodyError::NotAnObject));
        }
        Err(error) => Err(error),
    };
    scanned.and_then(|()| scanner.end()).map_err(|error| located(error, body))?;
    if let Some(at) = scanner.not_utf8() {
        return Err(located(JsonError::Syntax { at }, body));
    }
    fields.into_request(api, body)
}

fn located(error: JsonError, body: &[u8]) -> BodyError {
    match error {
        JsonError::Depth { .. } => BodyError::Depth,
        JsonError::Syntax { at } => {
            let before = body.get(..at).unwrap_or(body);
            let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
            let column = 1 + before.iter().rev().take_while(|&&b| b != b'\n').count();
            BodyError::Json { line, column }
        }
    }
}

// === impl Fields ===

/// The keys that matter, of all five APIs; one that belongs to another API is passed over. Of duplicate keys the last
/// counts, as it does for vLLM.
#[derive(Default)]
struct Fields<'a> {
    /// Messages that need not be read.
    known: Option<Span>,
    model: Option<Text<'a>>,
    cache_salt: Option<Text<'a>>,
    stream: bool,
    include_usage: bool,
    tools: Option<&'a [u8]>,
    /// `system` of the Messages API, `instructions` of the Responses API.
    system: Vec<Part<'a>>,
    messages: Option<Messages<'a>>,
    input: Input<'a>,
    /// Something that matters has a shape that is not known, or too many parts.
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
                self.model = match scanner.kind()? {
                    Kind::String => Some(scanner.string()?),
                    _ => scanner.skip().map(|_| None)?,
                }
            }
            b"cache_salt" => {
                self.cache_salt = match scanner.kind()? {
                    Kind::String => Some(scanner.string()?),
                    _ => self.unless_null(scanner)?,
                }
            }
            b"stream" => {
                let word = scanner.skip()?;
                self.stream = word == b"true";
                self.odd |= !matches!(word, b"true" | b"false" | b"null");
            }
            b"stream_options" => self.read_stream_options(scanner)?,
            b"tools" | b"functions" => self.tools = Some(scanner.skip()?).filter(|&json| json != b"null"),
            b"system" | b"instructions" => {
                let mut system = Vec::new();
                self.read_content(scanner, &mut system)?;
                self.system = system;
            }
            b"messages" if api.takes_messages() => match scanner.kind()? {
                Kind::Array => self.messages = Some(self.read_messages(scanner)?),
                _ => self.messages = self.unless_null(scanner)?,
            },
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
                self.include_usage = value == b"true";
            }
            Ok(())
        })
    }

    fn read_messages(&mut self, scanner: &mut Scanner<'a>) -> JsonResult<Messages<'a>> {
        let start = scanner.at();
        // A second `messages` counts instead of the first.
        let skipped = self.known.filter(|known| known.start == start);
        let known = skipped.unwrap_or(Span { start, end: start, parts: 0, media: false });
        let mut parts = Vec::with_capacity(COMMON_PARTS);
        let (mut first, mut end) = (None, known.end);
        scanner.array_after(skipped.map(|skipped| skipped.end), |scanner| {
            self.read_item(scanner, &mut parts)?;
            end = scanner.at();
            first.get_or_insert((end, parts.len()));
            Ok(())
        })?;
        self.odd |= known.parts + parts.len() > MAX_PARTS;
        let span = |(end, count): (usize, usize)| Span {
            start,
            end,
            parts: known.parts + count,
            media: known.media || parts.iter().take(count).any(Part::is_media),
        };
        let first = first.filter(|&(behind, _)| skipped.is_none() && behind < end).map(span);
        let all = Some(span((end, parts.len())));
        Ok(Messages { skipped, parts, first, all })
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

    fn into_request(self, api: Api, body: &'a [u8]) -> Result<Request<'a>, BodyError> {
        let model = self.model.filter(|m| !m.is_empty()).ok_or(BodyError::Model)?;
        if model.len() > MAX_MODEL_BYTES {
            return Err(BodyError::ModelTooLong { bytes: model.len() });
        }
        let (tools, system) = (self.tools, self.system);
        let chat = |system, messages| Prompt::Chat { tools, system, messages };
        let prompt = match (api, self.messages, self.input) {
            _ if self.odd => Prompt::Opaque(body),
            (Api::Chat, messages, _) => chat(Vec::new(), messages.unwrap_or_default()),
            (Api::Messages, messages, _) => chat(system, messages.unwrap_or_default()),
            (Api::Embeddings, Some(messages), _) => chat(Vec::new(), messages),
            (_, _, Input::Tokens(ids)) => Prompt::Tokens(ids),
            (Api::Completions | Api::Embeddings, _, Input::Texts(texts)) => Prompt::Texts(texts),
            (Api::Responses, _, Input::Items(items)) => chat(system, items.into()),
            (Api::Responses, _, Input::Texts(texts)) => {
                let user = std::iter::once(Part::Item(Text::Borrowed(b"user")));
                chat(system, user.chain(texts.into_iter().map(Part::Text)).collect::<Vec<_>>().into())
            }
            (Api::Responses, _, Input::Nothing) => chat(system, Messages::default()),
            (Api::Completions | Api::Embeddings, _, Input::Items(items)) => chat(Vec::new(), items.into()),
            (Api::Completions | Api::Embeddings, _, Input::Nothing) => Prompt::Texts(Vec::new()),
        };
        Ok(Request {
            model,
            cache_salt: self.cache_salt,
            stream: self.stream,
            // The Responses and Messages APIs end a stream with its usage unasked.
            reports_usage: !self.stream
                || self.include_usage
                || matches!(api, Api::Responses | Api::Messages),
            prompt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    fn text(s: &str) -> Part<'_> {
        Part::Text(Cow::Borrowed(s.as_bytes()))
    }

    fn item(role: &str) -> Part<'_> {
        Part::Item(Cow::Borrowed(role.as_bytes()))
    }

    fn messages<'a>(request: &'a Request<'a>) -> &'a [Part<'a>] {
        match &request.prompt {
            Prompt::Chat { messages, .. } => &messages.parts,
            other => panic!("not a chat: {other:?}"),
        }
    }

    #[test]
    fn the_end_of_the_path_names_the_api() {
        assert_eq!(Api::of(b"/v1/chat/completions"), Some(Api::Chat));
        assert_eq!(Api::of(b"/v1/completions?x=1"), Some(Api::Completions));
        assert_eq!(Api::of(b"/team-a/v1/responses/"), Some(Api::Responses));
        assert_eq!(Api::of(b"/v1/embeddings"), Some(Api::Embeddings));
        assert_eq!(Api::of(b"/v1/messages"), Some(Api::Messages));
        for path in [
            &b"/v1/messages/count_tokens"[..],
            b"/v1/audio/transcriptions",
            b"/v1/responses/resp_1/cancel",
            b"/tokenize",
            b"/v1/models",
            b"/",
            b"",
        ] {
            assert_eq!(Api::of(path), None);
        }
    }

    #[test]
    fn chat_text_is_borrowed_and_roles_come_first() {
        let body =
            br#"{"model":"m","messages":[{"content":"plain","role":"user"},{"role":"assistant","content":"a\n\u0062"}]}"#;
        let request = parse(Api::Chat, body).unwrap();
        assert_eq!(&*request.model, b"m");
        assert_eq!(messages(&request), [item("user"), text("plain"), item("assistant"), text("a\\nb")]);
        assert!(matches!(&messages(&request)[1], Part::Text(Cow::Borrowed(_))));
        assert!(request.reports_usage && !request.stream);
    }

    #[test]
    fn chat_parts_tools_and_tool_calls_are_kept_as_written() {
        let body = br#"{"tools":[{"type":"function"}],"model":"m","stream":true,"messages":[
            {"role":"user","content":[{"type":"text","text":"see"},{"type":"image_url","image_url":{"url":"http://i/1"}}]},
            {"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"1"}]}]}"#;
        let request = parse(Api::Chat, body).unwrap();
        assert!(request.stream && !request.reports_usage);
        let Prompt::Chat { tools, messages, .. } = &request.prompt else { panic!("{request:?}") };
        assert_eq!(*tools, Some(&br#"[{"type":"function"}]"#[..]));
        let expected = [
            item("user"),
            text("see"),
            Part::Json(br#"{"url":"http://i/1"}"#),
            item("assistant"),
            Part::Json(br#"[{"id":"1"}]"#),
        ];
        assert_eq!(messages.parts, expected);
    }

    #[test]
    fn a_stream_reports_usage_when_asked() {
        let body = br#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"prompt":"x"}"#;
        assert!(parse(Api::Completions, body).unwrap().reports_usage);
    }

    #[test]
    fn completions_take_text_texts_token_ids_and_lists_of_them() {
        let prompt = |json: &str| {
            let body = format!(r#"{{"model":"m","prompt":{json}}}"#).into_bytes();
            parse(Api::Completions, Box::leak(body.into_boxed_slice())).unwrap().prompt
        };
        assert_eq!(prompt(r#""a""#), Prompt::Texts(vec![b"a".into()]));
        assert_eq!(prompt(r#"["a","b"]"#), Prompt::Texts(vec![b"a".into(), b"b".into()]));
        assert_eq!(prompt("[1,2]"), Prompt::Tokens(vec![1, 2]));
        assert_eq!(prompt("[[1],[2,4294967295]]"), Prompt::Tokens(vec![1, 2, u32::MAX]));
        assert_eq!(prompt("null"), Prompt::Texts(vec![]));
        for odd in ["[1,\"x\"]", "[-1]", "[4294967296]", "[1.5]", "7", "[[[1]]]", "[null]"] {
            assert!(matches!(prompt(odd), Prompt::Opaque(_)), "{odd}");
        }
    }

    #[test]
    fn responses_and_messages_have_a_system_text_beside_the_messages() {
        let body = br#"{"model":"m","input":"hi","instructions":"be brief"}"#;
        let request = parse(Api::Responses, body).unwrap();
        let Prompt::Chat { system, messages, .. } = &request.prompt else { panic!("{request:?}") };
        assert_eq!(
            (&system[..], &messages.parts[..]),
            (&[text("be brief")][..], &[item("user"), text("hi")][..])
        );

        let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}]}"#;
        let request = parse(Api::Messages, body).unwrap();
        let Prompt::Chat { system, .. } = &request.prompt else { panic!("{request:?}") };
        assert_eq!(*system, [text("s")]);
        assert!(request.reports_usage);
    }

    #[test]
    fn what_is_not_json_or_names_no_model_is_refused_with_the_place() {
        assert_eq!(parse(Api::Chat, b"{\"model\":").unwrap_err(), BodyError::Json { line: 1, column: 10 });
        assert_eq!(parse(Api::Chat, b"").unwrap_err(), BodyError::Json { line: 1, column: 1 });
        assert_eq!(parse(Api::Chat, b"{\n \"a\": x}").unwrap_err(), BodyError::Json { line: 2, column: 7 });
        assert_eq!(
            parse(Api::Chat, b"{\"model\":\"\xff\"}").unwrap_err(),
            BodyError::Json { line: 1, column: 11 }
        );
        assert_eq!(parse(Api::Chat, b"[]").unwrap_err(), BodyError::NotAnObject);
        assert!(matches!(parse(Api::Chat, b"[").unwrap_err(), BodyError::Json { .. }));
        for body in [&b"{}"[..], br#"{"model":null}"#, br#"{"model":3}"#, br#"{"model":""}"#] {
            assert_eq!(parse(Api::Chat, body).unwrap_err(), BodyError::Model, "{}", body.escape_ascii());
        }
        let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(MAX_MODEL_BYTES + 1));
        assert_eq!(
            parse(Api::Chat, long.as_bytes()).unwrap_err(),
            BodyError::ModelTooLong { bytes: MAX_MODEL_BYTES + 1 }
        );
        // A shape that is wrong does not hide JSON that is.
        assert!(matches!(parse(Api::Chat, br#"{"messages":7,"model":"m""#), Err(BodyError::Json { .. })));
        let deep = format!(r#"{{"model":"m","x":{}1{}}}"#, "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(parse(Api::Chat, deep.as_bytes()).unwrap_err(), BodyError::Depth);
    }

    #[test]
    fn unknown_shapes_are_for_the_pod_to_judge() {
        for body in [
            &br#"{"model":"m","messages":7}"#[..],
            br#"{"model":"m","messages":[7]}"#,
            br#"{"model":"m","messages":[{"role":5,"content":"x"}]}"#,
            br#"{"model":"m","messages":[{"role":"user","content":{"a":1}}]}"#,
            br#"{"model":"m","stream":"yes"}"#,
        ] {
            let request = parse(Api::Chat, body).unwrap();
            assert_eq!(&*request.model, b"m");
            assert_eq!(request.prompt, Prompt::Opaque(body));
        }
    }

    #[test]
    fn a_prompt_of_too_many_parts_is_not_taken_apart() {
        let cases = [
            ("{}", "messages", MAX_PARTS),
            (r#"{"content":["a"]}"#, "messages", MAX_PARTS),
            (r#""a""#, "prompt", MAX_PARTS),
            ("1", "prompt", MAX_TOKENS),
        ];
        for (part, key, limit) in cases {
            let list = vec![part; limit + 1].join(",");
            let body = format!(r#"{{"model":"m","{key}":[{list}]}}"#);
            let api = if key == "prompt" { Api::Completions } else { Api::Chat };
            assert!(matches!(parse(api, body.as_bytes()).unwrap().prompt, Prompt::Opaque(_)), "{part}");
        }
    }

    #[test]
    fn the_last_of_duplicate_keys_counts() {
        let body = br#"{"model":"x","messages":[{"role":"a"}],"model":"m","messages":[{"role":"b"}]}"#;
        let request = parse(Api::Chat, body).unwrap();
        assert_eq!(&*request.model, b"m");
        assert_eq!(messages(&request), [item("b")]);
    }
}
