//! A streamed answer, event by event: when its tokens came, and what the server says it used.

use std::borrow::Cow;

use serde::Deserialize;

/// What has been read of an answer.
#[derive(Debug, Default)]
pub(super) struct StreamedAnswer {
    /// When the first token came, in the caller's seconds.
    pub(super) first_token: Option<f64>,
    /// When the latest one came.
    pub(super) last_token: f64,
    /// Seconds between one token and the next.
    pub(super) gaps: Vec<f32>,
    /// Events with a token in them.
    pub(super) chunks: u64,
    /// The text, if wanted.
    pub(super) text: Option<String>,
    /// What the server says.
    pub(super) usage: Option<ReportedUsage>,
    /// An error that came inside the stream.
    pub(super) error: Option<String>,
    /// Whether `[DONE]` came.
    pub(super) done: bool,
}

/// Token counts of a request.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct ReportedUsage {
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

impl ReportedUsage {
    /// Prompt tokens that came from the cache, where the server says so.
    pub(super) fn cached_tokens(&self) -> Option<u64> {
        self.prompt_tokens_details?.cached_tokens
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<ReportedUsage>,
    #[serde(borrow)]
    error: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    /// Of a completion.
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    /// Of a chat.
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning: Option<Cow<'a, str>>,
}

impl StreamedAnswer {
    /// Of which the text is kept or not.
    pub(super) fn new(keep_text: bool) -> StreamedAnswer {
        StreamedAnswer { text: keep_text.then(String::new), ..StreamedAnswer::default() }
    }

    /// Takes the data of one event that came at `now`.
    pub(super) fn take(&mut self, data: &[u8], now: f64) {
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        let event: Event<'_> = match serde_json::from_slice(data) {
            Ok(event) => event,
            Err(error) => {
                self.error
                    .get_or_insert_with(|| format!("an event that is no JSON of a completion: {error}"));
                return;
            }
        };
        if let Some(error) = event.error.filter(|error| error.get() != "null") {
            self.error.get_or_insert_with(|| error.get().chars().take(200).collect());
        }
        self.usage = event.usage.or(self.usage);
        let Some(choice) = event.choices.first() else { return };
        // As the originals do: in a chat the first event only says who speaks; in a completion every choice
        // is a token, even if it has no text of its own yet.
        let text = match (&choice.text, &choice.delta) {
            (Some(text), _) => text.as_ref(),
            (None, Some(delta)) => {
                let texts = [&delta.content, &delta.reasoning_content, &delta.reasoning];
                match texts.into_iter().flatten().find(|text| !text.is_empty()) {
                    Some(text) => text.as_ref(),
                    None => return,
                }
            }
            (None, None) => return,
        };
        match self.first_token {
            None => self.first_token = Some(now),
            Some(_) => self.gaps.push((now - self.last_token) as f32),
        }
        self.last_token = now;
        self.chunks += 1;
        if let Some(all) = &mut self.text {
            all.push_str(text);
        }
    }

    /// Tokens of the answer: as the server says, or else as many as events came.
    pub(super) fn output_tokens(&self) -> u64 {
        self.usage.map_or(self.chunks, |usage| usage.completion_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::sse::SseParser;

    fn read(file: &str, keep_text: bool) -> StreamedAnswer {
        let path = format!("{}/../../tests/fixtures/vllm-0.32/{file}", env!("CARGO_MANIFEST_DIR"));
        let stream = std::fs::read(path).unwrap();
        let (mut events, mut answer, mut now) = (SseParser::default(), StreamedAnswer::new(keep_text), 0.0);
        for piece in stream.chunks(50) {
            now += 1.0;
            events.feed(piece, |data| answer.take(data, now));
        }
        answer
    }

    #[test]
    fn recorded_streams_are_read() {
        for (file, prompt_tokens) in [("chat-stream.sse", Some(15)), ("completion-tokens-stream.sse", None)] {
            let answer = read(file, true);
            assert!(answer.done && answer.error.is_none(), "{file}: {answer:?}");
            assert_eq!((answer.output_tokens(), answer.chunks, answer.gaps.len()), (5, 5, 4), "{file}");
            assert_eq!(answer.usage.map(|usage| usage.prompt_tokens), prompt_tokens, "{file}");
            assert!(answer.first_token.unwrap() < answer.last_token, "{file}");
            assert!(!answer.text.unwrap().is_empty(), "{file}");
        }
    }

    #[test]
    fn the_event_that_says_who_speaks_is_no_token() {
        let mut answer = StreamedAnswer::new(false);
        answer.take(br#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, 1.0);
        assert_eq!(answer.first_token, None);
        answer.take(br#"{"choices":[{"delta":{"content":"a"}}]}"#, 2.0);
        answer.take(br#"{"choices":[{"delta":{"reasoning_content":"b"}}]}"#, 2.5);
        assert_eq!((answer.first_token, answer.gaps.as_slice()), (Some(2.0), &[0.5][..]));
        answer.first_token = None;
        answer.take(br#"{"choices":[{"text":""}]}"#, 3.0);
        assert_eq!(answer.first_token, Some(3.0));
    }

    #[test]
    fn errors_inside_a_stream_are_kept() {
        let mut answer = StreamedAnswer::new(false);
        answer.take(br#"{"error":{"message":"out of memory","code":500}}"#, 1.0);
        answer.take(b"no json", 1.0);
        assert!(answer.error.unwrap().contains("out of memory"));
    }
}
