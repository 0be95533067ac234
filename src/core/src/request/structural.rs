//! Where in 64 bytes the ones are that end or interrupt a JSON string: `"`, `\` and control characters.
//!
//! One bit a byte, found 16 bytes at a time. What is escaped then comes from arithmetic over the whole block, as in simdjson
//! (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", section 3.1.1). Prompts have an escape a line or so, at places
//! that no processor guesses: a branch for each took fewer instructions, and in V8 half as much time again. Times here are of a
//! body of 32 KiB in V8.

/// The bytes that are looked at together.
pub const BLOCK: usize = 64;
/// Every other byte, the second first.
const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;

/// What 64 bytes have: bit n tells of byte n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockBitmaps {
    /// `"`
    pub quotes: u64,
    /// `\`
    pub backslashes: u64,
    /// What may follow a backslash in the canonical spelling: one of `"\bfnrt`.
    pub escapable: u64,
    /// Whether there is any of the following.
    pub has_rare: bool,
    /// Below a space.
    pub controls: u64,
    /// Not ASCII.
    pub non_ascii: u64,
}

/// Where [`skip_plain_blocks`] has stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Skipped {
    /// Blocks that it passed over.
    pub blocks: usize,
    /// Whether the last byte of them is a backslash that escapes.
    pub after_backslash: bool,
    /// Whether they end inside a character.
    pub cut: bool,
    /// What the block behind them has, if there is one; not yet where what is rare is.
    pub found: BlockBitmaps,
}

/// Passes over blocks of a string up to one that has more than text and common escapes: its end, say. The first begins with a
/// character, and is behind a backslash or not.
///
/// It calls nothing and knows little, so that V8 keeps all of it in registers: with it a body takes 5.0 us, where one loop that
/// did everything took 6.7.
#[inline(never)]
pub fn skip_plain_blocks(blocks: &[[u8; BLOCK]], after_backslash: bool) -> Skipped {
    let (mut after_backslash, mut open) = (after_backslash, 0);
    for (nth, block) in blocks.iter().enumerate() {
        let lanes = lanes(block);
        let found = common(&lanes);
        let (escaped, escapes) = found.escapes(after_backslash);
        let ends = found.quotes & !escaped | escaped & !found.escapable != 0;
        let next = if found.has_rare || open != 0 { characters(&lanes, open) } else { Some(0) };
        match next {
            Some(next) if !ends => open = next,
            _ => return Skipped { blocks: nth, after_backslash, cut: open != 0, found },
        }
        after_backslash = escapes >> (BLOCK - 1) != 0;
    }
    Skipped { blocks: blocks.len(), after_backslash, cut: open != 0, found: BlockBitmaps::default() }
}

/// Whether a block is text of characters of up to three bytes each. `open` has the places of the bytes that the last character
/// of the block before still lacks, and the result those in the block after. `None` when it is not, or when only the second
/// byte of a character would tell: then it takes a closer look, which for two bytes in every ninth block takes 0.5 us more.
#[inline(always)]
fn characters(lanes: &Lanes, open: u64) -> Option<u64> {
    let continues = |bytes| below(bytes, 0xC0);
    let up_to_three = |bytes| below(bytes, 0xF0);
    let doubtful = lanes.iter().fold(splat(0), |doubtful, &bytes| {
        let overlong = xor(below(bytes, 0xC2), continues(bytes));
        let longer = xor(bytes, up_to_three(bytes));
        let by_second = or(equal(bytes, 0xE0), equal(bytes, 0xED));
        or(or(doubtful, at_most(bytes, 0x1F)), or(or(overlong, longer), by_second))
    });
    let continued = each(lanes, continues);
    let twos = each(lanes, |bytes| below(bytes, 0xE0));
    let threes = each(lanes, up_to_three) & !twos;
    let leads = twos & !continued | threes;
    (mask(doubtful) == 0 && continued == (leads << 1 | threes << 2 | open))
        .then_some(leads >> (BLOCK - 1) | threes >> (BLOCK - 2))
}

/// Looks at a block.
#[inline(never)]
pub fn block_bitmaps(block: &[u8; BLOCK]) -> BlockBitmaps {
    common(&lanes(block)).with_rare(block)
}

