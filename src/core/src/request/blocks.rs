//! From canonical bytes to blocks: boundaries that grow with the prompt, and a chain of hashes.
//!
//! A block at `offset` has `max(64, offset / 32)` bytes, rounded down to a multiple of 64
//! (`docs/adr/0002-block-boundaries.md`). Each hash is xxh3 of the block (of its digest, where it is long)
//! with the hash before it as seed, so equal hashes at one place mean equal prompts up to there; the first
//! seed is made of the model and the salt. The chain carries 64 bits from block to block; 32 of them are
//! kept, which tell the children of one node of the index apart and halve its size.

use crate::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Smallest block, in bytes: about the 16 tokens of a vLLM block.
pub const MIN_BLOCK_BYTES: u32 = 64;

/// Blocks after which a chain ends; the bytes after them count as work but cannot match. Reached at 3 GB,
/// beyond the largest body that is taken.
pub const MAX_BLOCKS: usize = 512;

/// Blocks that name a conversation when pods are tied: 512 bytes, about a system prompt's first sentences.
const HEAD_BLOCKS: usize = 8;

/// Where each block ends, in bytes from the start of the prompt.
static BOUNDARIES: [u32; MAX_BLOCKS] = boundaries();

const fn boundaries() -> [u32; MAX_BLOCKS] {
    let mut ends = [0; MAX_BLOCKS];
    let (mut nth, mut offset) = (0, 0u32);
    while nth < MAX_BLOCKS {
        let grown = offset / 32 / MIN_BLOCK_BYTES * MIN_BLOCK_BYTES;
        offset = offset.saturating_add(if grown > MIN_BLOCK_BYTES { grown } else { MIN_BLOCK_BYTES });
        #[expect(clippy::indexing_slicing, reason = "nth is below the length; evaluated at compile time")]
        {
            ends[nth] = offset;
        }
        nth += 1;
    }
    ends
}

/// Bytes in the first `blocks` blocks of any prompt.
pub fn bytes_of(blocks: usize) -> Bytes {
    match blocks.checked_sub(1) {
        None => Bytes::NONE,
        Some(last) => Bytes(u64::from(*BOUNDARIES.get(last).unwrap_or(&u32::MAX))),
    }
}

/// Whole blocks in the first `bytes` bytes of any prompt.
pub fn blocks_in(bytes: Bytes) -> usize {
    BOUNDARIES.partition_point(|&end| u64::from(end) <= bytes.0)
}

/// A hash of any bytes.
pub fn hash_of(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Spreads a number over all bits: one hash of it.
pub fn mix(number: u64) -> u64 {
    xxh3_64(&number.to_le_bytes())
}

/// The blocks of one prompt: a hash for each, and the length of the whole.
///
/// Built by [`Chain::start`], any number of [`Chain::push`], and [`Chain::finish`]; the buffers live on for
/// the next prompt.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    hashes: Vec<u32>,
    head: u64,
    link: u64,
    bytes: u64,
    /// The start of a block whose end has not come yet.
    pending: Vec<u8>,
}

impl Chain {
    /// Starts the chain of a new prompt; `model` and `salt` are the first seed.
    pub fn start(&mut self, model: &[u8], salt: Option<&[u8]>) {
        self.hashes.clear();
        self.pending.clear();
        self.bytes = 0;
        self.link = xxh3_64(model);
        if let Some(salt) = salt {
            self.link = xxh3_64_with_seed(salt, self.link);
        }
        self.head = self.link;
    }

    /// Goes on where another chain was before it was finished.
    pub fn resume(&mut self, from: &Chain) {
        self.hashes.clone_from(&from.hashes);
        self.pending.clone_from(&from.pending);
        (self.head, self.link, self.bytes) = (from.head, from.link, from.bytes);
    }

    /// Bytes of memory that its clone takes.
    pub fn memory(&self) -> usize {
        size_of::<Chain>() + self.hashes.len() * size_of::<u32>() + self.pending.len()
    }

    /// Adds the next piece of the prompt.
    pub fn push(&mut self, mut piece: &[u8]) {
        self.bytes += piece.len() as u64;
        if let [byte] = piece
            && self.block_size().is_some_and(|size| self.pending.len() + 1 < size)
        {
            // The mark of a message or a part: a chat of short messages has nearly as many of them as words.
            return self.pending.push(*byte);
        }
        while let Some(size) = self.block_size() {
            let missing = size.saturating_sub(self.pending.len());
            let Some((block, rest)) = piece.split_at_checked(missing) else {
                self.pending.extend_from_slice(piece);
                return;
            };
            if self.pending.is_empty() {
                self.close_block(block);
            } else {
                let mut pending = std::mem::take(&mut self.pending);
                pending.extend_from_slice(block);
                self.close_block(&pending);
                pending.clear();
                self.pending = pending;
            }
            piece = rest;
        }
    }

