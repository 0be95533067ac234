//! From the bytes of a request to its model and the parts of its prompt.
//!
//! First step on the path of a request, in one pass over the body: text is borrowed from the body and no tree
//! of the prompt is built. A body that is JSON but has an unknown shape is not refused, because the pod may
//! know that shape: its prompt is then the whole body, opaque.

use std::fmt;
use std::ops::Range;

use crate::request::json::{MAX_DEPTH, Text};
use crate::request::media;

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
    /// The API to which a `POST` of `path` goes, or `None` for a request that is routed by load alone.
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

    /// The id in a path that names a stored response, `/v1/responses/ID` and what follows.
    pub fn stored_response(path: &[u8]) -> Option<&[u8]> {
        const BEFORE: &[u8] = b"/v1/responses/";
        let after = memchr::memmem::find(path, BEFORE)? + BEFORE.len();
        let id = path.get(after..)?.split(|&b| matches!(b, b'/' | b'?' | b'#')).next()?;
        (!id.is_empty()).then_some(id)
    }

    pub(super) fn takes_messages(self) -> bool {
        matches!(self, Api::Chat | Api::Messages | Api::Embeddings)
    }

    pub(super) fn takes_input(self) -> bool {
        matches!(self, Api::Responses | Api::Embeddings)
    }
}

/// The facts about an inference request that a router needs; borrows from the body.
#[derive(Debug, PartialEq)]
pub struct Request<'a> {
    /// The model asked for; LoRA adapters are models to vLLM. Empty where the request names none: most
    /// servers have one.
    pub model: Text<'a>,
    /// Where the value of `model` stands in the body, its quotes included; empty where it is no text.
    pub model_at: Range<usize>,
    /// Whether the request has a `priority` of its own, for vLLM's scheduler.
    pub has_priority: bool,
    /// vLLM's `cache_salt`: prompts with different salts share no cache.
    pub cache_salt: Option<Text<'a>>,
    /// Whether the answer comes as server-sent events.
    pub stream: bool,
    /// Whether the answer will report `usage`: always when it comes whole, on request (`stream_options`) when
    /// streamed.
    ///
    /// A vLLM with `--enable-force-include-usage` reports it in every stream. Warmpath does not look for it
    /// there: nothing tells the chunk that has it from the others, so each chunk would have to be copied into
    /// the module and searched, to learn no more than the other answers teach.
    pub reports_usage: bool,
    /// The stored response that it goes on from (`previous_response_id`): only the pod that has it can serve
    /// it.
    pub follows: Option<Text<'a>>,
    /// Whether the pod may store its answer, so that later requests go on from there.
    pub stores: bool,
    /// The prompt, in the parts that [`crate::request::prompt`] puts in order.
    pub prompt: Prompt<'a>,
}

/// The parts of a prompt.
#[derive(Debug, PartialEq)]
pub enum Prompt<'a> {
    /// Tool definitions as written, then system text and messages.
    Chat {
        /// The JSON of `tools`, or of the older `functions`.
        tools: Option<&'a [u8]>,
        /// Parts of the system text or instructions, where an API has them outside the messages.
        system: Vec<Part<'a>>,
        /// Parts of the messages, each message beginning with [`Part::Item`].
        messages: Vec<Part<'a>>,
    },
    /// Plain text; several texts are one request to the router.
    Texts(Vec<Text<'a>>),
    /// Token ids; several lists are one request to the router.
    Tokens(Vec<u32>),
    /// Embeddings in place of tokens (`prompt_embeds`), each a tensor in base64.
    Embeddings(Vec<Text<'a>>),
    /// JSON of a shape that this module does not know: the whole body.
    Opaque(&'a [u8]),
}

impl Prompt<'_> {
    /// Whether its canonical bytes are text, so that bytes and tokens stand in a ratio that the model's
    /// tokenizer sets.
    pub fn is_text(&self) -> bool {
        match self {
            Prompt::Chat { system, messages, .. } => !system.iter().chain(messages).any(Part::is_media),
            Prompt::Texts(_) => true,
            Prompt::Tokens(_) | Prompt::Embeddings(_) | Prompt::Opaque(_) => false,
        }
    }
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

impl Part<'_> {
    /// Whether the part is mostly the data of an image, a sound or a film: a model makes far fewer tokens of
    /// it than of text of that length.
    pub fn is_media(&self) -> bool {
        matches!(self, Part::Json(json) if media::is_media(json))
    }
}

/// Why a body cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Not JSON.
    Json {
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error in bytes, from 1.
        column: usize,
    },
    /// Brackets are nested deeper than [`MAX_DEPTH`].
    Depth,
    /// Half of a surrogate pair, which is no text.
    Surrogate,
    /// JSON, but not an object.
    NotAnObject,
    /// `model` is neither a string nor null.
    Model,
    /// `model` is longer than [`MAX_MODEL_BYTES`].
    ModelTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
}

/// Longest model name that is taken, in bytes. Names are paths or repository names; the limit is far above
/// any of them and keeps one request from filling an error message, the log or the table of learned ratios.
pub const MAX_MODEL_BYTES: usize = 4096;

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::Json { line, column } => {
                write!(f, "the request body is not valid JSON: error at line {line} column {column}")
            }
            BodyError::Depth => {
                write!(f, "the request body is nested too deeply, the limit is {MAX_DEPTH} levels")
            }
            BodyError::Surrogate => {
                write!(f, "the request body has half of a surrogate pair, which is no text")
            }
            BodyError::NotAnObject => write!(f, "the request body must be a JSON object"),
            BodyError::Model => write!(f, "`model` must be a string"),
            BodyError::ModelTooLong { bytes } => {
                write!(f, "`model` is {bytes} bytes long, the limit is {MAX_MODEL_BYTES}")
            }
        }
    }
}

impl std::error::Error for BodyError {}

impl BodyError {
    /// Whether vLLM, whose reader is Python's, may take the body all the same. Then it goes to a pod
    /// unchanged, by load. Any other body is refused, and the client has to fix it.
    pub fn may_be_served(&self) -> bool {
        matches!(self, BodyError::Depth | BodyError::Surrogate)
    }
}
