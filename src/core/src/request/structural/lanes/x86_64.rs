//! 16 bytes in a register of SSE2, which is part of x86-64.

use super::{LANES, halves};
use std::arch::x86_64 as simd;

pub type Lane = simd::__m128i;

#[inline]
pub fn load(bytes: &[u8; LANES]) -> Lane {
    let (low, high) = halves(bytes);
    // SAFETY: SSE2 is part of x86-64.
    unsafe { simd::_mm_set_epi64x(high as i64, low as i64) }
}

#[inline]
pub fn splat(byte: u8) -> Lane {
    // SAFETY: as above.
    unsafe { simd::_mm_set1_epi8(byte as i8) }
}

#[inline]
pub fn equal(bytes: Lane, byte: u8) -> Lane {
    // SAFETY: as above.
    unsafe { simd::_mm_cmpeq_epi8(bytes, splat(byte)) }
}

/// With a minimum and an equality, as SSE2 compares with a sign only.
#[inline]
pub fn at_most(bytes: Lane, byte: u8) -> Lane {
    // SAFETY: as above.
    unsafe { simd::_mm_cmpeq_epi8(simd::_mm_min_epu8(bytes, splat(byte)), bytes) }
}

/// By a comparison and a choice, as SSE2 has a minimum of bytes without a sign only.
#[inline]
pub fn least_signed(a: Lane, b: Lane) -> Lane {
    // SAFETY: as above.
    unsafe {
        let less = simd::_mm_cmplt_epi8(a, b);
        simd::_mm_or_si128(simd::_mm_and_si128(less, a), simd::_mm_andnot_si128(less, b))
    }
}

#[inline]
pub fn below(bytes: Lane, byte: u8) -> Lane {
    // SAFETY: as above.
    unsafe { simd::_mm_cmplt_epi8(bytes, splat(byte)) }
}

#[inline]
pub fn and(bytes: Lane, byte: u8) -> Lane {
    // SAFETY: as above.
    unsafe { simd::_mm_and_si128(bytes, splat(byte)) }
}

#[inline]
pub fn or(a: Lane, b: Lane) -> Lane {
    // SAFETY: as above.
    unsafe { simd::_mm_or_si128(a, b) }
}

#[inline]
pub fn xor(a: Lane, b: Lane) -> Lane {
    // SAFETY: as above.
    unsafe { simd::_mm_xor_si128(a, b) }
}

/// The highest bit of each byte.
#[inline]
pub fn mask(bytes: Lane) -> u64 {
    // SAFETY: as above.
    unsafe { u64::from(simd::_mm_movemask_epi8(bytes) as u16) }
}
