//! Error answers, in the form vLLM gives them.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An error that a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: u16,
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

    /// A model the pod does not serve.
    pub(super) fn unknown_model(asked: &str, served: &str) -> ApiError {
        ApiError {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            message: format!("The model `{asked}` does not exist. Valid aliases: {served}."),
            param: Some("model".to_owned()),
        }
    }

    /// A body that is not JSON, or JSON of another shape. vLLM gives the offset of the first and the name of the
    /// field for the second.
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

    /// The error of `/v1/messages`, which has Anthropic's form for what vLLM itself refuses.
    pub(super) fn into_anthropic(self) -> Response {
        #[derive(Serialize)]
        struct Outer<'a> {
            r#type: &'a str,
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            r#type: &'a str,
            message: &'a str,
        }
        let body = Outer { r#type: "error", error: Inner { r#type: self.kind, message: &self.message } };
        json(self.status, &body)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let detail = Detail {
            message: &self.message,
            r#type: self.kind,
            param: self.param.as_deref(),
            code: self.status.as_u16(),
        };
        json(self.status, &Body { error: detail })
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // These bodies are strings and numbers, which always serialize.
    let body = serde_json::to_string(body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
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
