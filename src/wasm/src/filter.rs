//! The HTTP filter: holds a request until its body is whole, names the pods, and follows the answer.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

use log::LevelFilter;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, Bytes};
use warmpath::answer::refusal::Refusal;
use warmpath::answer::usage::UsageScanner;
use warmpath::config::{Config, Strategy};
use warmpath::decide::pick::Picks;
use warmpath::request::body::{Api, BodyError};
use warmpath::router::{Decision, End, NoPod, RouteBy, Router, Ticket};
use warmpath::shared::pod_table::PodTable;
use warmpath::shared::store::Contended;
use warmpath::{MILLISECOND, Micros, Slot};

use crate::collect::QUIET;
use crate::host::{self, Host, Metric};
use crate::laps;
use crate::lines::Lines;
use crate::metrics::RouterMetrics;

/// The headers that the clusters read, attempt by attempt.
const DESTINATIONS: [&str; 3] =
    ["x-warmpath-destination-0", "x-warmpath-destination-1", "x-warmpath-destination-2"];
/// Envoy's word for a request that its own limits (`circuit_breakers`) have refused.
const OVERFLOW: &[u8] = b"upstream_reset_before_response_started{overflow}";
/// How often a busy worker looks whether there is a new table; a pod is scraped a hundred times less often. To look takes 0.3 us.
const LOOKS_EVERY: Micros = MILLISECOND;
/// Bytes of a client's header that a line of the log shows.
const LONGEST_SHOWN: usize = 128;
/// Share of the prompt above which a match is worth an info line and a counter, as in the reference.
const WORTH_TELLING: f64 = 0.5;

/// What all filters of a VM share.
pub struct Mind {
    router: Router,
    metrics: RouterMetrics,
    generation: u64,
    fail_open: bool,
    /// Whether prompts are routed by what the pods hold of them.
    by_prefix: bool,
    /// When a request last had it looked whether there is a new table; 0 before the first.
    looked_at: Micros,
    /// When it was last said that no pod could be named, and how many requests have met that since.
    told_no_pod: Micros,
    untold: u64,
    /// What of the log is printed; an administrator may change it, so it is asked for each second.
    log_level: LevelFilter,
    /// The lines of requests whose pod holds much of their prompt.
    warm: Lines,
}

/// One request.
pub struct Filter {
    /// `None` in a VM whose root has another role: then the filter lets everything pass.
    mind: Option<Rc<RefCell<Mind>>>,
    phase: Phase,
}

/// Where a request is on its way.
enum Phase {
    /// Nothing decided.
    Arriving,
    /// Held until the body is whole.
    Held(Api),
    /// On its way to a pod.
    Sent(Box<Sent>),
    /// Nothing more to do.
    Done,
}

/// A request that a pod has.
struct Sent {
    ticket: Ticket,
    /// Whether the answer comes as a stream, so that its first byte says when the prompt was computed.
    streams: bool,
    /// Reads the usage out of the answer, where it reports any.
    scanner: Option<UsageScanner>,
    /// What the first chunk of the answer showed.
    answer: Option<Answer>,
}

/// What kind of answer a request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// 2xx.
    Served,
    /// The pod's word that it will not serve this request, or cannot now: no sign that the prompt was computed.
    Refused,
    /// The pod's word that something in it went wrong.
    Erred,
    /// Envoy's own words: no pod has answered.
    Unserved,
}

// === impl Mind ===

impl Mind {
    /// The mind of a VM, which `writer` names in the log.
    pub fn new(config: &Config, writer: u32) -> Mind {
        let mut mind = Mind {
            router: router(config, writer),
            metrics: RouterMetrics::of(&config.pool),
            generation: 0,
            looked_at: Micros::ZERO,
            fail_open: config.fail_open,
            by_prefix: config.strategy == Strategy::PrefixCache,
            told_no_pod: Micros::ZERO,
            untold: 0,
            log_level: host::log_level(),
            warm: Lines::default(),
        };
        mind.refresh();
        mind
    }

    /// Whether it has routed anything yet: the VM of Envoy's main thread never does.
    pub fn routes(&self) -> bool {
        self.looked_at > Micros::ZERO
    }

    /// Reads what other workers wrote to the log, at most `segments` segments.
    pub fn follow(&mut self, segments: usize) {
        self.refresh();
        self.router.follow(&Host, segments);
    }

    /// Prints what has waited for it, and looks what of the log is printed.
    pub fn look_around(&mut self, now: Micros) {
        self.warm.print(now);
        laps::tell();
        self.log_level = host::log_level();
    }

