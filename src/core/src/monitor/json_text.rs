//! JSON, written value by value: enough for the documents of the console.

use std::fmt::Write;

/// A JSON text that grows. Whoever writes keeps brackets in pairs.
#[derive(Debug, Default)]
pub struct JsonText(String);

impl JsonText {
    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Begins an object or a list, as a value of one: `{` or `[`.
    #[inline(never)]
    pub fn open(&mut self, bracket: char) {
        self.comma();
        self.0.push(bracket);
    }

    /// Ends it: `}` or `]`.
    pub fn close(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    /// A key of an object; its value follows.
    #[inline(never)]
    pub fn key(&mut self, key: &str) {
        self.comma();
        self.quoted(key.bytes());
        self.0.push(':');
    }

    /// A whole number.
    #[inline(never)]
    pub fn number(&mut self, value: u64) {
        self.comma();
        let _ = write!(self.0, "{value}");
    }

    /// A text; bytes that are no printable ASCII are escaped one by one.
    #[inline(never)]
    pub fn text(&mut self, value: &[u8]) {
        self.comma();
        self.quoted(value.iter().copied());
    }

    /// Nothing.
    pub fn null(&mut self) {
        self.comma();
        self.0.push_str("null");
    }

    /// Values that are JSON already, with commas between them.
    pub fn raw(&mut self, values: &str) {
        if !values.is_empty() {
            self.comma();
            self.0.push_str(values);
        }
    }

    #[inline(never)]
    fn quoted(&mut self, bytes: impl Iterator<Item = u8>) {
        self.0.push('"');
        for byte in bytes {
            match byte {
                b'"' | b'\\' => self.0.extend(['\\', char::from(byte)]),
                b' '..=b'~' => self.0.push(char::from(byte)),
                _ => _ = write!(self.0, "\\u{byte:04x}"),
            }
        }
        self.0.push('"');
    }

    /// Puts a comma where another value came before.
    #[inline(never)]
    fn comma(&mut self) {
        if !matches!(self.0.as_bytes().last(), None | Some(b'{' | b'[' | b':')) {
            self.0.push(',');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json() {
        let mut json = JsonText::default();
        json.open('{');
        json.key("a");
        json.open('[');
        json.number(1);
        json.text(b"\"\\\n\xff{");
        json.null();
        json.open('[');
        json.close(']');
        json.close(']');
        json.key("b");
        json.raw("2");
        json.close('}');
        let text = json.into_text();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, serde_json::json!({"a": [1, "\"\\\n\u{ff}{", null, []], "b": 2}), "{text}");
    }
}
