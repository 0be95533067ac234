//! Bodies of chat requests: conversations that begin with the same system prompt, go their own ways, and grow
//! round by round.
//!
//! Nothing is formatted while requests are sent: a body is three slices of a text made before, and the number
//! of its conversation, which comes after the system prompt and makes it different from all others.

use crate::workload::Dice;

/// Texts that conversations are cut from; a conversation beyond them takes one again under its own number.
const TEXTS: u64 = 64;
/// Share of the mean body that is the system prompt: all conversations begin with it.
const SYSTEM_SHARE: f64 = 0.25;
/// The first body is this much of the mean, the last one as much above it.
const FIRST_SHARE: f64 = 0.7;
/// Digits of the number of a conversation.
const TAG: usize = 12;

/// What the bodies are like.
#[derive(Clone, Debug)]
pub(super) struct Shape<'a> {
    /// Mean size in bytes.
    pub(super) bytes: usize,
    /// Conversations under way at a time.
    pub(super) conversations: u64,
    /// Rounds of each.
    pub(super) rounds: u64,
    /// Number of the first conversation.
    pub(super) first: u64,
    /// Whether the same conversations come again when all rounds are done, rather than new ones.
    pub(super) again: bool,
    /// The model asked for.
    pub(super) model: &'a str,
    /// Whether a stream is asked for.
    pub(super) stream: bool,
}

/// All bodies of a run.
#[derive(Debug)]
pub(super) struct Conversations {
    /// From the brace to the place of the tag.
    start: Vec<u8>,
    /// After the tag, up to the last round.
    texts: Vec<Vec<u8>>,
    /// For each text, where each round ends.
    ends: Vec<Vec<usize>>,
    /// From the end of the last message.
    end: &'static [u8],
    conversations: u64,
    rounds: u64,
    first: u64,
    again: bool,
}

/// A body, in four parts.
#[derive(Debug)]
pub(super) struct LoadBody<'a> {
    start: &'a [u8],
    tag: [u8; TAG],
    rest: &'a [u8],
    end: &'a [u8],
}

