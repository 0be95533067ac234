//! Ten thousand hostile requests: none traps the module, each gets an answer, and afterwards nothing is left
//! behind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use warmpath_tests::{Envoy, Protocol, Random, Request, TestPod, until, within};

const REQUESTS: u64 = 10_000;
/// Connections at a time, enough to keep two workers busy.
const AT_A_TIME: usize = 48;

/// A hostile request, and the answers that are allowed.
struct Hostile {
    /// Names it in the message of a failure.
    kind: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    /// 2xx by a pod, or a refusal with 400 or 413.
    Judged,
    /// Exactly this status.
    Only(u16),
    /// The client goes away before it has sent everything.
    Nothing,
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_requests_trap_nothing_and_leave_nothing_behind() {
    let seed = Random::seed_of_this_run();
    println!("seed {seed}; to repeat: WARMPATH_SEED={seed}");
    let pods = TestPod::several(3).await;
    let envoy = Envoy::of(&pods).concurrency(2).log_level("info").start().await;
    envoy.sees(&pods).await;
    let routed = envoy.routed;
    let began = Instant::now();

    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..AT_A_TIME {
        let next = Arc::clone(&next);
        clients.spawn(async move {
            let mut counts = BTreeMap::<(&'static str, u16), u32>::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed) as u64;
                if n >= REQUESTS {
                    return counts;
                }
                let (kind, status) = one(routed, seed, n).await;
                *counts.entry((kind, status)).or_default() += 1;
            }
        });
    }
    let mut counts = BTreeMap::<(&'static str, u16), u32>::new();
    while let Some(of_one) = clients.join_next().await {
        for (key, count) in of_one.unwrap() {
            *counts.entry(key).or_default() += count;
        }
    }
    println!("{REQUESTS} requests in {:?}:", began.elapsed());
    counts.iter().for_each(|((kind, status), count)| println!("  {kind}: {count} x {status}"));
    assert_eq!(counts.values().map(|&count| u64::from(count)).sum::<u64>(), REQUESTS);
    for status in [200, 400] {
        let seen = counts.iter().filter(|((_, s), _)| *s == status).map(|(_, count)| count).sum::<u32>();
        assert!(seen > 1000, "only {seen} x {status}: the mutations are too wild or too tame");
    }
    unharmed(&envoy, &pods).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_bodies_of_the_largest_size_get_their_status_and_trap_nothing() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).log_level("info").start().await;
    envoy.sees(&pods).await;
    type Case = (&'static str, u16, &'static str, fn() -> Vec<u8>);
    // A body that nests deeper than the module reads, or may be UTF-32, is for the pod to judge: these take everything.
    let cases: [Case; 21] = [
        ("only opening brackets", 200, CHAT, || filled("", "[", "")),
        ("only opening braces", 200, CHAT, || filled("", "{\"a\":", "")),
        ("an unknown key, opening only", 200, CHAT, || filled("{\"model\":\"m\",\"x\":", "[", "")),
        ("an unknown key, nested", 200, CHAT, || nested("{\"model\":\"m\",\"x\":", "[", "]", "}")),
        ("nested tools", 200, CHAT, || nested("{\"model\":\"m\",\"tools\":", "[", "]", "}")),
        ("nested messages", 200, CHAT, || {
            nested("{\"model\":\"m\",\"messages\":", "[{\"content\":", "}]", "}")
        }),
        ("nested content", 200, CHAT, || {
            nested("{\"model\":\"m\",\"messages\":[{\"content\":", "[", "]", "}]}")
        }),
        ("nested input", 200, "/v1/responses", || nested("{\"model\":\"m\",\"input\":", "[", "]", "}")),
        ("empty messages", 200, CHAT, || filled("{\"model\":\"m\",\"messages\":[{}", ",{}", "]}")),
        ("empty parts", 200, CHAT, || {
            filled("{\"model\":\"m\",\"messages\":[{\"content\":[\"\"", ",\"\"", "]}]}")
        }),
        ("keys of a message", 200, CHAT, || {
            filled("{\"model\":\"m\",\"messages\":[{\"\":1", ",\"\":1", "}]}")
        }),
        ("keys", 200, CHAT, || filled("{\"model\":\"m\"", ",\"\":1", "}")),
        ("models", 200, CHAT, || filled("{\"model\":\"m\"", ",\"model\":\"m\"", "}")),
        ("token ids", 200, "/v1/completions", || filled("{\"model\":\"m\",\"prompt\":[1", ",1", "]}")),
        ("lists of token ids", 200, "/v1/completions", || {
            filled("{\"model\":\"m\",\"prompt\":[[1]", ",[]", "]}")
        }),
        ("empty texts", 200, "/v1/embeddings", || filled("{\"model\":\"m\",\"input\":[\"\"", ",\"\"", "]}")),
        ("escapes", 200, "/v1/completions", || filled("{\"model\":\"m\",\"prompt\":\"", "\\u00e9", "\"}")),
        ("a number", 200, "/v1/completions", || filled("{\"model\":\"m\",\"prompt\":", "1", "}")),
        ("a model", 400, "/v1/completions", || filled("{\"model\":\"", "m", "\"}")),
        ("spaces", 200, "/v1/completions", || filled("{\"model\":\"m\"", " ", "}")),
        ("zeros", 200, "/v1/completions", || vec![0; LARGE]),
    ];
    let before = envoy.memory();
    for (what, expected, path, body) in cases {
        let began = Instant::now();
        let reply = Request::new("POST", path).body(body()).send(envoy.routed).await;
        println!(
            "{what}: {} after {:?}, Envoy has {} MiB",
            reply.status,
            began.elapsed(),
            envoy.memory() >> 20
        );
        assert_eq!(reply.status, expected, "{what}: {}", reply.text());
    }
    // There is one worker. Its VM and Envoy's buffers hold three or four copies of one body of 31 MiB, and
    // never of two bodies.
    let grown = envoy.memory().saturating_sub(before);
    assert!(grown < 250 << 20, "Envoy has grown by {} MiB", grown >> 20);
    unharmed(&envoy, &pods).await;
}

#[tokio::test]
async fn a_compressed_body_is_routed_by_load_and_arrives_unchanged() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    let text =
        json!({"model": "/model/qwen", "messages": [{"role": "user", "content": "hello"}]}).to_string();
    let packed = gzip(text.as_bytes());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (encoding, body) in
            [("gzip", &packed), ("br", &b"\x0b\x02\x80no".to_vec()), ("zstd", &vec![0xff; 3000])]
        {
            let request = Request::new("POST", "/v1/chat/completions").header("content-encoding", encoding);
            let reply = request.body(body.clone()).over(protocol).send(envoy.routed).await;
            assert_eq!(reply.status, 200, "{encoding}: {}", reply.text());
            let pod = pods.iter().find(|pod| pod.address() == reply.pod()).unwrap();
            let received = pod.received().pop().unwrap();
            assert_eq!(received.body, body, "{encoding}");
            assert_eq!(received.headers["content-encoding"], encoding);
        }
    }
    let by_load = envoy.prometheus().await;
    assert!(by_load.contains("warmpath_requests_total{pool=\"default\",by=\"load\"} 6"), "{by_load}");
}

