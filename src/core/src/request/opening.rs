//! What all requests of a conversation begin with, as a hash: it draws the same target each time, in every
//! gateway.
//!
//! Of a chat that is everything up to the end of the first message of a user, since many conversations share
//! a system prompt. Of any other prompt, it is the first 512 bytes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::request::body::{Part, Prompt};
use crate::request::prompt::parts;

/// Bytes of a text that name it.
const TEXT_BYTES: usize = 512;

/// The hash of an opening, as far as the messages were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opening {
    hash: u64,
    /// A message of a user has begun.
    in_user: bool,
    /// It has ended, and nothing counts after it.
    complete: bool,
}

impl Opening {
    /// That of a prompt whose messages were read after `known` ones.
    pub fn of(prompt: &Prompt<'_>, known: Opening) -> Opening {
        match prompt {
            Prompt::Chat { messages, .. } => known.after(messages),
            Prompt::Texts(texts) => known.then(texts.first().map_or(&b""[..], |text| start_of(text))),
            Prompt::Embeddings(tensors) => {
                known.then(tensors.first().map_or(&b""[..], |tensor| start_of(tensor)))
            }
            Prompt::Opaque(body) => known.then(start_of(body)),
            Prompt::Tokens(ids) => {
                let ids = ids.iter().take(TEXT_BYTES / size_of::<u32>());
                ids.fold(known, |opening, id| opening.then(&id.to_le_bytes()))
            }
        }
    }

    /// With more messages.
    pub fn after(mut self, messages: &[Part<'_>]) -> Opening {
        for part in messages {
            if let Part::Item(role) = part {
                self.complete |= self.in_user;
                self.in_user |= **role == *b"user";
            }
            if self.complete {
                break;
            }
            parts(std::slice::from_ref(part), |piece| self = self.then(piece));
        }
        self
    }

    /// The hash.
    pub fn hash(self) -> u64 {
        self.hash
    }

    fn then(self, piece: &[u8]) -> Opening {
        Opening { hash: xxh3_64_with_seed(piece, self.hash), ..self }
    }
}

fn start_of(text: &[u8]) -> &[u8] {
    text.get(..TEXT_BYTES).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body::Api;
    use crate::request::parse;

    fn of(api: Api, body: &str) -> u64 {
        Opening::of(&parse(api, body.as_bytes()).unwrap().prompt, Opening::default()).hash()
    }

    fn chat(messages: &[(&str, &str)]) -> u64 {
        let messages: Vec<String> = messages
            .iter()
            .map(|(role, text)| format!(r#"{{"role":"{role}","content":"{text}"}}"#))
            .collect();
        of(Api::Chat, &format!(r#"{{"messages":[{}]}}"#, messages.join(",")))
    }

    #[test]
    fn rounds_of_a_conversation_have_one_opening_and_conversations_differ() {
        let first = chat(&[("system", "s"), ("user", "u")]);
        assert_eq!(first, chat(&[("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v")]));
        assert_eq!(first, chat(&[("system", "s"), ("user", "u"), ("user", "v")]));
        assert_ne!(first, chat(&[("system", "s"), ("user", "w")]), "one system prompt, two conversations");
        assert_ne!(first, chat(&[("system", "t"), ("user", "u")]));
    }

    #[test]
    fn it_is_the_same_from_any_known_start() {
        let body = br#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},{"role":"assistant"}]}"#;
        let Prompt::Chat { messages, .. } = parse(Api::Chat, body).unwrap().prompt else { panic!() };
        let whole = Opening::default().after(&messages);
        for cut in 0..=messages.len() {
            let (known, rest) = messages.split_at(cut);
            assert_eq!(Opening::default().after(known).after(rest), whole, "cut after {cut} parts");
        }
    }

    #[test]
    fn a_text_is_known_by_its_start() {
        let of = |text: String| of(Api::Completions, &format!(r#"{{"prompt":"{text}"}}"#));
        let start = "x".repeat(600);
        assert_eq!(of(start.clone()), of(start.clone() + "more"));
        assert_ne!(of(start.clone()), of("y".to_owned() + &start));
    }

    #[test]
    fn token_ids_are_known_by_their_order() {
        let tokens = |ids: &str| of(Api::Completions, &format!(r#"{{"prompt":[{ids}]}}"#));
        assert_ne!(tokens("1,2"), tokens("2,1"));
    }
}
