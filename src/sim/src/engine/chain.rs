//! Chained hashes of token blocks: how two prompts are known to share a prefix.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Hashes a growing sequence of tokens block by block, each block's hash seeded with the one before, so that
/// equal hashes at a position mean equal tokens up to there.
///
/// Tokens come in one by one ([`Chain::push_token`]) or as a *span* ([`Chain::push_span`]): a named piece of
/// text of which only the length matters. Spans cost one hash a block and let a fleet build prompts of any
/// length without real tokens. The two must not be mixed for the same text: they hash differently.
#[derive(Clone, Debug)]
pub struct Chain {
    block_size: u32,
    last: u64,
    tokens: u32,
    blocks: Vec<u64>,
    /// The words of the block that is still being filled, as bytes; cleared at each boundary.
    open: Vec<u8>,
    /// Tokens in `open`: fewer than `block_size`.
    open_tokens: u32,
}

impl Chain {
    /// An empty sequence cut into blocks of `block_size` tokens. Sequences with different seeds share
    /// nothing: the place for model, adapter or cache salt.
    pub fn new(block_size: u32, seed: u64) -> Chain {
        let block_size = block_size.max(1);
        Chain { block_size, last: seed, tokens: 0, blocks: Vec::new(), open: Vec::new(), open_tokens: 0 }
    }

    /// Appends one token.
    pub fn push_token(&mut self, token: u64) {
        self.open.extend_from_slice(&token.to_le_bytes());
        self.grow(1);
    }

    /// Appends `tokens` tokens of the text called `name`, from its start. The same name at the same place
    /// gives the same hashes, for every full block and whatever the lengths.
    pub fn push_span(&mut self, name: u64, tokens: u32) {
        let mut from = 0;
        while from < tokens {
            let take = (tokens - from).min(self.block_size - self.open_tokens);
            for word in [name, u64::from(from), u64::from(take)] {
                self.open.extend_from_slice(&word.to_le_bytes());
            }
            self.grow(take);
            from += take;
        }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The hashes of the full blocks so far: `tokens / block_size` of them.
    pub fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// The same hashes as a [`EngineRequest`](super::EngineRequest) takes them.
    pub fn shared_blocks(&self) -> Arc<[u64]> {
        Arc::from(self.blocks.as_slice())
    }

    /// A hash of the whole sequence, the unfinished block included.
    pub fn digest(&self) -> u64 {
        xxh3_64_with_seed(&self.open, self.last)
    }

    fn grow(&mut self, tokens: u32) {
        self.tokens += tokens;
        self.open_tokens += tokens;
        if self.open_tokens == self.block_size {
            self.last = self.digest();
            self.blocks.push(self.last);
            self.open.clear();
            self.open_tokens = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_prefix_shares_its_blocks_and_nothing_after() {
        let mut a = Chain::new(16, 1);
        let mut b = Chain::new(16, 1);
        a.push_span(7, 40);
        b.push_span(7, 40);
        a.push_span(8, 100);
        b.push_span(9, 100);
        assert_eq!(a.tokens(), 140);
        assert_eq!(a.blocks().len(), 8);
        assert_eq!(a.blocks()[..2], b.blocks()[..2]);
        assert!(a.blocks()[2..].iter().zip(&b.blocks()[2..]).all(|(x, y)| x != y));
    }

    #[test]
    fn the_same_block_after_another_prefix_is_another_block() {
        let mut a = Chain::new(4, 1);
        let mut b = Chain::new(4, 1);
        let mut salted = Chain::new(4, 2);
        for t in [1, 2, 3, 4, 9, 9, 9, 9] {
            a.push_token(t);
            salted.push_token(t);
        }
        for t in [1, 2, 3, 5, 9, 9, 9, 9] {
            b.push_token(t);
        }
        assert_ne!(a.blocks()[1], b.blocks()[1]);
        assert_ne!(a.blocks()[0], salted.blocks()[0]);
    }

    #[test]
    fn growing_keeps_what_was_hashed() {
        let mut chain = Chain::new(16, 3);
        chain.push_span(1, 50);
        let before = chain.blocks().to_vec();
        chain.push_span(2, 50);
        assert_eq!(chain.blocks()[..3], before[..]);
    }
}