impl Conversations {
    /// Writes the texts.
    pub(super) fn new(shape: &Shape<'_>) -> Conversations {
        let mut dice = Dice::new(shape.first, 0);
        let system = text(&mut dice, (shape.bytes as f64 * SYSTEM_SHARE) as usize);
        let model = serde_json::Value::from(shape.model);
        let start = format!(
            r#"{{"model":{model},"temperature":0.7,"max_tokens":64,"messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"Case "#
        )
        .into_bytes();
        let end: &[u8] = if shape.stream {
            br#""}],"stream":true,"stream_options":{"include_usage":true}}"#
        } else {
            br#""}],"stream":false}"#
        };
        let fixed = start.len() + TAG + end.len();
        let (mut texts, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..shape.conversations.min(TEXTS) {
            let (mut all, mut cuts) = (String::from(". "), Vec::new());
            for round in 0..shape.rounds {
                let share = match shape.rounds {
                    1 => 1.0,
                    rounds => FIRST_SHARE + 2.0 * (1.0 - FIRST_SHARE) * round as f64 / (rounds - 1) as f64,
                };
                let wanted = ((shape.bytes as f64 * share) as usize).saturating_sub(fixed);
                if round > 0 {
                    // The answer to the round before: two thirds of what is new.
                    let answer = wanted.saturating_sub(all.len()) * 2 / 3;
                    all.push_str(r#""},{"role":"assistant","content":""#);
                    all.push_str(&text(&mut dice, answer));
                    all.push_str(r#""},{"role":"user","content":""#);
                }
                let missing = wanted.saturating_sub(all.len());
                all.push_str(&text(&mut dice, missing));
                cuts.push(all.len());
            }
            texts.push(all.into_bytes());
            ends.push(cuts);
        }
        Conversations {
            start,
            texts,
            ends,
            end,
            conversations: shape.conversations,
            rounds: shape.rounds,
            first: shape.first,
            again: shape.again,
        }
    }

    /// The body of the `nth` request of a run: each conversation has its first round, then each its second,
    /// and after the last round others begin.
    pub(super) fn body(&self, nth: u64) -> LoadBody<'_> {
        let (turn, place) = (nth / self.conversations, nth % self.conversations);
        let (batch, round) = (turn / self.rounds, turn % self.rounds);
        let batch = if self.again { 0 } else { batch };
        let mut number = self.first + batch * self.conversations + place;
        let which = (place % TEXTS.min(self.conversations)) as usize;
        let text = self.texts.get(which).map_or(&[][..], Vec::as_slice);
        let cut = self.ends.get(which).and_then(|ends| ends.get(round as usize)).copied().unwrap_or_default();
        let mut tag = [b'0'; TAG];
        for digit in tag.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        LoadBody { start: &self.start, tag, rest: text.get(..cut).unwrap_or_default(), end: self.end }
    }
}

impl LoadBody<'_> {
    /// Its size in bytes.
    pub(super) fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Its parts in order.
    pub(super) fn parts(&self) -> [&[u8]; 4] {
        [self.start, &self.tag, self.rest, self.end]
    }
}

/// Text of `bytes` bytes, as it stands in JSON: a line end each 14 words and a quoted word each 40, which is
/// about what answers with lists and code have, and a word outside ASCII each 100.
fn text(dice: &mut Dice, bytes: usize) -> String {
    const WORDS: [&str; 48] = [
        "the",
        "of",
        "a",
        "and",
        "to",
        "is",
        "in",
        "that",
        "for",
        "with",
        "request",
        "cache",
        "prefix",
        "token",
        "model",
        "when",
        "queue",
        "pod",
        "answer",
        "first",
        "because",
        "longer",
        "memory",
        "between",
        "however",
        "computes",
        "several",
        "latency",
        "already",
        "which",
        "function",
        "value",
        "returns",
        "under",
        "load",
        "if",
        "we",
        "can",
        "it",
        "as",
        "are",
        "be",
        "this",
        "gateway",
        "attention",
        "from",
        "each",
        "block",
    ];
    let mut out = String::with_capacity(bytes + 16);
    while out.len() < bytes {
        let word = WORDS.get(dice.below(WORDS.len())).copied().unwrap_or_default();
        match dice.below(2800) {
            0..200 => out.push_str("\\n"),
            200..270 => {
                out.push_str("\\\"");
                out.push_str(word);
                out.push_str("\\\" ");
                continue;
            }
            270..298 => out.push_str("naïve "),
            _ => {}
        }
        out.push_str(word);
        out.push(' ');
    }
    // Cut to size, but not inside an escape or a character.
    let mut end = bytes;
    while end > 0 && (!out.is_char_boundary(end) || out.as_bytes().get(end - 1) == Some(&b'\\')) {
        end -= 1;
    }
    out.truncate(end);
    // What was cut off is made up for, so that sizes are exact.
    out.extend(std::iter::repeat_n('.', bytes - end));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn shape(bytes: usize) -> Shape<'static> {
        Shape { bytes, conversations: 3, rounds: 4, first: 5, again: false, model: "m", stream: false }
    }

    fn json(body: &LoadBody<'_>) -> Value {
        serde_json::from_slice(&body.parts().concat()).unwrap()
    }

    #[test]
    fn bodies_are_chats_of_the_size_asked_for() {
        for bytes in [1024, 2048, 256 * 1024] {
            let all = Conversations::new(&shape(bytes));
            let sizes: Vec<usize> = (0..12).map(|nth| all.body(nth).len()).collect();
            let mean = sizes.iter().sum::<usize>() / 12;
            assert!(mean.abs_diff(bytes) < bytes / 20, "{mean} is not about {bytes}");
            for nth in 0..12 {
                assert_eq!(
                    json(&all.body(nth))["messages"].as_array().unwrap().len(),
                    2 + 2 * (nth as usize / 3)
                );
            }
        }
    }

    #[test]
    fn rounds_begin_with_the_round_before_and_conversations_differ() {
        let all = Conversations::new(&shape(2048));
        let text = |nth| json(&all.body(nth))["messages"].to_string();
        assert!(text(3).starts_with(text(0).trim_end_matches("\"}]")));
        assert!(text(0).contains("Case 000000000005"));
        assert!(text(1).contains("Case 000000000006"));
        assert!(text(12).contains("Case 000000000008"), "others begin after the last round");
        let again = Conversations::new(&Shape { again: true, rounds: 1, ..shape(2048) });
        assert_eq!(again.body(0).parts().concat(), again.body(3).parts().concat());
        assert_ne!(again.body(0).parts().concat(), again.body(1).parts().concat());
    }

    #[test]
    fn streams_are_asked_for() {
        let all = Conversations::new(&Shape { stream: true, ..shape(2048) });
        assert_eq!(json(&all.body(0))["stream"], true);
    }
}