    /// Counts a piece without hashing it: for strategies that look at load alone.
    pub fn count(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
    }

    /// Ends the prompt. A block that is not full has no hash, for vLLM caches none, but still names a short
    /// prompt.
    pub fn finish(&mut self) {
        if self.hashes.is_empty() {
            self.head = xxh3_64_with_seed(&self.pending, self.link);
        }
    }

    /// One hash per whole block, in order.
    pub fn hashes(&self) -> &[u32] {
        &self.hashes
    }

    /// Length of the whole prompt in canonical bytes.
    pub fn bytes(&self) -> Bytes {
        Bytes(self.bytes)
    }

    /// Names the start of the prompt (512 bytes of it): gateways that share nothing agree on it.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Size in bytes of the block that is open; `None` past the last.
    fn block_size(&self) -> Option<usize> {
        let end = *BOUNDARIES.get(self.hashes.len())?;
        Some((u64::from(end) - bytes_of(self.hashes.len()).0) as usize)
    }

    fn close_block(&mut self, block: &[u8]) {
        self.link = chained(block, self.link);
        self.hashes.push((self.link >> 32) as u32);
        if self.hashes.len() <= HEAD_BLOCKS {
            self.head = self.link;
        }
    }
}

/// The hash of a block after one with the hash `before`.
fn chained(block: &[u8], before: u64) -> u64 {
    if block.len() <= SEEDED_BYTES {
        xxh3_64_with_seed(block, before)
    } else {
        xxh3_64_with_seed(&xxh3_64(block).to_le_bytes(), before)
    }
}

/// Longest block, in bytes, that is hashed with a seed. For longer input, xxh3 derives a secret of 192 bytes
/// from the seed at each call, so such a block is hashed without one, and its digest with it.
const SEEDED_BYTES: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chain(pieces: &[&[u8]]) -> Chain {
        let mut chain = Chain::default();
        chain.start(b"m", None);
        pieces.iter().for_each(|piece| chain.push(piece));
        chain.finish();
        chain
    }

    /// The rule as DESIGN states it, block by block.
    fn naive(text: &[u8]) -> Vec<u32> {
        let (mut link, mut offset, mut hashes) = (xxh3_64(b"m"), 0, Vec::new());
        loop {
            let step = (offset / 32 / 64 * 64).max(64);
            let Some(block) = text.get(offset..offset + step) else { return hashes };
            link = match step {
                0..=240 => xxh3_64_with_seed(block, link),
                _ => xxh3_64_with_seed(&xxh3_64(block).to_le_bytes(), link),
            };
            hashes.push((link >> 32) as u32);
            offset += step;
        }
    }

    #[test]
    fn counts_are_those_of_the_design() {
        assert_eq!(blocks_in(Bytes(2048)), 32);
        assert_eq!(blocks_in(Bytes(128 * 1024)), 184);
        assert_eq!(bytes_of(0), Bytes::NONE);
        assert_eq!(bytes_of(1), Bytes(64));
        for blocks in 1..MAX_BLOCKS {
            assert_eq!(blocks_in(bytes_of(blocks)), blocks);
            assert_eq!(blocks_in(bytes_of(blocks) - Bytes(1)), blocks - 1);
        }
        assert!(bytes_of(MAX_BLOCKS) > Bytes(32 << 20), "a 32 MiB body fits");
        let worst = (64..MAX_BLOCKS)
            .map(|b| (bytes_of(b + 1) - bytes_of(b)).0 as f64 / bytes_of(b).0 as f64)
            .fold(0.0, f64::max);
        assert!(worst < 0.0325, "{worst}");
    }

    #[test]
    fn model_and_salt_separate() {
        let text = [b'x'; 256];
        let with = |model: &[u8], salt: Option<&[u8]>| {
            let mut chain = Chain::default();
            chain.start(model, salt);
            chain.push(&text);
            chain.finish();
            (chain.hashes().to_vec(), chain.head())
        };
        let all = [with(b"a", None), with(b"b", None), with(b"a", Some(b"s")), with(b"a", Some(b""))];
        for (i, x) in all.iter().enumerate() {
            for y in &all[i + 1..] {
                assert!(x.0.iter().zip(&y.0).all(|(p, q)| p != q));
                assert_ne!(x.1, y.1);
            }
        }
    }

    #[test]
    fn short_prompts_have_a_head_of_their_own() {
        assert_ne!(chain(&[b"a"]).head(), chain(&[b"b"]).head());
        assert!(chain(&[b"a"]).hashes().is_empty());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in prop::collection::vec(any::<u8>(), 0..20_000), cuts in prop::collection::vec(0usize..20_000, 0..20)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let chain = chain(&pieces);
            prop_assert_eq!(chain.hashes(), naive(&text));
            prop_assert_eq!(chain.bytes(), Bytes(text.len() as u64));
        }
    }
}
