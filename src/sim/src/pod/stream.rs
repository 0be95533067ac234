//! Server-sent events: the tokens of one or several jobs, written in the form of an API as they come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;

use super::job::{Job, Usage};

/// How an API writes its stream.
pub(super) trait Script: Send + Unpin + 'static {
    /// What is sent at once, before any token.
    fn begin(&mut self, out: &mut String);
    /// Token `index` of job `choice`; `last` when none follows.
    fn token(&mut self, out: &mut String, choice: usize, index: u32, job: &Job, last: bool);
    /// What is sent when all jobs are done.
    fn end(&mut self, out: &mut String, usage: Usage, jobs: &[Job]);
}

/// The answer that streams `jobs`. A `cut` breaks the connection after so many tokens.
pub(super) fn respond(jobs: Vec<Job>, mut script: impl Script, cut: Option<u32>) -> Response {
    let mut opening = String::new();
    script.begin(&mut opening);
    let events = Events { jobs, script, ready: opening, written: 0, cut, state: State::Open };
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(events)).into_response()
}

#[derive(PartialEq)]
enum State {
    Open,
    /// The next poll breaks the connection.
    Broken,
    Ended,
}

struct Events<S> {
    jobs: Vec<Job>,
    script: S,
    /// Text not handed over yet.
    ready: String,
    /// Tokens written so far.
    written: u32,
    cut: Option<u32>,
    state: State,
}

impl<S: Script> Events<S> {
    /// Writes all tokens there are.
    fn collect(&mut self, cx: &mut Context<'_>) {
        let Events { jobs, script, ready, written, cut, state } = self;
        for (choice, job) in jobs.iter_mut().enumerate().filter(|(_, job)| !job.finished()) {
            let tokens = match job.poll_tokens(cx) {
                Poll::Pending => continue,
                Poll::Ready(Ok(tokens)) => tokens,
                Poll::Ready(Err(_)) => {
                    *state = State::Broken;
                    return;
                }
            };
            for index in tokens {
                if cut.is_some_and(|cut| *written >= cut) {
                    *state = State::Broken;
                    return;
                }
                script.token(ready, choice, index, job, index + 1 == job.answer.tokens);
                *written += 1;
            }
        }
        if jobs.iter().all(Job::finished) {
            *state = State::Ended;
            script.end(ready, Usage::of(jobs), jobs);
        }
    }
}

impl<S: Script> Stream for Events<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = self.get_mut();
        if this.state == State::Open {
            this.collect(cx);
        }
        if !this.ready.is_empty() {
            return Poll::Ready(Some(Ok(Bytes::from(std::mem::take(&mut this.ready)))));
        }
        match this.state {
            State::Open => Poll::Pending,
            State::Broken => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            State::Ended => Poll::Ready(None),
        }
    }
}
