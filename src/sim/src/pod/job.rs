//! What a handler holds of a request in the engine. Dropping it aborts the request: so a client that goes away
//! frees its blocks, whatever the handler was doing.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::driver::{Limits, Pod, Submitted};
use super::error::ApiError;
use super::live::Progress;
use super::tokens::Answer;
use crate::engine::Chain;

/// The engine restarted and knows the request no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

/// A request in the engine.
pub(super) struct Job {
    pod: Arc<Pod>,
    id: u64,
    news: mpsc::UnboundedReceiver<Progress>,
    progress: Progress,
    pub(super) prompt_tokens: u32,
    pub(super) answer: Answer,
}

/// Token counts of one request or of several together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) prompt: u32,
    pub(super) completion: u32,
    /// Of the prompt, found in the cache.
    pub(super) cached: u32,
    /// Of the prompt, new in the cache.
    pub(super) created: u32,
}

impl Job {
    /// Sends a prompt to the pod's engine.
    pub(super) fn start(pod: &Arc<Pod>, prompt: Chain, limits: Limits) -> Result<Job, ApiError> {
        let Submitted { id, progress: news, prompt_tokens, answer } = pod.submit(prompt, limits)?;
        Ok(Job { pod: pod.clone(), id, news, progress: Progress::default(), prompt_tokens, answer })
    }

    pub(super) fn finished(&self) -> bool {
        self.progress.finished
    }

    /// The numbers of the tokens that came since the last call: everything there is, in one piece. Not to be
    /// called again once [`Job::finished`].
    pub(super) fn poll_tokens(&mut self, cx: &mut Context<'_>) -> Poll<Result<Range<u32>, Gone>> {
        let from = self.progress.generated;
        let mut any = false;
        while !self.progress.finished {
            match self.news.poll_recv(cx) {
                Poll::Ready(Some(progress)) => {
                    self.progress = progress;
                    any = true;
                }
                Poll::Ready(None) => return Poll::Ready(Err(Gone)),
                Poll::Pending if any => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(from..self.progress.generated))
    }

    /// Waits for the end.
    pub(super) async fn finish(&mut self) -> Result<(), Gone> {
        while !self.finished() {
            poll_fn(|cx| self.poll_tokens(cx)).await?;
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> Usage {
        let block = self.pod.config.engine.block_size;
        let cached = self.progress.cached_tokens;
        Usage {
            prompt: self.prompt_tokens,
            completion: self.progress.generated,
            cached,
            created: (self.prompt_tokens / block * block).saturating_sub(cached),
        }
    }
}

impl Usage {
    /// The usage of several requests together.
    pub(super) fn of(jobs: &[Job]) -> Usage {
        jobs.iter().map(Job::usage).fold(Usage::default(), |sum, one| Usage {
            prompt: sum.prompt + one.prompt,
            completion: sum.completion + one.completion,
            cached: sum.cached + one.cached,
            created: sum.created + one.created,
        })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.finished() {
            self.pod.abort(self.id);
        }
    }
}