    /// The table as last fetched.
    pub fn table(&self) -> &PodTable {
        self.router.table()
    }

    /// Fetches the table if it has moved: a look at a gauge most of the time.
    fn refresh(&mut self) {
        let generation = self.metrics.table_generation.get();
        if generation != self.generation {
            self.generation = generation;
            if let Err(error) = self.router.refresh(&Host) {
                self.metrics.bad_table.count();
                log::error!("warmpath: the table of pods: {error}");
            }
        }
    }

    /// Decides, names the pods to Envoy, and says so where that is wanted.
    fn route(&mut self, by: RouteBy<'_>) -> Result<Decision, NoPod> {
        let now = host::now();
        if now.since(self.looked_at) >= LOOKS_EVERY {
            self.looked_at = now;
            self.refresh();
        }
        let decision = self.router.decide(by, &mut Host, now);
        match &decision {
            Ok(decision) => {
                self.name_pods(decision.picks);
                self.tell(by, decision, now);
            }
            Err(no_pod) => {
                self.name_pods(Picks::default());
                match no_pod {
                    NoPod::NoTable => self.metrics.no_table.count(),
                    NoPod::AllCoolingDown => self.metrics.all_cooling.count(),
                    NoPod::Contended => {
                        self.metrics.contended.count();
                        self.metrics.contended_decide.count();
                    }
                }
                self.tell_no_pod(*no_pod, now);
            }
        }
        decision
    }

    /// Sets or removes every destination header, so that none is left from the client.
    fn name_pods(&self, picks: Picks) {
        let mut slots = picks.iter();
        for name in DESTINATIONS {
            let pod = slots.next().and_then(|slot| self.router.table().pod(slot));
            host::set_request_header(name, pod.map(|pod| pod.address.as_bytes()));
        }
    }

    fn tell(&mut self, by: RouteBy<'_>, decision: &Decision, now: Micros) {
        match by {
            RouteBy::Prompt(_) if self.by_prefix => self.metrics.by_prefix.count(),
            RouteBy::Prompt(_) | RouteBy::Load => self.metrics.by_load.count(),
        }
        let ratio = decision.match_ratio();
        if ratio > WORTH_TELLING {
            self.metrics.matched.count();
            if self.log_level >= LevelFilter::Info {
                let request = host::request_header("x-request-id").unwrap_or_default();
                let pod = self.router.table().pod(decision.ticket.slot()).map_or("-", |pod| &pod.address);
                self.warm.add(now, |line| push_warm(line, &printable(&request), ratio, pod));
            }
        }
        if self.log_level >= LevelFilter::Debug {
            self.tell_costs(decision);
        }
    }

    fn tell_costs(&self, decision: &Decision) {
        let request = host::request_header("x-request-id").unwrap_or_default();
        // Without a prompt the rule counts one token of work, which is nobody's.
        let tokens = match self.router.candidates().first() {
            Some(candidate) if decision.bytes > 0 => candidate.terms.uncached + candidate.matched,
            _ => 0.0,
        };
        let mut line = format!(
            "warmpath: chose {} for \"{}\", {tokens:.0} prompt tokens, of",
            self.address(decision.ticket.slot()),
            printable(&request),
        );
        for candidate in self.router.candidates() {
            let t = &candidate.terms;
            let _ = write!(
                line,
                " [{} {:?} matched {:.0}, {:.4} s = (own {:.0} of work {:.0} + wait {:.0} + delay {:.0} + decode {:.0} + evict {:.0} + pressure {:.0}) / {:.0} tok/s]",
                self.address(candidate.slot),
                candidate.rank,
                candidate.matched,
                t.seconds,
                t.attributable,
                t.uncached,
                t.queue_ahead,
                t.delay_to_others,
                t.decode,
                t.eviction,
                t.kv_pressure,
                t.tokens_per_second,
            );
        }
        log::debug!("{line}");
    }

    /// A warning that no pod could be named, now and then: under load there are thousands a second. Every one of them is a
    /// line only where each decision is.
    fn tell_no_pod(&mut self, no_pod: NoPod, now: Micros) {
        let (why, then) =
            (in_words(no_pod), if self.fail_open { "left to the fallback cluster" } else { "answered 503" });
        self.untold += 1;
        if now.since(self.told_no_pod) >= QUIET {
            log::warn!(
                "warmpath: {} requests without a pod since this was last said, {then}: {why}",
                self.untold
            );
            self.told_no_pod = now;
            self.untold = 0;
        }
        if self.log_level >= LevelFilter::Debug {
            let request = host::request_header("x-request-id").unwrap_or_default();
            log::debug!("warmpath: chose no pod for \"{}\", {then}: {why}", printable(&request));
        }
    }