#[inline(always)]
fn common(lanes: &Lanes) -> BlockBitmaps {
    let quotes = each(lanes, |bytes| equal(bytes, b'"'));
    let backslashes = each(lanes, |bytes| equal(bytes, b'\\'));
    // `b` and `r` are one bit apart, and so are `f` and `n`.
    let escapable = each(lanes, |bytes| {
        let b_or_r = equal(and(bytes, !(b'b' ^ b'r')), b'b' & b'r');
        let f_or_n = equal(and(bytes, !(b'f' ^ b'n')), b'f' & b'n');
        or(or(b_or_r, f_or_n), equal(bytes, b't'))
    });
    let least = lanes.iter().fold(splat(i8::MAX as u8), |least, &bytes| least_signed(least, bytes));
    let has_rare = mask(below(least, b' ')) != 0;
    BlockBitmaps {
        quotes,
        backslashes,
        escapable: quotes | backslashes | escapable,
        has_rare,
        controls: 0,
        non_ascii: 0,
    }
}

/// Where `what` holds.
#[inline]
fn each(lanes: &Lanes, what: impl Fn(Lane) -> Lane) -> u64 {
    lanes.iter().enumerate().fold(0, |found, (nth, &bytes)| found | mask(what(bytes)) << (nth * LANES))
}

impl BlockBitmaps {
    /// The same of this block, and where what is rare is.
    #[inline]
    pub fn with_rare(mut self, block: &[u8; BLOCK]) -> BlockBitmaps {
        if self.has_rare {
            let lanes = &lanes(block);
            self.non_ascii = each(lanes, |bytes| bytes);
            self.controls = each(lanes, |bytes| at_most(bytes, 0x1F));
        }
        self
    }

    /// What there is from byte `n` of the block on, at bit 0 and up.
    #[inline]
    pub fn from(self, n: usize) -> BlockBitmaps {
        BlockBitmaps {
            quotes: self.quotes >> n,
            backslashes: self.backslashes >> n,
            escapable: self.escapable >> n,
            has_rare: self.has_rare,
            controls: self.controls >> n,
            non_ascii: self.non_ascii,
        }
    }

    /// The bytes behind a backslash that is not escaped itself, and those backslashes; `first` is whether byte 0 is behind one.
    ///
    /// In a run of backslashes the first escapes, and every other one after it. Taking a run from the odd places, with the byte
    /// behind the run added, borrows where the run begins at an even place: what then differs from the odd places is each
    /// escape, and the byte behind a run of odd length.
    #[inline]
    pub fn escapes(&self, first: bool) -> (u64, u64) {
        let first = u64::from(first);
        let runs = self.backslashes & !first;
        let differs = ((runs << 1) | ODD).wrapping_sub(runs) ^ ODD;
        (differs ^ (self.backslashes | first), differs & self.backslashes)
    }
}

// What there is to do to 16 bytes at once: a comparison sets all bits of the bytes where it holds.

const LANES: usize = 16;

/// A block in registers.
type Lanes = [Lane; BLOCK / LANES];

#[inline(always)]
fn lanes(block: &[u8; BLOCK]) -> Lanes {
    let (lanes, _) = block.as_chunks::<LANES>();
    let mut lanes = lanes.iter().map(load);
    std::array::from_fn(|_| lanes.next().unwrap_or(splat(0)))
}

/// Two halves of 16 bytes, as a vector register takes them.
#[cfg(any(target_arch = "wasm32", target_arch = "x86_64"))]
#[inline]
fn halves(bytes: &[u8; LANES]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*bytes);
    (whole as u64, (whole >> 64) as u64)
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use wasm::*;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm {
    use super::{LANES, halves};
    use std::arch::wasm32 as simd;

    pub(super) type Lane = simd::v128;

    #[inline]
    pub(super) fn load(bytes: &[u8; LANES]) -> Lane {
        let (low, high) = halves(bytes);
        simd::u64x2(low, high)
    }

    #[inline]
    pub(super) fn splat(byte: u8) -> Lane {
        simd::u8x16_splat(byte)
    }

    #[inline]
    pub(super) fn equal(bytes: Lane, byte: u8) -> Lane {
        simd::u8x16_eq(bytes, splat(byte))
    }

    #[inline]
    pub(super) fn at_most(bytes: Lane, byte: u8) -> Lane {
        simd::u8x16_le(bytes, splat(byte))
    }

    /// As numbers with a sign: what is not ASCII is below 0.
    #[inline]
    pub(super) fn least_signed(a: Lane, b: Lane) -> Lane {
        simd::i8x16_min(a, b)
    }

    #[inline]
    pub(super) fn below(bytes: Lane, byte: u8) -> Lane {
        simd::i8x16_lt(bytes, splat(byte))
    }

    #[inline]
    pub(super) fn and(bytes: Lane, byte: u8) -> Lane {
        simd::v128_and(bytes, splat(byte))
    }

    #[inline]
    pub(super) fn or(a: Lane, b: Lane) -> Lane {
        simd::v128_or(a, b)
    }

    #[inline]
    pub(super) fn xor(a: Lane, b: Lane) -> Lane {
        simd::v128_xor(a, b)
    }

    /// The highest bit of each byte.
    #[inline]
    pub(super) fn mask(bytes: Lane) -> u64 {
        u64::from(simd::u8x16_bitmask(bytes))
    }
}

