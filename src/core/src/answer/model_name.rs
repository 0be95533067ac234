//! Puts the name that a client asked for in the place of the name that the pod knows, in an answer that comes
//! in chunks.
//!
//! The key cannot be forged by generated text: inside a JSON string its quotes are escaped.

use memchr::memmem;

/// The key before the name.
const KEY: &[u8] = b"\"model\"";
/// White space that is taken between key and name; vLLM writes none.
const MOST_SPACE: usize = 64;

/// Restores the name of the model in one answer.
#[derive(Clone, Debug)]
pub struct ModelName {
    /// What the pod says, in quotes.
    target: Vec<u8>,
    /// What the client asked for, in quotes.
    asked: Vec<u8>,
    /// The end of the chunk before, where a name may have begun.
    kept: Vec<u8>,
}

/// What comes after a key.
enum After {
    /// The name, that ends there.
    Name { from: usize, to: usize },
    /// Something else.
    Other,
    /// The chunk ends before it is known.
    Open,
}

impl ModelName {
    /// Puts `asked` in the place of `target`; both in the spelling of a request.
    pub fn new(target: &[u8], asked: &[u8]) -> ModelName {
        let quoted = |name: &[u8]| [b"\"", name, b"\""].concat();
        ModelName { target: quoted(target), asked: quoted(asked), kept: Vec::new() }
    }

    /// Takes the next chunk; returns the bytes to pass on in its place, or `None` when it passes as it is. At
    /// the `end`, nothing is kept back.
    pub fn feed(&mut self, chunk: &[u8], end: bool) -> Option<Vec<u8>> {
        let had_kept = !self.kept.is_empty();
        let mut all = std::mem::take(&mut self.kept);
        let bytes = if had_kept {
            all.extend_from_slice(chunk);
            &all[..]
        } else {
            chunk
        };
        let mut out = Vec::new();
        let (mut copied, mut at) = (0, 0);
        while let Some(key) = memmem::find(bytes.get(at..).unwrap_or_default(), KEY).map(|found| at + found) {
            at = key + KEY.len();
            match self.after(bytes, at) {
                After::Other => {}
                After::Name { from, to } => {
                    out.extend_from_slice(bytes.get(copied..from).unwrap_or_default());
                    out.extend_from_slice(&self.asked);
                    (copied, at) = (to, to);
                }
                After::Open if end => break,
                After::Open => {
                    self.kept = bytes.get(key..).unwrap_or_default().to_vec();
                    break;
                }
            }
        }
        if self.kept.is_empty() && !end {
            let rest = bytes.get(at.max(copied)..).unwrap_or_default();
            self.kept = rest.get(rest.len() - begun(rest)..).unwrap_or_default().to_vec();
        }
        if !had_kept && self.kept.is_empty() && copied == 0 {
            return None;
        }
        out.extend_from_slice(bytes.get(copied..bytes.len() - self.kept.len()).unwrap_or_default());
        Some(out)
    }

    /// What comes at `at`, after a key.
    fn after(&self, bytes: &[u8], at: usize) -> After {
        let rest = bytes.get(at..).unwrap_or_default();
        let is_between = |b: &u8| *b == b':' || b.is_ascii_whitespace();
        let between = rest.iter().take(MOST_SPACE).take_while(|b| is_between(b)).count();
        let value = rest.get(between..).unwrap_or_default();
        if value.starts_with(&self.target) {
            After::Name { from: at + between, to: at + between + self.target.len() }
        } else if between < MOST_SPACE && self.target.starts_with(value) {
            After::Open
        } else {
            After::Other
        }
    }
}

/// How many of the last bytes may be the start of a key.
fn begun(bytes: &[u8]) -> usize {
    (1..KEY.len())
        .rev()
        .find(|&count| KEY.get(..count).is_some_and(|start| bytes.ends_with(start)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds an answer in pieces that end at `cuts`.
    fn restored(answer: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut name = ModelName::new(b"/models/v2", b"chat");
        let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(answer.len())).collect();
        cuts.extend([0, answer.len()]);
        cuts.sort_unstable();
        let mut out = Vec::new();
        for (nth, pair) in cuts.windows(2).enumerate() {
            let chunk = &answer[pair[0]..pair[1]];
            let end = nth + 2 == cuts.len();
            out.extend(name.feed(chunk, end).unwrap_or_else(|| chunk.to_vec()));
        }
        out
    }

    const STREAM: &[u8] = b"data: {\"id\":\"1\",\"model\":\"/models/v2\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\\\"/models/v2\\\"\"}}]}\n\n\
        data: {\"model\" : \"/models/v2\", \"x\":\"model\", \"model\":\"/models/v22\"}\n\ndata: [DONE]\n\n";
    const EXPECTED: &[u8] = b"data: {\"id\":\"1\",\"model\":\"chat\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\\\"/models/v2\\\"\"}}]}\n\n\
        data: {\"model\" : \"chat\", \"x\":\"model\", \"model\":\"/models/v22\"}\n\ndata: [DONE]\n\n";

    #[test]
    fn the_name_is_restored_and_what_the_model_says_is_not_touched() {
        assert_eq!(restored(STREAM, &[]), EXPECTED);
        for cut in 0..STREAM.len() {
            assert_eq!(restored(STREAM, &[cut]), EXPECTED, "cut at {cut}");
        }
    }

    #[test]
    fn a_chunk_without_the_name_passes_as_it_is() {
        let mut name = ModelName::new(b"a", b"b");
        assert_eq!(name.feed(b"data: {\"choices\":[]}\n\n", false), None);
        assert_eq!(name.feed(b"{\"mod", false), Some(b"{".to_vec()));
        assert_eq!(name.feed(b"", true), Some(b"\"mod".to_vec()), "nothing is lost at the end");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..300, 0..12)) {
            prop_assert_eq!(restored(STREAM, &cuts), EXPECTED);
        }

        #[test]
        fn other_bytes_are_never_lost(answer in "[\"model:/vs2 ]{0,120}", cuts in prop::collection::vec(0usize..120, 0..6)) {
            prop_assert_eq!(restored(answer.as_bytes(), &cuts), restored(answer.as_bytes(), &[]));
        }
    }
}
