//! A scanner over JSON that looks at each byte once or twice and copies nothing.
//!
//! The prompt is nearly all of a body, and a general parser decodes every string of it
//! (`docs/adr/0001-json-scanner.md`). The scanner checks the whole grammar of RFC 8259, and takes the numbers
//! that Python adds to it. Its naive twin in the tests is `serde_json`.
//!
//! Text is kept in its *canonical spelling*: as JSON writes it, with the short escapes (`\n`, `\"`, `\\`,
//! ...) as they are, and everything else as UTF-8. Common serializers write that spelling, so text is
//! borrowed; only `\u` and `\/` are rewritten. Equal text has equal canonical spelling, whichever way the
//! client spelled it.

use std::borrow::Cow;

use crate::request::structural::{BLOCK, BlockBitmaps, block_bitmaps, skip_plain_blocks};

/// Deepest nesting that is taken, as deep as `serde_json` goes. Tool schemas nest some ten deep.
pub const MAX_DEPTH: u32 = 127;

/// A number that is none of JSON's; Python's writer prints it, and its reader takes it.
const INFINITY: &[u8] = b"Infinity";

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
    /// Nested deeper than [`MAX_DEPTH`].
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

/// What a value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    String,
    /// A digit or a minus sign.
    Number,
    /// `true`, `false` or `null`; `NaN` or `Infinity`.
    Word,
}

/// Reads one JSON document from the start to the end.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
    /// The last block that was looked at: where it begins, and its bitmaps.
    block: usize,
    bitmaps: BlockBitmaps,
    utf8: Utf8,
}

/// Spellings in a string that its canonical form does not use.
#[derive(Debug, Default)]
struct NonCanonical {
    /// Whether there is any: `\u` or `\/`.
    found: bool,
    /// Up to where code points were read: a pair of surrogates is one, of two escapes.
    passed: usize,
}

