//! What a worker does with an answer: judges it, and books what it says of the pods.

use crate::abi::Bytes;
use warmpath::answer::error_event::says_full;
use warmpath::answer::verdict::{
    BrokenBy, FailedPods, Judgement, StreamEnd, Verdict, is_plainly_served, judge, judge_end, unanswered,
};
use warmpath::router::End;
use warmpath::shared::responses;
use warmpath::shared::store::Contended;
use warmpath::{Micros, Slot};

use super::Worker;
use crate::host::{self, Host, Metric};
use crate::sent::Sent;

impl Worker {
    /// Notes that the first token of an answer has come.
    pub fn start(&mut self, sent: &mut Sent) {
        let now = host::now();
        let took = now.since(sent.ticket.decided_at());
        sent.seen.first_token = Some(took);
        sent.receipt.started(took);
        let started = self.router.start(&mut sent.ticket, &mut Host, now);
        count_contended(started, self.metrics.contended_start);
    }

    /// Judges an answer that has begun, `size` bytes of it, and books what it says of the pods. `at_once`
    /// when it is known to be that of the only attempt.
    pub fn judge(&mut self, sent: &mut Sent, size: usize, at_once: bool) -> Verdict {
        // Only an answer to the prompt reports its tokens, and a whole one reports them at once: then Envoy
        // need not be asked.
        let reports = sent.usage().is_some();
        let code = if reports { 200 } else { host::number("response\0code").unwrap_or(0) };
        let attempts = if at_once { 1 } else { attempts() };
        if is_plainly_served(code, attempts) {
            return Verdict::Served;
        }
        self.judge_closely(sent, size, code, attempts)
    }

    /// Judges an answer that is no plain success.
    #[inline(never)]
    fn judge_closely(&mut self, sent: &mut Sent, size: usize, code: u64, attempts: usize) -> Verdict {
        let Judgement { verdict, failed_over, failed } = judge(code, attempts, &code_details());
        // The answer filter has told of full pods, where there is one.
        if failed == FailedPods::Answering && says_full(&host::response_body(0, size)) {
            let told = self.router.refused_as_full(&sent.ticket, attempts, &mut Host, host::now());
            count_contended(told, self.metrics.contended_failure);
        }
        if failed_over > 0 {
            let engine = self.router.table().pod(sent.ticket.slot()).and_then(|pod| pod.engine);
            let answers =
                host::property("upstream\0address").and_then(|address| self.slot_of(&address, engine));
            self.metrics.failovers.count();
            let moved =
                self.router.failed_over(&mut sent.ticket, failed_over, answers, &mut Host, host::now());
            count_contended(moved, self.metrics.contended_failover);
        }
        if failed != FailedPods::None {
            self.metrics.upstream_failures.count();
        }
        self.book_failed(sent, failed);
        if verdict == Verdict::Failed {
            self.metrics.upstream_errors.count();
        }
        verdict
    }

    /// Notes which pod has a response that it may have stored.
    #[inline(never)]
    pub fn note_response(&self, id: &[u8], sent: &Sent) {
        let noted = responses::note(&self.keys, id, sent.ticket.pod(), &mut Host, host::now());
        count_contended(noted, self.metrics.contended_response);
    }

    /// Counts an answer that says in its body that the pod has failed.
    pub fn count_failed(&self) {
        self.metrics.upstream_errors.count();
    }

    /// Judges a stream that has ended without the end of a body: answers without a body end so, and all that
    /// were broken off, before the headers, after them, or in the middle.
    #[inline(never)]
    pub fn judge_end(&mut self, sent: &mut Sent) {
        let details = code_details();
        match judge_end(sent.verdict, &details) {
            StreamEnd::Settled => {}
            StreamEnd::Answered => sent.verdict = Some(self.judge(sent, 0, false)),
            StreamEnd::BrokenOff => {
                self.metrics.broken_by_pod.count();
                self.book_failed(sent, FailedPods::Answering);
            }
            StreamEnd::Unanswered(by) => {
                let failed = unanswered(attempts(), &details);
                if failed != FailedPods::None {
                    self.metrics.upstream_failures.count();
                }
                self.book_failed(sent, failed);
                match by {
                    BrokenBy::Pod => self.metrics.broken_by_pod.count(),
                    BrokenBy::Client => self.metrics.broken_by_client.count(),
                }
            }
        }
    }

    /// Books pods that have failed a request.
    #[inline(never)]
    fn book_failed(&mut self, sent: &Sent, failed: FailedPods) {
        let booked = match failed {
            FailedPods::None => return,
            FailedPods::First(pods) => self.router.unanswered(&sent.ticket, pods, &mut Host, host::now()),
            FailedPods::Answering => self.router.failed_upstream(&sent.ticket, &mut Host, host::now()),
        };
        count_contended(booked, self.metrics.contended_failure);
    }

    /// Closes a request's account.
    pub fn close(&mut self, mut sent: Sent) {
        if sent.verdict == Some(Verdict::Served) {
            let usage = sent.usage();
            sent.receipt.answered(usage);
            self.observations.answered(&sent.seen, usage);
        }
        let end = match sent.verdict {
            Some(Verdict::Served) => End::Answered {
                usage: sent.usage(),
                at: if sent.ticket.started() { Micros::ZERO } else { host::now() },
            },
            Some(Verdict::Failed) => End::UpstreamError { at: host::now() },
            Some(Verdict::Declined(how)) => End::Declined { how, at: host::now() },
            _ => End::Aborted,
        };
        let closed = self.router.close(sent.ticket, end, &mut Host);
        count_contended(closed, self.metrics.contended_close);
    }

    /// The slot of the pod at `address`, of several engines there that of `engine`, or of the first if it has
    /// no such engine.
    fn slot_of(&self, address: &[u8], engine: Option<u16>) -> Option<Slot> {
        let there = || self.router.table().at(address);
        let (slot, _) = there().find(|(_, pod)| pod.engine == engine).or_else(|| there().next())?;
        Some(slot)
    }
}

/// Counts a change of the ledger that is lost, because other workers wrote first at every try.
fn count_contended(result: Result<(), Contended>, during: Metric) {
    if result == Err(Contended) {
        during.count();
    }
}

/// Envoy's word for how the stream ended, or for its own answer.
fn code_details() -> Bytes {
    host::property("response\0code_details").unwrap_or_default()
}

/// How many pods were tried.
fn attempts() -> usize {
    host::number("upstream\0request_attempt_count").unwrap_or(1) as usize
}
