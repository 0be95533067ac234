//! Whether the strings of a document are UTF-8.

use crate::request::structural::BLOCK;

/// Whether strings are UTF-8, as far as they were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    /// Where a character has begun that continues after the block.
    pub cut: Option<usize>,
    /// The first byte that cannot be.
    pub wrong: Option<usize>,
}

impl Utf8 {
    /// Checks the UTF-8 of a block that has more than ASCII, or follows one that ends inside a character.
    /// Most blocks of most bodies are ASCII, which the bitmaps show, so there is no separate pass over the
    /// body.
    #[cold]
    pub fn check(&mut self, bytes: &[u8], block: usize, non_ascii: u64) {
        // From the first such byte to the last: most often there are two in a block.
        let start = self.cut.take().unwrap_or(block + non_ascii.trailing_zeros() as usize);
        let end = block + BLOCK - non_ascii.leading_zeros() as usize;
        let Err(error) = std::str::from_utf8(bytes.get(start..end).unwrap_or_default()) else {
            return;
        };
        let at = start + error.valid_up_to();
        if error.error_len().is_none() && end == block + BLOCK && end < bytes.len() {
            self.cut = Some(at);
        } else {
            self.wrong.get_or_insert(at);
        }
    }
}

/// Where the character begins that goes on at `at`.
#[cold]
pub(super) fn character_before(bytes: &[u8], at: usize) -> usize {
    let before = bytes.get(..at).unwrap_or_default();
    before.iter().rposition(|&byte| byte >= 0xC0).unwrap_or(at)
}
