//! Error answers, in the form vLLM gives them.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::faults::broken;
use super::json::quoted;

/// An error that a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

/// Whose form an API's errors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Anthropic,
}

/// An answer that is none of the API's own.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// The error's status and its body.
    Whole(ApiError, Dialect),
    /// Status 200, and the error as the first event: what vLLM finds only after the headers of a stream.
    InStream(ApiError, Dialect),
    /// Status 200, and nothing but the end of the stream.
    DoneOnly,
    /// The pod is gone: the connection breaks.
    Broken,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: u16,
}

/// Anthropic's form.
#[derive(Serialize)]
struct AnthropicBody<'a> {
    r#type: &'a str,
    error: AnthropicDetail<'a>,
}

#[derive(Serialize)]
struct AnthropicDetail<'a> {
    r#type: &'a str,
    message: &'a str,
}

impl ApiError {
    /// A value that the request may not have.
    pub(super) fn bad_request(param: &str, message: String) -> ApiError {
        ApiError {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message,
            param: Some(param.to_owned()),
        }
    }

    /// Something that is not here.
    pub(super) fn not_found(kind: &'static str, message: String) -> ApiError {
        ApiError { status: StatusCode::NOT_FOUND, kind, message, param: None }
    }

    /// A model the pod does not serve.
    pub(super) fn unknown_model(asked: &str, served: &str) -> ApiError {
        let message = format!("The model `{asked}` does not exist. Valid aliases: {served}.");
        ApiError { param: Some("model".to_owned()), ..ApiError::not_found("NotFoundError", message) }
    }

    /// The answer of a fault with this status.
    pub(super) fn of_fault(status: u16) -> ApiError {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = match status {
            StatusCode::BAD_REQUEST => "BadRequestError",
            StatusCode::UNAUTHORIZED => "AuthenticationError",
            StatusCode::NOT_FOUND => "NotFoundError",
            StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            _ => "InternalServerError",
        };
        ApiError { status, kind, message: "a fault was asked for".to_owned(), param: None }
    }

    /// What vLLM answers once its engine has died.
    pub(super) fn dead_engine() -> ApiError {
        ApiError {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "InternalServerError",
            message: "EngineCore encountered an issue. See stack trace (above) for the root cause."
                .to_owned(),
            param: None,
        }
    }

    /// A body that is not JSON, or JSON of another shape. vLLM gives the offset of the first and the name of
    /// the field for the second.
    pub(super) fn from_json(error: &serde_json::Error, body: &[u8]) -> ApiError {
        let text = error.to_string();
        let (place, problem) = if error.is_data() {
            match text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
                Some(field) => {
                    (format!("body.{field}"), "'type': 'missing', 'msg': 'Field required'".to_owned())
                }
                None => ("body".to_owned(), format!("'type': 'value_error', 'msg': {text:?}")),
            }
        } else {
            let problem = "'type': 'json_invalid', 'msg': 'JSON decode error', 'input': '<dict of 0 items>', 'ctx': \
                           {'error': 'Expecting value'}";
            (format!("body.{}", offset(error, body)), problem.to_owned())
        };
        let (kind, rest) = problem.split_once(", ").unwrap_or((&problem, ""));
        ApiError {
            status: StatusCode::BAD_REQUEST,
            kind: "Bad Request",
            message: format!("1 validation error:\n  {{{kind}, 'loc': '{place}', {rest}}}"),
            param: Some(place),
        }
    }

    /// What vLLM's converter of chat streams to Messages says of the error: it takes it for a chunk, which
    /// lacks two fields.
    fn taken_for_a_chunk(&self) -> String {
        let start: String = self.message.chars().take(2).collect();
        let end = self.param.as_ref().map_or("am': None", |_| "': '...'");
        let value = format!("{{'error': {{'message': '{start}...{end}, 'code': {}}}}}", self.status.as_u16());
        let missing = |field| {
            format!(
                "{field}\n  Field required [type=missing, input_value={value}, input_type=dict]\n    For further information \
                 visit https://errors.pydantic.dev/2.14/v/missing"
            )
        };
        let fields = ["model", "choices"].map(missing).join("\n");
        format!("2 validation errors for ChatCompletionStreamResponse\n{fields}")
    }

    fn body(&self, kind: &str, dialect: Dialect) -> String {
        let body = match dialect {
            Dialect::OpenAi => serde_json::to_string(&ErrorBody {
                error: Detail {
                    message: &self.message,
                    r#type: kind,
                    param: self.param.as_deref(),
                    code: self.status.as_u16(),
                },
            }),
            Dialect::Anthropic => {
                let error = AnthropicDetail { r#type: kind, message: &self.message };
                serde_json::to_string(&AnthropicBody { r#type: "error", error })
            }
        };
        // These bodies are strings and numbers, which always serialize.
        body.unwrap_or_default()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        Refusal::Whole(self, Dialect::OpenAi).into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Whole(error, dialect) => {
                let body = error.body(error.kind, dialect);
                (error.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
            }
            Refusal::InStream(error, dialect) => {
                // Inside a stream the type of an overload is the status in words.
                let kind = match error.status {
                    StatusCode::SERVICE_UNAVAILABLE => "Service Unavailable",
                    _ => error.kind,
                };
                match dialect {
                    Dialect::OpenAi => {
                        events(format!("data: {}\n\ndata: [DONE]\n\n", error.body(kind, dialect)))
                    }
                    Dialect::Anthropic => {
                        let error = ApiError { message: error.taken_for_a_chunk(), ..error };
                        events(format!("event: error\ndata: {}\n\n", error.body("internal_error", dialect)))
                    }
                }
            }
            Refusal::DoneOnly => events("data: [DONE]\n\n".to_owned()),
            Refusal::Broken => broken(),
        }
    }
}

/// An error of the web framework, not of vLLM's own.
pub(super) fn plain_error(status: StatusCode, detail: &str) -> Response {
    let body = format!(r#"{{"detail":{}}}"#, quoted(detail));
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A stream that is already over.
fn events(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], text).into_response()
}

/// Where in the body JSON stops making sense, in bytes from 0.
fn offset(error: &serde_json::Error, body: &[u8]) -> usize {
    let lines = body.split(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
    let before: usize = lines.map(|line| line.len() + 1).sum();
    // The column counts the offending byte itself, unless there is none.
    before + if error.is_eof() { error.column() } else { error.column().saturating_sub(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_json_says_where() {
        for (body, at) in [("{\"model\":", 9), ("{\"model\":nope}", 10), ("{\n  \"a\": }", 9)] {
            let error = serde_json::from_str::<serde_json::Value>(body).unwrap_err();
            assert_eq!(ApiError::from_json(&error, body.as_bytes()).param.unwrap(), format!("body.{at}"));
        }
    }
}