#[cfg(target_arch = "x86_64")]
use x86_64::*;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "the compiler wants to be told that an x86-64 has SSE2; none of these touches memory"
)]
mod x86_64 {
    use super::{LANES, halves};
    use std::arch::x86_64 as simd;

    pub(super) type Lane = simd::__m128i;

    #[inline]
    pub(super) fn load(bytes: &[u8; LANES]) -> Lane {
        let (low, high) = halves(bytes);
        // SAFETY: SSE2 is part of x86-64.
        unsafe { simd::_mm_set_epi64x(high as i64, low as i64) }
    }

    #[inline]
    pub(super) fn splat(byte: u8) -> Lane {
        // SAFETY: as above.
        unsafe { simd::_mm_set1_epi8(byte as i8) }
    }

    #[inline]
    pub(super) fn equal(bytes: Lane, byte: u8) -> Lane {
        // SAFETY: as above.
        unsafe { simd::_mm_cmpeq_epi8(bytes, splat(byte)) }
    }

    /// With a minimum and an equality, as SSE2 compares with a sign only.
    #[inline]
    pub(super) fn at_most(bytes: Lane, byte: u8) -> Lane {
        // SAFETY: as above.
        unsafe { simd::_mm_cmpeq_epi8(simd::_mm_min_epu8(bytes, splat(byte)), bytes) }
    }

    /// By a comparison and a choice, as SSE2 has a minimum of bytes without a sign only.
    #[inline]
    pub(super) fn least_signed(a: Lane, b: Lane) -> Lane {
        // SAFETY: as above.
        unsafe {
            let less = simd::_mm_cmplt_epi8(a, b);
            simd::_mm_or_si128(simd::_mm_and_si128(less, a), simd::_mm_andnot_si128(less, b))
        }
    }

    #[inline]
    pub(super) fn below(bytes: Lane, byte: u8) -> Lane {
        // SAFETY: as above.
        unsafe { simd::_mm_cmplt_epi8(bytes, splat(byte)) }
    }

    #[inline]
    pub(super) fn and(bytes: Lane, byte: u8) -> Lane {
        // SAFETY: as above.
        unsafe { simd::_mm_and_si128(bytes, splat(byte)) }
    }

    #[inline]
    pub(super) fn or(a: Lane, b: Lane) -> Lane {
        // SAFETY: as above.
        unsafe { simd::_mm_or_si128(a, b) }
    }

    #[inline]
    pub(super) fn xor(a: Lane, b: Lane) -> Lane {
        // SAFETY: as above.
        unsafe { simd::_mm_xor_si128(a, b) }
    }

