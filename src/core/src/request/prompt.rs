//! From the parts of a prompt to its canonical bytes, in the order that vLLM's chat template sees: tools, then system text,
//! then role and content of each message.
//!
//! Two bodies whose templates print the same text have the same canonical bytes, however their JSON is spaced or
//! escaped; only JSON that is kept as written (tools, tool calls, images) is compared by its bytes, or by their hash.

use xxhash_rust::xxh3::xxh3_64;

use crate::request::body::{Part, Prompt};

/// Ends the tools. Control characters cannot stand in the canonical spelling of text, so parts never run together.
const END_OF_TOOLS: &[u8] = b"\x1d";
/// Starts a message.
const START_OF_ITEM: &[u8] = b"\x1e";
/// Ends the role of a message.
const END_OF_ROLE: &[u8] = b"\x1f";
/// Ends a part of content.
const END_OF_PART: &[u8] = b"\n";
/// Canonical bytes of an image, of sound or of a film, whatever its size: about 1,000 tokens, what models make of a picture
/// of a megapixel. All are of its hash, so that the block after it is another when it is another.
const MEDIA_BYTES: usize = 4096;
/// Bytes of one token id.
const TOKEN_BYTES: usize = 4;

/// Hands the canonical bytes of `prompt` to `sink`, piece by piece and in order, but for messages that were skipped.
pub fn canonical(prompt: &Prompt<'_>, mut sink: impl FnMut(&[u8])) {
    match prompt {
        Prompt::Chat { messages, .. } => {
            before_messages(prompt, &mut sink);
            parts(messages, &mut sink);
        }
        Prompt::Texts(texts) => {
            for text in texts {
                sink(text);
                sink(START_OF_ITEM);
            }
        }
        Prompt::Tokens(ids) => {
            let mut bytes = [0; 64 * TOKEN_BYTES];
            for ids in ids.chunks(64) {
                for (place, id) in bytes.as_chunks_mut().0.iter_mut().zip(ids) {
                    *place = id.to_le_bytes();
                }
                sink(bytes.get(..ids.len() * TOKEN_BYTES).unwrap_or_default());
            }
        }
        Prompt::Opaque(body) => sink(body),
    }
}

/// The same of what stands before the messages of a chat.
pub fn before_messages(prompt: &Prompt<'_>, mut sink: impl FnMut(&[u8])) {
    let Prompt::Chat { tools, system, .. } = prompt else { return };
    if let Some(tools) = tools {
        sink(tools);
        sink(END_OF_TOOLS);
    }
    parts(system, sink);
}

/// The same of some parts of a chat.
pub fn parts(parts: &[Part<'_>], mut sink: impl FnMut(&[u8])) {
    for part in parts {
        match part {
            Part::Item(role) => {
                sink(START_OF_ITEM);
                sink(role);
                sink(END_OF_ROLE);
            }
            Part::Text(text) => {
                sink(text);
                sink(END_OF_PART);
            }
            Part::Json(json) if part.is_media() => {
                let mut bytes = [0; 64];
                bytes.as_chunks_mut().0.fill(xxh3_64(json).to_le_bytes());
                (0..MEDIA_BYTES / bytes.len()).for_each(|_| sink(&bytes));
                sink(END_OF_PART);
            }
            Part::Json(json) => {
                sink(json);
                sink(END_OF_PART);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body::{Api, parse};

    fn bytes(api: Api, body: &str) -> Vec<u8> {
        let request = parse(api, body.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        canonical(&request.prompt, |piece| bytes.extend_from_slice(piece));
        bytes
    }

    #[test]
    fn spelling_does_not_matter() {
        let a = r#"{"model":"m","messages":[{"role":"user","content":"é\n"}]}"#;
        let b = r#"{ "messages" : [ {"content":[{"type":"text","text":"\u00e9\u000a"}], "role":"user"} ], "model":"m"}"#;
        assert_eq!(bytes(Api::Chat, a), bytes(Api::Chat, b));
        assert_eq!(bytes(Api::Chat, a), "\x1euser\x1f\u{e9}\\n\n".as_bytes());
    }

    #[test]
    fn parts_do_not_run_together() {
        let one = r#"{"model":"m","messages":[{"role":"user","content":"ab"},{"role":"user","content":""}]}"#;
        let two = r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":"user","content":"b"}]}"#;
        assert_ne!(bytes(Api::Chat, one), bytes(Api::Chat, two));
    }

    #[test]
    fn a_longer_conversation_starts_with_the_shorter_one() {
        let one = r#"{"model":"m","messages":[{"role":"user","content":"ab"}]}"#;
        let two =
            r#"{"model":"m","messages":[{"role":"user","content":"ab"},{"role":"assistant","content":"c"}]}"#;
        assert!(bytes(Api::Chat, two).starts_with(&bytes(Api::Chat, one)));
    }

    #[test]
    fn token_ids_are_four_bytes_each() {
        let ids: Vec<String> = (0..200).map(|i| i.to_string()).collect();
        let body = format!(r#"{{"model":"m","prompt":[{}]}}"#, ids.join(","));
        let expected: Vec<u8> = (0u32..200).flat_map(u32::to_le_bytes).collect();
        assert_eq!(bytes(Api::Completions, &body), expected);
    }

    #[test]
    fn an_image_counts_as_one_whatever_its_size() {
        let shapes = [
            r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,DATA"}}"#,
            r#"{"type":"input_image","image_url":"data:image/png;base64,DATA"}"#,
            r#"{"type":"input_audio","input_audio":{"data":"DATA","format":"wav"}}"#,
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"DATA"}}"#,
        ];
        for shape in shapes {
            let of = |data: &str| {
                let part = shape.replace("DATA", data);
                let body = format!(
                    r#"{{"model":"m","messages":[{{"role":"user","content":[{part},{{"type":"text","text":"x"}}]}}]}}"#
                );
                let is_text = parse(Api::Chat, body.as_bytes()).unwrap().prompt.is_text();
                (bytes(Api::Chat, &body), is_text)
            };
            let (small, large) = (of(&r"aB3+\/".repeat(1_000)), of(&"aB3+/".repeat(200_000)));
            assert_eq!((small.0.len(), small.1), (4096 + 9, false), "{shape}");
            assert_eq!((large.0.len(), large.1), (4096 + 9, false), "{shape}");
            // Another image is another prompt from its first block on.
            assert!(small.0[6..70] != large.0[6..70]);
            assert!(of("aB3+/").1, "too little to matter");
            assert!(of(&"some words, ".repeat(1_000)).1, "text that is long");
        }
    }

    #[test]
    fn tools_come_first() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[1]}"#;
        assert_eq!(bytes(Api::Chat, body), b"[1]\x1d\x1euser\x1fx\n");
    }
}
