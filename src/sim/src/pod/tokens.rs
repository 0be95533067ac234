//! Text to tokens and back, without a vocabulary.
//!
//! A token is a run of up to six bytes in which only the first may be white space: about four bytes of
//! English a token, as with real vocabularies. Answers are made of short words that each are exactly one such
//! token, so that an answer sent back as part of the next prompt has the very tokens the pod generated, and
//! hits its cache.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of a token at most.
const LONGEST: u32 = 6;

/// Where a kind of token is told apart: no text token has a top byte above [`LONGEST`].
const KIND: u32 = 56;

/// Begins a message of a chat.
pub(super) const START: u64 = 0xFF << KIND;

/// Ends a message of a chat; as an answer's last token, the end of the sequence.
pub(super) const END: u64 = (0xFF << KIND) | 1;

/// The token of a prompt that was given by number.
pub(super) fn by_id(id: u32) -> u64 {
    (0xFE << KIND) | u64::from(id)
}

/// Calls `each` with every token of `text`.
pub(super) fn tokenize(text: &str, mut each: impl FnMut(u64)) {
    let mut token = 0u64;
    let mut length = 0u32;
    for &byte in text.as_bytes() {
        if length == LONGEST || (length > 0 && byte.is_ascii_whitespace()) {
            each((u64::from(length) << KIND) | token);
            token = 0;
            length = 0;
        }
        token = (token << 8) | u64::from(byte);
        length += 1;
    }
    if length > 0 {
        each((u64::from(length) << KIND) | token);
    }
}

/// Words of an answer: a space and at most five letters, one token each.
const WORDS: [&str; 64] = [
    " the", " of", " and", " to", " in", " is", " that", " it", " was", " for", " on", " are", " as",
    " with", " his", " they", " at", " be", " this", " from", " have", " or", " by", " one", " had", " not",
    " but", " what", " all", " were", " when", " we", " there", " can", " an", " your", " which", " their",
    " said", " if", " do", " will", " each", " about", " how", " up", " out", " them", " then", " she",
    " many", " some", " so", " these", " would", " other", " into", " has", " more", " her", " two", " like",
    " him", " see",
];

/// The answer to one prompt: as many tokens as wanted, each known from its number alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerPlan {
    /// From the prompt and the pod's seed.
    pub(super) seed: u64,
    /// Tokens, the end-of-sequence token included.
    pub(super) tokens: u32,
    /// Whether the last token is [`END`], which has no text. Otherwise the answer was cut at its limit.
    pub(super) stops: bool,
    /// Whether the answer stands by itself, as a chat message does, rather than right after the prompt's
    /// text. It then begins without a space: clients trim messages.
    pub(super) stands_alone: bool,
}

impl AnswerPlan {
    /// The text of token `index`, from 0.
    pub(super) fn text(&self, index: u32) -> &'static str {
        if self.stops && index + 1 >= self.tokens {
            return "";
        }
        let pick = xxh3_64_with_seed(&index.to_le_bytes(), self.seed) as usize % WORDS.len();
        let word = WORDS.get(pick).copied().unwrap_or(" the");
        if self.stands_alone && index == 0 { word.trim_start() } else { word }
    }

    /// The whole text.
    pub(super) fn full_text(&self) -> String {
        (0..self.tokens).map(|index| self.text(index)).collect()
    }

    /// Calls `each` with every token.
    pub(super) fn tokenize(&self, mut each: impl FnMut(u64)) {
        for index in 0..self.tokens {
            match self.text(index) {
                "" => each(END),
                text => tokenize(text, &mut each),
            }
        }
    }

    /// Why it ends, in OpenAI's words.
    pub(super) fn finish_reason(&self) -> &'static str {
        if self.stops { "stop" } else { "length" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<u64> {
        let mut all = Vec::new();
        tokenize(text, |token| all.push(token));
        all
    }

    #[test]
    fn english_has_about_four_bytes_a_token() {
        let text = "The quick brown fox jumps over the lazy dog, while the router decides which pod already holds \
                    the conversation and which one would have to compute all of it once more from the beginning.";
        let ratio = text.len() as f64 / tokens(text).len() as f64;
        assert!((3.5..5.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn different_texts_have_different_tokens() {
        assert_ne!(tokens("ab"), tokens("a\0"));
        assert_ne!(tokens("abcdef g"), tokens("abcdefg"));
        assert_eq!(tokens("").len(), 0);
    }

    #[test]
    fn an_answer_sent_back_has_the_same_tokens() {
        for (alone, before) in [(true, ""), (false, "Once upon a ti")] {
            let answer = AnswerPlan { seed: 7, tokens: 300, stops: true, stands_alone: alone };
            let mut generated = tokens(before);
            answer.tokenize(|token| generated.push(token));
            assert_eq!(generated.pop(), Some(END));
            assert_eq!(tokens(&(before.to_owned() + &answer.full_text())), generated);
        }
    }

    #[test]
    fn every_word_is_one_token() {
        assert!(WORDS.iter().all(|word| tokens(word).len() == 1 && word.starts_with(' ')));
    }
}
