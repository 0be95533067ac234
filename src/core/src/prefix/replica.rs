//! One worker's replica of what all workers know of the pods: the table as last fetched, and the prefix index
//! as far as the log was read.

use crate::prefix::index::{IndexLimits, PrefixIndex, PrefixMatch, UseStamp};
use crate::prefix::log::{Correction, LogRecord, OpenSegment, hashes_of, unseal};
use crate::shared::clusters::ClusterSet;
use crate::shared::codec::{CodecError, Reader};
use crate::shared::pod_table::{Pod, PodKey, PodTable};
use crate::shared::store::{Keys, NEVER_WRITTEN, SharedData};
use crate::{Bytes, DEFAULT_BYTES_PER_TOKEN, Slot};

/// Weight of an answer in the mean of bytes per token.
const RATIO_GAIN: f32 = 0.1;
/// Change of that mean below which the pods' capacities are left as they are.
const RATIO_TOLERANCE: f32 = 0.1;

/// How far a replica has read the log: a segment, and the bytes of it that are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    segment: u64,
    offset: usize,
}

/// The replica of one worker.
#[derive(Debug)]
pub struct PrefixReplica {
    keys: Keys,
    /// Names this replica in the log.
    writer: u32,
    table: PodTable,
    /// Version of the shared value that the table was read from.
    table_version: u32,
    /// The clusters of the last decision, and what the table says of them ([`PodTable::common_engines`]).
    common_engines: (ClusterSet, u16),
    index: PrefixIndex,
    cursor: Cursor,
    lost_segments: u64,
    /// Capacity that is believed, relative to the one that pods report.
    believed_capacity: f32,
    /// Tokens that each pod can hold, where that is more than its page tells.
    pod_tokens: u64,
    /// Canonical bytes per token that the pods' capacities were computed with.
    bytes_per_token: f32,
    /// The mean that recent answers taught.
    mean_bytes_per_token: f32,
    hash_bytes: Vec<u8>,
    hashes: Vec<u32>,
}

