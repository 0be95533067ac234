//! Server-sent events: the tokens of one or several generations, written in the form of an API as they come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use super::generation::{Generation, TokenCounts};

/// How an API writes its stream.
pub(super) trait StreamForm: Send + Unpin + 'static {
    /// What is sent at once, before any token.
    fn begin(&mut self, out: &mut String);
    /// Token `index` of the generation `choice`; `last` when none follows.
    fn token(&mut self, out: &mut String, choice: usize, index: u32, generation: &Generation, last: bool);
    /// What is sent when all of them are done.
    fn end(&mut self, out: &mut String, counts: TokenCounts, generations: &[Generation]);
}

/// The answer that streams `generations`. A `cut` breaks the connection after so many tokens; until the first
/// of them there is a comment each `keep_alive`.
pub(super) fn respond(
    generations: Vec<Generation>,
    mut form: impl StreamForm,
    cut: Option<u32>,
    keep_alive: Option<Duration>,
) -> Response {
    let mut opening = String::new();
    form.begin(&mut opening);
    let comments = keep_alive.map(|every| {
        let mut comments = interval_at(tokio::time::Instant::now() + every, every);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        comments
    });
    let events =
        TokenStream { generations, form, ready: opening, written: 0, cut, comments, state: State::Open };
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(events)).into_response()
}

#[derive(PartialEq)]
enum State {
    Open,
    /// The next poll breaks the connection.
    Broken,
    Ended,
}

struct TokenStream<F> {
    generations: Vec<Generation>,
    form: F,
    /// Text not handed over yet.
    ready: String,
    /// Tokens written so far.
    written: u32,
    cut: Option<u32>,
    comments: Option<Interval>,
    state: State,
}

impl<F: StreamForm> TokenStream<F> {
    /// Writes all tokens there are.
    fn collect(&mut self, cx: &mut Context<'_>) {
        let TokenStream { generations, form, ready, written, cut, state, .. } = self;
        for (choice, generation) in generations.iter_mut().enumerate().filter(|(_, one)| !one.finished()) {
            let tokens = match generation.poll_tokens(cx) {
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
                form.token(ready, choice, index, generation, index + 1 == generation.answer.tokens);
                *written += 1;
            }
        }
        if generations.iter().all(Generation::finished) {
            *state = State::Ended;
            form.end(ready, TokenCounts::of(generations), generations);
        }
    }

    /// Writes a comment when it is time for one and no token has come.
    fn comment(&mut self, cx: &mut Context<'_>) {
        if self.written == 0
            && self.state == State::Open
            && let Some(comments) = &mut self.comments
        {
            while comments.poll_tick(cx).is_ready() {
                self.ready.push_str(": keep-alive\n\n");
            }
        }
    }
}

impl<F: StreamForm> Stream for TokenStream<F> {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = self.get_mut();
        if this.state == State::Open {
            this.collect(cx);
        }
        this.comment(cx);
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
