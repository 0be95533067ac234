//! What clients get that no pod answers.

use warmpath::answer::refusal::Refusal;
use warmpath::request::body::BodyError;
use warmpath::request::parse_cache::NameRefused;
use warmpath::router::NoPod;

use crate::abi::Action;
use crate::decision_log::in_words;
use crate::host;

/// The header that says why a request is refused, as the endpoint pickers have it.
const DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";

/// Answers that there is no such model.
pub fn refuse_name(refused: NameRefused, name: &str) -> Action {
    let message = match refused {
        NameRefused::Unknown => format!("The model `{name}` does not exist."),
        NameRefused::NoTarget => {
            format!("The model `{name}` is reserved: no valid target model is found for it.")
        }
    };
    respond(&Refusal { status: 404, kind: "NotFoundError", message: &message, param: Some("model") }, &[])
}

/// Answers that the body is no request.
pub fn reject(error: &BodyError) -> Action {
    let param = match error {
        BodyError::Model | BodyError::ModelTooLong { .. } => Some("model"),
        _ => None,
    };
    respond(&Refusal { status: 400, kind: "BadRequestError", message: &error.to_string(), param }, &[])
}

/// Why a request is shed: for programs, and for people.
pub type Shed = (&'static str, &'static str);
/// The pool is saturated.
pub const SATURATED: Shed =
    ("rejected-saturated", "all pods are busy, and this request is one that may be shed; try again later");
/// The tenant has its share.
pub const OVER_SHARE: Shed =
    ("rejected-over-share", "all pods are busy, and most of it is work for you; try again later");

/// Answers that the request is shed.
#[cold]
#[inline(never)]
pub fn shed(seconds: u32, (reason, message): Shed) -> Action {
    let refusal = Refusal { status: 429, kind: "RateLimitError", message, param: None };
    respond(&refusal, &[("retry-after", &seconds.to_string()), (DROPPED_REASON, reason)])
}

/// Answers that there is no pod.
#[cold]
#[inline(never)]
pub fn refuse(no_pod: NoPod) -> Action {
    let refusal =
        Refusal { status: 503, kind: "ServiceUnavailableError", message: in_words(no_pod), param: None };
    respond(&refusal, &[("retry-after", "1"), (DROPPED_REASON, "rejected-no-endpoints")])
}

/// Answers the client in place of a pod.
#[cold]
#[inline(never)]
fn respond(refusal: &Refusal<'_>, headers: &[(&str, &str)]) -> Action {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    host::respond(refusal.status, &all, &refusal.body());
    Action::Pause
}
