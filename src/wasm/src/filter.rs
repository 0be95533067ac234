//! The router's HTTP filter: holds a request until its body is whole, has it routed, and follows the answer.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use warmpath::Micros;
use warmpath::answer::error_event::{ErrorEvent, ErrorKind};
use warmpath::answer::first_token::FirstEvent;
use warmpath::answer::refusal::Refusal;
use warmpath::answer::verdict::{Decline, Verdict};
use warmpath::request::body::{Api, BodyError};
use warmpath::request::encoding;
use warmpath::router::{NoPod, RouteBy};

use crate::decision_log::in_words;
use crate::host;
use crate::sent::Sent;
use crate::worker::{SharedWorker, Worker};

/// One request.
#[derive(Debug)]
pub struct Filter {
    worker: Rc<SharedWorker>,
    /// Envoy's number of the stream.
    stream: u32,
    phase: Phase,
}

/// Where a request is on its way.
#[derive(Debug)]
enum Phase {
    /// Nothing is decided.
    Arriving,
    /// Held until the body is whole.
    Held(Api),
    /// Sent to a pod.
    Sent(Box<Sent>),
    /// Nothing more to do.
    Done,
}

impl Filter {
    /// A filter for one request.
    pub fn new(worker: Rc<SharedWorker>, stream: u32) -> Filter {
        Filter { worker, stream, phase: Phase::Arriving }
    }

    /// Routes a request whose body is whole.
    fn route_body(&mut self, api: Api) -> Action {
        let whole_at = host::now();
        self.worker.with(Worker::look_up_settings);
        let body = host::request_body();
        if body.is_empty() {
            return self.route(RouteBy::Load, whole_at);
        }
        let Some(text) = encoding::to_utf8(&body) else {
            return self.route(RouteBy::Load, whole_at);
        };
        match self.worker.with(|worker| worker.read(api, &text)) {
            Some(Ok(request)) => self.route(RouteBy::Prompt(&request), whole_at),
            Some(Err(error)) if !error.may_be_served() && !is_encoded() && is_post() => self.reject(&error),
            Some(Err(_)) | None => self.route(RouteBy::Load, whole_at),
        }
    }

    /// Routes a request that was whole at `whole_at`.
    fn route(&mut self, by: RouteBy<'_>, whole_at: Micros) -> Action {
        self.phase = Phase::Done;
        if self.worker.test_endpoint_header
            && self.worker.with(Worker::route_by_test_header).unwrap_or_default()
        {
            return Action::Continue;
        }
        match self.worker.with(|worker| (worker.route(by, whole_at), worker.fails_open())) {
            Some((Ok((ticket, seen)), _)) => {
                self.phase = Phase::Sent(Box::new(Sent::new(ticket, seen, by)));
                Action::Continue
            }
            // Envoy's own balancing serves it until the cluster's pods are known.
            Some((Err(NoPod::UnknownCluster), _) | (Err(_), true)) | None => Action::Continue,
            Some((Err(no_pod), false)) => refuse(no_pod),
        }
    }

    fn reject(&mut self, error: &BodyError) -> Action {
        self.phase = Phase::Done;
        self.worker.with(|worker| worker.count_rejected());
        let param = match error {
            BodyError::Model | BodyError::ModelTooLong { .. } => Some("model"),
            _ => None,
        };
        respond(&Refusal { status: 400, kind: "BadRequestError", message: &error.to_string(), param }, &[])
    }

    /// Runs `with` on a request that was sent to a pod.
    fn with_sent(&mut self, with: impl FnOnce(&mut Worker, &mut Sent)) {
        if let Phase::Sent(sent) = &mut self.phase {
            self.worker.with(|worker| with(worker, sent));
        }
    }

    /// Closes the request's account.
    fn close(&mut self) {
        if let Phase::Sent(sent) = std::mem::replace(&mut self.phase, Phase::Done) {
            self.worker.with(|worker| worker.close(*sent));
        }
    }
}

