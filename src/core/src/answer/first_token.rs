//! Tells what the first events of an answer mean, as they arrive: whether anything has been computed yet.
//!
//! vLLM sends the headers of a stream before it has computed anything, so the first event is the first thing
//! that says whether the pod serves the request. Until then another pod can still take it.
//!
//! The reader takes chunks cut anywhere and keeps at most [`LONGEST`] bytes of an event, because an event
//! that only repeats the request (`response.created`) may be as long as the request.

use crate::answer::error_event::ErrorEvent;
use crate::request::json::{JsonResult, Kind, Scanner};

/// Bytes of a line, and of an event, that are kept. Error events are far shorter.
const LONGEST: usize = 4096;
/// May stand before the first event of a stream, and means nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What an answer has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstEvent {
    /// Nothing, or only that the request has arrived: no token has been computed.
    #[default]
    NotYet,
    /// The same, and a keep-alive has come, which must reach the client in time.
    KeepAlive,
    /// The pod has computed a token, or has sent bytes that this reader does not know. Final.
    Token,
    /// The pod says that it failed. Final.
    Error(ErrorEvent),
    /// The stream has ended in good order without a token. Final.
    DoneWithoutToken,
}

impl FirstEvent {
    /// Whether later bytes change nothing.
    pub fn is_final(self) -> bool {
        !matches!(self, FirstEvent::NotYet | FirstEvent::KeepAlive)
    }
}

/// Reads the start of an answer: server-sent events of the Chat, Completions, Responses and Messages APIs, or
/// one JSON object.
#[derive(Clone, Debug, Default)]
pub struct FirstTokenReader {
    said: FirstEvent,
    form: Form,
    /// Bytes of a byte order mark that have come; all of them once something else has.
    mark: usize,
    /// The line that has begun, or the JSON object.
    line: Bounded,
    /// Whether the last line ended with a carriage return, so that a line feed belongs to it.
    after_return: bool,
    /// `event:` of the event that has begun.
    name: Bounded,
    /// `data:` of the event that has begun.
    data: Bounded,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Unknown,
    Events,
    Object,
}

/// The first [`LONGEST`] bytes of a text.
#[derive(Clone, Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
    cut: bool,
}

impl Bounded {
    fn push(&mut self, bytes: &[u8]) {
        let room = LONGEST.saturating_sub(self.bytes.len());
        self.cut |= bytes.len() > room;
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.cut = false;
    }
}

impl FirstTokenReader {
    /// Takes the next chunk of the answer's body.
    pub fn feed(&mut self, mut chunk: &[u8]) -> FirstEvent {
        while !self.said.is_final() && !chunk.is_empty() {
            chunk = match self.form {
                Form::Unknown => self.find_form(chunk),
                Form::Events => self.take_line(chunk),
                Form::Object => {
                    self.line.push(chunk);
                    if self.line.cut {
                        // Longer than any error.
                        self.said = FirstEvent::Token;
                    }
                    &[]
                }
            };
        }
        self.said
    }

    /// The answer's body has ended. Without a final word before, the pod has broken off a stream.
    pub fn end(&mut self) -> FirstEvent {
        if !self.said.is_final() {
            match self.form {
                Form::Unknown => {}
                Form::Events => {
                    self.end_line();
                    self.end_event();
                }
                Form::Object => {
                    let facts = Facts::of(&self.line.bytes);
                    self.said = facts.error().map_or(FirstEvent::Token, FirstEvent::Error);
                }
            }
        }
        self.said
    }

    /// An object begins with a brace, and no line of an event stream does. Neither begins with a byte that is
    /// no text: such an answer is compressed.
    fn find_form<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let start = self.pass_mark(chunk).trim_ascii_start();
        self.form = match start.first() {
            None => Form::Unknown,
            Some(b'{') => Form::Object,
            Some(byte) if byte.is_ascii_graphic() => Form::Events,
            Some(_) => {
                self.said = FirstEvent::Token;
                Form::Unknown
            }
        };
        start
    }

    /// Passes over a byte order mark, which may be cut anywhere and stands at the very start. A part of it is
    /// no mark, and stays.
    fn pass_mark<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let before = std::mem::replace(&mut self.mark, BYTE_ORDER_MARK.len());
        let expected = BYTE_ORDER_MARK.get(before..).unwrap_or_default();
        match chunk.strip_prefix(expected) {
            Some(rest) => rest,
            None if expected.starts_with(chunk) => {
                self.mark = before + chunk.len();
                &[]
            }
            None if before > 0 => BYTE_ORDER_MARK,
            None => chunk,
        }
    }

    /// Takes the rest of a line, or what there is of it.
    fn take_line<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let chunk = match chunk.strip_prefix(b"\n") {
            Some(rest) if self.after_return => rest,
            _ => chunk,
        };
        self.after_return = false;
        let Some(end) = memchr::memchr2(b'\n', b'\r', chunk) else {
            self.line.push(chunk);
            return &[];
        };
        let (line, rest) = chunk.split_at_checked(end).unwrap_or((chunk, &[]));
        self.line.push(line);
        self.after_return = rest.first() == Some(&b'\r');
        self.end_line();
        rest.get(1..).unwrap_or_default()
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.bytes.is_empty() {
            self.end_event();
        } else if line.bytes.starts_with(b":") {
            self.said = FirstEvent::KeepAlive;
        } else {
            let mut parts = line.bytes.splitn(2, |&byte| byte == b':');
            let (field, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match field {
                b"event" => {
                    self.name.clear();
                    self.name.push(value);
                }
                b"data" => {
                    if !self.data.bytes.is_empty() {
                        self.data.push(b"\n");
                    }
                    self.data.push(value);
                    self.data.cut |= line.cut;
                }
                _ => {}
            }
        }
        // Its memory lives on.
        self.line = line;
        self.line.clear();
    }

    fn end_event(&mut self) {
        if !self.data.bytes.is_empty() {
            match meaning(&self.name.bytes, &self.data.bytes) {
                // A keep-alive that has come must still reach the client.
                FirstEvent::NotYet => {}
                said => self.said = said,
            }
        }
        self.name.clear();
        self.data.clear();
    }
}

