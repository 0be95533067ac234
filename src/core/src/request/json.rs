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

mod spelling;
mod utf8;

use std::borrow::Cow;

use crate::request::structural::{BLOCK, BlockBitmaps, block_bitmaps, skip_plain_blocks};
pub use spelling::{JsonError, JsonResult, Text, decoded, push_character};
use spelling::{NonCanonical, canonical, wrong_at};
use utf8::{Utf8, character_before};

/// Deepest nesting that is taken, as deep as `serde_json` goes. Tool schemas nest some ten deep.
pub const MAX_DEPTH: u32 = 127;

/// A number that is none of JSON's; Python's writer prints it, and its reader takes it.
const INFINITY: &[u8] = b"Infinity";

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
        let is_canonical = self.skip_string()?;
        let text = self.bytes.get(start..self.at - 1).unwrap_or_default();
        if is_canonical {
            Ok(Cow::Borrowed(text))
        } else {
            canonical(self.bytes, text, start).map(Cow::Owned)
        }
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
                other.look_closer(bytes, at, odd)?;
            }
            if ends != 0 {
                (self.block, self.bitmaps) = (block, whole);
                self.at = at + ends.trailing_zeros() as usize + 1;
                return Ok(!other.found);
            }
            after_backslash = escapes >> (block + BLOCK - at - 1) != 0;
            at = block + BLOCK;
        }
        wrong_at(bytes, bytes.len())
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
            self.utf8.check(self.bytes, *at & !(BLOCK - 1), found.non_ascii);
        }
        found
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

    fn wrong<T>(&self) -> JsonResult<T> {
        wrong_at(self.bytes, self.at)
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
