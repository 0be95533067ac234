//! Connections that nobody uses are closed, as uvicorn does after five seconds.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::timeout;

/// What goes on on one connection.
#[derive(Clone, Default)]
pub(super) struct Activity(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Requests whose answers are not complete.
    under_way: AtomicUsize,
    ended: Notify,
}

/// A request under way; it has ended when this is dropped.
pub(super) struct UnderWay(Arc<Shared>);

impl Activity {
    /// A request begins.
    pub(super) fn begin(&self) -> UnderWay {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.0.clone())
    }

    /// Comes back when nothing was under way for so many seconds; never for 0.
    pub(super) async fn idle_for(&self, seconds: f64) {
        if seconds <= 0.0 {
            return pending().await;
        }
        let long = Duration::from_secs_f64(seconds.min(1e6));
        loop {
            let ended = timeout(long, self.0.ended.notified()).await.is_ok();
            if !ended && self.0.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

impl UnderWay {
    /// The same answer, which has ended when its body has.
    pub(super) fn until_the_end_of(self, response: Response<Body>) -> Response<Body> {
        response.map(|body| Body::new(Watched { body, _under_way: self }))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_one();
    }
}

struct Watched {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
