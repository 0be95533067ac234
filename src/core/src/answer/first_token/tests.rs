//! The reader against recorded streams, a table of forms, and a twin that has the whole answer at once.

use super::*;
use crate::answer::error_event::ErrorKind;
use proptest::prelude::*;
use serde_json::Value;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../../../tests/fixtures/", $name)).as_slice()
    };
}

const fn error(status: u16, kind: ErrorKind) -> FirstEvent {
    FirstEvent::Error(ErrorEvent { status, kind })
}

const FULL: FirstEvent = error(503, ErrorKind::Full);
const FAULT: FirstEvent = error(500, ErrorKind::Fault);

/// What a whole answer says.
fn read(answer: &[u8]) -> FirstEvent {
    let mut reader = FirstTokenReader::default();
    reader.feed(answer);
    reader.end()
}

/// What each event of a stream makes of it.
fn steps(stream: &[u8]) -> Vec<FirstEvent> {
    let text = std::str::from_utf8(stream).unwrap();
    let mut reader = FirstTokenReader::default();
    text.split_inclusive("\n\n").map(|event| reader.feed(event.as_bytes())).collect()
}

#[test]
fn recorded_streams_are_read_event_by_event() {
    use FirstEvent::{DoneWithoutToken, KeepAlive, NotYet, Token};
    assert_eq!(steps(fixture!("vllm-0.32/chat-stream.sse"))[..3], [NotYet, Token, Token]);
    assert_eq!(steps(fixture!("vllm-0.32/completion-tokens-stream.sse"))[0], Token);
    assert_eq!(steps(fixture!("first-events/chat-full.sse")), [FULL, FULL]);
    assert_eq!(steps(fixture!("first-events/chat-failed.sse")), [FAULT, FAULT]);
    assert_eq!(steps(fixture!("first-events/chat-keep-alive.sse")), [KeepAlive; 3]);
    assert_eq!(steps(fixture!("first-events/responses-waiting.sse")), [NotYet, NotYet]);
    assert_eq!(steps(fixture!("first-events/responses-failed.sse")), [NotYet, NotYet, FAULT]);
    assert_eq!(steps(fixture!("first-events/messages-waiting.sse")), [NotYet, KeepAlive]);
    assert_eq!(steps(fixture!("first-events/messages-failed.sse")), [FAULT, FAULT]);
    assert_eq!(steps(fixture!("first-events/messages-full.sse")), [FULL]);
    assert_eq!(steps(b"data: [DONE]\n\n"), [DoneWithoutToken]);
}

#[test]
fn whole_answers_are_read_at_their_end() {
    for answer in [
        fixture!("vllm-0.32/chat.json"),
        fixture!("vllm-0.32/completion.json"),
        fixture!("vllm-0.32/responses.json"),
        fixture!("vllm-0.32/messages.json"),
    ] {
        assert_eq!(read(answer), FirstEvent::Token);
        assert!(answer.len() > LONGEST || FirstTokenReader::default().feed(answer) == FirstEvent::NotYet);
    }
    assert_eq!(read(fixture!("vllm-0.32/error-404-model.json")), error(404, ErrorKind::Request));
    assert_eq!(read(fixture!("vllm-0.32/error-400-json.json")), error(400, ErrorKind::Request));
}

