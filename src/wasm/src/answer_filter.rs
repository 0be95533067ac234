//! The upstream HTTP filter, once per attempt: holds an answer's headers until it is known whether the pod
//! serves the request.
//!
//! vLLM sends status 200 and the headers of a stream before it has computed anything. Once a client has them,
//! Envoy cannot ask another pod. So the headers wait here for the first token: a pod that dies before it is
//! retried as one that sent nothing, and an error event instead of a token becomes the status that it names,
//! which Envoy's retry policy knows. A refusal and a fault that came as a status wait for their body: only
//! that tells a full pod from a broken one, and a dead engine from a request that no pod could serve.

use std::rc::Rc;

use crate::abi::Action;
use warmpath::answer::error_event::{ErrorEvent, ErrorKind, error_body};
use warmpath::answer::first_token::{FirstEvent, FirstTokenReader};
use warmpath::answer::refusal::Refusal;
use warmpath::answer::verdict::Decline;

use crate::answer_hint::AnswerHint;
use crate::answer_role::AnswerRole;
use crate::attempts;
use crate::callbacks::Callbacks;
use crate::host;

/// Bytes of an answer that are held at most: far more than events before the first token take, unless they
/// repeat a long request, and less than the smallest buffer of a connection (32 KiB at an Envoy Gateway),
/// beyond which Envoy itself would give the answer up.
const MOST_HELD: usize = 16 << 10;
/// The header that makes Envoy's retry policy ask another pod.
const ASK_ANOTHER: &str = "x-warmpath-ask-another";
/// The header by which Envoy's retry policy passes an answer on, whatever its status.
const NO_RETRY: &str = "x-envoy-ratelimited";
/// The status of a pod that is full, or takes no requests.
const UNAVAILABLE: u16 = 503;
/// The status of a server beside the engine that does not reach it, and of a stream without a token.
const BAD_GATEWAY: u16 = 502;
/// The answer to a stream that ends in good order without a token.
const NO_TOKEN: Refusal<'_> = Refusal {
    status: BAD_GATEWAY as u32,
    kind: "BadGatewayError",
    message: "the pod ended its answer without a token",
    param: None,
};

/// One attempt of a request.
#[derive(Debug)]
pub struct AnswerFilter {
    role: Rc<AnswerRole>,
    phase: Phase,
    /// The pod's own answer goes to the client.
    served: bool,
}

/// Where an answer is on its way.
#[derive(Debug)]
enum Phase {
    /// Nothing to hold: not begun, of no interest, or on its way to the client.
    Passing,
    /// A stream whose headers wait for its first token.
    Stream(Box<Held>),
    /// A 503 or a 500 whose headers wait for its body.
    Refusal(Box<Held>),
    /// A stream that has become an error: the rest of it goes nowhere.
    Dropping,
}

/// What is held of an answer.
#[derive(Debug, Default)]
struct Held {
    reader: FirstTokenReader,
    /// Bytes that the reader has.
    read: usize,
}

impl Held {
    /// What the answer says, now that `size` bytes of it are here.
    fn read(&mut self, size: usize, end_of_stream: bool) -> FirstEvent {
        let said = self.reader.feed(&host::response_body(self.read, size));
        self.read = size;
        if end_of_stream { self.reader.end() } else { said }
    }
}

impl AnswerFilter {
    /// A filter for one attempt.
    pub fn new(role: Rc<AnswerRole>) -> AnswerFilter {
        AnswerFilter { role, phase: Phase::Passing, served: false }
    }

    /// Acts on a part of the answer; `size` bytes of it are here.
    fn read(&mut self, size: usize, end_of_stream: bool) -> Action {
        match &mut self.phase {
            Phase::Passing => Action::Continue,
            Phase::Stream(held) => {
                let said = held.read(size, end_of_stream);
                self.on_stream(said, size, end_of_stream)
            }
            Phase::Refusal(held) => {
                let said = held.read(size, end_of_stream);
                if !said.is_final() && size < MOST_HELD {
                    return Action::Pause;
                }
                self.phase = Phase::Passing;
                if let FirstEvent::Error(error) = said {
                    if error.kind == ErrorKind::Full {
                        self.count(error);
                    }
                    self.leave_dead(error);
                }
                Action::Continue
            }
            Phase::Dropping => {
                host::set_response_body(size, b"");
                Action::Continue
            }
        }
    }