/// What one event says.
fn meaning(name: &[u8], data: &[u8]) -> FirstEvent {
    if data.trim_ascii() == b"[DONE]" {
        return FirstEvent::DoneWithoutToken;
    }
    let facts = Facts::of(data);
    if let Some(error) = facts.error() {
        return FirstEvent::Error(error);
    }
    match facts.kind.unwrap_or(name) {
        b"error" | b"response.failed" => FirstEvent::Error(ErrorEvent::of(facts.details)),
        b"response.created" | b"response.in_progress" | b"response.queued" | b"message_start" => {
            FirstEvent::NotYet
        }
        b"ping" => FirstEvent::KeepAlive,
        b"message_stop" => FirstEvent::DoneWithoutToken,
        _ if facts.choices == Some(false) => FirstEvent::NotYet,
        _ => FirstEvent::Token,
    }
}

/// What an event or a whole answer has that matters here; what stands after a cut is not seen.
#[derive(Default)]
struct Facts<'a> {
    /// `type`.
    kind: Option<&'a [u8]>,
    /// Whether `object` is `error`, as in older forms.
    is_error: bool,
    /// The JSON of `error`, unless it is null.
    error: Option<&'a [u8]>,
    /// The JSON in which a failure that `type` names says more: the event, or its `response`.
    details: &'a [u8],
    /// Whether a choice has a token; `None` without `choices`.
    choices: Option<bool>,
}

impl<'a> Facts<'a> {
    fn of(json: &'a [u8]) -> Facts<'a> {
        let mut facts = Facts { details: json, ..Facts::default() };
        let mut scanner = Scanner::new(json);
        // An error is the end of what was kept; whatever stands before it counts.
        let _ = scanner.object(|scanner, key| {
            match &*key {
                b"type" => facts.kind = text(scanner.skip()?),
                b"object" => facts.is_error = scanner.skip()? == b"\"error\"",
                b"error" => facts.error = Some(scanner.skip()?).filter(|&error| error != b"null"),
                b"response" => facts.details = scanner.skip()?,
                b"choices" if scanner.kind()? == Kind::Array => {
                    let mut token = false;
                    scanner.array(|scanner| read_choice(scanner, &mut token))?;
                    facts.choices = Some(token);
                }
                _ => drop(scanner.skip()?),
            }
            Ok(())
        });
        facts
    }

    fn error(&self) -> Option<ErrorEvent> {
        match self.error {
            Some(error) if error.starts_with(b"{") => Some(ErrorEvent::of(error)),
            // A text, beside which there may be more.
            Some(_) => Some(ErrorEvent::of(self.details)),
            None => (self.is_error || self.kind == Some(b"error")).then(|| ErrorEvent::of(self.details)),
        }
    }
}

/// Whether a choice of a chunk has a token: text of a completion, a change of a chat that is more than its
/// role, or an end.
fn read_choice(scanner: &mut Scanner<'_>, token: &mut bool) -> JsonResult<()> {
    if scanner.kind()? != Kind::Object {
        return scanner.skip().map(drop);
    }
    scanner.object(|scanner, key| {
        match &*key {
            // vLLM sends no chunk of a completion before there is a token, whose text may be empty.
            b"text" => *token |= scanner.skip()? != b"null",
            b"delta" if scanner.kind()? == Kind::Object => scanner.object(|scanner, key| {
                let value = scanner.skip()?;
                *token |= &*key != b"role" && !matches!(value, b"null" | b"\"\"" | b"[]" | b"{}");
                Ok(())
            })?,
            b"finish_reason" => *token |= scanner.skip()? != b"null",
            _ => drop(scanner.skip()?),
        }
        Ok(())
    })
}

/// The text of a JSON string without escapes.
fn text(json: &[u8]) -> Option<&[u8]> {
    json.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

#[cfg(test)]
mod tests;