#[test]
fn every_form_of_an_error_has_its_status() {
    use ErrorKind::{Dead, Fault, Full, Request};
    for (data, status, kind) in [
        (r#"{"error":{"message":"m","type":"InternalServerError","param":null,"code":500}}"#, 500, Fault),
        (r#"{"error":{"message":"m","type":"Service Unavailable","code":"503"}}"#, 503, Full),
        (r#"{"error":{"message":"m","type":"NotFoundError","code":null}}"#, 404, Request),
        (r#"{"error":{"code":429,"type":"InternalServerError"}}"#, 429, Full),
        (r#"{"error":{"code":502}}"#, 502, Fault),
        (r#"{"error":"engine failed"}"#, 500, Fault),
        (r#"{"error":"Model is overloaded","error_type":"overloaded"}"#, 503, Full),
        (r#"{"error":"Input validation error","error_type":"validation"}"#, 422, Request),
        (
            r#"{"error":{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}}"#,
            400,
            Request,
        ),
        (
            r#"{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}"#,
            400,
            Request,
        ),
        (r#"{"object":"error","message":"m","type":"BadRequestError"}"#, 400, Request),
        (
            r#"{"type":"error","code":"server_error","message":"m","param":null,"sequence_number":3}"#,
            500,
            Fault,
        ),
        (r#"{"type":"error","code":"rate_limit_exceeded","message":"m"}"#, 429, Full),
        (r#"{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}"#, 429, Full),
        (r#"{"type":"response.failed","response":{"status":"failed","error":null}}"#, 500, Fault),
        (r#"{"type":"error","error":{"type":"internal_error","message":"m"}}"#, 500, Fault),
        (r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#, 503, Full),
        (r#"{"type":"error","error":{"type":"invalid_request_error","message":"m"}}"#, 400, Request),
        (
            r#"{"type":"error","error":{"type":"internal_error","message":"The engine is currently busy and"}}"#,
            503,
            Full,
        ),
        (
            r#"{"type":"error","error":{"type":"internal_error","message":"x={'error': {'message': 'Th...am': None, 'code': 503}}, y"}}"#,
            503,
            Full,
        ),
        (
            r#"{"type":"error","error":{"type":"internal_error","message":"x={'error': {'message': 'En...am': None, 'code': 500}}, y"}}"#,
            500,
            Dead,
        ),
        (r#"{"error":{"code":529,"message":"m"}}"#, 503, Full),
        (r#"{"error":{"code":200,"message":"m"}}"#, 500, Fault),
    ] {
        let expected = error(status, kind);
        assert_eq!(read(format!("data: {data}\n\n").as_bytes()), expected, "{data}");
        assert_eq!(read(format!("event: x\r\ndata:{data}\r\n\r\ndata: [DONE]\r\n\r\n").as_bytes()), expected);
        if !data.contains("response.failed") {
            assert_eq!(read(data.as_bytes()), expected, "{data}");
        }
    }
}

#[test]
fn a_mark_before_the_first_event_means_nothing_and_what_is_no_text_is_not_held() {
    let marked = [b"\xEF\xBB\xBF", fixture!("first-events/chat-full.sse")].concat();
    assert_eq!(read(&marked), FULL);
    let mut in_bytes = FirstTokenReader::default();
    marked.chunks(1).for_each(|byte| _ = in_bytes.feed(byte));
    assert_eq!(in_bytes.end(), FULL);
    for part in [&b"\xEF"[..], b"\xEF\xBB", b"\xEF\xBB\xBF"] {
        assert_eq!(FirstTokenReader::default().feed(part), FirstEvent::NotYet);
    }
    for compressed in [&b"\x1f\x8b\x08\0\0"[..], b"\x1f", b"\x8b\x0a", b"\xEF\xBB{", b"\n\xEF\xBB\xBF{"] {
        assert_eq!(FirstTokenReader::default().feed(compressed), FirstEvent::Token);
        let mut in_bytes = FirstTokenReader::default();
        compressed.chunks(1).for_each(|byte| _ = in_bytes.feed(byte));
        assert_eq!(in_bytes.end(), FirstEvent::Token);
    }
}

#[test]
fn only_what_a_model_has_made_is_a_token() {
    use FirstEvent::{DoneWithoutToken, KeepAlive, NotYet, Token};
    for (data, expected) in [
        (
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            NotYet,
        ),
        (r#"{"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[]}}]}"#, NotYet),
        (r#"{"choices":[{"delta":{"role":"assistant","content":"a"}}]}"#, Token),
        (r#"{"choices":[{"delta":{"reasoning":"a"}}]}"#, Token),
        (r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, Token),
        (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, Token),
        (r#"{"choices":[{"delta":{"role":"assistant"}},{"delta":{"content":"b"}}]}"#, Token),
        (r#"{"choices":[],"usage":{"prompt_tokens":3}}"#, NotYet),
        (r#"{"choices":[{"index":0,"text":"","finish_reason":null}]}"#, Token),
        (r#"{"type":"response.queued"}"#, NotYet),
        (r#"{"type":"response.output_item.added","item":{}}"#, Token),
        (r#"{"type":"response.output_text.delta","delta":"a"}"#, Token),
        (r#"{"type":"response.completed","response":{"error":null}}"#, Token),
        (r#"{"type":"message_start","message":{}}"#, NotYet),
        (r#"{"type":"ping"}"#, KeepAlive),
        (r#"{"type":"content_block_start","index":0}"#, Token),
        (r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}"#, Token),
        (r#"{"type":"message_stop"}"#, DoneWithoutToken),
        (r#"{"token":{"text":"of another engine"}}"#, Token),
        ("[1]", Token),
        ("not JSON", Token),
        ("[DONE]", DoneWithoutToken),
    ] {
        assert_eq!(read(format!("data: {data}\n\n").as_bytes()), expected, "{data}");
    }
}

#[test]
fn lines_end_and_fields_are_written_as_the_standard_allows() {
    let error = r#"{"error":{"code":503}}"#;
    for stream in [
        format!("data: {error}\n\n"),
        format!("data:{error}\r\r"),
        format!("\r\ndata: {error}\r\n\r\n"),
        format!("id: 7\nretry: 10\nevent\ndata: {error}\n\n"),
        // In two lines, and without the empty line at the end.
        "data: {\"error\":\ndata: {\"code\":503}}\n".to_owned(),
        "data: {\"error\":{\"code\":503}}".to_owned(),
    ] {
        assert_eq!(read(stream.as_bytes()), FULL, "{stream:?}");
    }
    assert_eq!(read(b": waits\n\n"), FirstEvent::KeepAlive);
    assert_eq!(read(b"event: response.created\n\n"), FirstEvent::NotYet, "no data, no event");
    assert_eq!(read(b""), FirstEvent::NotYet);
    assert_eq!(read(b"\n\n"), FirstEvent::NotYet);
}

#[test]
fn an_event_as_long_as_the_request_is_known_by_its_name() {
    let instructions = "long ".repeat(100_000);
    let created = format!(
        "event: response.created\ndata: {{\"response\":{{\"instructions\":\"{instructions}\"}},\"type\":\"response.created\"}}\n\n"
    );
    let mut reader = FirstTokenReader::default();
    for chunk in created.as_bytes().chunks(1000) {
        assert_eq!(reader.feed(chunk), FirstEvent::NotYet);
        assert!(reader.line.bytes.len() + reader.data.bytes.len() + reader.name.bytes.len() <= 2 * LONGEST);
    }
    assert_eq!(reader.feed(b"data: {\"error\":{\"code\":503}}\n\n"), FULL);
    // A whole answer of that length is none that fails.
    assert_eq!(
        FirstTokenReader::default().feed(format!("{{\"x\":\"{instructions}\"}}").as_bytes()),
        FirstEvent::Token
    );
}

#[test]
fn a_final_word_stays() {
    let mut reader = FirstTokenReader::default();
    assert!(reader.feed(b"data: {\"choices\":[{\"text\":\"a\"}]}\n\n").is_final());
    assert_eq!(reader.feed(b"data: {\"error\":{\"code\":503}}\n\n"), FirstEvent::Token);
    assert_eq!(reader.end(), FirstEvent::Token);
}

/// The twin: it has all of a stream at once, and a tree of each event.
fn naive(stream: &str) -> FirstEvent {
    let mut said = FirstEvent::NotYet;
    for event in stream.replace("\r\n", "\n").replace('\r', "\n").split("\n\n") {
        let lines: Vec<&str> = event.split('\n').collect();
        if lines.iter().any(|line| line.starts_with(':')) {
            said = FirstEvent::KeepAlive;
        }
        let field = |name: &str| {
            let values = lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            values.collect::<Vec<_>>()
        };
        let (data, name) =
            (field("data").join("\n"), field("event").last().copied().unwrap_or_default().to_owned());
        if data.is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&data).unwrap_or_default();
        let kind = value["type"].as_str().unwrap_or(&name).to_owned();
        let failed = !value["error"].is_null() || kind == "error" || kind == "response.failed";
        let token = |choice: &Value| {
            choice["text"].is_string()
                || choice["finish_reason"].is_string()
                || choice["delta"]["content"].as_str().is_some_and(|text| !text.is_empty())
        };
        said = match kind.as_str() {
            _ if data == "[DONE]" => FirstEvent::DoneWithoutToken,
            _ if failed => {
                let error =
                    if value["error"].is_null() { &value["response"]["error"] } else { &value["error"] };
                match error["code"].as_u64() {
                    Some(503) => FULL,
                    Some(404) => self::error(404, ErrorKind::Request),
                    _ => FAULT,
                }
            }
            "response.created" | "message_start" => said,
            "ping" => FirstEvent::KeepAlive,
            _ => match value["choices"].as_array() {
                Some(choices) if !choices.iter().any(token) => said,
                _ => FirstEvent::Token,
            },
        };
        if said.is_final() {
            break;
        }
    }
    said
}

fn event() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\\u000ab\"},\"finish_reason\":null}]}\n\n",
        "data: {\"choices\":[],\"usage\":{}}\n\n",
        "data: {\"choices\":[{\"text\":\" be\"}]}\n\n",
        "event: response.created\ndata: {\"response\":{\"error\":null},\"type\":\"response.created\"}\n\n",
        "event: response.created\ndata: {\"response\":{}}\n\n",
        "event: response.failed\ndata: {\"response\":{\"error\":{\"code\":503}}}\n\n",
        "event: message_start\ndata: {\"type\":\"message_start\"}\n\n",
        "event: ping\ndata: {\"type\": \"ping\"}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"internal_error\"}}\n\n",
        "data: {\"error\":{\"code\":404}}\n\n",
        "data: {\"error\":\ndata: {\"code\":503}}\n\n",
        "data: [DONE]\n\n",
        "id: 3\n\n",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn chunks_and_line_ends_do_not_matter(
        events in prop::collection::vec(event(), 0..6),
        ends in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let stream = events.concat();
        let expected = naive(&stream);
        let stream = stream.replace('\n', ends).into_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut reader = FirstTokenReader::default();
        for pair in cuts.windows(2) {
            reader.feed(&stream[pair[0]..pair[1]]);
        }
        prop_assert_eq!(reader.end(), expected);
    }

    #[test]
    fn memory_is_bounded_whatever_comes(chunks in prop::collection::vec(prop::collection::vec(prop::sample::select(b"data: \n\r:{}[]\"x".to_vec()), 0..3000), 0..10)) {
        let mut reader = FirstTokenReader::default();
        for chunk in chunks {
            reader.feed(&chunk);
            prop_assert!(reader.line.bytes.len().max(reader.data.bytes.len()).max(reader.name.bytes.len()) <= LONGEST);
        }
        reader.end();
    }
}
