//! The router's HTTP filter: holds a request until its body is whole, has it routed, and follows the answer.

mod replies;

use std::rc::Rc;

use crate::abi::Action;
use warmpath::Micros;
use warmpath::answer::error_event::{ErrorEvent, ErrorKind};
use warmpath::answer::first_token::FirstEvent;
use warmpath::answer::model_name::ModelName;
use warmpath::answer::verdict::{Decline, Verdict};
use warmpath::request::body::{Api, BodyError};
use warmpath::request::encoding;
use warmpath::request::json::decoded;
use warmpath::request::parse_cache::{NameRefused, ParsedRequest};
use warmpath::request::rewrite::{Changes, NewStart, new_start};
use warmpath::router::{NoPod, RouteBy};
use warmpath::settings::criticality::Criticality;

use crate::attempts;
use crate::callbacks::Callbacks;
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
    /// Puts the name of the model that the client asked for into the answer.
    model_name: Restored,
}

/// The name of the model in an answer.
#[derive(Debug)]
enum Restored {
    /// Stays.
    No,
    /// Is to be restored, once the answer's headers allow it.
    Wanted(Box<ModelName>),
    /// Is restored.
    Yes(Box<ModelName>),
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
        Filter { worker, stream, phase: Phase::Arriving, model_name: Restored::No }
    }

    /// Routes a request whose body is whole.
    fn route_body(&mut self, api: Api) -> Action {
        let whole_at = host::now();
        self.worker.with(|worker| worker.look_up_settings(whole_at));
        let body = host::request_body();
        if body.is_empty() {
            return self.route(RouteBy::Load, Criticality::Standard, whole_at);
        }
        let Some(text) = encoding::to_utf8(&body) else {
            return self.route(RouteBy::Load, Criticality::Standard, whole_at);
        };
        match self.worker.with(|worker| worker.read(api, &text)) {
            Some(Ok(request)) => match request.naming.refused {
                Some(refused) => self.refuse_name(refused, &request),
                None => {
                    let ranked = self.worker.with(|worker| worker.rank(&request));
                    let (criticality, priority) = ranked.unwrap_or_default();
                    self.rewrite(&body, &text, &request, priority);
                    self.route(RouteBy::Prompt(&request), criticality, whole_at)
                }
            },
            Some(Err(error)) if !error.may_be_served() && !is_encoded() && is_post() => self.reject(&error),
            Some(Err(_)) | None => self.route(RouteBy::Load, Criticality::Standard, whole_at),
        }
    }

    /// Gives the pod the name of the model that it knows, and a priority. `text` is the text of `body`.
    #[inline(never)]
    fn rewrite(&mut self, body: &[u8], text: &[u8], parsed: &ParsedRequest<'_>, priority: Option<i32>) {
        let asked = parsed.naming.asked.as_deref();
        let changes = Changes { model: asked.map(|_| &*parsed.request.model), priority };
        let Some(start) = new_start(text, &parsed.request.model_at, changes) else { return };
        rewrite_body(body, text, &start);
        if let Some(asked) = asked
            && self.worker.with(|worker| worker.restores_names()) == Some(true)
        {
            self.model_name = Restored::Wanted(Box::new(ModelName::new(asked)));
        }
    }

    /// Answers that there is no such model.
    #[cold]
    #[inline(never)]
    fn refuse_name(&mut self, refused: NameRefused, parsed: &ParsedRequest<'_>) -> Action {
        self.phase = Phase::Done;
        self.worker.with(|worker| worker.count_refused_name(refused));
        replies::refuse_name(refused, &decoded(&parsed.request.model))
    }

    /// Routes a request that was whole at `whole_at`.
    fn route(&mut self, by: RouteBy<'_>, criticality: Criticality, whole_at: Micros) -> Action {
        self.phase = Phase::Done;
        if self.worker.test_endpoint_header
            && self.worker.with(Worker::route_by_test_header).unwrap_or_default()
        {
            return Action::Continue;
        }
        let routed = self.worker.with(|worker| {
            worker.route(by, criticality, whole_at).map_err(|no_pod| (no_pod, worker.falls_back(no_pod)))
        });
        match routed {
            Some(Ok(routed)) => {
                self.phase = Phase::Sent(Box::new(Sent::new(routed, by)));
                Action::Continue
            }
            Some(Err((NoPod::Saturated { seconds }, _))) => replies::shed(seconds, replies::SATURATED),
            Some(Err((NoPod::OverShare { seconds }, _))) => replies::shed(seconds, replies::OVER_SHARE),
            Some(Err((no_pod, false))) => replies::refuse(no_pod),
            Some(Err((_, true))) | None => Action::Continue,
        }
    }

    #[cold]
    #[inline(never)]
    fn reject(&mut self, error: &BodyError) -> Action {
        self.phase = Phase::Done;
        self.worker.with(|worker| worker.count_rejected());
        replies::reject(error)
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

impl Callbacks for Filter {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        #[cfg(feature = "trap")]
        crate::trap::on_request();
        match host::request_header(":path").and_then(|path| Api::of(&path)) {
            // Only a POST has a body, but for a WebSocket, whose stream has no end, so that it must not be
            // held. Test `upgrade` first: an absent header costs no copy.
            Some(api) if !end_of_stream && (host::request_header("upgrade").is_none() || is_post()) => {
                if self.worker.stop_iteration.hold(self.stream) {
                    self.phase = Phase::Held(api);
                    Action::Pause
                } else {
                    self.phase = Phase::Done;
                    // Its body is not read.
                    self.worker.with(|worker| worker.name_none(false));
                    Action::Continue
                }
            }
            _ => {
                let whole_at = host::now();
                self.worker.with(|worker| worker.look_up_settings(whole_at));
                match self.worker.with(|worker| worker.model_list()).flatten() {
                    Some(list) => {
                        self.phase = Phase::Done;
                        host::respond(200, &[("content-type", "application/json")], list.as_bytes());
                        Action::Pause
                    }
                    None => self.route(RouteBy::Load, Criticality::Standard, whole_at),
                }
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

    /// Envoy calls this only where its configuration lists it for the router: each call into the VM has its
    /// price, vLLM sends the headers of a stream before it has computed anything, and whatever else they say
    /// is still known when the first chunk comes. But the length of an answer in which a name is restored
    /// must go before its body does.
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        if let Restored::Wanted(name) = std::mem::replace(&mut self.model_name, Restored::No)
            && host::response_header("content-encoding").is_none()
        {
            host::set_response_header("content-length", None);
            self.model_name = Restored::Yes(name);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let passed = attempts::has_passed();
        self.with_sent(|worker, sent| {
            let said = sent.read(size, end_of_stream);
            let verdict = match sent.verdict {
                Some(verdict) => verdict,
                None => match worker.judge(sent, size, passed && sent.none_failed()) {
                    Verdict::Declined(how) => Verdict::Declined(how.with_body(&host::response_body(0, size))),
                    verdict => verdict,
                },
            };
            sent.verdict = Some(verdict);
            if verdict == Verdict::Served
                && let Some(id) = sent.stored.take()
            {
                worker.note_response(&id, sent);
            }
            if verdict != Verdict::Served || sent.ticket.started() {
                return;
            }
            match said {
                // A whole answer begins when it ends: its start is booked with its end, which saves a write
                // of the ledger.
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
        match &mut self.model_name {
            Restored::No => {}
            Restored::Wanted(_) => {
                self.worker.with(Worker::say_names_stay);
                self.model_name = Restored::No;
            }
            Restored::Yes(name) => {
                if let Some(restored) = name.feed(&host::response_body(0, size)) {
                    host::set_response_body(size, &restored);
                }
            }
        }
        if end_of_stream {
            self.close();
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        self.with_sent(|worker, sent| {
            if sent.verdict.is_none() {
                sent.verdict = Some(worker.judge(sent, 0, false));
            }
        });
        self.close();
        Action::Continue
    }
}

impl Drop for Filter {
    /// Envoy deletes the stream, whatever its end was: finished, aborted, reset, timed out. An account that
    /// is still open is closed.
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

/// Puts a new start into the body, whose text is `text`, and says how long it is now.
#[cold]
#[inline(never)]
fn rewrite_body(body: &[u8], text: &[u8], start: &NewStart) {
    let length = match body.len().checked_sub(text.len()) {
        // The text stands in the body as it is, but for a byte order mark.
        Some(mark) if body.ends_with(text) => {
            let bytes = [body.get(..mark).unwrap_or_default(), &start.bytes].concat();
            host::set_request_body_start(mark + start.replaces, &bytes);
            text.len() - start.replaces + bytes.len()
        }
        // It was decoded from UTF-16 or UTF-32. Python's reader takes both.
        _ => {
            let rest = text.get(start.replaces..).unwrap_or_default();
            let whole = [&start.bytes[..], rest].concat();
            host::set_request_body_start(body.len(), &whole);
            whole.len()
        }
    };
    if host::request_header("content-length").is_some() {
        host::set_request_header("content-length", Some(length.to_string().as_bytes()));
    }
}
