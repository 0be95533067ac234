//! Bodies as Python reads them: `json.loads` of vLLM's server takes what strict readers refuse (byte order
//! marks, UTF-16 and UTF-32, `NaN` and `Infinity`, the same key twice), and pydantic takes numbers and flags
//! as text.

use std::borrow::Cow;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Reads a body.
///
/// # Errors
/// Where the text stops making sense, and the text itself, for the offset in the error.
pub(super) fn parse(body: &[u8]) -> Result<Value, (serde_json::Error, String)> {
    let text = decode(body);
    let error = match serde_json::from_str(&text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // Only what has failed is read again, so that usual bodies cost nothing more.
    serde_json::from_str(&without_constants(&text)).map_err(|_| (error, text.into_owned()))
}

/// The text of a body, in the encoding that its first four bytes show (RFC 4627, section 3).
fn decode(body: &[u8]) -> Cow<'_, str> {
    let zeros = |pattern: [bool; 4]| {
        body.len() >= 4 && body.iter().zip(pattern).all(|(byte, zero)| (*byte == 0) == zero)
    };
    let wide = |body: &[u8], order: fn([u8; 4]) -> u32| -> String {
        let units = body.as_chunks::<4>().0.iter().map(|unit| order(*unit));
        units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    let pairs = |body: &[u8], order: fn([u8; 2]) -> u16| -> String {
        let units: Vec<u16> = body.as_chunks::<2>().0.iter().map(|unit| order(*unit)).collect();
        String::from_utf16_lossy(&units)
    };
    if let Some(rest) = body.strip_prefix(b"\xEF\xBB\xBF") {
        return String::from_utf8_lossy(rest);
    }
    if let Some(rest) = body.strip_prefix(b"\xFF\xFE\0\0") {
        return wide(rest, u32::from_le_bytes).into();
    }
    if let Some(rest) = body.strip_prefix(b"\0\0\xFE\xFF") {
        return wide(rest, u32::from_be_bytes).into();
    }
    if let Some(rest) = body.strip_prefix(b"\xFF\xFE") {
        return pairs(rest, u16::from_le_bytes).into();
    }
    if let Some(rest) = body.strip_prefix(b"\xFE\xFF") {
        return pairs(rest, u16::from_be_bytes).into();
    }
    if zeros([true, true, true, false]) {
        return wide(body, u32::from_be_bytes).into();
    }
    if zeros([false, true, true, true]) {
        return wide(body, u32::from_le_bytes).into();
    }
    if zeros([true, false, true, false]) {
        return pairs(body, u16::from_be_bytes).into();
    }
    if zeros([false, true, false, true]) {
        return pairs(body, u16::from_le_bytes).into();
    }
    String::from_utf8_lossy(body)
}

/// The text with `null` for `NaN`, `Infinity` and `-Infinity` outside of strings: no field that a pod looks
/// at has one.
fn without_constants(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let constant = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word));
        let taken = match (in_string, constant) {
            (true, _) if first == '\\' => rest.chars().take(2).map(char::len_utf8).sum(),
            (false, Some(word)) => {
                out.push_str("null");
                rest = rest.get(word.len()..).unwrap_or_default();
                continue;
            }
            _ => {
                in_string ^= first == '"';
                first.len_utf8()
            }
        };
        let (head, tail) = rest.split_at(taken);
        out.push_str(head);
        rest = tail;
    }
    out
}

/// A value as JSON without white space and with its keys in order: two spellings of the same tools are one
/// text, as they are in a chat template.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            let field = |key: &String| {
                format!("{}:{}", quoted(key), fields.get(key).map(canonical).unwrap_or_default())
            };
            format!("{{{}}}", keys.into_iter().map(field).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &(impl Serialize + ?Sized)) -> String {
    // Strings always serialize.
    serde_json::to_string(text).unwrap_or_default()
}

