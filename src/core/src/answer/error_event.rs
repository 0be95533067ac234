//! An error that stands in the body of an answer, in all the forms of vLLM's APIs.
//!
//! | API | form |
//! | --- | --- |
//! | Chat, Completions | `{"error": {"message", "type", "param", "code": 503}}` |
//! | the same, older | `{"object": "error", "message", "type", "param", "code": 400}`, alone or within `error` |
//! | Responses | `{"type": "error", "code": "server_error", "message"}`, `{"type": "response.failed", "response": {"error": {"code", "message"}}}` |
//! | Messages | `{"type": "error", "error": {"type": "internal_error", "message"}}` |
//! | another engine's (TGI) | `{"error": "Model is overloaded", "error_type": "overloaded"}` |
//!
//! vLLM 0.32 makes a stream of Messages from one of chat chunks, and an error among them is no chunk to it:
//! the message is then why it is none, and ends with the end of the error as Python writes it.

use crate::request::json::{Kind, Scanner};

/// What an error in the body of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEvent {
    /// The HTTP status that fits it, 400 to 599.
    pub status: u16,
    /// What it says about the pod.
    pub kind: ErrorKind,
}

/// What an error says about the pod that answered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The pod is healthy and takes no more at the moment.
    Full,
    /// The request is at fault: another pod would say the same.
    Request,
    /// The pod has failed.
    Fault,
    /// The pod's engine has died, and all its requests with it: whichever has killed it, most have not.
    Dead,
}

/// Words in `type` or `code`, lower case and without marks, and the status that goes with them.
const STATUS_OF_WORD: [(&[u8], u16); 14] = [
    (b"unavailable", 503),
    (b"overloaded", 503),
    (b"ratelimit", 429),
    (b"toomanyrequests", 429),
    (b"notfound", 404),
    (b"authentication", 401),
    (b"unauthorized", 401),
    (b"permission", 403),
    (b"forbidden", 403),
    (b"unprocessable", 422),
    (b"validation", 422),
    (b"badrequest", 400),
    (b"invalidrequest", 400),
    (b"invalidprompt", 400),
];

/// The sentence with which vLLM refuses a request when its queue is full; the Messages API passes it on
/// without a code.
const BUSY: &[u8] = b"engine is currently busy";
/// The same in a stream of Messages.
const BUSY_QUOTED: &[u8] = b"'code': 503}}";

/// The sentence with which vLLM answers the requests of an engine that has died (`EngineDeadError`).
const DEAD: &[u8] = b"EngineCore encountered an issue";
/// The same in a stream of Messages.
const DEAD_QUOTED: &[u8] = b"'message': 'En...am': None, 'code': 500}}";

impl ErrorEvent {
    /// Reads the JSON of an error, or of an object that has it under `error`; without a status in it, it is a
    /// fault.
    pub(super) fn of(json: &[u8]) -> ErrorEvent {
        let mut status = None;
        read(json, &mut status, true);
        let status = status.unwrap_or(500);
        let kind = match status {
            429 | 503 => ErrorKind::Full,
            400..500 => ErrorKind::Request,
            500 if says(json, DEAD) || says(json, DEAD_QUOTED) => ErrorKind::Dead,
            _ => ErrorKind::Fault,
        };
        ErrorEvent { status, kind }
    }
}

/// The error among the first events of a stream, as the body of an answer that is none; `None` if there is no
/// JSON.
pub fn error_body(events: &[u8]) -> Option<&[u8]> {
    let object = |line: &'_ [u8]| line.starts_with(b"{");
    let data = |line| <[u8]>::strip_prefix(line, b"data:").map(<[u8]>::trim_ascii);
    // Nothing but `[DONE]` follows an error.
    events.split(|&byte| matches!(byte, b'\n' | b'\r')).rev().filter_map(data).find(|data| object(data))
}

/// Whether a whole answer with status 503 says that the pod takes no more requests at the moment, and not
/// that it is broken.
pub fn says_full(body: &[u8]) -> bool {
    let object = body.trim_ascii_start().starts_with(b"{");
    object && says(body, b"\"error\"") && ErrorEvent::of(body).kind == ErrorKind::Full
}

fn says(text: &[u8], words: &[u8]) -> bool {
    memchr::memmem::find(text, words).is_some()
}

/// Finds a status; that of a number counts more than that of a word.
fn read(json: &[u8], status: &mut Option<u16>, goes_deeper: bool) {
    let mut by_word = None;
    let mut scanner = Scanner::new(json);
    // An error is the end of what was kept; whatever stands before it counts.
    let _ = scanner.object(|scanner, key| {
        match &*key {
            b"code" | b"status" | b"status_code" => {
                let value = scanner.skip()?;
                *status = status.or(number(value));
                by_word = by_word.or(word(value));
            }
            b"type" | b"error_type" => by_word = by_word.or(word(scanner.skip()?)),
            b"message" => {
                let message = scanner.skip()?;
                let busy = says(message, BUSY) || says(message, BUSY_QUOTED);
                by_word = if busy { Some(503) } else { by_word };
            }
            b"error" if goes_deeper && scanner.kind()? == Kind::Object => {
                read(scanner.skip()?, status, false)
            }
            _ => drop(scanner.skip()?),
        }
        Ok(())
    });
    *status = status.or(by_word);
}

/// A status that is written as a number, or as a number in text.
fn number(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\"").and_then(|json| json.strip_suffix(b"\"")).unwrap_or(json);
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match status {
        // Anthropic's word for "overloaded", which no client of the other APIs knows.
        529 => Some(503),
        400..600 => Some(status),
        _ => None,
    }
}

/// The status of a word.
fn word(json: &[u8]) -> Option<u16> {
    let word: Vec<u8> = json
        .iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .take(64)
        .map(u8::to_ascii_lowercase)
        .collect();
    STATUS_OF_WORD
        .iter()
        .find(|(part, _)| memchr::memmem::find(&word, part).is_some())
        .map(|&(_, status)| status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pod_is_told_from_a_broken_one() {
        let busy = include_bytes!("../../../../tests/fixtures/cases/B20/answer-503.json");
        assert!(says_full(busy));
        for broken in [
            &b"draining"[..],
            b"",
            b"{\"error\":{\"message\":\"engine dead\",\"code\":500}}",
            b"{\"code\":503}",
        ] {
            assert!(!says_full(broken), "{}", broken.escape_ascii());
        }
    }

    #[test]
    fn an_engine_that_has_died_is_told_from_a_fault_of_one_request() {
        let dead = br#"{"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
            "type": "InternalServerError", "param": null, "code": 500}}"#;
        assert_eq!(ErrorEvent::of(dead), ErrorEvent { status: 500, kind: ErrorKind::Dead });
        let fault = br#"{"error": {"message": "engine failed", "type": "InternalServerError", "code": 500}}"#;
        assert_eq!(ErrorEvent::of(fault).kind, ErrorKind::Fault);
        let quoted =
            br#"{"error": {"message": "no such model: EngineCore encountered an issue", "code": 404}}"#;
        assert_eq!(ErrorEvent::of(quoted).kind, ErrorKind::Request);
    }
}