impl Context for Filter {}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        #[cfg(feature = "trap")]
        crate::trap::on_request();
        match host::request_header(":path").and_then(|path| Api::of(&path)) {
            // Only a POST has a body, but for a WebSocket, whose stream has no end, so that it must not be held. Test `upgrade`
            // first: an absent header costs no copy.
            Some(api) if !end_of_stream && (host::request_header("upgrade").is_none() || is_post()) => {
                if self.worker.stop_iteration.hold(self.stream) {
                    self.phase = Phase::Held(api);
                    Action::Pause
                } else {
                    self.phase = Phase::Done;
                    self.worker.with(|worker| worker.name_none());
                    Action::Continue
                }
            }
            _ => {
                self.worker.with(Worker::look_up_settings);
                self.route(RouteBy::Load, host::now())
            }
        }
    }

    fn on_http_request_body(&mut self, _size: usize, end_of_stream: bool) -> Action {
        match self.phase {
            Phase::Held(_) if !self.worker.stop_iteration.body_came() => {
                self.phase = Phase::Done;
                Action::Continue
            }
            Phase::Held(_) if !end_of_stream => Action::Pause,
            Phase::Held(api) => self.route_body(api),
            _ => Action::Continue,
        }
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        match self.phase {
            Phase::Held(api) if self.worker.stop_iteration.body_came() => self.route_body(api),
            _ => Action::Continue,
        }
    }

    // There is no callback for the answer's headers: each call into the VM has its price, vLLM sends the headers of a stream
    // before it has computed anything, and whatever else they say is still known when the first chunk comes.

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.with_sent(|worker, sent| {
            let said = sent.read(size, end_of_stream);
            let verdict = match sent.verdict {
                Some(verdict) => verdict,
                None => match worker.judge(sent) {
                    Verdict::Declined(how) => Verdict::Declined(how.with_body(&host::response_body(0, size))),
                    verdict => verdict,
                },
            };
            sent.verdict = Some(verdict);
            if verdict != Verdict::Served || sent.ticket.started() {
                return;
            }
            match said {
                // A whole answer begins when it ends: its start is booked with its end, which saves a write of the ledger.
                FirstEvent::Token if !end_of_stream => worker.start(sent),
                FirstEvent::Error(ErrorEvent { kind: ErrorKind::Full | ErrorKind::Request, status }) => {
                    let declined = Decline::of_status(u64::from(status));
                    sent.verdict = Some(declined.map_or(Verdict::Refused, Verdict::Declined));
                }
                FirstEvent::Error(_) | FirstEvent::DoneWithoutToken => {
                    worker.count_failed();
                    sent.verdict = Some(Verdict::Failed);
                }
                FirstEvent::Token | FirstEvent::NotYet | FirstEvent::KeepAlive => {}
            }
        });
        if end_of_stream {
            self.close();
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        self.with_sent(|worker, sent| {
            if sent.verdict.is_none() {
                sent.verdict = Some(worker.judge(sent));
            }
        });
        self.close();
        Action::Continue
    }
}

impl Drop for Filter {
    /// Envoy deletes the stream, whatever its end was: finished, aborted, reset, timed out. An account that is still open is
    /// closed.
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Held(_)) {
            self.worker.stop_iteration.ended(self.stream);
        }
        self.with_sent(Worker::judge_end);
        self.close();
    }
}

/// Whether the body is compressed: then it is routed by load, for the module does not unpack it.
fn is_encoded() -> bool {
    host::request_header("content-encoding")
        .is_some_and(|encoding| !encoding.is_empty() && encoding != b"identity")
}

fn is_post() -> bool {
    host::request_header(":method").is_some_and(|method| method == b"POST")
}

/// Answers that there is no pod.
fn refuse(no_pod: NoPod) -> Action {
    let refusal =
        Refusal { status: 503, kind: "ServiceUnavailableError", message: in_words(no_pod), param: None };
    respond(&refusal, &[("retry-after", "1")])
}

/// Answers the client in place of a pod.
fn respond(refusal: &Refusal<'_>, headers: &[(&str, &str)]) -> Action {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    host::respond(refusal.status, &all, &refusal.body());
    Action::Pause
}
