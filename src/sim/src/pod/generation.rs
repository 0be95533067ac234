//! What a handler holds of a request in the engine. Dropping it aborts the request: so a client that goes
//! away frees its blocks, whatever the handler was doing.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::driver::{AnswerLimits, LivePod, Submitted, Target};
use super::error::{ApiError, Refusal};
use super::live::Progress;
use super::tokens::AnswerPlan;
use crate::engine::Chain;

/// The engine restarted and knows the request no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

impl From<Gone> for Refusal {
    fn from(_: Gone) -> Refusal {
        Refusal::Broken
    }
}

/// A request in an engine.
pub(super) struct Generation {
    pod: Arc<LivePod>,
    id: u64,
    news: mpsc::UnboundedReceiver<Progress>,
    progress: Progress,
    pub(super) prompt_tokens: u32,
    pub(super) answer: AnswerPlan,
}

/// Token counts of one request or of several together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenCounts {
    pub(super) prompt: u32,
    pub(super) completion: u32,
    /// Of the prompt, found in the cache.
    pub(super) cached: u32,
    /// Whether an answer says so.
    pub(super) reports_cached: bool,
    /// Of the prompt, new in the cache.
    pub(super) created: u32,
}

impl Generation {
    /// Sends a prompt to one of the pod's engines.
    pub(super) fn start(
        pod: &Arc<LivePod>,
        prompt: Chain,
        limits: AnswerLimits,
        target: Target,
    ) -> Result<Generation, ApiError> {
        let Submitted { id, progress: news, prompt_tokens, answer } = pod.submit(prompt, limits, target)?;
        Ok(Generation { pod: pod.clone(), id, news, progress: Progress::default(), prompt_tokens, answer })
    }

    pub(super) fn finished(&self) -> bool {
        self.progress.finished
    }

    /// The numbers of the tokens that came since the last call: everything there is, in one piece. Not to be
    /// called again once [`Generation::finished`].
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

    pub(super) fn counts(&self) -> TokenCounts {
        let block = self.pod.config.engine.block_size;
        let cached = self.progress.cached_tokens;
        TokenCounts {
            prompt: self.prompt_tokens,
            completion: self.progress.generated,
            cached,
            reports_cached: self.pod.config.reports_cached,
            created: (self.prompt_tokens / block * block).saturating_sub(cached),
        }
    }
}

impl TokenCounts {
    /// `prompt_tokens_details` as JSON, with `more` after `cached_tokens`; `null` where they are not
    /// reported.
    pub(super) fn prompt_details(&self, more: &str) -> String {
        match self.reports_cached {
            true => format!(r#"{{"cached_tokens":{}{more}}}"#, self.cached),
            false => "null".to_owned(),
        }
    }

    /// The counts of several requests together.
    pub(super) fn of(generations: &[Generation]) -> TokenCounts {
        generations.iter().map(Generation::counts).fold(TokenCounts::default(), |sum, one| TokenCounts {
            prompt: sum.prompt + one.prompt,
            completion: sum.completion + one.completion,
            cached: sum.cached + one.cached,
            reports_cached: one.reports_cached,
            created: sum.created + one.created,
        })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.finished() {
            self.pod.abort(self.id);
        }
    }
}
