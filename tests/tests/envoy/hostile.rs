//! Ten thousand hostile requests: none traps the module, each gets an answer, and afterwards nothing is left
//! behind.

mod requests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use warmpath_tests::{Envoy, Protocol, Random, Request, TestPod, until, within};

pub use requests::gzip;
use requests::{Expect, Hostile, PATHS, body, http1, mutate};

const REQUESTS: u64 = 10_000;
/// Connections at a time, enough to keep two workers busy.
const AT_A_TIME: usize = 48;

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
    // A body that nests deeper than the module reads, or may be UTF-32, is for the pod to judge: these take
    // everything.
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
    let by_load = envoy.told().await.prometheus().await;
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
