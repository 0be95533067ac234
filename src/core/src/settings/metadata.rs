//! The settings that stand in the metadata of a route, as Envoy hands them out: a serialized
//! `envoy.config.core.v3.Metadata`, of which `filter_metadata["warmpath"]` is read, a
//! `google.protobuf.Struct`.
//!
//! ```text
//! Metadata  { map<string, Struct> filter_metadata = 1 }        a map is a list of { key = 1, value = 2 }
//! Struct    { map<string, Value> fields = 1 }
//! Value     { null = 1 | number = 2 (double) | string = 3 | bool = 4 | Struct = 5 | ListValue = 6 }
//! ListValue { repeated Value values = 1 }
//! ```

use crate::settings::document::Value;

/// The key of the settings in `filter_metadata`.
const KEY: &[u8] = b"warmpath";
/// Deepest nesting that is read.
const MAX_DEPTH: u32 = 32;

/// Bytes that are no message of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMetadata;

/// The settings in the metadata of a route; `None` when it has none.
///
/// # Errors
/// [`NotMetadata`] when the bytes are something else.
pub fn settings(metadata: &[u8]) -> Result<Option<Value>, NotMetadata> {
    let mut found = None;
    fields(metadata, |number, field| {
        if let (1, Field::Bytes(entry)) = (number, field)
            && let (KEY, Some(Field::Bytes(value))) = entry_of(entry)?
        {
            found = Some(structure(value, MAX_DEPTH)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    /// Of a kind that is not looked at.
    Other,
}

/// Calls `each` with the fields of a message, in order.
fn fields<'a>(
    mut message: &'a [u8],
    mut each: impl FnMut(u64, Field<'a>) -> Result<(), NotMetadata>,
) -> Result<(), NotMetadata> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Varint(varint(&mut message)?),
            1 => {
                let (bytes, rest) = message.split_first_chunk().ok_or(NotMetadata)?;
                message = rest;
                Field::Fixed64(*bytes)
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).map_err(|_| NotMetadata)?;
                let (bytes, rest) = message.split_at_checked(length).ok_or(NotMetadata)?;
                message = rest;
                Field::Bytes(bytes)
            }
            5 => {
                message = message.get(4..).ok_or(NotMetadata)?;
                Field::Other
            }
            _ => return Err(NotMetadata),
        };
        each(tag >> 3, field)?;
    }
    Ok(())
}

fn varint(message: &mut &[u8]) -> Result<u64, NotMetadata> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first().ok_or(NotMetadata)?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(NotMetadata)
}

