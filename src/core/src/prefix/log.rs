//! The log of the prefix index: which pod computed which prompt, for the replicas in the other workers.
//!
//! The open segment is part of the ledger, which every decision reads and writes anyway; a full segment is
//! sealed into a ring of fixed keys. A decision therefore costs no host call beyond the two of the ledger,
//! and a worker that lags reads several records with one call.

use crate::shared::codec::{CodecError, Reader};
use crate::shared::pod_table::PodKey;

/// Bytes of records in a segment. The open segment is copied twice per request and displaces other data of
/// the request from the CPU's caches, so it is small; a still smaller one would be sealed every few requests,
/// with a host call each time.
pub const SEGMENT_BYTES: usize = 1024;

/// Marks a sealed segment, and the version of its format.
const SEGMENT_MARK: u32 = u32::from_le_bytes(*b"WPS1");
/// Bytes of a sealed segment before its records: mark and number.
const SEGMENT_HEAD: usize = 4 + 8;

/// Stands for the number of kept blocks in a record without a correction.
const NO_CORRECTION: u16 = u16::MAX;
/// Stands for the number of kept blocks in a record of an eviction.
const EVICTION: u16 = u16::MAX - 1;

/// What a pod turned out to hold, when that is less than was believed.
///
/// Time is logical: the number of prompts that the log names for the pod up to this record. It is the same in
/// every replica, wherever the replica began to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// The prompt that the pod was sent `prompts_ago` prompts ago was never computed: the pod holds its first
    /// `blocks` blocks, and what later prompts used.
    KeepBlocks {
        /// At most `u16::MAX - 2`.
        blocks: u16,
        /// Prompts of the pod since then.
        prompts_ago: u32,
    },
    /// The pod has evicted all blocks that it used last `prompts_ago` prompts ago or before. The record has
    /// no chain: the prompt that missed a block is computed by now, and the pod holds it.
    EvictUpTo {
        /// Prompts of the pod since then.
        prompts_ago: u32,
    },
}

/// One record: a pod computes a prompt, or turned out to hold less than was believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// The replica that wrote it, and has applied it.
    pub writer: u32,
    /// The pod. One that has restarted since has another identity, and holds nothing of it.
    pub pod: PodKey,
    /// `None`: the pod holds the whole chain.
    pub correction: Option<Correction>,
    /// The block hashes of the prompt, four bytes each, little endian.
    pub hashes: &'a [u8],
}

/// The numbers of block hashes that stand in a record.
pub fn hashes_of(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|&hash| u32::from_le_bytes(hash))
}

impl<'a> LogRecord<'a> {
    /// Bytes before the hashes: number of hashes, kept blocks, slot, identity and writer.
    const HEAD: usize = 2 + 2 + 2 + 4 + 4;

    /// Appends the record to a segment.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let hashes = (self.hashes.len() / size_of::<u32>()) as u16;
        let (kept, prompts_ago) = match self.correction {
            None => (NO_CORRECTION, None),
            Some(Correction::KeepBlocks { blocks, prompts_ago }) => {
                (blocks.min(EVICTION - 1), Some(prompts_ago))
            }
            Some(Correction::EvictUpTo { prompts_ago }) => (EVICTION, Some(prompts_ago)),
        };
        out.extend_from_slice(&hashes.to_le_bytes());
        out.extend_from_slice(&kept.to_le_bytes());
        self.pod.encode(out);
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
        let hashes = usize::from(from.u16()?);
        let kept = from.u16()?;
        let pod = PodKey::decode(from)?;
        let writer = from.u32()?;
        let hashes = from.bytes(hashes * size_of::<u32>())?;
        let correction = match kept {
            NO_CORRECTION => None,
            EVICTION => Some(Correction::EvictUpTo { prompts_ago: from.u32()? }),
            blocks => Some(Correction::KeepBlocks { blocks, prompts_ago: from.u32()? }),
        };
        Ok(LogRecord { writer, pod, correction, hashes })
    }

    /// Bytes that [`LogRecord::encode`] appends.
    pub fn size(&self) -> usize {
        Self::HEAD + self.hashes.len() + self.correction.map_or(0, |_| size_of::<u32>())
    }
}

/// The segment at the end of the log, that records are appended to.
#[derive(Clone, Copy, Debug)]
pub struct OpenSegment<'a> {
    /// Its number.
    pub number: u64,
    /// Its records so far.
    pub records: &'a [u8],
}

/// A segment that is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// Its number.
    pub number: u64,
    /// Its records.
    pub records: Vec<u8>,
}

/// Writes a full segment for its key in the ring.
pub fn seal(segment: &SealedSegment) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEAD + segment.records.len());
    out.extend_from_slice(&SEGMENT_MARK.to_le_bytes());
    out.extend_from_slice(&segment.number.to_le_bytes());
    out.extend_from_slice(&segment.records);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;
    use proptest::prelude::*;

    fn corrections() -> impl Strategy<Value = Correction> {
        prop_oneof![
            (0..EVICTION, any::<u32>())
                .prop_map(|(blocks, prompts_ago)| Correction::KeepBlocks { blocks, prompts_ago }),
            any::<u32>().prop_map(|prompts_ago| Correction::EvictUpTo { prompts_ago }),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip_and_truncations_are_errors(writer: u32, slot: u16, id: u32, correction in prop::option::of(corrections()), hashes in prop::collection::vec(any::<u32>(), 0..50)) {
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            prop_assert_eq!(hashes_of(&bytes).collect::<Vec<u32>>(), hashes);
            let record = LogRecord { writer, pod: PodKey { slot: Slot(slot), id }, correction, hashes: &bytes };
            let mut out = Vec::new();
            record.encode(&mut out);
            prop_assert_eq!(out.len(), record.size());
            prop_assert_eq!(LogRecord::decode(&mut Reader(&out)), Ok(record));
            for end in 0..out.len() {
                prop_assert_eq!(LogRecord::decode(&mut Reader(&out[..end])), Err(CodecError::Truncated));
            }
        }

        /// With the mark in front, or nothing but the mark would be tested.
        #[test]
        fn no_bytes_after_the_mark_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let marked = [&SEGMENT_MARK.to_le_bytes()[..], &bytes].concat();
            match unseal(&marked) {
                Ok((_, records)) => {
                    prop_assert_eq!(records.len() + 8, bytes.len());
                    let mut reader = Reader(records);
                    while LogRecord::decode(&mut reader).is_ok() {}
                }
                Err(error) => prop_assert!(error == CodecError::Truncated && bytes.len() < 8),
            }
        }
    }

    #[test]
    fn segments_round_trip() {
        let sealed = seal(&SealedSegment { number: 7, records: b"records".to_vec() });
        assert_eq!(unseal(&sealed), Ok((7, &b"records"[..])));
        assert_eq!(unseal(&sealed[..11]), Err(CodecError::Truncated));
        assert!(matches!(unseal(b"abcdefghijkl"), Err(CodecError::Version { .. })));
    }
}
