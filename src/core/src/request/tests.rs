//! Bodies of all five APIs, as clients write them and as they should not.

use super::parse;
use crate::request::body::*;
use crate::request::fields::{MAX_PARTS, MAX_TOKENS};
use std::borrow::Cow;

fn text(s: &str) -> Part<'_> {
    Part::Text(Cow::Borrowed(s.as_bytes()))
}

fn item(role: &str) -> Part<'_> {
    Part::Item(Cow::Borrowed(role.as_bytes()))
}

fn messages<'a>(request: &'a Request<'a>) -> &'a [Part<'a>] {
    match &request.prompt {
        Prompt::Chat { messages, .. } => messages,
        other => panic!("not a chat: {other:?}"),
    }
}

#[test]
fn the_end_of_the_path_names_the_api() {
    assert_eq!(Api::of(b"/v1/chat/completions"), Some(Api::Chat));
    assert_eq!(Api::of(b"/v1/completions?x=1"), Some(Api::Completions));
    assert_eq!(Api::of(b"/team-a/v1/responses/"), Some(Api::Responses));
    assert_eq!(Api::of(b"/v1/embeddings"), Some(Api::Embeddings));
    assert_eq!(Api::of(b"/v1/messages"), Some(Api::Messages));
    for path in [
        &b"/v1/messages/count_tokens"[..],
        b"/v1/audio/transcriptions",
        b"/v1/responses/resp_1/cancel",
        b"/tokenize",
        b"/v1/models",
        b"/",
        b"",
    ] {
        assert_eq!(Api::of(path), None);
    }
}

#[test]
fn chat_text_is_borrowed_and_roles_come_first() {
    let body =
        br#"{"model":"m","messages":[{"content":"plain","role":"user"},{"role":"assistant","content":"a\n\u0062"}]}"#;
    let request = parse(Api::Chat, body).unwrap();
    assert_eq!(&*request.model, b"m");
    assert_eq!(messages(&request), [item("user"), text("plain"), item("assistant"), text("a\\nb")]);
    assert!(matches!(&messages(&request)[1], Part::Text(Cow::Borrowed(_))));
    assert!(request.reports_usage && !request.stream);
}