const CHAT: &str = "/v1/chat/completions";
/// Just below the largest body that Envoy takes.
const LARGE: usize = 31 << 20;

/// A large body that repeats one unit.
fn filled(start: &str, unit: &str, end: &str) -> Vec<u8> {
    let count = (LARGE - start.len() - end.len()) / unit.len();
    [start.as_bytes(), &unit.as_bytes().repeat(count), end.as_bytes()].concat()
}

/// A large body that nests one unit, with a number in the middle.
fn nested(start: &str, open: &str, close: &str, end: &str) -> Vec<u8> {
    let depth = (LARGE - start.len() - end.len()) / (open.len() + close.len());
    let (open, close) = (open.as_bytes().repeat(depth), close.as_bytes().repeat(depth));
    [start.as_bytes(), &open, b"1", &close, end.as_bytes()].concat()
}

/// Sends the `n`th request of a seed; panics when the answer is not allowed.
async fn one(to: SocketAddr, seed: u64, n: u64) -> (&'static str, u16) {
    let mut random = Random::new(seed ^ (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    if random.chance(12) {
        return over_http2(to, &mut random, n).await;
    }
    let hostile = http1(&mut random);
    let answer = within(hostile.kind, send(to, &hostile)).await;
    let status = status(&answer);
    let good = match hostile.expect {
        Expect::Judged => (200..300).contains(&status) || status == 400 || status == 413,
        Expect::Only(code) => status == code,
        Expect::Nothing => true,
    };
    assert!(
        good,
        "request {n} of seed {seed} ({}), wanted {:?}:\n{}\n--- was answered:\n{}",
        hostile.kind,
        hostile.expect,
        start_of(&hostile.bytes),
        start_of(&answer)
    );
    (hostile.kind, status)
}

/// Over HTTP/2 only the bodies are hostile, because the client library makes the frames.
async fn over_http2(to: SocketAddr, random: &mut Random, n: u64) -> (&'static str, u16) {
    let mut request = Request::new("POST", random.of(&PATHS)).over(Protocol::Http2);
    if random.chance(4) {
        request =
            request.header("x-odd", random.of(&[&b"caf\xe9"[..], b"\xff\xfe", b"", b"\xf0\x9f\x94\xa5"]));
    }
    request = request.body(mutate(body(random), random));
    if random.chance(3) {
        request = request.chunked(1 + random.below(2000) as usize);
    }
    let reply = request.send(to).await;
    let status = reply.status.as_u16();
    assert!(
        (200..300).contains(&status) || status == 400 || status == 413,
        "request {n}: {status} {}",
        reply.text()
    );
    ("HTTP/2", status)
}

async fn send(to: SocketAddr, hostile: &Hostile) -> Vec<u8> {
    if matches!(hostile.expect, Expect::Nothing) {
        let mut socket = TcpStream::connect(to).await.unwrap();
        let _ = socket.write_all(&hostile.bytes).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        return Vec::new();
    }
    exchange(to, &hostile.bytes).await
}

/// Sends bytes and reads at the same time, as Envoy may answer early. Returns the answer, or the part that
/// arrived.
pub async fn exchange(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut into) = within("the connection", TcpStream::connect(to)).await.unwrap().into_split();
    let mut answer = Vec::new();
    let reading = async {
        // Stops before the end of the connection, because Envoy keeps it open for a second after an early
        // refusal. A reset is an end.
        while !complete(&answer) && from.read_buf(&mut answer).await.is_ok_and(|size| size > 0) {}
    };
    let writing = async {
        // Envoy may close before everything is sent.
        let _ = into.write_all(bytes).await;
    };
    within("an answer", async { tokio::join!(reading, writing) }).await;
    answer
}

/// Whether an answer is whole by its `content-length`, which every answer here has.
fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    // Interim answers have no body.
    let last = text.rfind("HTTP/1.1 ").map_or("", |at| &text[at..]);
    let Some((head, body)) = last.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    !head.starts_with("HTTP/1.1 1") && length.is_some_and(|length: usize| body.len() >= length)
}