    /// A line on what the index takes, as it counts it itself.
    pub fn tell_index(&self) {
        if self.log_level >= LevelFilter::Debug {
            let index = self.router.index();
            log::debug!("warmpath: the index has {} holdings in {} bytes", index.holdings(), index.memory());
        }
    }

    fn address(&self, slot: Slot) -> &str {
        self.router.table().pod(slot).map_or("-", |pod| &pod.address)
    }

    fn slot_of(&self, address: &[u8]) -> Option<Slot> {
        self.router.table().live().find(|(_, pod)| pod.address.as_bytes() == address).map(|(slot, _)| slot)
    }
}

// === impl Filter ===

impl Filter {
    /// A filter for one request; without a mind it lets everything pass.
    pub fn new(mind: Option<Rc<RefCell<Mind>>>) -> Filter {
        Filter { mind, phase: Phase::Arriving }
    }

    /// Routes a request of which only the load of the pods matters.
    fn route_by_load(&mut self) -> Action {
        self.route(RouteBy::Load)
    }

    /// Routes a request whose body is whole.
    fn route_body(&mut self, api: Api) -> Action {
        let body = host::request_body();
        if body.is_empty() {
            return self.route_by_load();
        }
        let Some(mut mind) = self.mind.as_ref().and_then(|mind| mind.try_borrow_mut().ok()) else {
            return self.route_by_load();
        };
        let read = mind.router.read(api, &body);
        drop(mind);
        laps::lap("parse");
        match read {
            Ok(reading) => self.route(RouteBy::Prompt(&reading)),
            // Asked only now: both are rare, and a header costs half a microsecond.
            Err(_) if is_encoded() || !is_post() => self.route_by_load(),
            Err(error) => self.reject(&error),
        }
    }

    fn route(&mut self, by: RouteBy<'_>) -> Action {
        let (streams, reports_usage) = match by {
            RouteBy::Prompt(reading) => (reading.request.stream, reading.request.reports_usage),
            // Nobody has looked: it may be either.
            RouteBy::Load => (true, false),
        };
        let Some(mut mind) = self.mind.as_ref().and_then(|mind| mind.try_borrow_mut().ok()) else {
            self.phase = Phase::Done;
            return Action::Continue;
        };
        match mind.route(by) {
            Ok(Decision { ticket, .. }) => {
                let scanner = reports_usage.then(UsageScanner::default);
                self.phase = Phase::Sent(Box::new(Sent { ticket, streams, scanner, answer: None }));
                Action::Continue
            }
            Err(_) if mind.fail_open => {
                self.phase = Phase::Done;
                Action::Continue
            }
            Err(no_pod) => {
                self.phase = Phase::Done;
                let message = in_words(no_pod);
                let refusal = Refusal { status: 503, kind: "ServiceUnavailableError", message, param: None };
                refuse(&refusal, &[("retry-after", "1")]);
                Action::Pause
            }
        }
    }

    fn reject(&mut self, error: &BodyError) -> Action {
        self.phase = Phase::Done;
        if let Some(mind) = self.mind.as_ref().and_then(|mind| mind.try_borrow().ok()) {
            mind.metrics.bad_body.count();
        }
        let param = match error {
            BodyError::Model | BodyError::ModelTooLong { .. } => Some("model"),
            _ => None,
        };
        refuse(&Refusal { status: 400, kind: "BadRequestError", message: &error.to_string(), param }, &[]);
        Action::Pause
    }

    /// Runs `with` on a request that a pod has.
    fn sent(&mut self, with: impl FnOnce(&mut Mind, &mut Sent)) {
        if let Phase::Sent(sent) = &mut self.phase
            && let Some(mut mind) = self.mind.as_ref().and_then(|mind| mind.try_borrow_mut().ok())
        {
            with(&mut mind, sent);
        }
    }

    /// Closes the request's account.
    fn close(&mut self) {
        if let Phase::Sent(sent) = std::mem::replace(&mut self.phase, Phase::Done)
            && let Some(mut mind) = self.mind.as_ref().and_then(|mind| mind.try_borrow_mut().ok())
        {
            let end = match sent.answer {
                Some(Answer::Served) => End::Answered {
                    usage: sent.scanner.as_ref().and_then(UsageScanner::usage),
                    at: if sent.ticket.started() { Micros::ZERO } else { host::now() },
                },
                Some(Answer::Erred) => End::UpstreamError { at: host::now() },
                _ => End::Aborted,
            };
            let closed = mind.router.close(sent.ticket, end, &mut Host);
            count_contended(closed, mind.metrics.contended_close);
        }
    }
}

