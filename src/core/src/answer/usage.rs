//! What an answer reports of its prompt: its tokens, and how many of them came from the cache.
//!
//! Looks for the `usage` object as chunks go by, without holding or parsing the rest. The key cannot be
//! forged by generated text: inside a JSON string its quotes are escaped.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use crate::Tokens;
use crate::request::json::{JsonError, JsonResult, Kind, Scanner, natural};

/// The key to look for.
const KEY: &[u8] = b"\"usage\"";
/// Bytes at the end of a chunk in which a key may have begun that goes on in the next.
const TAIL: usize = KEY.len() - 1;
/// Prepared once, because preparing the search takes longer than searching an answer.
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY));
/// Longest `usage` object that is read; vLLM's has some 400 bytes.
const LONGEST: usize = 4096;

/// What an answer reports of its prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt; 0 when not reported.
    pub prompt_tokens: Tokens,
    /// Tokens of it that were in the cache; `None` when not reported.
    pub cached_tokens: Option<Tokens>,
}

/// Finds [`Usage`] in an answer that comes in chunks.
#[derive(Clone, Debug, Default)]
pub struct UsageScanner {
    state: State,
    /// The last bytes of the chunk before, where a key may have begun; or the object as far as it has come.
    kept: Vec<u8>,
    usage: Option<Usage>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Looking for the key.
    #[default]
    Key,
    /// After the key: a colon, white space, then an object or something else.
    Value,
    /// Inside the object.
    Object,
}

impl UsageScanner {
    /// Takes the next chunk.
    pub fn feed(&mut self, mut chunk: &[u8]) {
        loop {
            chunk = match self.state {
                State::Key => match self.find_key(chunk) {
                    Some(rest) => rest,
                    None => return,
                },
                State::Value => match chunk.iter().position(|b| !b.is_ascii_whitespace() && *b != b':') {
                    Some(at) => {
                        self.state = if chunk.get(at) == Some(&b'{') { State::Object } else { State::Key };
                        chunk.get(at..).unwrap_or_default()
                    }
                    None => return,
                },
                State::Object => match self.take_object(chunk) {
                    Some(rest) => rest,
                    None => return,
                },
            }
        }
    }

    /// What was found so far; of several reports the last counts, as streams may report as they go.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn find_key<'a>(&mut self, chunk: &'a [u8]) -> Option<&'a [u8]> {
        let before = self.kept.len();
        // A key that began in the chunk before, else one inside this chunk.
        let across = (before > 0).then(|| {
            self.kept.extend_from_slice(chunk.get(..TAIL).unwrap_or(chunk));
            memmem::find(&self.kept, KEY).filter(|&at| at < before)
        });
        let end = match across.flatten() {
            Some(at) => Some(at + KEY.len() - before),
            None => FINDER.find(chunk).map(|at| at + KEY.len()),
        };
        match end {
            Some(end) => {
                self.kept.clear();
                self.state = State::Value;
                chunk.get(end..)
            }
            None => {
                if before == 0 || chunk.len() >= TAIL {
                    self.kept.clear();
                    self.kept
                        .extend_from_slice(chunk.get(chunk.len().saturating_sub(TAIL)..).unwrap_or_default());
                } else {
                    // The chunk is there already.
                    self.kept.drain(..self.kept.len().saturating_sub(TAIL));
                }
                None
            }
        }
    }

    /// Takes bytes up to the brace that closes the object; the numbers in it need no care for strings.
    fn take_object<'a>(&mut self, chunk: &'a [u8]) -> Option<&'a [u8]> {
        let mut depth = braces(&self.kept).fold(0, |depth, (_, step)| depth + step);
        let room = LONGEST.saturating_sub(self.kept.len());
        for (at, step) in braces(chunk.get(..=room).unwrap_or(chunk)) {
            depth += step;
            if depth == 0 {
                let (object, rest) = chunk.split_at_checked(at + 1)?;
                if self.kept.is_empty() {
                    self.read(object);
                } else {
                    let mut whole = std::mem::take(&mut self.kept);
                    whole.extend_from_slice(object);
                    self.read(&whole);
                }
                self.state = State::Key;
                return Some(rest);
            }
        }
        if chunk.len() > room {
            // Given up where it becomes too long, so that it does not matter how it is cut.
            self.kept.clear();
            self.state = State::Key;
            return chunk.get(room..);
        }
        self.kept.extend_from_slice(chunk);
        None
    }

    fn read(&mut self, object: &[u8]) {
        let Ok(raw) = RawUsage::parse(object) else { return };
        let before = self.usage.unwrap_or_default();
        let cached_tokens = raw.cached_tokens.or(raw.cache_read_input_tokens).or(before.cached_tokens);
        let mut prompt_tokens = raw.prompt_tokens.unwrap_or(before.prompt_tokens);
        if raw.cache_read_input_tokens.is_some_and(|cached| cached > Tokens::NONE) {
            // Servers of the Messages API differ in whether `input_tokens` counts the tokens read from the
            // cache, so the length of the prompt is not known.
            prompt_tokens = Tokens::NONE;
        }
        self.usage = Some(Usage { prompt_tokens, cached_tokens });
    }
}

