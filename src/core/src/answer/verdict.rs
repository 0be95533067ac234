//! What Envoy's facts about an answer mean: whether a pod serves the request, and which pods have failed it.
//!
//! The facts are the status (`response.code`), the number of pods that were tried
//! (`upstream.request_attempt_count`) and Envoy's words for the end of the stream or for its own answer
//! (`response.code_details`).

/// `code_details` of an answer that a pod gave, to its end.
pub const VIA_UPSTREAM: &[u8] = b"via_upstream";

/// `code_details` of a request that Envoy's own limits (`circuit_breakers`) have refused.
const OVERFLOW: &[u8] = b"upstream_reset_before_response_started{overflow}";

/// What an answer that has begun is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A pod serves the request.
    Served,
    /// A pod answers with an error of its own: 500, 502 or 504.
    Failed,
    /// A pod answers, and does not serve the request: the request is at fault (4xx), or the pod takes none
    /// (503).
    Refused,
    /// A pod refuses the request in a way that another pod may not.
    Declined(Decline),
    /// No pod answers: Envoy does.
    Unserved,
}

/// How a pod refuses a request that another pod may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decline {
    /// It says that it does not have the model.
    NoModel,
    /// With status 401, 403, 404 or 429.
    Other,
}

impl Decline {
    /// The way of an answer with this status; `None` when another pod would say the same, or the pod is
    /// broken or full.
    pub fn of_status(status: u64) -> Option<Decline> {
        matches!(status, 401 | 403 | 404 | 429).then_some(Decline::Other)
    }

    /// The same, by the body of the answer: vLLM names the parameter at fault, and older versions the model.
    pub fn with_body(self, body: &[u8]) -> Decline {
        let says = |words: &[u8]| memchr::memmem::find(body, words).is_some();
        if says(b"\"param\":\"model\"") || says(b"\"param\": \"model\"") || says(b"The model `") {
            Decline::NoModel
        } else {
            self
        }
    }
}

/// Pods that have failed a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedPods {
    /// None.
    #[default]
    None,
    /// This many of those that were chosen, best first, and no pod answers.
    First(usize),
    /// The pod that answers, or answered until it broke off.
    Answering,
}

/// What is to be done about an answer that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What the answer is.
    pub verdict: Verdict,
    /// Pods that failed before the one that answers.
    pub failed_over: usize,
    /// Pods that have failed.
    pub failed: FailedPods,
}

/// Who ended a stream before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenBy {
    /// The pod.
    Pod,
    /// The client, or Envoy for its sake.
    Client,
}

/// How a stream ended that had no end of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// Its answer was judged before, and the pod is not to blame for its end.
    Settled,
    /// Its answer has no body, and is to be judged now.
    Answered,
    /// The pod has broken its answer off.
    BrokenOff,
    /// No answer began; who ended the stream. See [`unanswered`].
    Unanswered(BrokenBy),
}

/// Whether an answer with this status after so many attempts is served whatever Envoy's details are: those
/// cost a call of the host.
pub fn is_plainly_served(code: u64, attempts: usize) -> bool {
    serves(code) && attempts <= 1
}

/// Judges an answer that has begun.
pub fn judge(code: u64, attempts: usize, details: &[u8]) -> Judgement {
    if is_plainly_served(code, attempts) {
        return Judgement { verdict: Verdict::Served, failed_over: 0, failed: FailedPods::None };
    }
    if details != VIA_UPSTREAM {
        let failed = unanswered(attempts, details);
        return Judgement { verdict: Verdict::Unserved, failed_over: 0, failed };
    }
    let (verdict, failed) = match code {
        503 => (Verdict::Refused, FailedPods::Answering),
        500 | 502 | 504 => (Verdict::Failed, FailedPods::None),
        _ if serves(code) => (Verdict::Served, FailedPods::None),
        _ => (Decline::of_status(code).map_or(Verdict::Refused, Verdict::Declined), FailedPods::None),
    };
    Judgement { verdict, failed_over: attempts.saturating_sub(1), failed }
}

