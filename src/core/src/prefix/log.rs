//! The log of the prefix index: who computed which prompt, for the replicas in the other workers.
//!
//! The open segment travels inside the ledger, which every decision reads and writes anyway; a full segment is sealed
//! into a ring of fixed keys. So a decision costs no call beyond the ledger's two, and a worker that lags reads several
//! records with one call. A [`Cursor`] says how far a replica has read.

use crate::Slot;
use crate::shared::codec::{CodecError, Reader};

/// Bytes of records in a segment: seven of 2 KB prompts. The open one is copied twice with every request, and drives what else
/// a request needs out of the CPU's caches: with segments of 8 KiB all host calls and steps of a request took 48 us, where they
/// take 39 us (`scripts/bench-gateway --account`). A smaller one is sealed after every few requests, a call each time.
pub const SEGMENT_BYTES: usize = 1024;

/// Marks a sealed segment.
const SEGMENT_MARK: u32 = u32::from_le_bytes(*b"WPS1");

/// In the place of the blocks to correction: of a record that puts in, and of one that evicts.
const WHOLE: u16 = u16::MAX;
const RECENT: u16 = u16::MAX - 1;

/// What a pod turned out to hold, when that is less than was believed. Time is counted in the prompts of that pod that the
/// log names up to this record: so it is the same in every replica, wherever it began to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// Of the chain, which the pod was sent as its last prompt but `prompts_ago`, it computed nothing: it holds the first `blocks`
    /// blocks, and what others have used since.
    KeepBlocks {
        /// At most `u16::MAX - 2`.
        blocks: u16,
        /// Prompts since.
        prompts_ago: u32,
    },
    /// It lost a block that its last prompt but `prompts_ago` had used, and so all that it has not used since. The record has no
    /// chain: that of the prompt that missed the block is computed again by now, and whole.
    EvictUpTo {
        /// Prompts since.
        prompts_ago: u32,
    },
}

/// One entry: a pod has computed a prompt, or turned out to hold less of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// The replica that wrote it, and so has applied it.
    pub writer: u32,
    /// The pod.
    pub slot: Slot,
    /// The pod's identity when it was written; a pod that restarted since holds nothing of it.
    pub id: u32,
    /// `None`: the pod holds the whole chain.
    pub correction: Option<Correction>,
    /// The block hashes of the prompt, four bytes each, little endian.
    pub hashes: &'a [u8],
}

impl<'a> LogRecord<'a> {
    /// Bytes before the hashes.
    const HEAD: usize = 14;

    /// Appends the record to a segment.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&((self.hashes.len() / 4) as u16).to_le_bytes());
        let (blocks, prompts_ago) = match self.correction {
            None => (WHOLE, None),
            Some(Correction::KeepBlocks { blocks, prompts_ago }) => {
                (blocks.min(RECENT - 1), Some(prompts_ago))
            }
            Some(Correction::EvictUpTo { prompts_ago }) => (RECENT, Some(prompts_ago)),
        };
        out.extend_from_slice(&blocks.to_le_bytes());
        out.extend_from_slice(&self.slot.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.writer.to_le_bytes());
        out.extend_from_slice(self.hashes);
        if let Some(prompts_ago) = prompts_ago {
            out.extend_from_slice(&prompts_ago.to_le_bytes());
        }
    }

    /// Reads the next record of a segment.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when the segment ends inside it.
    pub fn decode(from: &mut Reader<'a>) -> Result<LogRecord<'a>, CodecError> {
        let blocks = from.u16()?;
        let kept = from.u16()?;
        let slot = from.u16()?;
        let id = from.u32()?;
        let writer = from.u32()?;
        let hashes = from.bytes(usize::from(blocks) * 4)?;
        let correction = match kept {
            WHOLE => None,
            RECENT => Some(Correction::EvictUpTo { prompts_ago: from.u32()? }),
            blocks => Some(Correction::KeepBlocks { blocks, prompts_ago: from.u32()? }),
        };
        Ok(LogRecord { writer, slot, id, correction, hashes })
    }

    /// Bytes that [`LogRecord::encode`] appends.
    pub fn size(&self) -> usize {
        Self::HEAD + self.hashes.len() + self.correction.map_or(0, |_| size_of::<u32>())
    }
}

/// Writes a full segment for its key in the ring.
pub fn seal(number: u64, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + records.len());
    out.extend_from_slice(&SEGMENT_MARK.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(records);
    out
}

/// Reads a sealed segment: its number and its records.
///
/// # Errors
/// [`CodecError`] when it is no segment.
pub fn unseal(bytes: &[u8]) -> Result<(u64, &[u8]), CodecError> {
    let mut reader = Reader(bytes);
    reader.mark(SEGMENT_MARK)?;
    Ok((reader.u64()?, reader.0))
}

/// How far a replica has read: a segment, and the bytes of it that are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Number of the segment.
    pub segment: u64,
    /// Bytes of it that were applied.
    pub offset: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn corrections() -> impl Strategy<Value = Correction> {
        prop_oneof![
            (0..RECENT, any::<u32>())
                .prop_map(|(blocks, prompts_ago)| Correction::KeepBlocks { blocks, prompts_ago }),
            any::<u32>().prop_map(|prompts_ago| Correction::EvictUpTo { prompts_ago }),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip_and_truncations_are_errors(writer: u32, slot: u16, id: u32, correction in prop::option::of(corrections()), hashes in prop::collection::vec(any::<u32>(), 0..50)) {
            let bytes: Vec<u8> = hashes.iter().flat_map(|h| h.to_le_bytes()).collect();
            let record = LogRecord { writer, slot, id, correction, hashes: &bytes };
            let mut out = Vec::new();
            record.encode(&mut out);
            prop_assert_eq!(out.len(), record.size());
            prop_assert_eq!(LogRecord::decode(&mut Reader(&out)), Ok(record));
            for end in 0..out.len() {
                prop_assert_eq!(LogRecord::decode(&mut Reader(&out[..end])), Err(CodecError::Truncated));
            }
        }

        #[test]
        fn unseal_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = unseal(&bytes);
        }
    }

    #[test]
    fn segments_round_trip() {
        let sealed = seal(7, b"records");
        assert_eq!(unseal(&sealed), Ok((7, &b"records"[..])));
        assert_eq!(unseal(&sealed[..11]), Err(CodecError::Truncated));
        assert!(matches!(unseal(b"abcdefghijkl"), Err(CodecError::Version { .. })));
    }
}
