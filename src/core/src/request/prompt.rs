//! From the parts of a prompt to its canonical bytes, in the order that vLLM's chat template sees: tools,
//! then system text, then role and content of each message.
//!
//! Two bodies whose templates print the same text have the same canonical bytes, however their JSON is spaced
//! or escaped; only JSON that is kept as written (tool calls, images) is compared by its bytes, or by their
//! hash.

use xxhash_rust::xxh3::xxh3_64;

use crate::request::body::{Part, Prompt};
use crate::request::json_digest::{Digest, elements};

/// Ends the tools. Control characters cannot stand in the canonical spelling of text, so parts never run
/// together.
const END_OF_TOOLS: &[u8] = b"\x1d";
/// Starts a message.
const START_OF_ITEM: &[u8] = b"\x1e";
/// Ends the role of a message.
const END_OF_ROLE: &[u8] = b"\x1f";
/// Ends a part of content.
const END_OF_PART: &[u8] = b"\n";
/// Canonical bytes of an image, a sound or a film, whatever its size: about 1,000 tokens, as many as models
/// make of a picture of a megapixel.
const MEDIA_BYTES: usize = 4096;
/// Bytes of base64 that count as one canonical byte, a quarter of a token: a token's embedding takes some
/// thousand numbers of two bytes.
const EMBEDDING_SHARE: usize = 2048;
/// Bytes of one token id.
const TOKEN_BYTES: usize = 4;

/// Hands the canonical bytes of `prompt` to `sink`, piece by piece and in order.
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
        Prompt::Embeddings(tensors) => {
            for tensor in tensors {
                stretch(xxh3_64(tensor), tensor.len() / EMBEDDING_SHARE, &mut sink);
            }
        }
        Prompt::Opaque(body) => sink(body),
    }
}

/// Hands the canonical bytes of a chat before its messages to `sink`.
pub fn before_messages(prompt: &Prompt<'_>, mut sink: impl FnMut(&[u8])) {
    let Prompt::Chat { tools, system, .. } = prompt else { return };
    if let Some(tools) = tools {
        // A template prints tools that were parsed, so their spelling does not matter.
        if elements(tools, |Digest { hash, bytes }| stretch(hash, bytes, &mut sink)).is_err() {
            sink(tools);
        }
        sink(END_OF_TOOLS);
    }
    parts(system, sink);
}

/// Hands the canonical bytes of parts of a chat to `sink`.
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
                stretch(xxh3_64(json), MEDIA_BYTES, &mut sink);
                sink(END_OF_PART);
            }
            Part::Json(json) => {
                sink(json);
                sink(END_OF_PART);
            }
        }
    }
}

/// Hands a hash to `sink` again and again, `bytes` bytes of it but at least a block, so that every block of
/// it differs when the hash does.
fn stretch(hash: u64, bytes: usize, sink: &mut impl FnMut(&[u8])) {
    let mut block = [0; 64];
    block.as_chunks_mut().0.fill(hash.to_le_bytes());
    for _ in 0..(bytes / block.len()).max(1) {
        sink(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::body::Api;
    use crate::request::parse;

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
        let bytes = bytes(Api::Chat, body);
        let (tools, rest) = bytes.split_at(64);
        assert!(
            tools.as_chunks::<8>().0.windows(2).all(|pair| pair[0] == pair[1]),
            "a hash, again and again"
        );
        assert_eq!(rest, b"\x1d\x1euser\x1fx\n");
    }

    #[test]
    fn the_same_tools_in_another_spelling_are_the_same_prompt() {
        let of = |tools: &str| bytes(Api::Chat, &format!(r#"{{"model":"m","messages":[],"tools":{tools}}}"#));
        let parameters = "p".repeat(500);
        let one = format!(
            r#"[{{"type":"function","function":{{"name":"a","description":"{parameters}"}}}},{{"type":"b"}}]"#
        );
        let other = format!(
            r#" [ {{"function": {{"description" : "{parameters}", "name": "\u0061"}}, "type":"function"}} , {{"type" : "b"}} ]"#
        );
        assert_eq!(of(&one), of(&other));
        // The first tool is there whatever the second one is, and is about as long as it is printed.
        let another = of(&one.replace(r#""b""#, r#""c""#));
        let same = of(&one).iter().zip(&another).take_while(|(a, b)| a == b).count();
        assert!((500..600).contains(&same), "{same}");
    }

    #[test]
    fn embeddings_count_by_their_tokens() {
        let of = |tensor: &str| bytes(Api::Completions, &format!(r#"{{"prompt_embeds":"{tensor}"}}"#));
        let (one, other) = (of(&"aB3+".repeat(100_000)), of(&"aB3/".repeat(100_000)));
        assert_eq!(one.len(), 192, "48 tokens of 8 KiB each");
        assert_ne!(one[..64], other[..64]);
    }
}
