//! 16 bytes at once: the operations that [`super`] needs, one backend per processor.
//!
//! A comparison sets all bits of the bytes where it holds.

/// Bytes of a lane.
pub(super) const LANES: usize = 16;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[path = "lanes/wasm.rs"]
mod backend;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "the compiler wants to be told that an x86-64 has SSE2; none of these touches memory"
)]
#[path = "lanes/x86_64.rs"]
mod backend;
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
#[path = "lanes/plain.rs"]
mod backend;
#[cfg(test)]
#[path = "lanes/plain.rs"]
mod plain;

pub(super) use backend::{Lane, and, at_most, below, equal, least_signed, load, mask, or, splat, xor};

/// Two halves of 16 bytes, as a vector register takes them.
#[cfg(any(target_arch = "wasm32", target_arch = "x86_64"))]
#[inline]
fn halves(bytes: &[u8; LANES]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*bytes);
    (whole as u64, (whole >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::{LANES, backend, plain};
    use proptest::prelude::*;

    /// The bytes that each operation of a backend makes of two lanes and a byte.
    macro_rules! results {
        ($backend:ident, $a:expr, $b:expr, $byte:expr) => {{
            use $backend::{Lane, and, at_most, below, equal, least_signed, load, mask, or, splat, xor};
            // A lane is read bit by bit, so that what it holds shows through `mask` alone.
            let bytes = |lane: Lane| -> [u8; LANES] {
                let bits: [u64; 8] = std::array::from_fn(|bit| mask(equal(and(lane, 1 << bit), 1 << bit)));
                std::array::from_fn(|nth| (0..8).map(|bit| ((bits[bit] >> nth & 1) as u8) << bit).sum())
            };
            let (a, b) = (load($a), load($b));
            [
                bytes(a),
                bytes(splat($byte)),
                bytes(equal(a, $byte)),
                bytes(at_most(a, $byte)),
                bytes(below(a, $byte)),
                bytes(least_signed(a, b)),
                bytes(and(a, $byte)),
                bytes(or(a, b)),
                bytes(xor(a, b)),
                std::array::from_fn(|nth| (mask(a) >> nth & 1) as u8),
            ]
        }};
    }

    proptest! {
        #[test]
        fn every_backend_computes_as_the_plain_one(a: [u8; LANES], b: [u8; LANES], byte: u8, near in 0u8..3) {
            // A byte that stands in the lane, or next to one, decides comparisons.
            for byte in [byte, a[0].wrapping_add(near).wrapping_sub(1)] {
                prop_assert_eq!(results!(backend, &a, &b, byte), results!(plain, &a, &b, byte));
            }
        }
    }

    #[test]
    fn the_plain_backend_computes_byte_by_byte() {
        for byte in 0..=255u8 {
            let a: [u8; LANES] = std::array::from_fn(|nth| byte.wrapping_add(nth as u8 * 17));
            let b: [u8; LANES] = std::array::from_fn(|nth| byte ^ (nth as u8).wrapping_mul(31));
            let all = |holds: bool| if holds { 0xFF } else { 0 };
            let expected = [
                a,
                [byte; LANES],
                a.map(|x| all(x == byte)),
                a.map(|x| all(x <= byte)),
                a.map(|x| all((x as i8) < byte as i8)),
                std::array::from_fn(|nth| (a[nth] as i8).min(b[nth] as i8) as u8),
                a.map(|x| x & byte),
                std::array::from_fn(|nth| a[nth] | b[nth]),
                std::array::from_fn(|nth| a[nth] ^ b[nth]),
                a.map(|x| x >> 7),
            ];
            assert_eq!(results!(plain, &a, &b, byte), expected, "{byte:#x}");
        }
    }
}
