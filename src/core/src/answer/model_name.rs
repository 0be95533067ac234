//! Puts the name that a client asked for in the place of the name that the pod says, in an answer that comes
//! in chunks.
//!
//! The name is found by its place, not by its value: vLLM says the first of its served names whichever it was
//! asked for, and other engines say the name that they were asked for. Its place is the key `model` of the
//! answer. That is the document itself, or, in events of the Responses and the Messages API that tell of the
//! whole answer, its `response` or `message`. The same key elsewhere is the client's own, or the model's.

/// More bytes than the longest key has that counts.
const LONGER_THAN_KEYS: usize = b"response".len() + 1;

/// Restores the name of the model in one answer. It keeps no bytes back.
#[derive(Clone, Debug)]
pub struct ModelName {
    /// The name that the client asked for, in quotes.
    asked: Vec<u8>,
    place: Place,
    /// How many brackets are open.
    depth: u32,
    /// Whether the second one of them is that of the answer, in an event that tells of it.
    in_event: bool,
    /// What the string begins with.
    text: Vec<u8>,
    /// Whether the next byte of the string is escaped.
    escaped: bool,
    /// The last string, which is a key if a colon follows.
    last: Key,
    /// The key of the value that comes next.
    key: Key,
}

/// Where in a document the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Outside of any string.
    Between,
    /// In a string that passes.
    Text,
    /// In the name of the model, for which the other one has been written.
    Name,
}

/// A key of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// `model`.
    Model,
    /// `response` or `message`.
    Answer,
    /// Another one, or none.
    Other,
}

impl Key {
    fn of(text: &[u8]) -> Key {
        match text {
            b"model" => Key::Model,
            b"response" | b"message" => Key::Answer,
            _ => Key::Other,
        }
    }
}

impl ModelName {
    /// Puts `asked` in the place of what the pod says; in the spelling of a request.
    pub fn new(asked: &[u8]) -> ModelName {
        ModelName {
            asked: [b"\"", asked, b"\""].concat(),
            place: Place::Between,
            depth: 0,
            in_event: false,
            text: Vec::new(),
            escaped: false,
            last: Key::Other,
            key: Key::Other,
        }
    }