/// A flag as pydantic reads it: also 0, 1, and the usual words.
pub(super) fn flag<'a, D: Deserializer<'a>>(from: D) -> Result<Option<bool>, D::Error> {
    let value = Value::deserialize(from)?;
    let word = match &value {
        Value::Null => return Ok(None),
        Value::Bool(flag) => return Ok(Some(*flag)),
        Value::Number(number) if number.as_f64() == Some(0.0) => "0".to_owned(),
        Value::Number(number) if number.as_f64() == Some(1.0) => "1".to_owned(),
        Value::String(word) => word.to_ascii_lowercase(),
        _ => String::new(),
    };
    match word.as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(Some(true)),
        "0" | "false" | "f" | "no" | "n" | "off" => Ok(Some(false)),
        _ => Err(D::Error::custom("Input should be a valid boolean, unable to interpret input")),
    }
}

/// A count as pydantic reads it: also as text, and as a float without a fraction.
pub(super) fn count<'a, D: Deserializer<'a>>(from: D) -> Result<Option<u32>, D::Error> {
    let wrong = || D::Error::custom("Input should be a valid integer, unable to interpret input");
    let number = match Value::deserialize(from)? {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_f64(),
        Value::String(digits) => digits.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|n: &f64| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n));
    Ok(Some(number.ok_or_else(wrong)? as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_encoding_that_python_takes_is_read() {
        let text = r#"{"a":"naïve 😀"}"#;
        let expected = json!({"a": "naïve 😀"});
        let pairs = |order: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(order).collect() };
        let wide = |order: fn(u32) -> [u8; 4]| -> Vec<u8> {
            text.chars().flat_map(|c| order(u32::from(c))).collect()
        };
        for (mark, body) in [
            (&b"\xEF\xBB\xBF"[..], text.as_bytes().to_vec()),
            (b"\xFF\xFE", pairs(u16::to_le_bytes)),
            (b"\xFE\xFF", pairs(u16::to_be_bytes)),
            (b"\xFF\xFE\0\0", wide(u32::to_le_bytes)),
            (b"\0\0\xFE\xFF", wide(u32::to_be_bytes)),
        ] {
            assert_eq!(parse(&[mark, &body].concat()).unwrap(), expected, "{mark:?}");
            assert_eq!(parse(&body).unwrap(), expected, "without {mark:?}");
        }
    }

    #[test]
    fn pythons_constants_are_taken_outside_of_strings_only() {
        let body = br#"{"a":NaN,"b":[-Infinity,Infinity],"c":"NaN \" Infinity","c":"-Infinity \\"}"#;
        let expected = json!({"a": null, "b": [null, null], "c": "-Infinity \\"});
        assert_eq!(parse(body).unwrap(), expected);
        assert!(parse(b"{\"a\":Nan}").is_err() && parse(b"{\"a\":\"\\ud800\"}").is_err());
    }

    #[test]
    fn two_spellings_of_the_same_tools_are_one_text() {
        let spelled = |text: &str| canonical(&serde_json::from_str(text).unwrap());
        assert_eq!(
            spelled(r#"{"b": [1, {"y": 2, "x": 3}], "a": null}"#),
            spelled(r#"{"a":null,"b":[1,{"x":3,"y":2}]}"#)
        );
        assert_eq!(spelled(r#"{"b":1,"a":"x"}"#), r#"{"a":"x","b":1}"#);
    }

    #[test]
    fn flags_and_counts_come_as_text_and_numbers() {
        #[derive(Deserialize, Debug, PartialEq)]
        struct Body {
            #[serde(default, deserialize_with = "flag")]
            stream: Option<bool>,
            #[serde(default, deserialize_with = "count")]
            max_tokens: Option<u32>,
        }
        let read = |value: Value| serde_json::from_value::<Body>(value);
        assert_eq!(read(json!({})).unwrap(), Body { stream: None, max_tokens: None });
        for yes in [json!(true), json!("true"), json!(1), json!("On")] {
            let body = read(json!({"stream": yes, "max_tokens": "5"})).unwrap();
            assert_eq!(body, Body { stream: Some(true), max_tokens: Some(5) });
        }
        assert_eq!(read(json!({"stream": 0, "max_tokens": 5.0})).unwrap().max_tokens, Some(5));
        assert!(read(json!({"stream": 2})).is_err() && read(json!({"max_tokens": 1.5})).is_err());
    }
}
