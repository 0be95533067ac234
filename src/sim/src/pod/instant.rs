//! One constant answer, as cheap as it gets, so that a benchmark of a gateway measures the gateway.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Response};
use bytes::Bytes;
use futures::StreamExt;
use hyper::body::Incoming;

const WHOLE: &str = concat!(
    r#"{"id":"chatcmpl-0000000000000000","object":"chat.completion","created":1795224855,"model":"/model/qwen","#,
    r#""choices":[{"index":0,"message":{"role":"assistant","content":"ok","refusal":null,"annotations":null,"#,
    r#""audio":null,"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"stop","#,
    r#""stop_reason":null,"token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":null,"#,
    r#""usage":{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2,"prompt_tokens_details":"#,
    r#"{"cached_tokens":0,"created_cache_tokens":0,"multimodal_tokens":null},"completion_tokens_details":null}}"#
);

const STREAM: &str = concat!(
    r#"data: {"id":"chatcmpl-0000000000000000","object":"chat.completion.chunk","created":1795224855,"#,
    r#""model":"/model/qwen","choices":[{"index":0,"delta":{"role":"assistant","content":"ok"},"logprobs":null,"#,
    r#""finish_reason":"stop"}]}"#,
    "\n\ndata: [DONE]\n\n"
);

/// Reads the whole body, and streams if it says so anywhere.
pub(super) async fn answer(body: Incoming) -> Response<Body> {
    let mut data = Body::new(body).into_data_stream();
    let mut streams = false;
    while let Some(Ok(piece)) = data.next().await {
        streams = streams || asks_for_stream(&piece);
    }
    let (kind, text) = match streams {
        true => ("text/event-stream; charset=utf-8", STREAM),
        false => ("application/json", WHOLE),
    };
    let mut response = Response::new(Body::from(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    response
}

/// A guess: the words may also stand in a prompt, or fall between two pieces. A benchmark has neither.
fn asks_for_stream(piece: &[u8]) -> bool {
    memchr::memmem::find_iter(piece, b"\"stream\"").any(|at| {
        let rest = piece.get(at + 8..).unwrap_or_default();
        rest.trim_ascii_start()
            .strip_prefix(b":")
            .is_some_and(|rest| rest.trim_ascii_start().starts_with(b"true"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_true_stream_streams() {
        assert!(asks_for_stream(br#"{"stream": true}"#) && asks_for_stream(br#"{"a":1,"stream":true}"#));
        assert!(!asks_for_stream(br#"{"stream":false,"x":true}"#) && !asks_for_stream(b"{}"));
    }
}