/// Judges a stream that has ended without the end of a body; `verdict` is that of its answer, if one had
/// begun.
pub fn judge_end(verdict: Option<Verdict>, details: &[u8]) -> StreamEnd {
    match verdict {
        Some(Verdict::Served) if blames_pod(details) => StreamEnd::BrokenOff,
        Some(_) => StreamEnd::Settled,
        None if details == VIA_UPSTREAM => StreamEnd::Answered,
        None if blames_pod(details) => StreamEnd::Unanswered(BrokenBy::Pod),
        None => StreamEnd::Unanswered(BrokenBy::Client),
    }
}

/// 101 is the answer to an upgrade: a WebSocket is served as long as it lasts.
fn serves(code: u64) -> bool {
    matches!(code, 101 | 200..300)
}

/// The pods that failed where none answers: all that were tried, but the last one only if the details blame
/// it.
pub fn unanswered(attempts: usize, details: &[u8]) -> FailedPods {
    match if blames_pod(details) { attempts } else { attempts.saturating_sub(1) } {
        0 => FailedPods::None,
        failed => FailedPods::First(failed),
    }
}

/// Whether the details blame the pod of the last attempt: it could not be reached, broke off, spoke no HTTP,
/// or was silent for too long. Envoy's own limits, and clients that go away, blame nobody.
fn blames_pod(details: &[u8]) -> bool {
    details.starts_with(b"upstream_per_try")
        || (details.starts_with(b"upstream_reset") && details != OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailedPods::{Answering, First, None as Nobody};
    use Verdict::{Declined, Failed, Refused, Served, Unserved};

    const OTHER: Verdict = Declined(Decline::Other);

    const REFUSED: &[u8] =
        b"upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_111}";
    const RESET: &[u8] = b"upstream_reset_before_response_started{connection_termination}";
    const BROKEN: &[u8] = b"upstream_reset_after_response_started{connection_termination}";
    const SILENT: &[u8] = b"upstream_per_try_timeout";
    const IDLE: &[u8] = b"upstream_per_try_idle_timeout";
    const CLIENT: &[u8] = b"downstream_remote_disconnect";
    const TIMEOUT: &[u8] = b"response_timeout";
    const NO_HOST: &[u8] = b"no_healthy_upstream";
    const WASM: &[u8] = b"wasm_fail_stream";

    #[test]
    fn an_answer_is_judged_by_its_status_its_attempts_and_its_details() {
        for (code, attempts, details, verdict, failed_over, failed) in [
            // The first pod answers.
            (200, 1, VIA_UPSTREAM, Served, 0, Nobody),
            (204, 1, VIA_UPSTREAM, Served, 0, Nobody),
            (101, 1, VIA_UPSTREAM, Served, 0, Nobody),
            (200, 0, VIA_UPSTREAM, Served, 0, Nobody),
            (400, 1, VIA_UPSTREAM, Refused, 0, Nobody),
            (401, 1, VIA_UPSTREAM, OTHER, 0, Nobody),
            (404, 1, VIA_UPSTREAM, OTHER, 0, Nobody),
            (429, 1, VIA_UPSTREAM, OTHER, 0, Nobody),
            (307, 1, VIA_UPSTREAM, Refused, 0, Nobody),
            (500, 1, VIA_UPSTREAM, Failed, 0, Nobody),
            (501, 1, VIA_UPSTREAM, Refused, 0, Nobody),
            (502, 1, VIA_UPSTREAM, Failed, 0, Nobody),
            (503, 1, VIA_UPSTREAM, Refused, 0, Answering),
            (504, 1, VIA_UPSTREAM, Failed, 0, Nobody),
            (0, 1, VIA_UPSTREAM, Refused, 0, Nobody),
            // A later pod answers.
            (200, 2, VIA_UPSTREAM, Served, 1, Nobody),
            (200, 3, VIA_UPSTREAM, Served, 2, Nobody),
            (404, 2, VIA_UPSTREAM, OTHER, 1, Nobody),
            (500, 3, VIA_UPSTREAM, Failed, 2, Nobody),
            (503, 3, VIA_UPSTREAM, Refused, 2, Answering),
            // Envoy answers.
            (503, 1, REFUSED, Unserved, 0, First(1)),
            (503, 3, REFUSED, Unserved, 0, First(3)),
            (503, 2, RESET, Unserved, 0, First(2)),
            (504, 1, SILENT, Unserved, 0, First(1)),
            (504, 2, IDLE, Unserved, 0, First(2)),
            (504, 1, TIMEOUT, Unserved, 0, Nobody),
            (504, 2, TIMEOUT, Unserved, 0, First(1)),
            (503, 1, OVERFLOW, Unserved, 0, Nobody),
            (503, 3, OVERFLOW, Unserved, 0, First(2)),
            (503, 0, NO_HOST, Unserved, 0, Nobody),
            (503, 1, NO_HOST, Unserved, 0, Nobody),
            (503, 1, WASM, Unserved, 0, Nobody),
            (413, 1, b"request_payload_too_large", Unserved, 0, Nobody),
            (503, 1, b"", Unserved, 0, Nobody),
        ] {
            let expected = Judgement { verdict, failed_over, failed };
            let details_shown = details.escape_ascii();
            assert_eq!(judge(code, attempts, details), expected, "{code} {attempts} {details_shown}");
            if is_plainly_served(code, attempts) {
                assert_eq!(judge(code, attempts, b"anything"), expected, "details need not be asked for");
            }
        }
    }

    #[test]
    fn a_refusal_that_names_the_model_is_told_from_others() {
        let recorded = include_bytes!("../../../../tests/fixtures/vllm-0.32/error-404-model.json");
        assert_eq!(Decline::Other.with_body(recorded), Decline::NoModel);
        let case = include_bytes!("../../../../tests/fixtures/cases/B11/answer-404.json");
        assert_eq!(Decline::Other.with_body(case), Decline::NoModel);
        let response = b"{\"error\":{\"message\":\"Response with id 'r1' not found.\",\"code\":404}}";
        assert_eq!(Decline::Other.with_body(response), Decline::Other);
    }

    #[test]
    fn a_stream_without_the_end_of_a_body_is_judged_by_what_came_before() {
        use StreamEnd::{Answered, BrokenOff, Settled, Unanswered};
        for (verdict, details, expected) in [
            (Some(Served), BROKEN, BrokenOff),
            (Some(Served), RESET, BrokenOff),
            (Some(Served), IDLE, BrokenOff),
            (Some(Served), CLIENT, Settled),
            (Some(Served), VIA_UPSTREAM, Settled),
            (Some(Served), OVERFLOW, Settled),
            (Some(Served), b"stream_idle_timeout", Settled),
            (Some(Failed), BROKEN, Settled),
            (Some(Refused), BROKEN, Settled),
            (Some(OTHER), BROKEN, Settled),
            (Some(Unserved), REFUSED, Settled),
            (None, VIA_UPSTREAM, Answered),
            (None, CLIENT, Unanswered(BrokenBy::Client)),
            (None, BROKEN, Unanswered(BrokenBy::Pod)),
            (None, RESET, Unanswered(BrokenBy::Pod)),
            (None, SILENT, Unanswered(BrokenBy::Pod)),
            (None, OVERFLOW, Unanswered(BrokenBy::Client)),
            (None, NO_HOST, Unanswered(BrokenBy::Client)),
            (None, b"", Unanswered(BrokenBy::Client)),
        ] {
            assert_eq!(judge_end(verdict, details), expected, "{verdict:?} {}", details.escape_ascii());
        }
    }

    #[test]
    fn of_the_pods_that_were_tried_the_last_one_failed_only_if_it_is_to_blame() {
        for (attempts, details, expected) in [
            (0, CLIENT, Nobody),
            (1, CLIENT, Nobody),
            (2, CLIENT, First(1)),
            (1, RESET, First(1)),
            (3, RESET, First(3)),
            (1, SILENT, First(1)),
            (2, TIMEOUT, First(1)),
            (3, OVERFLOW, First(2)),
        ] {
            assert_eq!(unanswered(attempts, details), expected, "{attempts} {}", details.escape_ascii());
        }
    }
}
