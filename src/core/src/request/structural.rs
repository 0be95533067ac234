//! Bitmaps of 64 bytes of JSON: where the bytes are that end or interrupt a string, `"`, `\` and control
//! characters.
//!
//! A bitmap has one bit per byte, and is made 16 bytes at a time. Which bytes are escaped then follows from
//! arithmetic over the whole block, as in simdjson (Langdale and Lemire, "Parsing Gigabytes of JSON per
//! Second", section 3.1.1). Prompts have an escape every line or so, at places that no processor predicts, so
//! a branch for each escape costs more time although it takes fewer instructions
//! (`docs/adr/0001-json-scanner.md`).

mod lanes;

use self::lanes::{LANES, Lane, and, at_most, below, equal, least_signed, load, mask, or, splat, xor};

/// Bytes per block.
pub const BLOCK: usize = 64;
/// Every other byte, the second first.
const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;

/// The bitmaps of a block: bit n stands for byte n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockBitmaps {
    /// `"`
    pub quotes: u64,
    /// `\`
    pub backslashes: u64,
    /// Bytes that may follow a backslash in the canonical spelling: one of `"\bfnrt`.
    pub escapable: u64,
    /// Whether the block has any of the following.
    pub has_rare: bool,
    /// Bytes below a space.
    pub controls: u64,
    /// Bytes that are not ASCII.
    pub non_ascii: u64,
}

/// Where [`skip_plain_blocks`] has stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Skipped {
    /// Blocks that were skipped.
    pub blocks: usize,
    /// Whether the last byte of them is a backslash that escapes the next byte.
    pub after_backslash: bool,
    /// Whether they end inside a character.
    pub cut: bool,
    /// The bitmaps of the block after them, if there is one; those of rare bytes are not filled in yet.
    pub found: BlockBitmaps,
}

/// Skips the blocks of a string that have only text and common escapes. The first block begins with a
/// character, after a backslash or not.
///
/// The loop calls nothing and has little state, so that V8 keeps all of it in registers.
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

/// Checks that a block is text of characters of up to three bytes each. `open` has the places in this block
/// that the last character of the block before still needs; the result has those in the next block. `None`
/// when it is not such text, or when a second byte would have to be looked at to tell: the caller then looks
/// closer.
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

/// The bitmaps of a block.
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

/// The bitmap of the bytes for which `what` holds.
#[inline]
fn each(lanes: &Lanes, what: impl Fn(Lane) -> Lane) -> u64 {
    lanes.iter().enumerate().fold(0, |found, (nth, &bytes)| found | mask(what(bytes)) << (nth * LANES))
}

impl BlockBitmaps {
    /// The same, with the bitmaps of rare bytes filled in; `block` is the block that these bitmaps are of.
    #[inline]
    pub fn with_rare(mut self, block: &[u8; BLOCK]) -> BlockBitmaps {
        if self.has_rare {
            let lanes = &lanes(block);
            self.non_ascii = each(lanes, |bytes| bytes);
            self.controls = each(lanes, |bytes| at_most(bytes, 0x1F));
        }
        self
    }

    /// The bitmaps from byte `n` of the block on, at bit 0 and up.
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

    /// The bytes that are escaped, and the backslashes that escape them; `first` is whether byte 0 is
    /// escaped.
    ///
    /// In a run of backslashes the first escapes, and every other one after it. Subtracting a run from the
    /// odd places, with the byte after the run added, borrows where the run begins at an even place. The
    /// result differs from the odd places at each escape, and at the byte after a run of odd length.
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
