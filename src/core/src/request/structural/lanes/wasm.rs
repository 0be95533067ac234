//! 16 bytes in a register of WebAssembly's SIMD: the backend that runs in Envoy.

use super::{LANES, halves};
use std::arch::wasm32 as simd;

pub type Lane = simd::v128;

#[inline]
pub fn load(bytes: &[u8; LANES]) -> Lane {
    let (low, high) = halves(bytes);
    simd::u64x2(low, high)
}

#[inline]
pub fn splat(byte: u8) -> Lane {
    simd::u8x16_splat(byte)
}

#[inline]
pub fn equal(bytes: Lane, byte: u8) -> Lane {
    simd::u8x16_eq(bytes, splat(byte))
}

#[inline]
pub fn at_most(bytes: Lane, byte: u8) -> Lane {
    simd::u8x16_le(bytes, splat(byte))
}

/// As numbers with a sign: what is not ASCII is below 0.
#[inline]
pub fn least_signed(a: Lane, b: Lane) -> Lane {
    simd::i8x16_min(a, b)
}

#[inline]
pub fn below(bytes: Lane, byte: u8) -> Lane {
    simd::i8x16_lt(bytes, splat(byte))
}

#[inline]
pub fn and(bytes: Lane, byte: u8) -> Lane {
    simd::v128_and(bytes, splat(byte))
}

#[inline]
pub fn or(a: Lane, b: Lane) -> Lane {
    simd::v128_or(a, b)
}

#[inline]
pub fn xor(a: Lane, b: Lane) -> Lane {
    simd::v128_xor(a, b)
}

/// The highest bit of each byte.
#[inline]
pub fn mask(bytes: Lane) -> u64 {
    u64::from(simd::u8x16_bitmask(bytes))
}