#[test]
fn chat_parts_tools_and_tool_calls_are_kept_as_written() {
    let body = br#"{"tools":[{"type":"function"}],"model":"m","stream":true,"messages":[
        {"role":"user","content":[{"type":"text","text":"see"},{"type":"image_url","image_url":{"url":"http://i/1"}}]},
        {"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"1"}]}]}"#;
    let request = parse(Api::Chat, body).unwrap();
    assert!(request.stream && !request.reports_usage);
    let Prompt::Chat { tools, messages, .. } = &request.prompt else { panic!("{request:?}") };
    assert_eq!(*tools, Some(&br#"[{"type":"function"}]"#[..]));
    let expected = [
        item("user"),
        text("see"),
        Part::Json(br#"{"url":"http://i/1"}"#),
        item("assistant"),
        Part::Json(br#"[{"id":"1"}]"#),
    ];
    assert_eq!(*messages, expected);
}

#[test]
fn a_stream_reports_usage_when_asked() {
    let body = br#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"prompt":"x"}"#;
    assert!(parse(Api::Completions, body).unwrap().reports_usage);
}

#[test]
fn completions_take_text_texts_token_ids_and_lists_of_them() {
    let prompt = |json: &str| {
        let body = format!(r#"{{"model":"m","prompt":{json}}}"#).into_bytes();
        parse(Api::Completions, Box::leak(body.into_boxed_slice())).unwrap().prompt
    };
    assert_eq!(prompt(r#""a""#), Prompt::Texts(vec![b"a".into()]));
    assert_eq!(prompt(r#"["a","b"]"#), Prompt::Texts(vec![b"a".into(), b"b".into()]));
    assert_eq!(prompt("[1,2]"), Prompt::Tokens(vec![1, 2]));
    assert_eq!(prompt("[[1],[2,4294967295]]"), Prompt::Tokens(vec![1, 2, u32::MAX]));
    assert_eq!(prompt("null"), Prompt::Texts(vec![]));
    for odd in ["[1,\"x\"]", "[-1]", "[4294967296]", "[1.5]", "7", "[[[1]]]", "[null]"] {
        assert!(matches!(prompt(odd), Prompt::Opaque(_)), "{odd}");
    }
}

#[test]
fn responses_and_messages_have_a_system_text_beside_the_messages() {
    let body = br#"{"model":"m","input":"hi","instructions":"be brief"}"#;
    let request = parse(Api::Responses, body).unwrap();
    let Prompt::Chat { system, messages, .. } = &request.prompt else { panic!("{request:?}") };
    assert_eq!((&system[..], &messages[..]), (&[text("be brief")][..], &[item("user"), text("hi")][..]));

    let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}]}"#;
    let request = parse(Api::Messages, body).unwrap();
    let Prompt::Chat { system, .. } = &request.prompt else { panic!("{request:?}") };
    assert_eq!(*system, [text("s")]);
    assert!(request.reports_usage);
}

#[test]
fn what_is_not_json_or_names_no_model_is_refused_with_the_place() {
    assert_eq!(parse(Api::Chat, b"{\"model\":").unwrap_err(), BodyError::Json { line: 1, column: 10 });
    assert_eq!(parse(Api::Chat, b"").unwrap_err(), BodyError::Json { line: 1, column: 1 });
    assert_eq!(parse(Api::Chat, b"{\n \"a\": x}").unwrap_err(), BodyError::Json { line: 2, column: 7 });
    assert_eq!(
        parse(Api::Chat, b"{\"model\":\"\xff\"}").unwrap_err(),
        BodyError::Json { line: 1, column: 11 }
    );
    assert_eq!(parse(Api::Chat, b"[]").unwrap_err(), BodyError::NotAnObject);
    assert!(matches!(parse(Api::Chat, b"[").unwrap_err(), BodyError::Json { .. }));
    for body in [br#"{"model":3}"#.as_slice(), br#"{"model":["m"]}"#, br#"{"model":"m","model":false}"#] {
        assert_eq!(parse(Api::Chat, body).unwrap_err(), BodyError::Model, "{}", body.escape_ascii());
    }
    let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(MAX_MODEL_BYTES + 1));
    assert_eq!(
        parse(Api::Chat, long.as_bytes()).unwrap_err(),
        BodyError::ModelTooLong { bytes: MAX_MODEL_BYTES + 1 }
    );
    // A shape that is wrong does not hide JSON that is.
    assert!(matches!(parse(Api::Chat, br#"{"messages":7,"model":"m""#), Err(BodyError::Json { .. })));
    let deep = format!(r#"{{"model":"m","x":{}1{}}}"#, "[".repeat(500_000), "]".repeat(500_000));
    assert_eq!(parse(Api::Chat, deep.as_bytes()).unwrap_err(), BodyError::Depth);
    assert!(BodyError::Depth.may_be_served() && !BodyError::Model.may_be_served());
}

#[test]
fn unknown_shapes_are_for_the_pod_to_judge() {
    for body in [
        &br#"{"model":"m","messages":7}"#[..],
        br#"{"model":"m","messages":[7]}"#,
        br#"{"model":"m","messages":[{"role":5,"content":"x"}]}"#,
        br#"{"model":"m","messages":[{"role":"user","content":{"a":1}}]}"#,
    ] {
        let request = parse(Api::Chat, body).unwrap();
        assert_eq!(&*request.model, b"m");
        assert_eq!(request.prompt, Prompt::Opaque(body));
    }
}

#[test]
fn a_prompt_of_too_many_parts_is_not_taken_apart() {
    let cases = [
        ("{}", "messages", MAX_PARTS),
        (r#"{"content":["a"]}"#, "messages", MAX_PARTS),
        (r#""a""#, "prompt", MAX_PARTS),
        ("1", "prompt", MAX_TOKENS),
    ];
    for (part, key, limit) in cases {
        let list = vec![part; limit + 1].join(",");
        let body = format!(r#"{{"model":"m","{key}":[{list}]}}"#);
        let api = if key == "prompt" { Api::Completions } else { Api::Chat };
        assert!(matches!(parse(api, body.as_bytes()).unwrap().prompt, Prompt::Opaque(_)), "{part}");
    }
}

#[test]
fn the_last_of_duplicate_keys_counts() {
    let body = br#"{"model":"x","messages":[{"role":"a"}],"model":"m","messages":[{"role":"b"}]}"#;
    let request = parse(Api::Chat, body).unwrap();
    assert_eq!(&*request.model, b"m");
    assert_eq!(messages(&request), [item("b")]);
}

#[test]
fn a_request_need_not_name_its_model() {
    for body in [&b"{}"[..], br#"{"model":null}"#, br#"{"model":""}"#, br#"{"model":7,"model":null}"#] {
        assert_eq!(&*parse(Api::Chat, body).unwrap().model, b"", "{}", body.escape_ascii());
    }
}

#[test]
fn half_a_surrogate_pair_is_for_the_pod_to_judge() {
    for body in [br#"{"messages":[{"content":"cut \ud83d"}]}"#.as_slice(), b"{\"x\":\"\xED\xA0\xBD\"}"] {
        let error = parse(Api::Chat, body).unwrap_err();
        assert_eq!(error, BodyError::Surrogate);
        assert!(error.may_be_served());
    }
    assert!(!parse(Api::Chat, b"{\"x\":\"\xED\x41\"}").unwrap_err().may_be_served());
}

#[test]
fn numbers_of_python_are_numbers() {
    let body = br#"{"prompt":"hi","logit_bias":{"50256":-Infinity},"x":[NaN,Infinity]}"#;
    assert_eq!(parse(Api::Completions, body).unwrap().prompt, Prompt::Texts(vec![b"hi".into()]));
}

#[test]
fn flags_are_taken_as_text_and_as_numbers() {
    let streams = |value: &str| {
        let body =
            format!(r#"{{"stream":{value},"stream_options":{{"include_usage":{value}}},"prompt":"x"}}"#);
        let request = parse(Api::Completions, Box::leak(body.into_boxed_str()).as_bytes()).unwrap();
        assert!(request.reports_usage, "a whole answer does, and a stream when asked: {value}");
        assert_eq!(request.prompt, Prompt::Texts(vec![b"x".into()]), "{value}");
        request.stream
    };
    for value in ["true", "1", "1.0", "\"true\"", "\"True\"", "\"YES\"", "\"on\"", "\"1\"", "\"t\"", "\"y\""]
    {
        assert!(streams(value), "{value}");
    }
    for value in ["false", "null", "0", "0.0", "\"false\"", "\"no\"", "\"\"", "\"2\"", "2", "[]", "{}"] {
        assert!(!streams(value), "{value}");
    }
}

#[test]
fn a_prompt_may_be_embeddings() {
    let embeddings = |json: &str| {
        let body = format!(r#"{{"model":"m","prompt":"","prompt_embeds":{json}}}"#).into_bytes();
        parse(Api::Completions, Box::leak(body.into_boxed_slice())).unwrap().prompt
    };
    assert_eq!(embeddings(r#""QUJD""#), Prompt::Embeddings(vec![b"QUJD".into()]));
    assert_eq!(embeddings(r#"["QUJD","REVG"]"#), Prompt::Embeddings(vec![b"QUJD".into(), b"REVG".into()]));
    assert_eq!(embeddings("null"), Prompt::Texts(vec![b"".into()]));
    assert!(matches!(embeddings("7"), Prompt::Opaque(_)));
}

#[test]
fn a_block_that_only_names_the_client_is_left_out_of_the_system_text() {
    let system = |api, json: &str| {
        let body = format!(r#"{{"model":"m","system":{json},"messages":[]}}"#).into_bytes();
        let request = parse(api, Box::leak(body.into_boxed_slice())).unwrap();
        let Prompt::Chat { system, .. } = request.prompt else { panic!("{json}") };
        system
    };
    let line = "x-anthropic-billing-header: cc_version=0.0.0; cch=1a2b3;";
    let blocks = format!(r#"[{{"type":"text","text":"{line}"}},{{"type":"text","text":"You help."}}]"#);
    assert_eq!(system(Api::Messages, &blocks), [text("You help.")]);
    // vLLM keeps it where `system` is one text.
    assert_eq!(system(Api::Messages, &format!("\"{line}\"")), [text(line)]);
    assert_eq!(
        system(Api::Messages, r#"[{"type":"text","text":"about x-anthropic-billing-header"}]"#).len(),
        1
    );
}
