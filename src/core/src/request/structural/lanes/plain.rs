//! 16 bytes in an array, for other processors; and the twin of the other backends in the tests.

use super::LANES;

pub type Lane = [u8; LANES];

pub fn load(bytes: &[u8; LANES]) -> Lane {
    *bytes
}

pub fn splat(byte: u8) -> Lane {
    [byte; LANES]
}

pub fn equal(bytes: Lane, byte: u8) -> Lane {
    bytes.map(|b| if b == byte { 0xFF } else { 0 })
}

pub fn at_most(bytes: Lane, byte: u8) -> Lane {
    bytes.map(|b| if b <= byte { 0xFF } else { 0 })
}

pub fn least_signed(a: Lane, b: Lane) -> Lane {
    let mut least = a;
    least.iter_mut().zip(b).for_each(|(a, b)| *a = (*a as i8).min(b as i8) as u8);
    least
}

pub fn below(bytes: Lane, byte: u8) -> Lane {
    bytes.map(|b| if (b as i8) < byte as i8 { 0xFF } else { 0 })
}

pub fn and(bytes: Lane, byte: u8) -> Lane {
    bytes.map(|b| b & byte)
}

pub fn or(a: Lane, b: Lane) -> Lane {
    (u128::from_le_bytes(a) | u128::from_le_bytes(b)).to_le_bytes()
}

pub fn xor(a: Lane, b: Lane) -> Lane {
    (u128::from_le_bytes(a) ^ u128::from_le_bytes(b)).to_le_bytes()
}

/// The highest bit of each byte.
pub fn mask(bytes: Lane) -> u64 {
    bytes.iter().enumerate().fold(0, |mask, (nth, byte)| mask | u64::from(byte >> 7) << nth)
}
