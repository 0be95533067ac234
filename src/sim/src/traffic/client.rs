//! One request over HTTP: sent, read to its end, timed.

use std::error::Error;
use std::time::Duration;

use super::Outcome;
use super::answer::StreamedAnswer;
use super::clock::ServerClock;
use super::outcome::Failure;
use super::sse::SseParser;
use crate::workload::RequestClass;

/// A request that waits longer than this is given up, in the server's seconds: the reference's gateway has
/// the same limit.
const LONGEST: f64 = 3600.0;
/// vLLM closes a connection that was idle for 5 s; be first, or a request could meet the closing.
const IDLE: Duration = Duration::from_secs(4);

/// By these headers a gateway is told what a request is: an objective `sheddable`, whose priority is for its
/// settings to say, and whose request it is.
const OBJECTIVE: &str = "x-gateway-inference-objective";
const TENANT: &str = "x-tenant";

/// What to send.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// `/v1/chat/completions` or `/v1/completions`.
    pub(super) path: &'static str,
    /// JSON.
    pub(super) body: String,
    /// Whether the text of the answer is needed.
    pub(super) keep_text: bool,
    /// See [`Outcome::user`].
    pub(super) user: u32,
    /// See [`Outcome::round`].
    pub(super) round: u32,
    /// See [`Outcome::class`].
    pub(super) class: RequestClass,
}

/// Sends requests, over connections that are used again.
#[derive(Clone, Debug)]
pub(super) struct TrafficClient {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    clock: ServerClock,
}

impl TrafficClient {
    /// To the server at `base`, timed by `clock`.
    pub(super) fn new(
        base: String,
        key: Option<String>,
        clock: ServerClock,
    ) -> anyhow::Result<TrafficClient> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(10))
            // Real time: however fast the server's clock runs, a machine may stall for a while.
            .read_timeout(clock.real(LONGEST).max(Duration::from_secs(60)))
            .build()?;
        Ok(TrafficClient { http, base, key, clock })
    }

    /// Sends it and reads the answer to the end.
    pub(super) async fn send(&self, ask: Outgoing) -> Outcome {
        let Outgoing { path, body, keep_text, user, round, class } = ask;
        let mut request = self.http.post(format!("{}{path}", self.base)).body(body);
        request = request.header("content-type", "application/json");
        if round > 0 {
            // What the original sends too: gateways may pin users by it.
            request = request.header("x-user-id", user.to_string());
        }
        if class.sheddable {
            request = request.header(OBJECTIVE, "sheddable");
        }
        if let Some(tenant) = class.tenant {
            request = request.header(TENANT, tenant.to_string());
        }
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let launched = self.clock.now();
        let mut answer = StreamedAnswer::new(keep_text);
        let failure = self.read(request, &mut answer).await.err();
        let finished = self.clock.now();
        let failure = failure
            .or_else(|| answer.error.take().map(Failure::Inside))
            .or_else(|| answer.first_token.is_none().then_some(Failure::Empty))
            .or_else(|| {
                (!answer.done).then(|| Failure::Broken("the stream ended without [DONE]".to_owned()))
            });
        Outcome {
            launched,
            first_token: answer.first_token,
            finished,
            prompt_tokens: answer.usage.map_or(0, |usage| usage.prompt_tokens),
            cached_tokens: answer.usage.and_then(|usage| usage.cached_tokens()),
            output_tokens: answer.output_tokens(),
            gaps: answer.gaps,
            text: answer.text.unwrap_or_default(),
            failure,
            user,
            round,
            class,
        }
    }

    async fn read(
        &self,
        request: reqwest::RequestBuilder,
        answer: &mut StreamedAnswer,
    ) -> Result<(), Failure> {
        let mut response = request.send().await.map_err(|error| failure(&error))?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            let text = response.text().await.unwrap_or_default();
            return Err(Failure::Status(status, text.trim().chars().take(200).collect()));
        }
        let mut events = SseParser::default();
        while let Some(piece) = response.chunk().await.map_err(|error| failure(&error))? {
            let now = self.clock.now();
            events.feed(&piece, |data| answer.take(data, now));
        }
        Ok(())
    }
}

/// The cause at the bottom, which says most in fewest words.
fn failure(error: &reqwest::Error) -> Failure {
    let mut cause: &dyn Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if error.is_timeout() {
        Failure::Silence
    } else if error.is_connect() {
        Failure::Unreachable(cause.to_string())
    } else {
        Failure::Broken(cause.to_string())
    }
}