    /// Acts on what a stream says; `size` bytes of it are here.
    #[inline(never)]
    fn on_stream(&mut self, said: FirstEvent, size: usize, end_of_stream: bool) -> Action {
        match said {
            FirstEvent::NotYet if !end_of_stream && size < MOST_HELD => return Action::Pause,
            FirstEvent::Error(error) => {
                self.count(error);
                let events = host::response_body(0, size);
                self.turn_into(error.status, error_body(&events).unwrap_or(&events), size);
                self.leave_dead(error);
            }
            FirstEvent::NotYet | FirstEvent::DoneWithoutToken
                if (end_of_stream || said.is_final())
                    && host::response_header("content-encoding").is_none() =>
            {
                self.role.metrics.empty.count();
                self.turn_into(NO_TOKEN.status as u16, &NO_TOKEN.body(), size);
            }
            _ => {
                self.phase = Phase::Passing;
                self.served = true;
            }
        }
        Action::Continue
    }

    /// Makes a stream, of which `size` bytes are here, an answer with this status and body.
    #[inline(never)]
    fn turn_into(&mut self, status: u16, body: &[u8], size: usize) {
        host::set_response_header(":status", Some(status.to_string().as_bytes()));
        host::set_response_header("content-type", Some(b"application/json"));
        host::set_response_header("content-length", None);
        host::set_response_body(size, body);
        self.phase = Phase::Dropping;
        self.decline(status);
        if status == UNAVAILABLE {
            keep();
        }
    }

    /// Has another pod asked, if it may serve what this one answers with this status: a model or a key is a
    /// matter of the pod. A path that is not inference is unknown to all of them, and the client must get
    /// that answer, not the failure of a pod that is asked after it.
    #[inline(never)]
    fn decline(&self, status: u16) {
        if status != BAD_GATEWAY && Decline::of_status(u64::from(status)).is_none() {
            return;
        }
        // Envoy no longer shows the request's headers here, so the router's hint tells.
        let hint = AnswerHint::of_stream();
        let matters = (status == BAD_GATEWAY || hint.has_prompt) && !hint.goes_on;
        if matters && self.role.asks_another(status, hint.pods) {
            host::set_response_header(ASK_ANOTHER, Some(b"1"));
        }
    }

    /// Has another pod asked, once, where the engine of this one has died: the request may be the one that
    /// has killed it.
    fn leave_dead(&self, error: ErrorEvent) {
        if error.kind == ErrorKind::Dead && !AnswerHint::of_stream().goes_on && self.role.asks_another_once()
        {
            host::set_response_header(ASK_ANOTHER, Some(b"1"));
        }
    }

    /// Counts an error, and tells of a full pod.
    #[inline(never)]
    fn count(&self, error: ErrorEvent) {
        match error.kind {
            ErrorKind::Full => {
                self.role.metrics.full.count();
                let seconds = self.role.pod_is_full();
                host::set_response_header("retry-after", Some(seconds.to_string().as_bytes()));
            }
            ErrorKind::Request => self.role.metrics.bad_request.count(),
            ErrorKind::Fault | ErrorKind::Dead => self.role.metrics.fault.count(),
        }
    }
}

/// Has no other pod asked where a request goes on from a response that this one has stored: any other would
/// say that there is no such response, which ends a dialogue that would go on in a moment.
#[cold]
#[inline(never)]
fn keep() {
    if AnswerHint::of_stream().goes_on {
        host::set_response_header(NO_RETRY, Some(b"true"));
    }
}

impl Callbacks for AnswerFilter {
    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        let status = host::response_header(":status").unwrap_or_default();
        let refuses = matches!(&*status, b"503" | b"500");
        if &*status == b"503" {
            keep();
        }
        let serves = status.starts_with(b"2");
        if !serves && !refuses {
            self.decline(
                std::str::from_utf8(&status).ok().and_then(|status| status.parse().ok()).unwrap_or(0),
            );
        }
        if end_of_stream || !(refuses || serves) {
            self.served = serves;
            return Action::Continue;
        }
        let kind = host::response_header("content-type").unwrap_or_default();
        let is = |name: &[u8]| kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        self.phase = if refuses && is(b"application/json") {
            Phase::Refusal(Box::default())
        } else if !refuses && is(b"text/event-stream") {
            Phase::Stream(Box::default())
        } else {
            self.served = serves;
            return Action::Continue;
        };
        Action::Pause
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let action = self.read(size, end_of_stream);
        attempts::note_part(action == Action::Continue);
        action
    }
}

impl Drop for AnswerFilter {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Stream(_)) {
            self.role.metrics.broken.count();
        }
        if !self.served {
            attempts::has_failed();
        }
    }
}
