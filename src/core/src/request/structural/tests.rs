//! The bitmaps against a twin that goes from byte to byte.

use super::*;
use proptest::prelude::*;

fn naive(block: &[u8]) -> BlockBitmaps {
    let each = |what: &dyn Fn(u8) -> bool| {
        block.iter().enumerate().fold(0, |mask, (nth, &byte)| mask | u64::from(what(byte)) << nth)
    };
    let has_rare = block.iter().any(|&byte| !(b' '..0x80).contains(&byte));
    BlockBitmaps {
        has_rare,
        quotes: each(&|byte| byte == b'"'),
        backslashes: each(&|byte| byte == b'\\'),
        escapable: each(&|byte| b"\"\\bfnrt".contains(&byte)),
        controls: each(&|byte| byte < b' '),
        non_ascii: each(&|byte| byte >= 0x80),
    }
}

/// Characters that [`skip_plain_blocks`] leaves to others: their second byte must be looked at, or there are
/// four.
const UNCOMMON: &str = "\u{939}\u{d7ff}😀";

#[test]
fn every_byte_in_every_place_is_told_as_by_the_twin() {
    for byte in 0..=255 {
        for place in 0..BLOCK {
            for other in [b'\\', b'x'] {
                let mut block = [b'x'; BLOCK];
                block[place] = byte;
                block[(place * 7 + 3) % BLOCK] = other;
                assert_eq!(block_bitmaps(&block), naive(&block), "{byte:#x} at {place}");
            }
        }
    }
}

proptest! {
    /// Text in every language, or with a byte of it changed: what is passed over is text, says the library
    /// too.
    #[test]
    fn what_is_passed_over_is_text(words in prop::collection::vec(prop::sample::select(vec!["a", "plain words", "\\n", "\\\\", "\u{80}é\u{7ff}", "\u{1000}€\u{cfff}\u{e000}\u{ffff}", UNCOMMON, "\""]), 0..200), at in 0usize..400, byte: Option<u8>) {
        let mut text = words.concat().into_bytes();
        if let Some((place, byte)) = text.get_mut(at).zip(byte) {
            *place = byte;
        }
        let blocks = text.as_chunks().0;
        let skipped = skip_plain_blocks(blocks, false);
        match blocks.get(skipped.blocks) {
            Some(next) => prop_assert_eq!(skipped.found, BlockBitmaps { non_ascii: 0, controls: 0, ..naive(next) }),
            None => prop_assert_eq!(skipped.blocks, blocks.len()),
        }
        let before = &text[..skipped.blocks * BLOCK];
        let error = std::str::from_utf8(before).err();
        prop_assert_eq!(skipped.cut, error.is_some());
        prop_assert!(error.is_none_or(|error| error.error_len().is_none()), "only cut off, if anything");
        let mut after_backslash = false;
        for &byte in before {
            prop_assert!(byte >= b' ' && (byte != b'"' || after_backslash));
            prop_assert!(!after_backslash || b"\"\\bfnrt".contains(&byte));
            after_backslash = byte == b'\\' && !after_backslash;
        }
        prop_assert_eq!(skipped.after_backslash, after_backslash);
        let common = byte.is_none() && words.iter().all(|word| ![UNCOMMON, "\""].contains(word));
        prop_assert!(skipped.blocks == blocks.len() || !common);
    }

    #[test]
    fn escapes_are_told_as_by_going_from_byte_to_byte(backslashes: u64, runs: u64, from in 0usize..BLOCK, first: bool) {
        // Long runs, as well as bits by chance.
        for backslashes in [backslashes, backslashes | runs, !(backslashes & runs)] {
            let bitmaps = BlockBitmaps { backslashes, ..BlockBitmaps::default() }.from(from);
            let (mut escaped, mut escapes, mut behind) = (0u64, 0u64, first);
            for n in 0..BLOCK {
                let backslash = bitmaps.backslashes >> n & 1 == 1;
                escaped |= u64::from(behind) << n;
                escapes |= u64::from(backslash && !behind) << n;
                behind = backslash && !behind;
            }
            prop_assert_eq!(bitmaps.escapes(first), (escaped, escapes));
        }
    }
}
