//! A document of settings as a tree, from JSON.
//!
//! It is built by the scanner that reads requests: a second reader of JSON would make the module larger than
//! all that reads it.

use crate::request::json::{JsonError, JsonResult, Kind, Scanner};
use crate::settings::error::SettingError;
use crate::units::decimal;

/// A value of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Flag(bool),
    /// A whole number.
    Whole(i64),
    /// Any other number.
    Number(f64),
    /// Text in the spelling in which requests are compared ([`crate::request::json`]): JSON's short escapes
    /// stay.
    Text(String),
    /// `[...]`
    List(Vec<Value>),
    /// `{...}`, in the order of the document.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Reads JSON.
    ///
    /// # Errors
    /// [`SettingError`] with the line and column where it is none.
    pub fn parse(json: &[u8]) -> Result<Value, SettingError> {
        let mut scanner = Scanner::new(json);
        let read = read(&mut scanner).and_then(|value| scanner.end().map(|()| value));
        let at = match (read, scanner.not_utf8()) {
            (Ok(value), None) => return Ok(value),
            (_, Some(at)) => at,
            (Err(JsonError::Syntax { at } | JsonError::Depth { at } | JsonError::Surrogate { at }), _) => at,
        };
        let before = json.get(..at).unwrap_or(json);
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|&&b| b != b'\n').count();
        Err(SettingError::new("", format!("not valid JSON: error at line {line} column {column}")))
    }

    /// The value of a key of an object; of equal keys the first one's.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Flag(_) => "true or false",
            Value::Whole(_) | Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }
}

fn read(scanner: &mut Scanner<'_>) -> JsonResult<Value> {
    Ok(match scanner.kind()? {
        Kind::Object => {
            let mut entries = Vec::new();
            scanner.object(|scanner, key| {
                entries.push((text(&key), read(scanner)?));
                Ok(())
            })?;
            Value::Object(entries)
        }
        Kind::Array => {
            let mut list = Vec::new();
            scanner.array(|scanner| {
                list.push(read(scanner)?);
                Ok(())
            })?;
            Value::List(list)
        }
        Kind::String => Value::Text(text(&scanner.string()?)),
        Kind::Number | Kind::Word => {
            let at = scanner.at();
            match scanner.skip()? {
                b"null" => Value::Null,
                b"true" => Value::Flag(true),
                b"false" => Value::Flag(false),
                number => self::number(number).ok_or(JsonError::Syntax { at })?,
            }
        }
    })
}

fn text(spelling: &[u8]) -> String {
    String::from_utf8_lossy(spelling).into_owned()
}

fn number(json: &[u8]) -> Option<Value> {
    let json = std::str::from_utf8(json).ok()?;
    if let Ok(whole) = json.parse() {
        return Some(Value::Whole(whole));
    }
    // Python's writer prints numbers that are none of JSON's.
    decimal(json.as_bytes()).filter(|number| number.is_finite()).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The naive twin.
    fn naive(json: &str) -> Option<Value> {
        fn of(value: serde_json::Value) -> Value {
            match value {
                serde_json::Value::Null => Value::Null,
                serde_json::Value::Bool(flag) => Value::Flag(flag),
                serde_json::Value::Number(number) => match number.as_i64() {
                    Some(whole) => Value::Whole(whole),
                    None => Value::Number(number.as_f64().unwrap()),
                },
                serde_json::Value::String(text) => Value::Text(text),
                serde_json::Value::Array(list) => Value::List(list.into_iter().map(of).collect()),
                serde_json::Value::Object(map) => {
                    Value::Object(map.into_iter().map(|(key, value)| (key, of(value))).collect())
                }
            }
        }
        serde_json::from_str(json).ok().map(of)
    }

    /// With the keys of objects in order.
    fn sorted(value: Value) -> Value {
        match value {
            Value::List(list) => Value::List(list.into_iter().map(sorted).collect()),
            Value::Object(entries) => {
                let mut entries: Vec<_> =
                    entries.into_iter().map(|(key, value)| (key, sorted(value))).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(entries)
            }
            other => other,
        }
    }

    #[test]
    fn documents_are_read_as_serde_json_does() {
        for json in [
            r#"{"b": [1, -2, 0.5, 1e3, true, false, null, "é"], "a": {"x": {}}, "c": []}"#,
            " 7 ",
            r#""text""#,
            "9223372036854775807",
        ] {
            assert_eq!(Value::parse(json.as_bytes()).ok().map(sorted), naive(json), "{json}");
        }
        assert_eq!(Value::parse(br#""a\u00e9\/\"b\n""#), Ok(Value::Text("a\u{e9}/\\\"b\\n".into())));
    }

    #[test]
    fn an_error_names_its_place() {
        let error = |json: &[u8]| Value::parse(json).unwrap_err().to_string();
        assert_eq!(error(b"{\n \"a\": }"), "not valid JSON: error at line 2 column 7");
        assert_eq!(error(b"{\"a\": NaN}"), "not valid JSON: error at line 1 column 7");
        assert_eq!(error(b"\"\xff\""), "not valid JSON: error at line 1 column 2");
        assert!(error(b"").contains("column 1") && error(b"{} {}").contains("column 4"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), json in "[{}\\[\\],:\"a1e. -]{0,40}") {
            let _ = Value::parse(&bytes);
            prop_assert_eq!(Value::parse(json.as_bytes()).is_ok(), naive(&json).is_some());
        }
    }
}