    /// Takes the next chunk; returns the bytes to pass on in its place, or `None` when it passes as it is.
    pub fn feed(&mut self, chunk: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut changed = self.place == Place::Name;
        // Up to `done`, the chunk is in `out` or left out.
        let (mut done, mut at) = (0, 0);
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            match self.place {
                Place::Text => at += self.pass_string(rest),
                Place::Name => {
                    at += self.pass_string(rest);
                    done = at;
                }
                Place::Between => {
                    at += self.pass_between(rest);
                    if self.place == Place::Name {
                        changed = true;
                        out.extend_from_slice(chunk.get(done..at - 1).unwrap_or_default());
                        out.extend_from_slice(&self.asked);
                        done = at;
                    }
                }
            }
        }
        changed.then(|| {
            out.extend_from_slice(chunk.get(done..).unwrap_or_default());
            out
        })
    }

    /// Passes over what is in no string, up to the quote that begins one; returns how many bytes that are.
    fn pass_between(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            if self.depth == 0 {
                // White space, or the fields of an event.
                at += memchr::memchr2(b'{', b'[', bytes.get(at..).unwrap_or_default())
                    .unwrap_or(bytes.len() - at);
            }
            let Some(&byte) = bytes.get(at) else { return at };
            at += 1;
            match byte {
                b'"' => {
                    self.text.clear();
                    let is_name = self.key == Key::Model && self.in_answer();
                    self.place = if is_name { Place::Name } else { Place::Text };
                    return at;
                }
                b'{' | b'[' => {
                    self.depth = self.depth.saturating_add(1);
                    if self.depth == 2 {
                        self.in_event = byte == b'{' && self.key == Key::Answer;
                    }
                    (self.last, self.key) = (Key::Other, Key::Other);
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    (self.last, self.key) = (Key::Other, Key::Other);
                }
                b':' => self.key = std::mem::replace(&mut self.last, Key::Other),
                b',' => (self.last, self.key) = (Key::Other, Key::Other),
                _ => {}
            }
        }
    }

    /// Passes over what is in a string, up to its end; returns how many bytes that are.
    fn pass_string(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if std::mem::take(&mut self.escaped) {
                at += 1;
                continue;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let end = memchr::memchr3(b'"', b'\\', b'\n', rest).unwrap_or(rest.len());
            let room = LONGER_THAN_KEYS.saturating_sub(self.text.len());
            self.text.extend(rest.iter().take(end.min(room)));
            at += end;
            let Some(&byte) = rest.get(end) else { break };
            if byte == b'\\' {
                self.escaped = true;
                // No key that counts has an escape.
                if self.text.len() < LONGER_THAN_KEYS {
                    self.text.push(byte);
                }
                at += 1;
                continue;
            }
            if byte == b'"' {
                self.last = Key::of(&self.text);
                at += 1;
            } else {
                // A string has no line feed: this is no JSON, and the next event begins anew.
                (self.depth, self.last, self.key) = (0, Key::Other, Key::Other);
            }
            self.place = Place::Between;
            return at;
        }
        at
    }

    /// Whether the keys that come are those of the answer.
    fn in_answer(&self) -> bool {
        self.depth == 1 || self.depth == 2 && self.in_event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Feeds an answer in pieces that end at `cuts`.
    fn restored(answer: &[u8], cuts: &[usize]) -> String {
        let mut name = ModelName::new(b"chat");
        let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(answer.len())).collect();
        cuts.extend([0, answer.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &answer[pair[0]..pair[1]]);
        let passed = pieces.flat_map(|chunk| name.feed(chunk).unwrap_or_else(|| chunk.to_vec()));
        String::from_utf8(passed.collect()).unwrap()
    }

    /// A stream of three events, in which the pod says these names.
    fn stream(first: &str, second: &str, third: &str) -> String {
        format!(
            "event: message_start\n\
            data: {{\"type\":\"message_start\",\"message\":{{\"id\":\"1\",\"model\":\"{first}\",\"content\":[{{\"model\":\"x\"}}]}}}}\n\n\
            : the next one\n\n\
            data: {{\"id\":\"1\",\"model\":\"{second}\",\"choices\":[{{\"delta\":{{\"content\":\"\\\"model\\\":\\\"v2\\\" {{\"}}}}]}}\n\n\
            data: {{\"model\" :\t\"{third}\", \"x\":\"model\", \"metadata\":{{\"model\":\"y\"}}, \"tools\":[\"model\", {{\"response\":{{\"model\":\"z\"}}}}]}}\n\n\
            data: [DONE]\n\n"
        )
    }

    #[test]
    fn the_name_is_restored_whichever_the_pod_says_and_nothing_else_is_touched() {
        for names in [["v2", "v2", "v2"], ["first", "/models/\\\"q\\\\\\\"", ""], ["chat", "c", "chat, too"]]
        {
            let (said, expected) = (stream(names[0], names[1], names[2]), stream("chat", "chat", "chat"));
            assert_eq!(restored(said.as_bytes(), &[]), expected);
            for cut in 0..said.len() {
                assert_eq!(restored(said.as_bytes(), &[cut]), expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn real_answers_of_every_api_have_the_name() {
        for (answer, names) in [
            (&include_bytes!("../../../../tests/fixtures/vllm-0.32/chat.json")[..], 1),
            (&include_bytes!("../../../../tests/fixtures/vllm-0.32/chat-stream.sse")[..], 7),
            (&include_bytes!("../../../../tests/fixtures/vllm-0.32/completion.json")[..], 1),
            (&include_bytes!("../../../../tests/fixtures/vllm-0.32/completion-tokens-stream.sse")[..], 5),
            (&include_bytes!("../../../../tests/fixtures/vllm-0.32/messages.json")[..], 1),
            (&include_bytes!("../../../../tests/fixtures/vllm-0.32/responses.json")[..], 1),
        ] {
            let said = std::str::from_utf8(answer).unwrap();
            let expected = said.replace("\"model\":\"/model/qwen\"", "\"model\":\"chat\"");
            assert_eq!(expected.matches("\"model\":\"chat\"").count(), names, "{said}");
            assert_eq!(restored(answer, &[]), expected);
        }
        let event = |name| {
            format!(
                "data: {{\"response\":{{\"metadata\":{{\"model\":\"a\"}},\"model\":\"{name}\",\"tools\":[]}},\"type\":\"response.created\"}}\n\n"
            )
        };
        assert_eq!(restored(event("v2").as_bytes(), &[]), event("chat"));
    }

    #[test]
    fn a_chunk_without_the_name_passes_as_it_is_and_nothing_is_kept_back() {
        let mut name = ModelName::new(b"b");
        assert_eq!(name.feed(b"data: {\"choices\":[]}\n\n"), None);
        assert_eq!(name.feed(b"{\"mod"), None);
        assert_eq!(name.feed(b"el\":"), None);
        assert_eq!(name.feed(b" \"a"), Some(b" \"b\"".to_vec()));
        assert_eq!(name.feed(b"a\\"), Some(Vec::new()));
        assert_eq!(name.feed(b"\"\", \"model\":null"), Some(b", \"model\":null".to_vec()));
        assert_eq!(name.feed(b"}"), None);
    }

    #[test]
    fn after_what_is_no_json_the_next_event_is_read() {
        let said = "data: {\"model\":\"a\",\"cut off\n\ndata: {\"model\":\"a\"}\n\n";
        assert_eq!(restored(said.as_bytes(), &[]), said.replace("\"a\"", "\"chat\""));
        let said = "data: {\"model\":\"a\n\ndata: {\"model\":\"a\"}\n\n";
        assert_eq!(
            restored(said.as_bytes(), &[]),
            "data: {\"model\":\"chat\"\n\ndata: {\"model\":\"chat\"}\n\n"
        );
    }

    /// Any document, in which keys that count are frequent.
    fn documents() -> impl Strategy<Value = Value> {
        let text = || prop::sample::select(vec!["model", "response", "message", "a\"}", "", "\\", "é{"]);
        let leaf =
            prop_oneof![text().prop_map(Value::from), Just(Value::Null), any::<u8>().prop_map(Value::from)];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(text(), inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    /// What a general parser makes of it.
    fn twin(mut document: Value) -> Value {
        let name_in = |answer: Option<&mut Value>| {
            if let Some(name) = answer.and_then(|answer| answer.as_object_mut()?.get_mut("model"))
                && name.is_string()
            {
                *name = "chat".into();
            }
        };
        if document.is_object() {
            name_in(document.get_mut("response"));
            name_in(document.get_mut("message"));
        }
        name_in(Some(&mut document));
        document
    }

    proptest! {
        #[test]
        fn the_name_is_where_a_parser_finds_it(document in documents(), cuts in prop::collection::vec(0usize..300, 0..12), pretty: bool) {
            let said = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
            let read: Value = serde_json::from_str(&restored(said.unwrap().as_bytes(), &cuts)).unwrap();
            prop_assert_eq!(read, twin(document));
        }

        #[test]
        fn cuts_do_not_matter(answer in "[\"model:{}\\[\\],\\\\\n ]{0,120}", cuts in prop::collection::vec(0usize..120, 0..6)) {
            prop_assert_eq!(restored(answer.as_bytes(), &cuts), restored(answer.as_bytes(), &[]));
        }
    }
}