/// Key and value of an entry of a map.
fn entry_of(entry: &[u8]) -> Result<(&[u8], Option<Field<'_>>), NotMetadata> {
    let (mut key, mut value) = (&[][..], None);
    fields(entry, |number, field| {
        match (number, field) {
            (1, Field::Bytes(bytes)) => key = bytes,
            (2, field) => value = Some(field),
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, value))
}

fn structure(message: &[u8], depth: u32) -> Result<Value, NotMetadata> {
    let depth = depth.checked_sub(1).ok_or(NotMetadata)?;
    let mut entries = Vec::new();
    fields(message, |number, field| {
        if let (1, Field::Bytes(entry)) = (number, field)
            && let (key, Some(Field::Bytes(of))) = entry_of(entry)?
        {
            entries.push((text(key)?, value(of, depth)?));
        }
        Ok(())
    })?;
    Ok(Value::Object(entries))
}

fn value(message: &[u8], depth: u32) -> Result<Value, NotMetadata> {
    let depth = depth.checked_sub(1).ok_or(NotMetadata)?;
    let mut value = Value::Null;
    fields(message, |number, field| {
        value = match (number, field) {
            (2, Field::Fixed64(bytes)) => Value::Number(f64::from_le_bytes(bytes)),
            (3, Field::Bytes(bytes)) => Value::Text(text(bytes)?),
            (4, Field::Varint(number)) => Value::Flag(number != 0),
            (5, Field::Bytes(bytes)) => structure(bytes, depth)?,
            (6, Field::Bytes(bytes)) => list(bytes, depth)?,
            _ => Value::Null,
        };
        Ok(())
    })?;
    Ok(value)
}

fn list(message: &[u8], depth: u32) -> Result<Value, NotMetadata> {
    let mut values = Vec::new();
    fields(message, |number, field| {
        if let (1, Field::Bytes(bytes)) = (number, field) {
            values.push(value(bytes, depth)?);
        }
        Ok(())
    })?;
    Ok(Value::List(values))
}

/// Text as JSON spells it, with the short escapes.
fn text(bytes: &[u8]) -> Result<String, NotMetadata> {
    let plain = std::str::from_utf8(bytes).map_err(|_| NotMetadata)?;
    let mut text = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            other => text.push(other),
        }
    }
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(text: &str) -> Value {
        Value::parse(text.as_bytes()).unwrap()
    }

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        [out, bytes.to_vec()].concat()
    }

    fn encode(value: &Value) -> Vec<u8> {
        let number = |number: f64| [&[2 << 3 | 1][..], &number.to_le_bytes()].concat();
        match value {
            Value::Null => vec![1 << 3, 0],
            Value::Flag(flag) => vec![4 << 3, u8::from(*flag)],
            Value::Whole(whole) => number(*whole as f64),
            Value::Number(fraction) => number(*fraction),
            Value::Text(text) => field(3, text.as_bytes()),
            Value::List(values) => {
                field(6, &values.iter().flat_map(|value| field(1, &encode(value))).collect::<Vec<_>>())
            }
            Value::Object(_) => field(5, &encode_struct(value)),
        }
    }

    fn encode_struct(value: &Value) -> Vec<u8> {
        let Value::Object(entries) = value else { panic!("{value:?} is no object") };
        let entry = |(key, value): &(String, Value)| {
            field(1, &[field(1, key.as_bytes()), field(2, &encode(value))].concat())
        };
        entries.iter().flat_map(entry).collect()
    }

    /// The metadata of a route with these settings, among others.
    pub fn metadata(of: &[(&str, &str)]) -> Vec<u8> {
        let entry = |(key, document): &(&str, &str)| {
            field(1, &[field(1, key.as_bytes()), field(2, &encode_struct(&json(document)))].concat())
        };
        of.iter().flat_map(entry).collect()
    }

    #[test]
    fn settings_are_found_among_other_metadata() {
        let ours = r#"{"strategy": "LOAD_ONLY", "fail_open": true, "n": -1.5, "none": null,
            "models": [{"name": "é", "targets": [{"weight": 100.5}]}, []]}"#;
        let other = r#"{"resources": [{"kind": "HTTPRoute"}]}"#;
        let bytes = metadata(&[("envoy-gateway", other), ("warmpath", ours)]);
        assert_eq!(settings(&bytes), Ok(Some(json(ours))));
        assert_eq!(settings(&metadata(&[("envoy-gateway", other)])), Ok(None));
        assert_eq!(settings(b""), Ok(None));
        // A field of another kind, and one of a later version.
        let more = [&metadata(&[("warmpath", "{}")])[..], &[0x15, 1, 2, 3, 4], &field(9, b"x")].concat();
        assert_eq!(settings(&more), Ok(Some(json("{}"))));
    }

    #[test]
    fn text_has_the_spelling_of_a_document_in_json() {
        assert_eq!(
            text("a/\"\\\n\r\té".as_bytes()),
            Ok(json(r#""a\/\"\\\n\r\t\u00e9""#).as_text().unwrap().to_owned())
        );
    }

    #[test]
    fn what_is_cut_or_nested_too_deeply_is_none() {
        let bytes = metadata(&[("warmpath", r#"{"a": "b"}"#)]);
        assert!((1..bytes.len()).all(|end| settings(&bytes[..end]) == Err(NotMetadata)));
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(40), "]".repeat(40));
        assert_eq!(settings(&metadata(&[("warmpath", &deep)])), Err(NotMetadata));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = settings(&[&b"\x0a\x10\x0a\x08warmpath\x12"[..], &bytes].concat());
            let _ = settings(&bytes);
        }
    }
}