/// Whether strings are UTF-8, as far as they were looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Utf8 {
    /// Where a character has begun that continues after the block.
    cut: Option<usize>,
    /// The first byte that cannot be.
    wrong: Option<usize>,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Scanner<'a> {
        Scanner {
            bytes,
            at: 0,
            depth: 0,
            block: usize::MAX,
            bitmaps: BlockBitmaps::default(),
            utf8: Utf8::default(),
        }
    }

    /// Offset of the next byte.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What comes next, white space passed over.
    ///
    /// # Errors
    /// [`JsonError`] when no value begins here.
    pub fn kind(&mut self) -> JsonResult<Kind> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f' | b'n' | b'N' | b'I') => Ok(Kind::Word),
            _ => self.wrong(),
        }
    }

    /// Reads an object; `value` is called after each key and must read exactly one value.
    ///
    /// # Errors
    /// [`JsonError`] where it is none.
    pub fn object(&mut self, mut value: impl FnMut(&mut Self, Text<'a>) -> JsonResult<()>) -> JsonResult<()> {
        self.open(b'{')?;
        if self.close(b'}') {
            return Ok(());
        }
        loop {
            self.skip_space();
            let key = self.string()?;
            self.byte(b':')?;
            value(self, key)?;
            if self.close(b'}') {
                return Ok(());
            }
            self.byte(b',')?;
        }
    }

    /// Reads an array; `value` is called before each element and must read exactly one value.
    ///
    /// # Errors
    /// [`JsonError`] where it is none.
    pub fn array(&mut self, mut value: impl FnMut(&mut Self) -> JsonResult<()>) -> JsonResult<()> {
        self.open(b'[')?;
        if self.close(b']') {
            return Ok(());
        }
        value(self)?;
        self.elements(value)
    }

    /// Reads the rest of an array that begins here, from `at` on: the caller knows that the bytes up to
    /// there, the end of one of its elements, are valid.
    ///
    /// # Errors
    /// [`JsonError`] where the rest is no array.
    pub fn rest_of_array(
        &mut self,
        at: usize,
        value: impl FnMut(&mut Self) -> JsonResult<()>,
    ) -> JsonResult<()> {
        self.open(b'[')?;
        self.jump(at);
        self.elements(value)
    }

    /// Reads the elements after one, up to the bracket.
    #[inline]
    fn elements(&mut self, mut value: impl FnMut(&mut Self) -> JsonResult<()>) -> JsonResult<()> {
        while !self.close(b']') {
            self.byte(b',')?;
            value(self)?;
        }
        Ok(())
    }

    /// Goes on at an offset in no string, up to which all is known to be JSON and UTF-8.
    fn jump(&mut self, at: usize) {
        self.at = at;
        let block = at & !(BLOCK - 1);
        if block != self.block {
            // The block before, where a character may have begun that goes on in this one, is not looked at.
            let goes_on = matches!(self.bytes.get(block), Some(0x80..0xC0));
            self.utf8.cut = goes_on.then(|| character_before(self.bytes, block));
        }
    }

    /// Reads a string.
    ///
    /// # Errors
    /// [`JsonError`] where it is none.
    pub fn string(&mut self) -> JsonResult<Text<'a>> {
        let start = self.at + 1;
        let canonical = self.skip_string()?;
        let text = self.bytes.get(start..self.at - 1).unwrap_or_default();
        if canonical { Ok(Cow::Borrowed(text)) } else { self.rewrite(text, start).map(Cow::Owned) }
    }

    /// Passes over a string; whether it is in its canonical spelling.
    fn skip_string(&mut self) -> JsonResult<bool> {
        if self.peek() != Some(b'"') {
            return self.wrong();
        }
        let bytes = self.bytes;
        let mut at = self.at + 1;
        // Short strings share a block, so the last one is kept. It stays in registers meanwhile.
        let (mut block, mut whole) = (self.block, self.bitmaps);
        let mut other = NonCanonical::default();
        let mut after_backslash = false;
        while at < bytes.len() {
            if block != at & !(BLOCK - 1) {
                whole = self.look(&mut at, &mut after_backslash);
                block = at & !(BLOCK - 1);
            }
            let bitmaps = whole.from(at - block);
            let (escaped, escapes) = bitmaps.escapes(after_backslash);
            let ends = bitmaps.quotes & !escaped;
            // The bytes before the quote, or the rest of the block. If the last byte escapes, it escapes the
            // next block's first.
            let inside = ends.wrapping_sub(1) & !ends & u64::MAX >> (at - block);
            let odd = (escaped & !bitmaps.escapable | bitmaps.controls) & inside;
            if odd != 0 {
                self.look_closer(at, odd, &mut other)?;
            }
            if ends != 0 {
                (self.block, self.bitmaps) = (block, whole);
                self.at = at + ends.trailing_zeros() as usize + 1;
                return Ok(!other.found);
            }
            after_backslash = escapes >> (block + BLOCK - at - 1) != 0;
            at = block + BLOCK;
        }
        self.wrong_at(bytes.len())
    }

    /// The bitmaps of the block at `at`, in which a string continues. At the start of a block, plain blocks
    /// are skipped first, and `at` moves past them.
    fn look(&mut self, at: &mut usize, after_backslash: &mut bool) -> BlockBitmaps {
        let rest = self.bytes.get(*at & !(BLOCK - 1)..).unwrap_or_default();
        let found = if *at & (BLOCK - 1) == 0 && self.utf8.cut.is_none() {
            let blocks = rest.as_chunks().0;
            let skipped = skip_plain_blocks(blocks, *after_backslash);
            (*at, *after_backslash) = (*at + skipped.blocks * BLOCK, skipped.after_backslash);
            if skipped.cut {
                self.utf8.cut = Some(character_before(self.bytes, *at));
            }
            match blocks.get(skipped.blocks) {
                Some(block) => skipped.found.with_rare(block),
                None => look_at(rest.get(skipped.blocks * BLOCK..).unwrap_or_default()),
            }
        } else {
            look_at(rest)
        };
        if found.non_ascii != 0 || self.utf8.cut.is_some() {
            self.check_utf8(*at & !(BLOCK - 1), found.non_ascii);
        }
        found
    }

    /// Checks the bytes of a string that are neither text nor a common escape: bit n of `odd` is the byte at
    /// `at + n`.
    #[cold]
    fn look_closer(&self, at: usize, mut odd: u64, other: &mut NonCanonical) -> JsonResult<()> {
        while odd != 0 {
            let place = at + odd.trailing_zeros() as usize;
            odd &= odd - 1;
            match self.bytes.get(place) {
                // The second half of a pair.
                Some(b'u') if place < other.passed => {}
                Some(b'u') => other.passed = place - 1 + self.code_point(place - 1)?.1,
                Some(b'/') => {}
                _ => return self.wrong_at(place),
            }
            other.found = true;
        }
        Ok(())
    }

    /// Checks the UTF-8 of a block that has more than ASCII, or follows one that ends inside a character.
    /// Most blocks of most bodies are ASCII, which the bitmaps show, so there is no separate pass over the
    /// body.
    #[cold]
    fn check_utf8(&mut self, block: usize, non_ascii: u64) {
        // From the first such byte to the last: most often there are two in a block.
        let start = self.utf8.cut.take().unwrap_or(block + non_ascii.trailing_zeros() as usize);
        let end = block + BLOCK - non_ascii.leading_zeros() as usize;
        let Err(error) = std::str::from_utf8(self.bytes.get(start..end).unwrap_or_default()) else {
            return;
        };
        let at = start + error.valid_up_to();
        if error.error_len().is_none() && end == block + BLOCK && end < self.bytes.len() {
            self.utf8.cut = Some(at);
        } else {
            self.utf8.wrong.get_or_insert(at);
        }
    }

    /// Where strings stop being UTF-8; everything outside of strings is ASCII. Call it at the end.
    pub fn not_utf8(&self) -> Option<usize> {
        self.utf8.wrong
    }

    /// Passes over a value of any kind; returns its bytes as written.
    ///
    /// # Errors
    /// [`JsonError`] where it is none.
    pub fn skip(&mut self) -> JsonResult<&'a [u8]> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::String => {
                self.skip_string()?;
            }
            Kind::Number => self.number()?,
            Kind::Word => self.word()?,
            Kind::Object => self.object(|scanner, _| scanner.skip().map(drop))?,
            Kind::Array => self.array(|scanner| scanner.skip().map(drop))?,
        }
        Ok(self.bytes.get(start..self.at).unwrap_or_default())
    }

    /// Checks that nothing but white space is left.
    ///
    /// # Errors
    /// [`JsonError`] when there is.
    pub fn end(&mut self) -> JsonResult<()> {
        self.skip_space();
        if self.at < self.bytes.len() { self.wrong() } else { Ok(()) }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn byte(&mut self, expected: u8) -> JsonResult<()> {
        self.skip_space();
        if self.peek() != Some(expected) {
            return self.wrong();
        }
        self.at += 1;
        Ok(())
    }

    fn open(&mut self, bracket: u8) -> JsonResult<()> {
        self.byte(bracket)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(JsonError::Depth { at: self.at - 1 }) } else { Ok(()) }
    }

    fn close(&mut self, bracket: u8) -> bool {
        self.skip_space();
        let closes = self.peek() == Some(bracket);
        if closes {
            self.at += 1;
            self.depth -= 1;
        }
        closes
    }

    fn word(&mut self) -> JsonResult<()> {
        for word in [&b"true"[..], b"false", b"null", b"NaN", INFINITY] {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(());
            }
        }
        self.wrong()
    }

    fn number(&mut self) -> JsonResult<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'I') if self.rest().starts_with(INFINITY) => {
                self.at += INFINITY.len();
                return Ok(());
            }
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> JsonResult<()> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return self.wrong();
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    /// Four hexadecimal digits.
    fn hex(&self, at: usize) -> JsonResult<u32> {
        let mut value = 0;
        for nth in at..at + 4 {
            let digit = match self.bytes.get(nth) {
                Some(digit @ b'0'..=b'9') => digit - b'0',
                Some(letter @ (b'a'..=b'f' | b'A'..=b'F')) => (letter | 0x20) - b'a' + 10,
                _ => return self.wrong_at(nth),
            };
            value = value << 4 | u32::from(digit);
        }
        Ok(value)
    }

    /// The canonical spelling of `text`, which begins at the offset `start`. It is not inlined, because short
    /// strings would pay for it.
    #[inline(never)]
    fn rewrite(&self, text: &[u8], start: usize) -> JsonResult<Vec<u8>> {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(escape) = memchr::memchr(b'\\', rest) {
            let (before, tail) = rest.split_at_checked(escape).unwrap_or((rest, &[]));
            out.extend_from_slice(before);
            let at = start + (text.len() - tail.len());
            let taken = match tail.get(1) {
                Some(b'u') => {
                    let (spelled, taken) = self.code_point(at)?;
                    push_canonical(&mut out, spelled);
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

    /// The character of a `\u` escape at the offset `at`, and the bytes it takes: two escapes for a surrogate
    /// pair.
    #[inline(never)]
    fn code_point(&self, at: usize) -> JsonResult<(char, usize)> {
        let first = self.hex(at + 2)?;
        if let Some(single) = char::from_u32(first) {
            return Ok((single, 6));
        }
        let pair = self.bytes.get(at + 6..at + 8) == Some(b"\\u");
        let second = if pair { self.hex(at + 8)? } else { 0 };
        let joined = 0x10000 + ((first & 0x3FF) << 10) + (second & 0x3FF);
        match char::from_u32(joined) {
            Some(joined) if first < 0xDC00 && (0xDC00..0xE000).contains(&second) => Ok((joined, 12)),
            _ => Err(JsonError::Surrogate { at }),
        }
    }

    fn wrong<T>(&self) -> JsonResult<T> {
        self.wrong_at(self.at)
    }

    fn wrong_at<T>(&self, at: usize) -> JsonResult<T> {
        Err(JsonError::Syntax { at: at.min(self.bytes.len()) })
    }
}

/// The bitmaps of the first block of `rest`. A block that the document does not fill is padded with spaces.
#[inline]
fn look_at(rest: &[u8]) -> BlockBitmaps {
    let last;
    block_bitmaps(match rest.first_chunk() {
        Some(whole) => whole,
        None => {
            last = padded(rest);
            &last
        }
    })
}

#[cold]
fn padded(rest: &[u8]) -> [u8; BLOCK] {
    let mut last = [b' '; BLOCK];
    last.iter_mut().zip(rest).for_each(|(place, &byte)| *place = byte);
    last
}

/// Where the character begins that goes on at `at`.
#[cold]
fn character_before(bytes: &[u8], at: usize) -> usize {
    let before = bytes.get(..at).unwrap_or_default();
    before.iter().rposition(|&byte| byte >= 0xC0).unwrap_or(at)
}

/// Writes a character that was spelled `\u....` as a common serializer would.
fn push_canonical(out: &mut Vec<u8>, character: char) {
    let short = match character {
        '"' => b'"',
        '\\' => b'\\',
        '\u{8}' => b'b',
        '\u{c}' => b'f',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        '\0'..'\u{20}' => {
            out.extend_from_slice(format!("\\u{:04x}", character as u32).as_bytes());
            return;
        }
        _ => {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// A number as JSON writes it, if it is a whole one that 32 bits hold.
pub fn natural(json: &[u8]) -> Option<u32> {
    if json.is_empty() {
        return None;
    }
    json.iter().try_fold(0u32, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

#[cfg(test)]
mod tests;
