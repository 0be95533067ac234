//! Where in 64 bytes the ones are that end or interrupt a JSON string: `"`, `\` and control characters.
//!
//! One bit a byte, found 16 bytes at a time. What is escaped then comes from arithmetic over the whole block, as in simdjson
//! (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", section 3.1.1). Prompts have an escape a line or so, at places
//! that no processor guesses: a branch for each took fewer instructions, and in V8 half as much time again (12.5 us for a body of
//! 32 KiB instead of 7.9).

/// The bytes that are looked at together.
pub const BLOCK: usize = 64;
/// Every other byte, the second first.
const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;

/// What 64 bytes have: bit n tells of byte n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// `"`
    pub quotes: u64,
    /// `\`
    pub backslashes: u64,
    /// What may follow a backslash in the canonical spelling: one of `"\bfnrt`.
    pub letters: u64,
    /// Below a space.
    pub controls: u64,
    /// Not ASCII.
    pub wide: u64,
}

/// Looks at a block.
#[inline(always)]
pub fn specials(block: &[u8; BLOCK]) -> Specials {
    let lanes = block.as_chunks::<LANES>().0;
    let mut found = Specials::default();
    let (mut controls, mut wide) = (splat(0), splat(0));
    for (nth, lane) in lanes.iter().enumerate() {
        let bytes = load(lane);
        found.quotes |= mask(equal(bytes, b'"')) << (nth * LANES);
        found.backslashes |= mask(equal(bytes, b'\\')) << (nth * LANES);
        controls = or(controls, at_most(bytes, 0x1F));
        wide = or(wide, bytes);
    }
    // Few blocks have any: where they are is looked for only then.
    if mask(wide) != 0 {
        found.wide = each(lanes, |bytes| bytes);
    }
    if mask(controls) != 0 {
        found.controls = each(lanes, |bytes| at_most(bytes, 0x1F));
    }
    // `b` and `r` are one bit apart, and so are `f` and `n`.
    let letters = each(lanes, |bytes| {
        let b_or_r = equal(and(bytes, !(b'b' ^ b'r')), b'b' & b'r');
        let f_or_n = equal(and(bytes, !(b'f' ^ b'n')), b'f' & b'n');
        or(or(b_or_r, f_or_n), equal(bytes, b't'))
    });
    found.letters = found.quotes | found.backslashes | letters;
    found
}

/// Where `what` holds.
#[inline]
fn each(lanes: &[[u8; LANES]], what: impl Fn(Lane) -> Lane) -> u64 {
    lanes.iter().enumerate().fold(0, |found, (nth, lane)| found | mask(what(load(lane))) << (nth * LANES))
}

impl Specials {
    /// What there is from byte `n` of the block on, at bit 0 and up.
    #[inline]
    pub fn from(self, n: usize) -> Specials {
        Specials {
            quotes: self.quotes >> n,
            backslashes: self.backslashes >> n,
            letters: self.letters >> n,
            controls: self.controls >> n,
            wide: self.wide,
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

    #[inline]
    pub(super) fn and(bytes: Lane, byte: u8) -> Lane {
        simd::v128_and(bytes, splat(byte))
    }

    #[inline]
    pub(super) fn or(a: Lane, b: Lane) -> Lane {
        simd::v128_or(a, b)
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

    pub(super) fn and(bytes: Lane, byte: u8) -> Lane {
        bytes.map(|b| b & byte)
    }

    pub(super) fn or(a: Lane, b: Lane) -> Lane {
        (u128::from_le_bytes(a) | u128::from_le_bytes(b)).to_le_bytes()
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

    fn naive(block: &[u8]) -> Specials {
        let each = |what: &dyn Fn(u8) -> bool| {
            block.iter().enumerate().fold(0, |mask, (nth, &byte)| mask | u64::from(what(byte)) << nth)
        };
        Specials {
            quotes: each(&|byte| byte == b'"'),
            backslashes: each(&|byte| byte == b'\\'),
            letters: each(&|byte| b"\"\\bfnrt".contains(&byte)),
            controls: each(&|byte| byte < b' '),
            wide: each(&|byte| byte >= 0x80),
        }
    }

    #[test]
    fn every_byte_in_every_place_is_told_as_by_the_twin() {
        for byte in 0..=255 {
            for place in 0..BLOCK {
                for other in [b'\\', b'x'] {
                    let mut block = [b'x'; BLOCK];
                    block[place] = byte;
                    block[(place * 7 + 3) % BLOCK] = other;
                    assert_eq!(specials(&block), naive(&block), "{byte:#x} at {place}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn escapes_are_told_as_by_going_from_byte_to_byte(backslashes: u64, runs: u64, from in 0usize..BLOCK, first: bool) {
            // Long runs, as well as bits by chance.
            for backslashes in [backslashes, backslashes | runs, !(backslashes & runs)] {
                let specials = Specials { backslashes, ..Specials::default() }.from(from);
                let (mut escaped, mut escapes, mut behind) = (0u64, 0u64, first);
                for n in 0..BLOCK {
                    let backslash = specials.backslashes >> n & 1 == 1;
                    escaped |= u64::from(behind) << n;
                    escapes |= u64::from(backslash && !behind) << n;
                    behind = backslash && !behind;
                }
                prop_assert_eq!(specials.escapes(first), (escaped, escapes));
            }
        }
    }
}