/// Where braces are, and whether they open (1) or close (-1).
fn braces(bytes: &[u8]) -> impl Iterator<Item = (usize, i32)> {
    memchr::memchr2_iter(b'{', b'}', bytes).map(|at| (at, if bytes.get(at) == Some(&b'{') { 1 } else { -1 }))
}

/// A report as it is written, under the names of three APIs.
#[derive(Default)]
struct RawUsage {
    /// `prompt_tokens`, or `input_tokens`.
    prompt_tokens: Option<Tokens>,
    /// `cached_tokens` of `prompt_tokens_details`, or of `input_tokens_details`.
    cached_tokens: Option<Tokens>,
    cache_read_input_tokens: Option<Tokens>,
}

impl RawUsage {
    /// # Errors
    /// [`JsonError`] when it is no object of JSON, or a number in it is none.
    fn parse(json: &[u8]) -> JsonResult<RawUsage> {
        let mut usage = RawUsage::default();
        let mut scanner = Scanner::new(json);
        scanner.object(|scanner, key| match &*key {
            b"prompt_tokens" | b"input_tokens" => count(scanner, &mut usage.prompt_tokens),
            b"cache_read_input_tokens" => count(scanner, &mut usage.cache_read_input_tokens),
            b"prompt_tokens_details" | b"input_tokens_details" if scanner.kind()? == Kind::Object => scanner
                .object(|scanner, key| match &*key {
                    b"cached_tokens" => count(scanner, &mut usage.cached_tokens),
                    _ => scanner.skip().map(drop),
                }),
            _ => scanner.skip().map(drop),
        })?;
        scanner.end()?;
        Ok(usage)
    }
}

/// Reads a number of tokens; `null` is none, and anything else makes the report one that is not understood.
fn count(scanner: &mut Scanner<'_>, place: &mut Option<Tokens>) -> JsonResult<()> {
    let at = scanner.at();
    match scanner.skip()? {
        b"null" => Ok(()),
        digits => {
            *place = Some(Tokens(natural(digits).ok_or(JsonError::Syntax { at })?));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(answer: &[u8]) -> Option<Usage> {
        let mut scanner = UsageScanner::default();
        scanner.feed(answer);
        scanner.usage()
    }

    fn usage(prompt: u32, cached: Option<u32>) -> Option<Usage> {
        Some(Usage { prompt_tokens: Tokens(prompt), cached_tokens: cached.map(Tokens) })
    }

    #[test]
    fn recorded_answers_are_read() {
        macro_rules! fixture {
            ($name:literal) => {
                include_bytes!(concat!("../../../../tests/fixtures/vllm-0.32/", $name)).as_slice()
            };
        }
        assert_eq!(whole(fixture!("chat.json")), usage(15, Some(0)));
        assert_eq!(whole(fixture!("completion.json")), usage(4, Some(0)));
        assert_eq!(whole(fixture!("responses.json")), usage(15, Some(0)));
        assert_eq!(whole(fixture!("messages.json")), usage(14, Some(0)));
        assert_eq!(whole(fixture!("chat-stream.sse")), usage(15, Some(0)));
        assert_eq!(whole(fixture!("completion-tokens-stream.sse")), None);
        assert_eq!(whole(fixture!("error-404-model.json")), None);
    }

    #[test]
    fn spaces_nulls_and_several_reports_are_understood() {
        assert_eq!(
            whole(br#"{"usage" : {"prompt_tokens": 7, "prompt_tokens_details": null}}"#),
            usage(7, None)
        );
        assert_eq!(whole(br#"{"usage":null,"x":1}{"usage":{"prompt_tokens":3}}"#), usage(3, None));
        let messages =
            br#"{"usage":{"input_tokens":9,"cache_read_input_tokens":0}} {"usage":{"output_tokens":5}}"#;
        assert_eq!(whole(messages), usage(9, Some(0)));
        assert_eq!(whole(br#"{"usage":{"input_tokens":9,"cache_read_input_tokens":4}}"#), usage(0, Some(4)));
    }

    #[test]
    fn generated_text_cannot_forge_it() {
        assert_eq!(whole(br#"{"content":"\"usage\":{\"prompt_tokens\":1}"}"#), None);
        assert_eq!(whole(br#"{"content":"say \"usage\":"}"#), None);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(cuts in prop::collection::vec(0usize..700, 0..12)) {
            let answer = include_bytes!("../../../../tests/fixtures/vllm-0.32/chat.json");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(answer.len())).collect();
            cuts.extend([0, answer.len()]);
            cuts.sort_unstable();
            let mut scanner = UsageScanner::default();
            for pair in cuts.windows(2) {
                scanner.feed(&answer[pair[0]..pair[1]]);
            }
            prop_assert_eq!(scanner.usage(), usage(15, Some(0)));
        }

        #[test]
        fn nothing_makes_it_panic_or_grow(chunks in prop::collection::vec("[\"usage:{} a0-9,]{0,40}", 0..40)) {
            let mut scanner = UsageScanner::default();
            for chunk in chunks {
                scanner.feed(chunk.as_bytes());
                prop_assert!(scanner.kept.len() <= LONGEST + 40);
            }
        }
    }

    #[test]
    fn an_object_that_never_ends_is_given_up() {
        let mut scanner = UsageScanner::default();
        scanner.feed(b"\"usage\":{");
        for _ in 0..100 {
            scanner.feed(&[b'x'; 100]);
        }
        assert!(scanner.kept.len() < 100);
    }
}
