//! How JSON spells text, and the one spelling that stands for all.

use std::borrow::Cow;

/// Text in its canonical spelling, without the quotes.
pub type Text<'a> = Cow<'a, [u8]>;

/// Where bytes are not JSON, or not JSON that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON, from this byte on.
    Syntax {
        /// Offset of the byte.
        at: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    Depth {
        /// Offset of the bracket.
        at: usize,
    },
    /// An escape of half a surrogate pair, which names no character. Python's reader takes it.
    Surrogate {
        /// Offset of the backslash.
        at: usize,
    },
}

/// Result of a step over JSON.
pub type JsonResult<T> = Result<T, JsonError>;

/// The error that the bytes are not JSON from `at` on.
pub(super) fn wrong_at<T>(bytes: &[u8], at: usize) -> JsonResult<T> {
    Err(JsonError::Syntax { at: at.min(bytes.len()) })
}

/// Spellings in a string that its canonical form does not use.
#[derive(Debug, Default)]
pub(super) struct NonCanonical {
    /// Whether there is any: `\u` or `\/`.
    pub found: bool,
    /// Up to where code points were read: a pair of surrogates is one, of two escapes.
    passed: usize,
}

impl NonCanonical {
    /// Checks the bytes of a string that are neither text nor a common escape: bit n of `odd` is the byte at
    /// `at + n`.
    #[cold]
    pub(super) fn look_closer(&mut self, bytes: &[u8], at: usize, mut odd: u64) -> JsonResult<()> {
        while odd != 0 {
            let place = at + odd.trailing_zeros() as usize;
            odd &= odd - 1;
            match bytes.get(place) {
                // The second half of a pair.
                Some(b'u') if place < self.passed => {}
                Some(b'u') => self.passed = place - 1 + code_point(bytes, place - 1)?.1,
                Some(b'/') => {}
                _ => return wrong_at(bytes, place),
            }
            self.found = true;
        }
        Ok(())
    }
}

/// Four hexadecimal digits.
fn hex(bytes: &[u8], at: usize) -> JsonResult<u32> {
    let mut value = 0;
    for nth in at..at + 4 {
        let digit = match bytes.get(nth) {
            Some(digit @ b'0'..=b'9') => digit - b'0',
            Some(letter @ (b'a'..=b'f' | b'A'..=b'F')) => (letter | 0x20) - b'a' + 10,
            _ => return wrong_at(bytes, nth),
        };
        value = value << 4 | u32::from(digit);
    }
    Ok(value)
}

/// The canonical spelling of `text`, which begins at the offset `start` of the document `bytes`. It is not
/// inlined, because short strings would pay for it.
#[inline(never)]
pub(super) fn canonical(bytes: &[u8], text: &[u8], start: usize) -> JsonResult<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(escape) = memchr::memchr(b'\\', rest) {
        let (before, tail) = rest.split_at_checked(escape).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        let at = start + (text.len() - tail.len());
        let taken = match tail.get(1) {
            Some(b'u') => {
                let (spelled, taken) = code_point(bytes, at)?;
                push_character(&mut out, spelled);
                taken
            }
            Some(b'/') => {
                out.push(b'/');
                2
            }
            _ => {
                out.extend_from_slice(tail.get(..2).unwrap_or_default());
                2
            }
        };
        rest = tail.get(taken..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    Ok(out)
}

/// The text that a canonical spelling stands for.
#[cold]
pub fn decoded(spelled: &[u8]) -> String {
    let mut out = Vec::with_capacity(spelled.len());
    let mut rest = spelled;
    while let Some(escape) = memchr::memchr(b'\\', rest) {
        let (before, tail) = rest.split_at_checked(escape).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        let mut taken = 2;
        match tail.get(1) {
            Some(b'b') => out.push(8),
            Some(b'f') => out.push(12),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'u') => {
                let (character, of) = code_point(tail, 0).unwrap_or((char::REPLACEMENT_CHARACTER, 6));
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                taken = of;
            }
            Some(&other) => out.push(other),
            None => {}
        }
        rest = tail.get(taken..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    String::from_utf8_lossy(&out).into_owned()
}

/// The character of a `\u` escape at the offset `at`, and the bytes it takes: two escapes for a surrogate
/// pair.
#[inline(never)]
pub(super) fn code_point(bytes: &[u8], at: usize) -> JsonResult<(char, usize)> {
    let first = hex(bytes, at + 2)?;
    if let Some(single) = char::from_u32(first) {
        return Ok((single, 6));
    }
    let pair = bytes.get(at + 6..at + 8) == Some(b"\\u");
    let second = if pair { hex(bytes, at + 8)? } else { 0 };
    let joined = 0x10000 + ((first & 0x3FF) << 10) + (second & 0x3FF);
    match char::from_u32(joined) {
        Some(joined) if first < 0xDC00 && (0xDC00..0xE000).contains(&second) => Ok((joined, 12)),
        _ => Err(JsonError::Surrogate { at }),
    }
}

/// Appends a character of a text as a common serializer spells it.
pub fn push_character(out: &mut Vec<u8>, character: char) {
    let short = match character {
        '"' => b'"',
        '\\' => b'\\',
        '\u{8}' => b'b',
        '\u{c}' => b'f',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        '\0'..'\u{20}' => {
            let digit = |number: u32| char::from_digit(number, 16).map_or(b'0', |digit| digit as u8);
            out.extend_from_slice(b"\\u00");
            out.extend([digit(character as u32 >> 4), digit(character as u32 & 15)]);
            return;
        }
        _ => {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
