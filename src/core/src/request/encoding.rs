//! The encoding of a body: Python's JSON reader, which is vLLM's, takes UTF-8, UTF-16 and UTF-32, with a byte
//! order mark or without.

use std::borrow::Cow;

/// Longest body in UTF-16 or UTF-32 that is decoded, in bytes: decoding takes memory that a VM never gives
/// back.
pub const MAX_DECODED: usize = 8 << 20;

/// An encoding of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16 { big: bool },
    Utf32 { big: bool },
}

/// The text of a body in UTF-8, without a byte order mark. `None` when it is in another encoding and cannot
/// be decoded, or is longer than [`MAX_DECODED`].
///
/// UTF-8 is borrowed and not checked. The body that goes to the pod stays as it is.
pub fn to_utf8(body: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (encoding, mark) = detect(body);
    let body = body.get(mark..)?;
    if encoding == Encoding::Utf8 {
        return Some(Cow::Borrowed(body));
    }
    if body.len() > MAX_DECODED {
        return None;
    }
    let text: Option<String> = match encoding {
        Encoding::Utf8 => None,
        Encoding::Utf16 { big } => {
            let (units, rest) = body.as_chunks();
            let units = units
                .iter()
                .map(|&unit| if big { u16::from_be_bytes(unit) } else { u16::from_le_bytes(unit) });
            let text = char::decode_utf16(units).collect::<Result<_, _>>().ok();
            text.filter(|_| rest.is_empty())
        }
        Encoding::Utf32 { big } => {
            let (units, rest) = body.as_chunks();
            let units = units
                .iter()
                .map(|&unit| if big { u32::from_be_bytes(unit) } else { u32::from_le_bytes(unit) });
            let text = units.map(char::from_u32).collect::<Option<_>>();
            text.filter(|_| rest.is_empty())
        }
    };
    text.map(|text| Cow::Owned(text.into_bytes()))
}

/// The encoding by a byte order mark, of so many bytes, or by the zeros among the first bytes: JSON begins
/// with ASCII (`detect_encoding` of Python's json module).
fn detect(body: &[u8]) -> (Encoding, usize) {
    match *body {
        [b'{', next, ..] if next != 0 => (Encoding::Utf8, 0),
        [0, 0, 0xFE, 0xFF, ..] => (Encoding::Utf32 { big: true }, 4),
        [0xFF, 0xFE, 0, 0, ..] => (Encoding::Utf32 { big: false }, 4),
        [0xFE, 0xFF, ..] => (Encoding::Utf16 { big: true }, 2),
        [0xFF, 0xFE, ..] => (Encoding::Utf16 { big: false }, 2),
        [0xEF, 0xBB, 0xBF, ..] => (Encoding::Utf8, 3),
        [0, second, _, _, ..] if second != 0 => (Encoding::Utf16 { big: true }, 0),
        [0, _, _, _, ..] => (Encoding::Utf32 { big: true }, 0),
        [_, 0, 0, 0, ..] => (Encoding::Utf32 { big: false }, 0),
        [_, 0, _, _, ..] => (Encoding::Utf16 { big: false }, 0),
        [0, _] => (Encoding::Utf16 { big: true }, 0),
        [_, 0] => (Encoding::Utf16 { big: false }, 0),
        _ => (Encoding::Utf8, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A text in each encoding, by the names of Python.
    fn encoded(text: &str) -> Vec<(&'static str, Vec<u8>)> {
        let utf16 = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        let utf32 =
            |bytes: fn(u32) -> [u8; 4]| text.chars().flat_map(|c| bytes(c as u32)).collect::<Vec<u8>>();
        let all = [
            ("utf-8", b"\xEF\xBB\xBF".to_vec(), text.as_bytes().to_vec()),
            ("utf-16-le", b"\xFF\xFE".to_vec(), utf16(u16::to_le_bytes)),
            ("utf-16-be", b"\xFE\xFF".to_vec(), utf16(u16::to_be_bytes)),
            ("utf-32-le", b"\xFF\xFE\0\0".to_vec(), utf32(u32::to_le_bytes)),
            ("utf-32-be", b"\0\0\xFE\xFF".to_vec(), utf32(u32::to_be_bytes)),
        ];
        all.into_iter()
            .flat_map(|(name, mark, text)| [(name, [mark, text.clone()].concat()), (name, text)])
            .collect()
    }

    proptest! {
        #[test]
        fn every_encoding_of_json_is_read(text in "[{\\[\"][ -~]{0,2}[é€😀a]{0,20}") {
            for (name, bytes) in encoded(&text) {
                let read = to_utf8(&bytes);
                prop_assert_eq!(read.as_deref(), Some(text.as_bytes()), "{}", name);
            }
        }

        #[test]
        fn other_bytes_are_utf8_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            match to_utf8(&bytes) {
                Some(Cow::Owned(text)) => prop_assert!(String::from_utf8(text).is_ok()),
                Some(Cow::Borrowed(text)) => prop_assert!(bytes.ends_with(text)),
                None => {}
            }
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_none() {
        for bytes in [&b"{\0\0\xD8"[..], b"{\0\"\0x", b"{\0\0\0\0\xD8\0\0", b"{\0\0\0a", b"\xFF\xFE\0\xDC"] {
            assert_eq!(to_utf8(bytes), None, "{}", bytes.escape_ascii());
        }
        let long = [b"{\0".as_slice(), &b" \0".repeat(MAX_DECODED / 2)].concat();
        assert_eq!(to_utf8(&long), None);
        assert!(to_utf8(&long[..MAX_DECODED]).is_some());
        assert_eq!(to_utf8(b"").as_deref(), Some(&b""[..]));
    }
}
