//! The tokens of prompts that each pod is believed to hold: written by routers, whose replicas of the index
//! are equal, and read by whoever shows them.

use crate::prefix::index::PrefixIndex;
use crate::shared::codec::{CodecError, Reader};
use crate::{Slot, Tokens};

/// Marks the numbers, and the version of their format.
const HELD_MARK: u32 = u32::from_le_bytes(*b"WPH1");

/// The tokens that the first `slots` pods hold according to `index`, as bytes to share.
pub fn encode(index: &PrefixIndex, slots: usize, bytes_per_token: f32) -> Vec<u8> {
    let tokens = |slot| Tokens::estimated(index.held(slot).as_f32() / bytes_per_token.max(0.1)).0;
    let held = Slot::all().take(slots).flat_map(|slot| tokens(slot).to_le_bytes());
    HELD_MARK.to_le_bytes().into_iter().chain(held).collect()
}

/// Reads the tokens by slot.
///
/// # Errors
/// [`CodecError`] when the bytes are something else.
pub fn decode(bytes: &[u8]) -> Result<Vec<u32>, CodecError> {
    let mut from = Reader(bytes);
    from.mark(HELD_MARK)?;
    std::iter::from_fn(|| (!from.0.is_empty()).then(|| from.u32())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bytes;
    use crate::prefix::index::IndexLimits;

    #[test]
    fn tokens_round_trip_by_slot() {
        let mut index = PrefixIndex::new(IndexLimits { memory: 1 << 20, holdings: 100 });
        index.set_capacity(Slot(1), Bytes(1 << 20));
        index.insert(Slot(1), &[1, 2, 3]);
        let bytes = encode(&index, 3, 4.0);
        assert_eq!(decode(&bytes), Ok(vec![0, (index.held(Slot(1)).0 / 4) as u32, 0]));
        assert!(index.held(Slot(1)) > Bytes::NONE);
        assert_eq!(decode(&bytes[..bytes.len() - 1]), Err(CodecError::Truncated));
        assert!(matches!(decode(b"WPH0"), Err(CodecError::Version { .. })));
    }
}
