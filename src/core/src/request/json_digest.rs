//! A hash of a JSON value that does not depend on its spelling: neither on white space and escapes, nor on
//! the order of keys.
//!
//! vLLM prints tools by parsing and dumping them, in the order of its own fields, so clients that spell the
//! same tools in different ways have the same prompt. Within `parameters` the client's order of keys
//! survives; two orders there are taken for one, which costs a wrong guess and no wrong answer.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::request::json::{JsonResult, Kind, Scanner};

/// A value, whatever its spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    /// A hash of it.
    pub hash: u64,
    /// Its length in bytes as Python's `json.dumps` prints it.
    pub bytes: usize,
}

/// Seeds, so that values of different kinds have different hashes.
const STRING: u64 = 1;
const LITERAL: u64 = 2;
const ARRAY: u64 = 3;
const OBJECT: u64 = 4;

/// Hands the digest of each element of an array to `sink`, or that of another value.
///
/// # Errors
/// [`crate::request::json::JsonError`] when it is no JSON.
pub(super) fn elements(json: &[u8], mut sink: impl FnMut(Digest)) -> JsonResult<()> {
    let mut scanner = Scanner::new(json);
    if scanner.kind()? == Kind::Array {
        scanner.array(|scanner| value(scanner).map(&mut sink))?;
        return scanner.end();
    }
    let whole = value(&mut scanner)?;
    scanner.end()?;
    sink(whole);
    Ok(())
}

fn value(scanner: &mut Scanner<'_>) -> JsonResult<Digest> {
    Ok(match scanner.kind()? {
        Kind::String => {
            let text = scanner.string()?;
            Digest { hash: xxh3_64_with_seed(&text, STRING), bytes: text.len() + 2 }
        }
        Kind::Number | Kind::Word => {
            let literal = scanner.skip()?;
            Digest { hash: xxh3_64_with_seed(literal, LITERAL), bytes: literal.len() }
        }
        Kind::Array => {
            let mut whole = Digest { hash: ARRAY, bytes: 2 };
            scanner.array(|scanner| {
                let element = value(scanner)?;
                whole.hash = xxh3_64_with_seed(&element.hash.to_le_bytes(), whole.hash);
                whole.bytes += element.bytes + 2;
                Ok(())
            })?;
            whole
        }
        Kind::Object => {
            let (mut sum, mut bytes) = (0u64, 2);
            scanner.object(|scanner, key| {
                let member = value(scanner)?;
                // A sum does not depend on the order.
                sum = sum.wrapping_add(xxh3_64_with_seed(&key, member.hash));
                bytes += key.len() + member.bytes + 6;
                Ok(())
            })?;
            Digest { hash: xxh3_64_with_seed(&sum.to_le_bytes(), OBJECT), bytes }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn of(json: &str) -> Vec<Digest> {
        let mut digests = Vec::new();
        elements(json.as_bytes(), |digest| digests.push(digest)).unwrap();
        digests
    }

    /// Written with other white space, other escapes and the keys in another order.
    fn respelled(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let members: Vec<String> = members
                    .iter()
                    .rev()
                    .map(|(key, value)| {
                        format!("\n {} : {}", respelled(&Value::from(key.as_str())), respelled(value))
                    })
                    .collect();
                format!("{{{}}}", members.join("\t,"))
            }
            Value::Array(values) => {
                format!("[ {} ]", values.iter().map(respelled).collect::<Vec<_>>().join(" , "))
            }
            Value::String(text) => {
                let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
                format!("\"{escaped}\"")
            }
            other => other.to_string(),
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c\"\\\\é😀]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..5).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn spelling_does_not_matter_and_everything_else_does(one in json(), other in json()) {
            // Within an array, as a value that is none has the digest of an array of it.
            let of = |json: String| of(&format!("[{json}]"));
            prop_assert_eq!(of(one.to_string()), of(respelled(&one)));
            prop_assert_eq!(of(one.to_string()) == of(other.to_string()), one == other);
        }
    }

    #[test]
    fn values_that_look_alike_differ() {
        let all = [
            "[[]]",
            "[{}]",
            "[\"\"]",
            "[null]",
            "[\"null\"]",
            "[0]",
            "[\"0\"]",
            "[[0]]",
            "[{\"0\":0}]",
            "[]",
            "[[1,2]]",
            "[[2,1]]",
            r#"[{"a":"b","c":"d"}]"#,
            r#"[{"a":"d","c":"b"}]"#,
        ];
        for (nth, one) in all.iter().enumerate() {
            for other in &all[..nth] {
                assert_ne!(of(one), of(other), "{one} {other}");
            }
        }
        assert_eq!(of("7"), of(" 7 "));
        assert!(elements(b"[1,", |_| ()).is_err() && elements(b"1 2", |_| ()).is_err());
    }

    #[test]
    fn bytes_are_about_those_of_the_dump() {
        let tools = r#"[{"type": "function", "function": {"name": "f", "parameters": {"a": [1, 2.5, null], "b": {}}}}]"#;
        let [digest] = of(tools)[..] else { panic!("one tool") };
        assert!(digest.bytes.abs_diff(tools.len()) < 12, "{} against {}", digest.bytes, tools.len());
    }
}
