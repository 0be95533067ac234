//! The messages that are ours alone: small, and the same input gives the same bytes.

use serde_json::{Map, Value as Json};

use super::wire::Message;

/// `google.protobuf.Any` of a message.
pub fn any(name: &str, message: &[u8]) -> Vec<u8> {
    let mut any = Message::new();
    any.set_bytes(1, format!("type.googleapis.com/{name}").into_bytes());
    if !message.is_empty() {
        any.set_bytes(2, message.to_vec());
    }
    any.encode()
}

/// `envoy.config.core.v3.TypedExtensionConfig`.
pub fn extension(name: &str, message_name: &str, message: &[u8]) -> Vec<u8> {
    let mut extension = Message::new();
    extension.set_bytes(1, name.as_bytes().to_vec()).set_bytes(2, any(message_name, message));
    extension.encode()
}

/// `google.protobuf.UInt32Value`, `UInt64Value` or `BoolValue`.
pub fn wrapped(value: u64) -> Vec<u8> {
    let mut message = Message::new();
    message.set_varint(1, value);
    message.encode()
}

/// `google.protobuf.StringValue`.
pub fn wrapped_text(text: &str) -> Vec<u8> {
    let mut message = Message::new();
    message.set_bytes(1, text.as_bytes().to_vec());
    message.encode()
}

/// `google.protobuf.Duration`.
pub fn duration(milliseconds: u64) -> Vec<u8> {
    let mut message = Message::new();
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    if seconds > 0 {
        message.set_varint(1, seconds);
    }
    if rest > 0 {
        message.set_varint(2, rest * 1_000_000);
    }
    message.encode()
}

/// `google.protobuf.Struct` of a JSON object, its keys in order.
pub fn structure(object: &Map<String, Json>) -> Vec<u8> {
    let mut keys: Vec<_> = object.iter().collect();
    keys.sort_by_key(|(key, _)| key.as_str());
    let mut message = Message::new();
    for (key, json) in keys {
        let mut entry = Message::new();
        entry.set_bytes(1, key.as_bytes().to_vec()).set_bytes(2, value(json));
        message.push(1, entry.encode());
    }
    message.encode()
}

fn value(json: &Json) -> Vec<u8> {
    let mut message = Message::new();
    match json {
        Json::Null => message.set_varint(1, 0),
        Json::Number(number) => message.set_double(2, number.as_f64().unwrap_or_default()),
        Json::String(text) => message.set_bytes(3, text.as_bytes().to_vec()),
        Json::Bool(flag) => message.set_varint(4, u64::from(*flag)),
        Json::Object(object) => message.set_bytes(5, structure(object)),
        Json::Array(items) => {
            let mut list = Message::new();
            for item in items {
                list.push(1, value(item));
            }
            message.set_bytes(6, list.encode())
        }
    };
    message.encode()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_structure_has_the_bytes_that_protoc_writes() {
        // What Google's own library writes of it (protobuf 6 for Python, deterministic).
        let object = json!({"b": {"c": [1, "x", null]}, "a": true});
        let expected = [
            0x0a, 0x07, 0x0a, 0x01, b'a', 0x12, 0x02, 0x20, 0x01, // a: bool
            0x0a, 0x24, 0x0a, 0x01, b'b', 0x12, 0x1f, 0x2a, 0x1d, // b: struct
            0x0a, 0x1b, 0x0a, 0x01, b'c', 0x12, 0x16, 0x32, 0x14, // c: list
            0x0a, 0x09, 0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, // 1.0
            0x0a, 0x03, 0x1a, 0x01, b'x', // "x"
            0x0a, 0x02, 0x08, 0x00, // null
        ];
        assert_eq!(structure(object.as_object().unwrap()), expected);
    }

    #[test]
    fn durations_are_split_into_seconds_and_nanoseconds() {
        assert_eq!(duration(0), Vec::<u8>::new());
        assert_eq!(duration(25), [0x10, 0xc0, 0xf0, 0xf5, 0x0b]);
        assert_eq!(duration(2000), [0x08, 0x02]);
    }
}
