//! A request that was sent to a pod, and what is read of its answer.

use warmpath::answer::first_token::{FirstEvent, FirstTokenReader};
use warmpath::answer::response_id::ResponseIdReader;
use warmpath::answer::usage::{Usage, UsageScanner};
use warmpath::answer::verdict::Verdict;
use warmpath::router::{RouteBy, Ticket};

use crate::attempts::{self, Failed};
use crate::host;
use crate::observations::Seen;
use crate::profile;
use crate::receipt::Receipt;
use crate::worker::Routed;

/// A request that was sent to a pod.
#[derive(Debug)]
pub struct Sent {
    /// Its account.
    pub ticket: Ticket,
    /// What tells that its prompt was computed.
    start: Start,
    /// Reads the usage out of the answer, if it reports any.
    scanner: Option<UsageScanner>,
    /// Reads the id of a response that its pod may store.
    id: Option<ResponseIdReader>,
    /// The id, until it is noted.
    pub stored: Option<Vec<u8>>,
    /// What kind of answer it gets, once that is known.
    pub verdict: Option<Verdict>,
    /// What is observed of it at its end.
    pub seen: Seen,
    /// Its own record.
    pub receipt: Receipt,
    /// Attempts that had failed when it was sent, of all requests.
    failed_before: Failed,
}

/// What tells that the prompt of a request was computed.
#[derive(Debug)]
enum Start {
    /// The first byte of its answer: nobody knows what it asks for.
    FirstByte,
    /// The first token of its stream.
    FirstToken(FirstTokenReader),
    /// Nothing before the end of its answer; or it has been told.
    End,
}

impl Sent {
    /// A request that was routed by `by`.
    pub fn new(Routed { ticket, seen, receipt }: Routed, by: RouteBy<'_>) -> Sent {
        let request = by.prompt().map(|parsed| &parsed.request);
        let start = match request {
            Some(request) if request.stream => Start::FirstToken(FirstTokenReader::default()),
            Some(_) => Start::End,
            None => Start::FirstByte,
        };
        let (reports_usage, stores) =
            request.map_or((false, false), |request| (request.reports_usage, request.stores));
        Sent {
            ticket,
            start,
            scanner: reports_usage.then(UsageScanner::default),
            id: stores.then(ResponseIdReader::default),
            stored: None,
            verdict: None,
            seen,
            receipt,
            failed_before: attempts::failed(),
        }
    }

    /// Whether no attempt of any request has failed since it was sent, as far as the answer filters of this
    /// VM see them.
    pub fn none_failed(&self) -> bool {
        self.failed_before == attempts::failed()
    }

    /// Reads the chunk of the answer that is passing, as far as anything in it is of interest. Says what the
    /// start of the answer means, once.
    pub fn read(&mut self, size: usize, end_of_stream: bool) -> FirstEvent {
        let served = matches!(self.verdict, None | Some(Verdict::Served));
        let follows = self.scanner.is_some() || self.id.is_some();
        let reads = served && (follows || matches!(self.start, Start::FirstToken(_)));
        let chunk = if reads && size > 0 { host::response_body(0, size) } else { Vec::new() };
        if let Some(scanner) = &mut self.scanner {
            scanner.feed(&chunk);
        }
        if let Some(reader) = self.id.as_mut().filter(|_| served) {
            self.stored = reader.feed(&chunk);
            if reader.is_done() {
                self.id = None;
            }
        }
        let said = match &mut self.start {
            Start::FirstByte if size > 0 => FirstEvent::Token,
            Start::FirstToken(reader) if served => {
                let said = reader.feed(&chunk);
                if end_of_stream { reader.end() } else { said }
            }
            _ => FirstEvent::NotYet,
        };
        if said.is_final() {
            self.start = Start::End;
        }
        profile::lap("scan answer");
        said
    }

    /// What the answer has reported of the tokens it used.
    pub fn usage(&self) -> Option<Usage> {
        self.scanner.as_ref().and_then(UsageScanner::usage)
    }
}
