//! Names the first bytes of a body by a keyed hash.
//!
//! The key is a random number of the VM, so nobody outside can make two bodies of one name.

use xxhash_rust::xxh3::xxh3_64_with_secret;

use crate::request::blocks::mix;
use crate::request::body::Api;

/// Bytes between two places at which a body is looked up.
pub(super) const CHUNK_BYTES: usize = 4096;

/// Bytes of xxh3's secret, as many as its own default has.
const SECRET_BYTES: usize = 192;

/// The key of the hash: xxh3's secret, made of a seed.
///
/// A seed alone would not do: xxh3 applies one to long input by deriving such a secret from it at each call.
#[derive(Debug)]
pub(super) struct HashKey([u8; SECRET_BYTES]);

impl HashKey {
    pub fn new(seed: u64) -> HashKey {
        let mut secret = [0; SECRET_BYTES];
        for (nth, word) in (1..).zip(secret.as_chunks_mut().0) {
            *word = mix(seed.wrapping_add(nth)).to_le_bytes();
        }
        HashKey(secret)
    }

    /// The hash of `bytes` that follow bytes of the hash `before`.
    pub fn hash(&self, bytes: &[u8], before: u64) -> u64 {
        let own = u128::from(xxh3_64_with_secret(bytes, &self.0));
        xxh3_64_with_secret(&(own << 64 | u128::from(before)).to_le_bytes(), &self.0)
    }
}

/// Names the first bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Hash of the whole chunks among them.
    pub chunks: u64,
    /// Hash of all of them.
    pub whole: u64,
}

/// A body with the hashes of its first 1, 2, 3 ... chunks.
pub(super) struct HashedBody<'k, 'a> {
    key: &'k HashKey,
    body: &'a [u8],
    hashes: Vec<u64>,
}

impl<'k, 'a> HashedBody<'k, 'a> {
    /// Bodies that go to different APIs have different hashes.
    pub fn new(key: &'k HashKey, api: Api, body: &'a [u8]) -> Self {
        let mut before = api as u64;
        let chunks = body.as_chunks::<CHUNK_BYTES>().0.iter();
        let hashes = chunks.map(|chunk| {
            before = key.hash(chunk, before);
            before
        });
        HashedBody { key, body, hashes: hashes.collect() }
    }

    /// One hash per number of whole chunks, from one chunk up.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// The fingerprint of the first `end` bytes; `None` if they are less than a chunk, or more than the body.
    pub fn fingerprint(&self, end: usize) -> Option<Fingerprint> {
        let whole_chunks = end / CHUNK_BYTES;
        let chunks = *self.hashes.get(whole_chunks.checked_sub(1)?)?;
        let rest = self.body.get(whole_chunks * CHUNK_BYTES..end)?;
        Some(Fingerprint { chunks, whole: self.key.hash(rest, chunks) })
    }
}
