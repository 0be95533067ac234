//! The body as the pod gets it: another name of the model, and a priority. All other bytes stay as they are.

use std::ops::Range;

/// The new start of a body: Envoy can replace the first bytes of one, and no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStart {
    /// How many bytes it replaces.
    pub replaces: usize,
    /// What stands there now.
    pub bytes: Vec<u8>,
}

/// What is to be changed in a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// The name of the model, in the spelling of a request.
    pub model: Option<&'a [u8]>,
    /// The priority for vLLM's scheduler, the lower the sooner.
    pub priority: Option<i32>,
}

/// The new start of `body`, whose `model` has its value at `model_at`; `None` when nothing changes. A body
/// without a model is not changed.
pub fn new_start(body: &[u8], model_at: &Range<usize>, changes: Changes<'_>) -> Option<NewStart> {
    let Changes { model, priority } = changes;
    let brace = memchr::memchr(b'{', body)?;
    if model_at.is_empty() || (model.is_none() && priority.is_none()) {
        return None;
    }
    let mut bytes = body.get(..=brace)?.to_vec();
    if let Some(priority) = priority {
        bytes.extend_from_slice(format!("\"priority\":{priority},").as_bytes());
    }
    let Some(model) = model else { return Some(NewStart { replaces: brace + 1, bytes }) };
    bytes.extend_from_slice(body.get(brace + 1..model_at.start)?);
    bytes.push(b'"');
    bytes.extend_from_slice(model);
    bytes.push(b'"');
    Some(NewStart { replaces: model_at.end, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body::Api;
    use crate::request::parse;
    use proptest::prelude::*;

    fn rewritten(body: &str, changes: Changes<'_>) -> Option<String> {
        let request = parse(Api::Chat, body.as_bytes()).unwrap();
        let NewStart { replaces, bytes } = new_start(body.as_bytes(), &request.model_at, changes)?;
        Some(String::from_utf8([&bytes[..], &body.as_bytes()[replaces..]].concat()).unwrap())
    }

    const V2: Changes<'_> = Changes { model: Some(b"v2"), priority: None };

    #[test]
    fn the_name_alone_is_replaced() {
        let body = "{ \"messages\":[], \"model\" : \"chat\" ,\"n\":1}";
        assert_eq!(rewritten(body, V2).unwrap(), "{ \"messages\":[], \"model\" : \"v2\" ,\"n\":1}");
        // Of two, the last one counts.
        let body = r#"{"model":"a","model":"b\u0062"}"#;
        assert_eq!(rewritten(body, V2).unwrap(), r#"{"model":"a","model":"v2"}"#);
        assert_eq!(rewritten(r#"{"model":null}"#, V2), None);
        assert_eq!(rewritten(body, Changes::default()), None);
    }

    #[test]
    fn a_priority_comes_first() {
        let priority = Changes { model: None, priority: Some(-3) };
        assert_eq!(rewritten(r#" {"model":"a"}"#, priority).unwrap(), r#" {"priority":-3,"model":"a"}"#);
        let both = Changes { priority: Some(7), ..V2 };
        assert_eq!(
            rewritten(r#"{"x":1,"model":"a"}"#, both).unwrap(),
            r#"{"priority":7,"x":1,"model":"v2"}"#
        );
    }

    proptest! {
        #[test]
        fn everything_else_stays(before in "[a-z]{0,9}", after in "[a-z]{0,9}", name in "[a-z/.-]{1,9}") {
            let body = serde_json::json!({"a": before, "model": "old", "z": after}).to_string();
            let changes = Changes { model: Some(name.as_bytes()), priority: None };
            let read: serde_json::Value = serde_json::from_str(&rewritten(&body, changes).unwrap()).unwrap();
            prop_assert_eq!(read, serde_json::json!({"a": before, "model": name, "z": after}));
        }
    }
}