// === impl Mind ===

impl Mind {
    /// Looks at the answer that has begun: who gave it, and whether it is one.
    fn see_answer(&mut self, sent: &mut Sent) -> Answer {
        // Only an answer to the prompt reports its tokens, and a whole one reports them at once: then it need not be asked.
        let reports = sent.scanner.as_ref().is_some_and(|scanner| scanner.usage().is_some());
        let code = if reports { 200 } else { host::number(&["response", "code"]).unwrap_or(0) };
        let attempts = attempts();
        // 101 is the answer to an upgrade: a WebSocket is served as long as it lasts.
        let served = matches!(code, 101 | 200..300);
        if served && attempts <= 1 {
            return Answer::Served;
        }
        let details = code_details();
        if details != VIA_UPSTREAM {
            self.see_failure(sent, attempts, &details);
            return Answer::Unserved;
        }
        if attempts > 1 {
            let answers = host::property(&["upstream", "address"]).and_then(|address| self.slot_of(&address));
            self.metrics.moved.count();
            let moved =
                self.router.failed_over(&mut sent.ticket, attempts - 1, answers, &mut Host, host::now());
            count_contended(moved, self.metrics.contended_failover);
        }
        match code {
            503 => {
                self.metrics.failed.count();
                let failed = self.router.failed_upstream(&sent.ticket, &mut Host, host::now());
                count_contended(failed, self.metrics.contended_failure);
                Answer::Refused
            }
            500 | 502 | 504 => {
                self.metrics.erred.count();
                Answer::Erred
            }
            _ if served => Answer::Served,
            _ => Answer::Refused,
        }
    }

    /// No pod answers: those that were tried have failed, the last of them only if Envoy's words say so.
    fn see_failure(&mut self, sent: &Sent, attempts: usize, details: &[u8]) {
        let failed = if blames_pod(details) { attempts } else { attempts.saturating_sub(1) };
        if failed > 0 {
            self.metrics.failed.count();
            let failed = self.router.unanswered(&sent.ticket, failed, &mut Host, host::now());
            count_contended(failed, self.metrics.contended_failure);
        }
    }

    /// Looks at a stream that has ended without the end of a body. Answers without a body end so, and all that was broken
    /// off: before the headers, after them, or in the middle.
    fn see_end(&mut self, sent: &mut Sent) {
        let details = code_details();
        match sent.answer {
            Some(Answer::Served) if blames_pod(&details) => {
                let failed = self.router.failed_upstream(&sent.ticket, &mut Host, host::now());
                count_contended(failed, self.metrics.contended_failure);
            }
            Some(_) => {}
            None if details == VIA_UPSTREAM => sent.answer = Some(self.see_answer(sent)),
            None => {
                self.see_failure(sent, attempts(), &details);
                self.metrics.aborted.count();
            }
        }
    }
}

/// What Envoy says of an answer that a pod gave, to its end.
const VIA_UPSTREAM: &[u8] = b"via_upstream";

/// Envoy's words for the end of the stream, or for its own answer.
fn code_details() -> Bytes {
    host::property(&["response", "code_details"]).unwrap_or_default()
}

/// Counts a change of the ledger that is lost, because other workers wrote first at every try.
fn count_contended(result: Result<(), Contended>, during: Metric) {
    if result == Err(Contended) {
        during.count();
    }
}

/// How many pods were tried.
fn attempts() -> usize {
    host::number(&["upstream", "request_attempt_count"]).unwrap_or(1) as usize
}

/// Whether Envoy's words blame the pod that had the last attempt: it could not be reached, broke off, spoke no HTTP, or was
/// silent for too long. Envoy's own limits, and clients that go away, blame nobody.
fn blames_pod(details: &[u8]) -> bool {
    details.starts_with(b"upstream_per_try")
        || (details.starts_with(b"upstream_reset") && details != OVERFLOW)
}

