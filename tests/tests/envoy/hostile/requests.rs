//! Requests that somebody made to do harm, byte by byte.

use warmpath_tests::Random;

/// A hostile request, and the answers that are allowed.
pub struct Hostile {
    /// Names it in the message of a failure.
    pub kind: &'static str,
    pub bytes: Vec<u8>,
    pub expect: Expect,
}

#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// 2xx by a pod, or a refusal with 400 or 413.
    Judged,
    /// Exactly this status.
    Only(u16),
    /// The client goes away before it has sent everything.
    Nothing,
}

pub const PATHS: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/team/v1/chat/completions?a=b&c",
    "/v1/completions/",
    "/v1/score",
    "//v1/chat/completions/%2e%2e/x",
];

fn push_line(head: &mut Vec<u8>, line: &[u8]) {
    head.extend_from_slice(line);
    head.extend_from_slice(b"\r\n");
}

/// A request in HTTP/1.1, byte by byte.
pub fn http1(random: &mut Random) -> Hostile {
    let sound = body(random);
    let (kind, body, expect): (&'static str, Vec<u8>, Expect) = match random.below(20) {
        0..10 => ("wrong values and torn bytes", mutate(sound, random), Expect::Judged),
        10 => {
            // No proper prefix of an object is an object.
            let end = 1 + random.below(sound.len() as u64 - 2) as usize;
            ("cut off", sound[..end].to_vec(), Expect::Only(400))
        }
        11 => ("a byte order mark", [b"\xef\xbb\xbf", &sound[..]].concat(), Expect::Judged),
        12 => {
            let model = random.of(&["5", "[]", "{}", "true", "1e999", "NaN", "[\"m\"]"]);
            (
                "a model that is no text",
                format!("{{\"messages\":[],\"model\":{model}}}").into_bytes(),
                Expect::Only(400),
            )
        }
        13 => {
            let name = "m".repeat(1 << random.of(&[13, 16, 20]));
            ("an endless model name", format!("{{\"model\":\"{name}\"}}").into_bytes(), Expect::Only(400))
        }
        14 => {
            let depth = random.of(&[130, 1000, 20_000]);
            let (open, close) = random.of(&[("[", "]"), ("{\"a\":", "}"), ("[{\"content\":", "}]")]);
            let key = random.of(&[
                "x",
                "tools",
                "messages",
                "prompt",
                "input",
                "system",
                "stream_options",
                "model",
            ]);
            let nested = open.repeat(depth) + "1" + &close.repeat(depth);
            ("nested deep", format!("{{\"model\":\"m\",\"{key}\":{nested}}}").into_bytes(), Expect::Judged)
        }
        15 => {
            let many =
                random.of(&["\"model\":\"a\",", "\"messages\":[],", "\"messages\":5,", "\"stream\":true,"]);
            let body = format!("{{{}\"model\":\"m\"}}", many.repeat(1 + random.below(50) as usize));
            ("a key again and again", body.into_bytes(), Expect::Only(200))
        }
        16 => ("no text at all", random.bytes(3000), Expect::Judged),
        17 => ("compressed", gzip(&sound), Expect::Only(200)),
        18 => ("nothing", Vec::new(), Expect::Judged),
        _ => ("sound", sound, Expect::Only(200)),
    };

    let mut head = Vec::new();
    let method =
        if random.chance(12) { random.of(&["PUT", "PATCH", "OPTIONS", "DELETE", "POSTER"]) } else { "POST" };
    // The expected status holds where the body is read: for a POST to one of the five APIs.
    let path = if random.chance(4) { random.of(&PATHS) } else { random.of(&PATHS[..5]) };
    let read = method == "POST" && (PATHS[..7].contains(&path));
    head.extend_from_slice(
        format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n").as_bytes(),
    );
    let mut expect = if read { expect } else { Expect::Judged };
    let mut kind = kind;
    if kind == "compressed" {
        push_line(&mut head, b"content-encoding: gzip");
    } else if random.chance(10) {
        let encoding: &[u8] =
            random.of(&[b"br", b"gzip", b"identity", b"", b"x-unknown", b"gzip, br", b"\xff"]);
        push_line(&mut head, &[b"content-encoding: ", encoding].concat());
        expect = Expect::Judged;
    }
    if random.chance(6) {
        let line: &[u8] = random.of(&[
            b"x-odd: caf\xe9\xff\xfe",
            b"x-request-id: \xc3\x28\x80\xff",
            b"x-request-id: a\tb",
            b"content-type: text/plain; charset=\xff",
            b"authorization: Bearer \xf0\x28\x8c\x28",
            b"x-warmpath-destination-0: \xff\xff",
            b"expect: 100-continue",
            b"accept-encoding: ,,,;q=,",
            b"cookie: =;=;=",
            b"te: trailers",
            b"range: bytes=-1",
            b"x-empty:",
        ]);
        push_line(&mut head, line);
    }
    if random.chance(25) {
        let line: &[u8] = random.of(&[
            b"x-nul: a\0b",
            b"bad name: 1",
            b"no-colon",
            b": empty",
            b"content-length: -5",
            b"content-length: 5\r\ncontent-length: 6",
            b"content-length: 18446744073709551616",
            b"transfer-encoding: chunked\r\ncontent-length: 5",
            b"host: \0",
        ]);
        push_line(&mut head, line);
        // Envoy refuses malformed HTTP. No body follows, because it would be taken for the next request.
        push_line(&mut head, b"");
        return Hostile { kind: "no HTTP", bytes: head, expect: Expect::Only(400) };
    }

    let mut bytes = head;
    if random.chance(3) {
        bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        let mut rest = &body[..];
        while !rest.is_empty() {
            let most = random.of(&[1, 7, 64, 5000, 70_000]);
            // Only small bodies come in tiny chunks. Larger ones would find nothing more.
            let most = if rest.len() > 20_000 { 70_000 } else { most };
            let (chunk, tail) = rest.split_at(rest.len().min(1 + random.below(most) as usize));
            let extension = if random.chance(5) { ";a=b;c=\"d\"" } else { "" };
            bytes.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
            rest = tail;
        }
        if random.chance(30) {
            // The framing is broken, so Envoy may have nothing to answer.
            bytes.extend_from_slice(random.of(&[
                &b"-1\r\n"[..],
                b"xyz\r\n",
                b"ffffffffffffffffff\r\n",
                b"5\r\nab\r\n0\r\n\r\n",
            ]));
            kind = "torn chunks";
            expect = Expect::Only(400);
        } else if random.chance(4) {
            bytes
                .extend_from_slice(b"0\r\nx-checksum: \xff\r\nx-warmpath-destination-0: 127.0.0.1:1\r\n\r\n");
        } else {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
    } else {
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(&body);
    }
    if random.chance(15) {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
        return Hostile { kind: "gone before the end", bytes, expect: Expect::Nothing };
    }
    Hostile { kind, bytes, expect }
}

/// Sound bodies; a `$` marks each value that a hostile body replaces.
const BODIES: [&str; 7] = [
    r#"{"model":"/model/qwen","messages":[{"role":$"user","content":$"Hello there"},{"role":"assistant","content":$null,"tool_calls":$[{"id":"1","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":$"1","content":$"4"}],"tools":$[{"type":"function","function":{"name":"f"}}],"stream":$false,"temperature":$0.5}"#,
    r#"{"model":"/model/qwen","messages":$[{"role":"user","content":$[{"type":"text","text":$"What is this?"},{"type":"image_url","image_url":{"url":$"data:image/png;base64,iVBORw0KGgo="}}]}],"cache_salt":$"s","stream_options":$null}"#,
    r#"{"model":"/model/qwen","prompt":$"Once upon a time","max_tokens":$16,"stop":$["\n"]}"#,
    r#"{"model":"/model/qwen","prompt":[$[1,2,3],[$4,5,6]],"logprobs":$1}"#,
    r#"{"model":"/model/qwen","instructions":$"Be brief","input":[{"role":$"user","content":[{"type":"input_text","text":$"Hello"}]}],"tools":$[]}"#,
    r#"{"model":"/model/qwen","input":$["a","b"],"encoding_format":$"float"}"#,
    r#"{"model":"/model/qwen","system":$[{"type":"text","text":"Be brief","cache_control":${"type":"ephemeral"}}],"messages":[{"role":"user","content":$"Hello"}],"max_tokens":$8}"#,
];

/// One of [`BODIES`], without a hostile value.
pub fn body(random: &mut Random) -> Vec<u8> {
    random.of(&BODIES).replace('$', "").into_bytes()
}

const NASTY: [&str; 30] = [
    "null",
    "true",
    "-0",
    "-1",
    "1e999",
    "1e-999",
    "0.1e+",
    "123456789012345678901234567890123456789012345678901234567890",
    "4294967296",
    "18446744073709551616",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\x\"",
    "\"\u{1f525}\u{202e}\u{0}\"",
    "[]",
    "{}",
    "[[[[[[]]]]]]",
    "[null]",
    "[1,\"a\",null,{}]",
    "{\"text\":5}",
    "[{\"type\":\"text\",\"text\":[\"x\"]}]",
    "[{\"\":\"\"},{\"text\":\"a\",\"text\":\"b\"}]",
    "{\"role\":{},\"content\":{\"content\":[{}]}}",
    "[[1],2]",
    "[1.5,-1]",
    "NaN",
    "'single'",
    "",
];

/// Replaces values, damages bytes, or both.
pub fn mutate(sound: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let mut body = if random.chance(2) {
        let template = random.of(&BODIES);
        let mut text = String::new();
        let mut parts = template.split('$');
        text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            match random.below(4) {
                // The sound value follows the hostile one, which makes a duplicate key or invalid JSON.
                0 => {
                    text.push_str(random.of(&NASTY));
                    text.push_str(random.of(&["", ",\"content\":", ",\"model\":\"/model/qwen\",\"x\":"]));
                    text.push_str(part);
                }
                1 => {
                    // Replaces the sound value, roughly: up to the next comma.
                    text.push_str(random.of(&NASTY));
                    text.push_str(part.find(',').map_or("", |at| &part[at..]));
                }
                _ => text.push_str(part),
            }
        }
        text.into_bytes()
    } else {
        sound
    };
    for _ in 0..random.below(4) {
        let at = random.below(body.len() as u64 + 1) as usize;
        match random.below(7) {
            0 => {
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => body.truncate(at),
            2 => drop(body.drain(at..body.len().min(at + 1 + random.below(20) as usize))),
            3 => drop(body.splice(at..at, random.bytes(20))),
            4 => drop(body.splice(
                at..at,
                random.of(&[&b"\0"[..], b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf"]).to_vec(),
            )),
            5 => {
                let again = body[at..body.len().min(at + 40)].to_vec();
                body.splice(at..at, again);
            }
            _ => drop(body.splice(
                at..at,
                random.of(&[&b" \t\r\n"[..], b"/*x*/", b",,", b"}", b"{", b"\\", b"\""]).to_vec(),
            )),
        }
    }
    body
}

/// A gzip file with `text` in it, not compressed further.
pub fn gzip(text: &[u8]) -> Vec<u8> {
    let mut out = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let mut blocks = text.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    let crc = text.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
    });
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out
}
