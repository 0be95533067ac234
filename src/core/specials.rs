//! Where in 64 bytes the ones are that end or interrupt a JSON string: `"`, `\` and control characters.
//!
//! One bit a byte, found 16 bytes at a time. A string with an escape each line, as prompts have them, then costs a shift and
//! a count for each, where a search for the next one would have to set out anew.

/// The bytes that are looked at together.
pub const BLOCK: usize = 64;

/// What 64 bytes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specials {
    /// Bit n is set where byte n is `"`, `\` or below a space.
    pub at: u64,
    /// Whether a byte is not ASCII.
    pub wide: bool,
}

/// Looks at a block.
#[inline]
pub fn specials(block: &[u8; BLOCK]) -> Specials {
    let (mut at, mut wide) = (0, 0);
    for (nth, sixteen) in block.as_chunks::<16>().0.iter().enumerate() {
        let lanes = lanes(sixteen);
        at |= u64::from(lanes.0) << (nth * 16);
        wide |= lanes.1;
    }
    Specials { at, wide: wide != 0 }
}

/// Two halves of 16 bytes, as a vector register takes them.
#[cfg(any(target_arch = "wasm32", target_arch = "x86_64"))]
fn halves(bytes: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*bytes);
    (whole as u64, (whole >> 64) as u64)
}

/// Where 16 bytes have specials, and where they are not ASCII.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
fn lanes(bytes: &[u8; 16]) -> (u16, u16) {
    use std::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, u64x2, v128_or};
    let (low, high) = halves(bytes);
    let bytes = u64x2(low, high);
    let quotes = u8x16_eq(bytes, u8x16_splat(b'"'));
    let escapes = u8x16_eq(bytes, u8x16_splat(b'\\'));
    let controls = u8x16_lt(bytes, u8x16_splat(b' '));
    (u8x16_bitmask(v128_or(v128_or(quotes, escapes), controls)), u8x16_bitmask(bytes))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[expect(unsafe_code, reason = "the compiler wants to be told that an x86-64 has SSE2")]
fn lanes(bytes: &[u8; 16]) -> (u16, u16) {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let (low, high) = halves(bytes);
    // SAFETY: SSE2 is part of x86-64, and none of these touches memory.
    unsafe {
        let bytes = _mm_set_epi64x(high as i64, low as i64);
        let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let escapes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let controls = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1F)), bytes);
        let specials = _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quotes, escapes), controls));
        (specials as u16, _mm_movemask_epi8(bytes) as u16)
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
fn lanes(bytes: &[u8; 16]) -> (u16, u16) {
    (naive(bytes) as u16, bytes.iter().any(|byte| !byte.is_ascii()).into())
}

/// The same byte by byte: the twin in the tests, and the way of other machines.
#[cfg(any(test, not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128")))))]
fn naive(bytes: &[u8]) -> u64 {
    let special = |byte: u8| byte == b'"' || byte == b'\\' || byte < b' ';
    bytes.iter().enumerate().fold(0, |mask, (nth, &byte)| mask | u64::from(special(byte)) << nth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_in_every_place_is_told_as_by_the_twin() {
        for byte in 0..=255 {
            for place in 0..BLOCK {
                let mut block = [b'x'; BLOCK];
                block[place] = byte;
                block[(place * 7 + 3) % BLOCK] = b'\\';
                let expected = Specials { at: naive(&block), wide: byte >= 0x80 && block[place] == byte };
                assert_eq!(specials(&block), expected, "{byte:#x} at {place}");
            }
        }
    }
}