impl Context for Filter {}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        let _lap = laps::Callback::begin();
        #[cfg(feature = "trap")]
        crate::trap::on_request();
        match host::request_header(":path").and_then(|path| Api::of(&path)) {
            // What is no POST has no body, or one that a pod will refuse; but for a WebSocket, whose stream has no end, so that
            // it must not be held. It has a header that others lack, and one that is not there costs the host no copy.
            Some(api) if !end_of_stream && (host::request_header("upgrade").is_none() || is_post()) => {
                self.phase = Phase::Held(api);
                Action::Pause
            }
            _ => self.route_by_load(),
        }
    }

    fn on_http_request_body(&mut self, _size: usize, end_of_stream: bool) -> Action {
        let _lap = laps::Callback::begin();
        match self.phase {
            Phase::Held(_) if !end_of_stream => Action::Pause,
            Phase::Held(api) => self.route_body(api),
            _ => Action::Continue,
        }
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        let _lap = laps::Callback::begin();
        match self.phase {
            Phase::Held(api) => self.route_body(api),
            _ => Action::Continue,
        }
    }

    // There is no callback for the answer's headers: each call into the VM costs about two microseconds, and vLLM sends the
    // headers of a stream before it has computed anything. All they could tell, the first chunk tells.

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let _lap = laps::Callback::begin();
        self.sent(|mind, sent| {
            if size > 0
                && matches!(sent.answer, None | Some(Answer::Served))
                && let Some(scanner) = &mut sent.scanner
            {
                scanner.feed(&host::response_chunk(size));
                laps::lap("scan answer");
            }
            let answer = match sent.answer {
                Some(answer) => answer,
                None => mind.see_answer(sent),
            };
            sent.answer = Some(answer);
            // A whole answer begins when it ends: its start is booked with its end, which saves a write of the ledger.
            if answer == Answer::Served
                && size > 0
                && sent.streams
                && !sent.ticket.started()
                && !end_of_stream
            {
                let started = mind.router.start(&mut sent.ticket, &mut Host, host::now());
                count_contended(started, mind.metrics.contended_start);
            }
        });
        if end_of_stream {
            self.close();
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        let _lap = laps::Callback::begin();
        self.sent(|mind, sent| {
            if sent.answer.is_none() {
                sent.answer = Some(mind.see_answer(sent));
            }
        });
        self.close();
        Action::Continue
    }
}

impl Drop for Filter {
    /// Envoy deletes the stream, whatever its end was: finished, aborted, reset, timed out. What is still open is closed.
    fn drop(&mut self) {
        let _lap = laps::Callback::begin();
        self.sent(Mind::see_end);
        self.close();
    }
}

/// The router of a VM.
fn router(config: &Config, writer: u32) -> Router {
    let router = Router::new(config, writer);
    if cfg!(feature = "laps") { router.with_observer(laps::step) } else { router }
}

/// Whether the body is compressed: then it is routed by load, for the module does not unpack.
fn is_encoded() -> bool {
    host::request_header("content-encoding")
        .is_some_and(|encoding| !encoding.is_empty() && encoding != b"identity")
}

fn is_post() -> bool {
    host::request_header(":method").is_some_and(|method| method == b"POST")
}

/// Answers the client in place of a pod.
fn refuse(refusal: &Refusal<'_>, headers: &[(&str, &str)]) {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    host::respond(refusal.status, &all, &refusal.body());
}

/// Why no pod was named, for clients and the log.
fn in_words(no_pod: NoPod) -> &'static str {
    match no_pod {
        NoPod::NoTable => "no pod is known yet",
        NoPod::AllCoolingDown => "every pod has failed a moment ago",
        NoPod::Contended => "the gateway is overloaded",
    }
}

/// A client's bytes for a quoted field of the log, escaped as in JSON: they can end neither the field nor the line, and what
/// is harmless stays as it is in the access log.
fn printable(bytes: &[u8]) -> Cow<'_, str> {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    let bytes = bytes.get(..LONGEST_SHOWN).unwrap_or(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && bytes.iter().all(|&byte| plain(byte))
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', byte as char]),
            _ if plain(byte) => text.push(byte as char),
            _ => drop(write!(text, "\\u{byte:04x}")),
        }
    }
    Cow::Owned(text)
}

/// The line of a request whose pod holds much of its prompt, as the reference words it. There is one for nearly every request,
/// so it is put together without the machinery that formats numbers with a fraction.
fn push_warm(line: &mut String, request: &str, ratio: f64, pod: &str) {
    line.push_str("Do prefix-aware routing! {\"request\": \"");
    line.push_str(request);
    line.push_str("\", \"matching ratio\": \"");
    push_hundredths(line, ratio);
    line.push_str(" > ");
    push_hundredths(line, WORTH_TELLING);
    line.push_str("\", \"pod\": \"");
    line.push_str(pod);
    line.push_str("\"}");
}

/// A share from 0 to 1 with two digits after the point.
fn push_hundredths(line: &mut String, share: f64) {
    let hundredths = (share * 100.0).round() as u32;
    let digit = |number: u32| char::from(b'0' + (number % 10) as u8);
    line.extend([digit(hundredths / 100), '.', digit(hundredths / 10), digit(hundredths)]);
}
