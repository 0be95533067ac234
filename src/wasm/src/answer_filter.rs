//! The upstream HTTP filter, once per attempt: holds the headers of a stream until it is known whether the pod serves it.
//!
//! vLLM sends status 200 and the headers of a stream before it has computed anything. Once a client has them, Envoy cannot ask
//! another pod. So the headers wait here for the first token: a pod that dies before it is retried as one that sent nothing, and
//! an error event instead of a token becomes the status that it names, which Envoy's retry policy knows.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use warmpath::answer::error_event::{ErrorKind, error_body};
use warmpath::answer::first_token::{FirstEvent, FirstTokenReader};
use warmpath::answer::refusal::Refusal;

use crate::host;
use crate::metrics::AnswerMetrics;

/// Bytes of a stream that are held at most: far more than events before the first token take, unless they repeat a long
/// request, and less than the smallest buffer of a connection (32 KiB at an Envoy Gateway), beyond which Envoy itself would
/// give the answer up.
const MOST_HELD: usize = 16 << 10;
/// The answer to a stream that ends in good order without a token.
const NO_TOKEN: Refusal<'_> = Refusal {
    status: 502,
    kind: "BadGatewayError",
    message: "the pod ended its answer without a token",
    param: None,
};
/// When a client may ask again that was refused by a full or a failing pod, in seconds.
const RETRY_AFTER: &[u8] = b"1";

/// One attempt of a request.
#[derive(Debug)]
pub struct AnswerFilter {
    metrics: AnswerMetrics,
    phase: Phase,
}

/// Where an answer is on its way.
#[derive(Debug)]
enum Phase {
    /// Nothing to hold: not begun, not a stream, or on its way to the client.
    Passing,
    /// A stream whose headers wait for its first token.
    Held(Box<Held>),
    /// A stream that has become an error: the rest of it goes nowhere.
    Dropping,
}

/// What is held of a stream.
#[derive(Debug, Default)]
struct Held {
    reader: FirstTokenReader,
    /// Bytes that the reader has.
    read: usize,
}

impl AnswerFilter {
    /// A filter for one attempt.
    pub fn new(metrics: AnswerMetrics) -> AnswerFilter {
        AnswerFilter { metrics, phase: Phase::Passing }
    }

    /// Makes the stream that has begun, of which `size` bytes are here, an answer with this status and body.
    fn turn_into(&mut self, status: u16, body: &[u8], size: usize) {
        host::set_response_header(":status", Some(status.to_string().as_bytes()));
        host::set_response_header("content-type", Some(b"application/json"));
        host::set_response_header("content-length", None);
        if matches!(status, 429 | 503) {
            host::set_response_header("retry-after", Some(RETRY_AFTER));
        }
        host::set_response_body(size, body);
        self.phase = Phase::Dropping;
    }
}

impl Context for AnswerFilter {}

impl HttpContext for AnswerFilter {
    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        let streams = !end_of_stream
            && host::response_header("content-type")
                .is_some_and(|kind| kind.starts_with(b"text/event-stream"))
            && host::response_header(":status").is_some_and(|status| status.starts_with(b"2"));
        if !streams {
            return Action::Continue;
        }
        self.phase = Phase::Held(Box::default());
        Action::Pause
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let held = match &mut self.phase {
            Phase::Passing => return Action::Continue,
            Phase::Dropping => {
                host::set_response_body(size, b"");
                return Action::Continue;
            }
            Phase::Held(held) => held,
        };
        let mut said = held.reader.feed(&host::response_body(held.read, size));
        if end_of_stream {
            said = held.reader.end();
        }
        held.read = size;
        match said {
            FirstEvent::NotYet if !end_of_stream && size < MOST_HELD => return Action::Pause,
            FirstEvent::Error(error) => {
                match error.kind {
                    ErrorKind::Full => self.metrics.full.count(),
                    ErrorKind::Request => self.metrics.bad_request.count(),
                    ErrorKind::Fault => self.metrics.fault.count(),
                }
                let events = host::response_body(0, size);
                self.turn_into(error.status, error_body(&events).unwrap_or(&events), size);
            }
            FirstEvent::NotYet if size >= MOST_HELD => self.phase = Phase::Passing,
            FirstEvent::DoneWithoutToken | FirstEvent::NotYet => {
                self.metrics.empty.count();
                self.turn_into(NO_TOKEN.status as u16, &NO_TOKEN.body(), size);
            }
            FirstEvent::KeepAlive | FirstEvent::Token => self.phase = Phase::Passing,
        }
        Action::Continue
    }
}

impl Drop for AnswerFilter {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Held(_)) {
            self.metrics.broken.count();
        }
    }
}