    /// The highest bit of each byte.
    #[inline]
    pub(super) fn mask(bytes: Lane) -> u64 {
        // SAFETY: as above.
        unsafe { u64::from(simd::_mm_movemask_epi8(bytes) as u16) }
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
use plain::*;
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
mod plain {
    use super::LANES;

    pub(super) type Lane = [u8; LANES];

    pub(super) fn load(bytes: &[u8; LANES]) -> Lane {
        *bytes
    }

    pub(super) fn splat(byte: u8) -> Lane {
        [byte; LANES]
    }

    pub(super) fn equal(bytes: Lane, byte: u8) -> Lane {
        bytes.map(|b| if b == byte { 0xFF } else { 0 })
    }

    pub(super) fn at_most(bytes: Lane, byte: u8) -> Lane {
        bytes.map(|b| if b <= byte { 0xFF } else { 0 })
    }

    pub(super) fn least_signed(a: Lane, b: Lane) -> Lane {
        let mut least = a;
        least.iter_mut().zip(b).for_each(|(a, b)| *a = (*a as i8).min(b as i8) as u8);
        least
    }

    pub(super) fn below(bytes: Lane, byte: u8) -> Lane {
        bytes.map(|b| if (b as i8) < byte as i8 { 0xFF } else { 0 })
    }

    pub(super) fn and(bytes: Lane, byte: u8) -> Lane {
        bytes.map(|b| b & byte)
    }

    pub(super) fn or(a: Lane, b: Lane) -> Lane {
        (u128::from_le_bytes(a) | u128::from_le_bytes(b)).to_le_bytes()
    }

    pub(super) fn xor(a: Lane, b: Lane) -> Lane {
        (u128::from_le_bytes(a) ^ u128::from_le_bytes(b)).to_le_bytes()
    }

    /// The highest bit of each byte.
    pub(super) fn mask(bytes: Lane) -> u64 {
        bytes.iter().enumerate().fold(0, |mask, (nth, byte)| mask | u64::from(byte >> 7) << nth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(block: &[u8]) -> BlockBitmaps {
        let each = |what: &dyn Fn(u8) -> bool| {
            block.iter().enumerate().fold(0, |mask, (nth, &byte)| mask | u64::from(what(byte)) << nth)
        };
        let has_rare = block.iter().any(|&byte| !(b' '..0x80).contains(&byte));
        BlockBitmaps {
            has_rare,
            quotes: each(&|byte| byte == b'"'),
            backslashes: each(&|byte| byte == b'\\'),
            escapable: each(&|byte| b"\"\\bfnrt".contains(&byte)),
            controls: each(&|byte| byte < b' '),
            non_ascii: each(&|byte| byte >= 0x80),
        }
    }

    /// Characters that [`skip_plain_blocks`] leaves to others: their second byte must be looked at, or there are four.
    const UNCOMMON: &str = "\u{939}\u{d7ff}😀";

    #[test]
    fn every_byte_in_every_place_is_told_as_by_the_twin() {
        for byte in 0..=255 {
            for place in 0..BLOCK {
                for other in [b'\\', b'x'] {
                    let mut block = [b'x'; BLOCK];
                    block[place] = byte;
                    block[(place * 7 + 3) % BLOCK] = other;
                    assert_eq!(block_bitmaps(&block), naive(&block), "{byte:#x} at {place}");
                }
            }
        }
    }

    proptest! {
        /// Text in every language, or with a byte of it changed: what is passed over is text, says the library too.
        #[test]
        fn what_is_passed_over_is_text(words in prop::collection::vec(prop::sample::select(vec!["a", "plain words", "\\n", "\\\\", "\u{80}é\u{7ff}", "\u{1000}€\u{cfff}\u{e000}\u{ffff}", UNCOMMON, "\""]), 0..200), at in 0usize..400, byte: Option<u8>) {
            let mut text = words.concat().into_bytes();
            if let Some((place, byte)) = text.get_mut(at).zip(byte) {
                *place = byte;
            }
            let blocks = text.as_chunks().0;
            let skipped = skip_plain_blocks(blocks, false);
            match blocks.get(skipped.blocks) {
                Some(next) => prop_assert_eq!(skipped.found, BlockBitmaps { non_ascii: 0, controls: 0, ..naive(next) }),
                None => prop_assert_eq!(skipped.blocks, blocks.len()),
            }
            let before = &text[..skipped.blocks * BLOCK];
            let error = std::str::from_utf8(before).err();
            prop_assert_eq!(skipped.cut, error.is_some());
            prop_assert!(error.is_none_or(|error| error.error_len().is_none()), "only cut off, if anything");
            let mut after_backslash = false;
            for &byte in before {
                prop_assert!(byte >= b' ' && (byte != b'"' || after_backslash));
                prop_assert!(!after_backslash || b"\"\\bfnrt".contains(&byte));
                after_backslash = byte == b'\\' && !after_backslash;
            }
            prop_assert_eq!(skipped.after_backslash, after_backslash);
            let common = byte.is_none() && words.iter().all(|word| ![UNCOMMON, "\""].contains(word));
            prop_assert!(skipped.blocks == blocks.len() || !common);
        }

        #[test]
        fn escapes_are_told_as_by_going_from_byte_to_byte(backslashes: u64, runs: u64, from in 0usize..BLOCK, first: bool) {
            // Long runs, as well as bits by chance.
            for backslashes in [backslashes, backslashes | runs, !(backslashes & runs)] {
                let bitmaps = BlockBitmaps { backslashes, ..BlockBitmaps::default() }.from(from);
                let (mut escaped, mut escapes, mut behind) = (0u64, 0u64, first);
                for n in 0..BLOCK {
                    let backslash = bitmaps.backslashes >> n & 1 == 1;
                    escaped |= u64::from(behind) << n;
                    escapes |= u64::from(backslash && !behind) << n;
                    behind = backslash && !behind;
                }
                prop_assert_eq!(bitmaps.escapes(first), (escaped, escapes));
            }
        }
    }
}