impl PrefixReplica {
    /// An empty replica of the values under `keys`; `writer` tells its log records from those of other
    /// workers.
    pub fn new(keys: Keys, limits: IndexLimits, writer: u32, believed_capacity: f32) -> PrefixReplica {
        PrefixReplica {
            keys,
            writer,
            table: PodTable::default(),
            table_version: NEVER_WRITTEN,
            common_engines: (ClusterSet::NONE, 0),
            index: PrefixIndex::new(limits),
            cursor: Cursor::default(),
            lost_segments: 0,
            believed_capacity,
            pod_tokens: 0,
            bytes_per_token: DEFAULT_BYTES_PER_TOKEN,
            mean_bytes_per_token: DEFAULT_BYTES_PER_TOKEN,
            hash_bytes: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// The table as last fetched.
    pub fn table(&self) -> &PodTable {
        &self.table
    }

    /// The engines that every candidate of these clusters has ([`PodTable::common_engines`]). Most decisions
    /// ask for those of the decision before.
    pub fn common_engines(&mut self, among: ClusterSet) -> u16 {
        if self.common_engines.0 != among {
            self.common_engines = (among, self.table.common_engines(among));
        }
        self.common_engines.1
    }

    /// The prefix index.
    pub fn index(&self) -> &PrefixIndex {
        &self.index
    }

    /// The number that names this replica in the log.
    pub fn writer(&self) -> u32 {
        self.writer
    }

    /// Canonical bytes per token that the capacities of pods are believed by.
    pub fn bytes_per_token(&self) -> f32 {
        self.bytes_per_token
    }

    /// Log segments that were overwritten before this replica read them.
    pub fn lost_segments(&self) -> u64 {
        self.lost_segments
    }

    /// The same for pods of which each can hold so many tokens, where that is more than its page tells.
    pub fn with_pod_tokens(mut self, tokens: u64) -> PrefixReplica {
        self.pod_tokens = tokens;
        self
    }

    /// Sets the capacity that is believed, relative to the one that pods report.
    pub fn set_believed_capacity(&mut self, share: f32) {
        self.believed_capacity = share;
    }

    // --- the table ---

    /// Fetches the table, if it has changed.
    ///
    /// # Errors
    /// [`CodecError`] when the shared value is no table; the replica keeps the one that it has.
    #[inline(never)]
    pub fn refresh(&mut self, shared: &impl SharedData) -> Result<(), CodecError> {
        let Some((bytes, version)) = shared.get(&self.keys.table) else { return Ok(()) };
        if version == self.table_version {
            return Ok(());
        }
        let table = PodTable::decode(&bytes)?;
        self.table_version = version;
        self.common_engines = (ClusterSet::NONE, 0);
        let before = std::mem::replace(&mut self.table, table);
        for (slot, pod) in Slot::all().zip(&self.table.pods) {
            let known = before.pods.get(usize::from(slot));
            if known.is_some_and(|before| {
                before.id != 0 && (before.id, before.cache_epoch) != (pod.id, pod.cache_epoch)
            }) {
                self.index.flush(slot);
            }
            if known.is_none_or(|before| (before.id, before.capacity) != (pod.id, pod.capacity)) {
                self.index.set_capacity(slot, self.capacity_in_bytes(pod));
            }
        }
        Ok(())
    }

    /// Learns bytes per token from an answer, and keeps the pods' capacities in bytes up to date. Models
    /// differ, so the mean over recent answers counts, and a small change of it does not.
    pub fn learn_bytes_per_token(&mut self, ratio: f32) {
        self.mean_bytes_per_token += (ratio - self.mean_bytes_per_token) * RATIO_GAIN;
        let change = (self.mean_bytes_per_token - self.bytes_per_token).abs();
        if change <= RATIO_TOLERANCE * self.bytes_per_token {
            return;
        }
        self.bytes_per_token = self.mean_bytes_per_token;
        for (slot, pod) in Slot::all().zip(&self.table.pods) {
            self.index.set_capacity(slot, self.capacity_in_bytes(pod));
        }
    }

    /// Canonical bytes that a pod is believed to hold at most; none where it caches no prefixes.
    fn capacity_in_bytes(&self, pod: &Pod) -> Bytes {
        let tokens = if pod.capacity > 0 { pod.capacity.max(self.pod_tokens) } else { 0 };
        Bytes((tokens as f64 * f64::from(self.bytes_per_token * self.believed_capacity)) as u64)
    }

    // --- the log, as others wrote it ---

    /// Applies the log up to its end, `open`, at most `segments` sealed segments of it.
    pub fn catch_up(&mut self, open: OpenSegment<'_>, shared: &impl SharedData, segments: usize) {
        let oldest = open.number.saturating_sub(self.keys.segments);
        if self.cursor.segment < oldest || self.cursor.segment > open.number {
            // Overwritten, or a log that began anew.
            self.lost_segments += oldest.saturating_sub(self.cursor.segment);
            self.cursor = Cursor { segment: oldest, offset: 0 };
        }
        for _ in 0..segments {
            if self.cursor.segment == open.number {
                break;
            }
            let bytes = shared
                .get(&self.keys.segment(self.cursor.segment))
                .map(|(bytes, _)| bytes)
                .unwrap_or_default();
            match unseal(&bytes) {
                Ok((number, records)) if number == self.cursor.segment => self.apply_all(records, shared),
                // Its writer has not written it yet. Unless later segments are there, it is about to.
                _ if self.cursor.segment + 1 == open.number => return,
                _ => self.lost_segments += 1,
            }
            self.cursor = Cursor { segment: self.cursor.segment + 1, offset: 0 };
        }
        if self.cursor.segment == open.number {
            self.apply_all(open.records, shared);
        }
    }

    /// Applies the records of one segment from the cursor on, except those of this replica.
    ///
    /// A record of a pod that is not in the table belongs to a pod that is gone, or to one that is in a newer
    /// table. That table is fetched, once: the writer of the record took the pod from a table that was
    /// already published.
    fn apply_all(&mut self, records: &[u8], shared: &impl SharedData) {
        let mut reader = Reader(records.get(self.cursor.offset..).unwrap_or_default());
        let mut fetched = false;
        while let Ok(record) = LogRecord::decode(&mut reader) {
            if record.writer == self.writer {
                continue;
            }
            if self.table.get(record.pod).is_none() {
                if !std::mem::replace(&mut fetched, true) {
                    // If it cannot be read, the replica keeps the table that it has.
                    let _ = self.refresh(shared);
                }
                if self.table.get(record.pod).is_none() {
                    continue;
                }
            }
            let mut hashes = std::mem::take(&mut self.hashes);
            hashes.clear();
            hashes.extend(hashes_of(record.hashes));
            match record.correction {
                None => _ = self.index.insert(record.pod.slot, &hashes),
                Some(correction) => self.correct(record.pod.slot, correction, &hashes),
            }
            self.hashes = hashes;
        }
        self.cursor.offset = records.len();
    }

    // --- the log, as this replica writes it ---

    /// The record that the pod holds the prompt `hashes`, or of a correction; `None` for a prompt without
    /// blocks.
    pub fn record(
        &mut self,
        pod: PodKey,
        correction: Option<Correction>,
        hashes: &[u32],
    ) -> Option<LogRecord<'_>> {
        if hashes.is_empty() && correction.is_none() {
            return None;
        }
        self.hash_bytes.clear();
        self.hash_bytes.extend(hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        Some(LogRecord { writer: self.writer, pod, correction, hashes: &self.hash_bytes })
    }

    /// How many prompts the pod in `slot` was sent since the time `at` of its clock.
    pub fn prompts_since(&self, slot: Slot, at: u32) -> u32 {
        self.index.pod_clock(slot).wrapping_sub(at)
    }

    /// Looks up how many leading blocks of `hashes` each pod holds.
    pub fn look_up(&self, hashes: &[u32], found: &mut PrefixMatch) {
        self.index.look_up(hashes, self.table.pods.len(), found);
    }

    /// The pod in `slot` computes the prompt `hashes`: the record of it is in the log.
    pub fn insert(&mut self, slot: Slot, hashes: &[u32]) -> UseStamp {
        self.index.insert(slot, hashes)
    }

    /// Corrects what the pod in `slot` is believed to hold: the record of it is in the log.
    pub fn correct(&mut self, slot: Slot, correction: Correction, hashes: &[u32]) {
        let at = |prompts_ago| self.index.pod_clock(slot).wrapping_sub(prompts_ago);
        match correction {
            Correction::KeepBlocks { blocks, prompts_ago } => {
                self.index.trim(slot, hashes, usize::from(blocks), at(prompts_ago));
            }
            Correction::EvictUpTo { prompts_ago } => self.index.evict(slot, at(prompts_ago)),
        }
    }

    /// The log was written up to its end, `open`, and its last record is this replica's own; `sealed` is the
    /// segment that the record before it filled. If all records before were applied, so is the log now.
    pub fn wrote(&mut self, sealed: Option<u64>, open: OpenSegment<'_>) {
        if self.cursor.segment == sealed.unwrap_or(open.number) {
            self.cursor = Cursor { segment: open.number, offset: open.records.len() };
        }
    }
}
