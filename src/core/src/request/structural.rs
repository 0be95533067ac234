//! Where in 64 bytes the ones are that end or interrupt a JSON string: `"`, `\` and control characters.
//!
//! One bit a byte, found 16 bytes at a time. What is escaped then comes from arithmetic over the whole block, as in simdjson
//! (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", section 3.1.1). Prompts have an escape a line or so, at places
//! that no processor guesses: a branch for each took fewer instructions, and in V8 half as much time again. Times here are of a
//! body of 32 KiB in V8.

mod lanes;

use self::lanes::{LANES, Lane, and, at_most, below, equal, least_signed, load, mask, or, splat, xor};

/// The bytes that are looked at together.
pub const BLOCK: usize = 64;
/// Every other byte, the second first.
const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;

/// What 64 bytes have: bit n tells of byte n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockBitmaps {
    /// `"`
    pub quotes: u64,
    /// `\`
    pub backslashes: u64,
    /// What may follow a backslash in the canonical spelling: one of `"\bfnrt`.
    pub escapable: u64,
    /// Whether there is any of the following.
    pub has_rare: bool,
    /// Below a space.
    pub controls: u64,
    /// Not ASCII.
    pub non_ascii: u64,
}

/// Where [`skip_plain_blocks`] has stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Skipped {
    /// Blocks that it passed over.
    pub blocks: usize,
    /// Whether the last byte of them is a backslash that escapes.
    pub after_backslash: bool,
    /// Whether they end inside a character.
    pub cut: bool,
    /// What the block behind them has, if there is one; not yet where what is rare is.
    pub found: BlockBitmaps,
}

/// Passes over blocks of a string up to one that has more than text and common escapes: its end, say. The first begins with a
/// character, and is behind a backslash or not.
///
/// It calls nothing and knows little, so that V8 keeps all of it in registers: with it a body takes 5.0 us, where one loop that
/// did everything took 6.7.
#[inline(never)]
pub fn skip_plain_blocks(blocks: &[[u8; BLOCK]], after_backslash: bool) -> Skipped {
    let (mut after_backslash, mut open) = (after_backslash, 0);
    for (nth, block) in blocks.iter().enumerate() {
        let lanes = lanes(block);
        let found = common(&lanes);
        let (escaped, escapes) = found.escapes(after_backslash);
        let ends = found.quotes & !escaped | escaped & !found.escapable != 0;
        let next = if found.has_rare || open != 0 { characters(&lanes, open) } else { Some(0) };
        match next {
            Some(next) if !ends => open = next,
            _ => return Skipped { blocks: nth, after_backslash, cut: open != 0, found },
        }
        after_backslash = escapes >> (BLOCK - 1) != 0;
    }
    Skipped { blocks: blocks.len(), after_backslash, cut: open != 0, found: BlockBitmaps::default() }
}

/// Whether a block is text of characters of up to three bytes each. `open` has the places of the bytes that the last character
/// of the block before still lacks, and the result those in the block after. `None` when it is not, or when only the second
/// byte of a character would tell: then it takes a closer look, which for two bytes in every ninth block takes 0.5 us more.
#[inline(always)]
fn characters(lanes: &Lanes, open: u64) -> Option<u64> {
    let continues = |bytes| below(bytes, 0xC0);
    let up_to_three = |bytes| below(bytes, 0xF0);
    let doubtful = lanes.iter().fold(splat(0), |doubtful, &bytes| {
        let overlong = xor(below(bytes, 0xC2), continues(bytes));
        let longer = xor(bytes, up_to_three(bytes));
        let by_second = or(equal(bytes, 0xE0), equal(bytes, 0xED));
        or(or(doubtful, at_most(bytes, 0x1F)), or(or(overlong, longer), by_second))
    });
    let continued = each(lanes, continues);
    let twos = each(lanes, |bytes| below(bytes, 0xE0));
    let threes = each(lanes, up_to_three) & !twos;
    let leads = twos & !continued | threes;
    (mask(doubtful) == 0 && continued == (leads << 1 | threes << 2 | open))
        .then_some(leads >> (BLOCK - 1) | threes >> (BLOCK - 2))
}

/// Looks at a block.
#[inline(never)]
pub fn block_bitmaps(block: &[u8; BLOCK]) -> BlockBitmaps {
    common(&lanes(block)).with_rare(block)
}

#[inline(always)]
fn common(lanes: &Lanes) -> BlockBitmaps {
    let quotes = each(lanes, |bytes| equal(bytes, b'"'));
    let backslashes = each(lanes, |bytes| equal(bytes, b'\\'));
    // `b` and `r` are one bit apart, and so are `f` and `n`.
    let escapable = each(lanes, |bytes| {
        let b_or_r = equal(and(bytes, !(b'b' ^ b'r')), b'b' & b'r');
        let f_or_n = equal(and(bytes, !(b'f' ^ b'n')), b'f' & b'n');
        or(or(b_or_r, f_or_n), equal(bytes, b't'))
    });
    let least = lanes.iter().fold(splat(i8::MAX as u8), |least, &bytes| least_signed(least, bytes));
    let has_rare = mask(below(least, b' ')) != 0;
    BlockBitmaps {
        quotes,
        backslashes,
        escapable: quotes | backslashes | escapable,
        has_rare,
        controls: 0,
        non_ascii: 0,
    }
}

/// Where `what` holds.
#[inline]
fn each(lanes: &Lanes, what: impl Fn(Lane) -> Lane) -> u64 {
    lanes.iter().enumerate().fold(0, |found, (nth, &bytes)| found | mask(what(bytes)) << (nth * LANES))
}

impl BlockBitmaps {
    /// The same of this block, and where what is rare is.
    #[inline]
    pub fn with_rare(mut self, block: &[u8; BLOCK]) -> BlockBitmaps {
        if self.has_rare {
            let lanes = &lanes(block);
            self.non_ascii = each(lanes, |bytes| bytes);
            self.controls = each(lanes, |bytes| at_most(bytes, 0x1F));
        }
        self
    }

    /// What there is from byte `n` of the block on, at bit 0 and up.
    #[inline]
    pub fn from(self, n: usize) -> BlockBitmaps {
        BlockBitmaps {
            quotes: self.quotes >> n,
            backslashes: self.backslashes >> n,
            escapable: self.escapable >> n,
            has_rare: self.has_rare,
            controls: self.controls >> n,
            non_ascii: self.non_ascii,
        }
    }

    /// The bytes behind a backslash that is not escaped itself, and those backslashes; `first` is whether byte 0 is behind one.
    ///
    /// In a run of backslashes the first escapes, and every other one after it. Taking a run from the odd places, with the byte
    /// behind the run added, borrows where the run begins at an even place: what then differs from the odd places is each
    /// escape, and the byte behind a run of odd length.
    #[inline]
    pub fn escapes(&self, first: bool) -> (u64, u64) {
        let first = u64::from(first);
        let runs = self.backslashes & !first;
        let differs = ((runs << 1) | ODD).wrapping_sub(runs) ^ ODD;
        (differs ^ (self.backslashes | first), differs & self.backslashes)
    }
}

/// A block in registers.
type Lanes = [Lane; BLOCK / LANES];

#[inline(always)]
fn lanes(block: &[u8; BLOCK]) -> Lanes {
    let (lanes, _) = block.as_chunks::<LANES>();
    let mut lanes = lanes.iter().map(load);
    std::array::from_fn(|_| lanes.next().unwrap_or(splat(0)))
}

#[cfg(test)]
mod tests;