/// The status of the last answer that is not an interim one; 0 without any.
fn status(answer: &[u8]) -> u16 {
    let mut rest = answer;
    loop {
        let status = rest
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|line| std::str::from_utf8(line.get(..3)?).ok()?.parse().ok())
            .unwrap_or(0);
        if !(100..200).contains(&status) {
            return status;
        }
        let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") else { return status };
        rest = &rest[end + 4..];
    }
}

const PATHS: [&str; 9] = [
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

/// A request in HTTP/1.1, byte by byte.
fn http1(random: &mut Random) -> Hostile {
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
        head.extend_from_slice(b"content-encoding: gzip\r\n");
    } else if random.chance(10) {
        let encoding: &[u8] =
            random.of(&[b"br", b"gzip", b"identity", b"", b"x-unknown", b"gzip, br", b"\xff"]);
        head.extend_from_slice(b"content-encoding: ");
        head.extend_from_slice(encoding);
        head.extend_from_slice(b"\r\n");
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
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
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
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
        // Envoy refuses malformed HTTP. No body follows, because it would be taken for the next request.
        head.extend_from_slice(b"\r\n");
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
fn body(random: &mut Random) -> Vec<u8> {
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
fn mutate(sound: Vec<u8>, random: &mut Random) -> Vec<u8> {
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
fn gzip(text: &[u8]) -> Vec<u8> {
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

fn start_of(bytes: &[u8]) -> String {
    bytes.iter().take(1500).flat_map(|&b| std::ascii::escape_default(b)).map(char::from).collect()
}

/// Checks that there was no trap and no forbidden call, that the ledger is empty, and that conversations
/// still work.
pub async fn unharmed(envoy: &Envoy, pods: &[TestPod]) {
    let reloads = envoy.stats("vm_reload").await;
    assert!(reloads.values().all(|&count| count == 0), "{reloads:?}");
    let log = envoy.log();
    for sign in ["Uncaught RuntimeError", "panicked", "restricted", "Wasm VM failed"] {
        let line = log.lines().find(|line| line.contains(sign));
        assert!(line.is_none(), "Envoy's log: {line:?}");
    }
    for gauge in ["in_flight", "waiting", "outstanding_tokens"] {
        empty(envoy, gauge).await;
    }
    let words = (0..400).map(|n| format!("word {n} ")).collect::<String>();
    let chat = |last: &str| {
        let messages = json!([{"role": "system", "content": words}, {"role": "user", "content": last}]);
        Request::post("/v1/chat/completions", &json!({"model": "/model/qwen", "messages": messages}))
    };
    let home = chat("one").send(envoy.routed).await;
    let id = "after-all-that";
    let again = chat("two").header("x-request-id", id).send(envoy.routed).await;
    assert_eq!(home.pod(), again.pod());
    assert!(pods.iter().any(|pod| pod.address() == home.pod()));
    envoy.logs(&["Do prefix-aware routing!", id]).await;
}

/// Waits until a gauge of Warmpath exists and is 0.
pub async fn empty(envoy: &Envoy, gauge: &str) {
    let line = format!("warmpath_{gauge}{{pool=\"default\"}} 0");
    until(&format!("Envoy reported {line}"), async || {
        envoy.prometheus().await.lines().any(|l| l == line).then_some(())
    })
    .await;
}
