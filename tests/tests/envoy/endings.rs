//! However a request ends, its ticket is closed and the pod that failed is known. This includes answers
//! without a body, of which the filter sees nothing until the stream is gone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use warmpath_tests::{
    Answer, Envoy, EnvoyBuilder, Load, Request, Stream, TestPod, falls_back, raw, until, within,
};

/// A server that answers every request with the same bytes, which need not be HTTP, and then closes or waits.
struct RawPod {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct Script {
    answer: &'static [u8],
    /// Whether it keeps the connection open after the answer.
    stays: bool,
    /// `process_start_time_seconds`.
    started: f64,
    scrapes: usize,
}

impl RawPod {
    async fn start(answer: &'static [u8], stays: bool) -> RawPod {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script { answer, stays, started: 1_795_000_000.0, scrapes: 0 }));
        let scripts = Arc::clone(&script);
        let server = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, Arc::clone(&scripts)));
            }
        });
        RawPod { address, script, server }
    }

    /// Becomes another process with another answer, so that earlier failures do not count. Returns when
    /// Warmpath knows.
    async fn restart(&self, answer: &'static [u8], stays: bool) {
        let goal = {
            let mut script = self.script.lock().unwrap();
            *script = Script { answer, stays, started: script.started + 60.0, ..*script };
            script.scrapes + 3
        };
        until("the restart was seen", async || (self.script.lock().unwrap().scrapes >= goal).then_some(()))
            .await;
    }
}

async fn serve(mut socket: TcpStream, script: Arc<Mutex<Script>>) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let scrape = request.starts_with(b"GET /metrics");
    let script = {
        let mut script = script.lock().unwrap();
        script.scrapes += usize::from(scrape);
        *script
    };
    if scrape {
        let page = Load { started: script.started, ..Load::default() }.page();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", page.len());
        let _ = socket.write_all((head + &page).as_bytes()).await;
        return;
    }
    let _ = socket.write_all(script.answer).await;
    if script.stays {
        // Until Envoy closes the connection.
        let _ = socket.read_to_end(&mut request).await;
    }
}

impl Drop for RawPod {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An Envoy for a pod that fails and two healthy ones. Requests without a prompt go round, so one in three
/// tries it first.
fn with(failing: SocketAddr, pods: &[TestPod]) -> EnvoyBuilder {
    let addresses = std::iter::once(failing.to_string()).chain(pods.iter().map(TestPod::address));
    Envoy::at(addresses.collect()).flag("--pod-silence-timeout", "300ms")
}

/// Requests per form after the one that meets the pod.
const MORE: usize = 16;
/// Requests until one meets the pod. That none of so many tries one of three equal pods first happens once in
/// two hundred billion runs.
const MOST: usize = 64;

/// Sends requests one after the other until one has tried `pod` first, and some more; returns how many tried
/// it first, and how many there were.
async fn first_sent_to(envoy: &Envoy, pod: &str, form: usize) -> (usize, usize) {
    let (mut count, mut sent, mut last) = (0, 0, MOST);
    while sent < last {
        let id = format!("round-{form}-{sent}");
        let request = if sent % 2 == 0 { Request::chat(&id) } else { Request::get("/v1/models") };
        if let Ok(reply) = request.header("x-request-id", &id).try_open(envoy.routed).await {
            // The answer may break off. Only the pod that was tried matters.
            let _ = reply.finish().await;
        }
        let line = envoy.access(&id).await;
        sent += 1;
        if line["pod"] == pod || line["attempts"] != 1 {
            count += 1;
            last = if count == 1 { sent + MORE } else { last };
        }
    }
    (count, sent)
}

#[tokio::test]
async fn a_failure_in_any_form_cools_the_pod_down() {
    const EMPTY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    const CHUNKED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    const TRAILERS: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: chunked\r\ntrailer: a\r\n\r\n0\r\na: b\r\n\r\n";
    const BODY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";
    const GARBAGE: &[u8] = b"what?\r\n\r\n";
    const HEADERS: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let good = TestPod::several(2).await;
    let failing = RawPod::start(BODY, false).await;
    let envoy = with(failing.address, &good).start().await;
    envoy.sees_ready(3).await;
    let forms = [
        ("a 503 without a body", EMPTY, false),
        ("a 503 with an empty chunked body", CHUNKED, false),
        ("a 503 with trailers only", TRAILERS, false),
        ("a 503 with a body", BODY, false),
        ("what is no HTTP", GARBAGE, false),
        ("nothing, and the end", b"", false),
        ("nothing, for too long", b"", true),
        ("headers, and the end", HEADERS, false),
        ("headers, and nothing for too long", HEADERS, true),
        ("half an answer, and the end", HALF, false),
    ];
    for (form, (name, answer, stays)) in forms.into_iter().enumerate() {
        failing.restart(answer, stays).await;
        let start = Instant::now();
        let (count, sent) = first_sent_to(&envoy, &failing.address.to_string(), form).await;
        let took = start.elapsed().as_secs() as usize;
        println!("{name}: {count} of {sent} requests in {took} s met it");
        // The first failure, and a probe after each cool-down, the shortest of which is one second.
        assert!(
            (1..=took + 2).contains(&count),
            "{name}: {count} of {sent} requests went to a pod that had failed"
        );
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn an_answer_without_a_body_is_no_failure() {
    let pod = RawPod::start(b"", false).await;
    let envoy = with(pod.address, &[]).start().await;
    envoy.sees_ready(1).await;
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..],
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: a\r\n\r\n0\r\na: b\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
    ] {
        pod.restart(answer, false).await;
        let name = String::from_utf8_lossy(answer);
        for n in 0..6 {
            let request = if n % 2 == 0 { Request::chat("hello") } else { Request::get("/health") };
            let reply = request.send(envoy.routed).await;
            assert!([200, 204, 404].contains(&reply.status.as_u16()), "{name}: {}", reply.status);
        }
        let counts = envoy.stats("warmpath_(upstream_failures|unrouted|broken)_total").await;
        assert!(counts.values().all(|&count| count == 0), "{name}: {counts:?}");
    }
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn a_failed_pod_stays_in_cool_down_when_an_unlisted_pod_answers() {
    // The fallback cluster has a pod that Warmpath's configuration does not list.
    let listed = RawPod::start(b"", false).await;
    let stranger = TestPod::start().await;
    let (one, other) = (listed.address.to_string(), stranger.address());
    let envoy = Envoy::at(vec![one.clone(), other.clone()])
        .edit(move |configuration| {
            let without = configuration
                .replace(&format!("\"pods\": [\"{one}\", \"{other}\"]"), &format!("\"pods\": [\"{one}\"]"));
            assert_ne!(without, configuration);
            without
        })
        .start()
        .await;
    envoy.sees_ready(1).await;
    // An answer of the unlisted pod shows that the listed one failed; without a fallback, the 503 does.
    let after_failure = if falls_back() { 200 } else { 503 };
    until("the stranger answered", async || {
        let reply = Request::chat("hello").send(envoy.routed).await;
        (reply.status == after_failure).then_some(())
    })
    .await;
    let cooling = "wasmcustom.warmpath_unrouted_total.reason=all_cooling_down;.pool=default;";
    until("five requests in a row met the pause of the pod that failed", async || {
        let before = envoy.stat(cooling).await;
        for _ in 0..5 {
            Request::chat("hello").send(envoy.routed).await;
        }
        (envoy.stat(cooling).await == before + 5).then_some(())
    })
    .await;
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn every_pod_that_failed_a_request_cools_down() {
    for answer in [|| Answer::Reset, || Answer::Silence, || Answer::Whole(503, Vec::new(), "no".into())] {
        for empty in [false, true] {
            let pods = TestPod::several(2).await;
            pods.iter().for_each(|pod| pod.answer_all(answer));
            let envoy = Envoy::of(&pods).flag("--pod-silence-timeout", "200ms").fail_closed().start().await;
            envoy.sees_ready(2).await;
            let request = if empty { Request::get("/health") } else { Request::chat("hello") };
            let reply = request.send(envoy.routed).await;
            assert!([503, 504].contains(&reply.status.as_u16()), "{}", reply.status);
            // Both cool down for one second, and Warmpath refuses at once.
            let reply = Request::chat("hello").send(envoy.routed).await;
            assert_eq!(
                (reply.status.as_u16(), reply.header("retry-after")),
                (503, Some("1")),
                "{}",
                reply.text()
            );
            envoy.accounts_for_nothing().await;
        }
    }
}

#[tokio::test]
async fn an_overflow_of_envoys_limit_cools_no_pod_down() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).fail_closed().flag("--max-requests", "1").start().await;
    envoy.sees_ready(2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (stream, answer) = Stream::new();
        stream.chunk("data: 1\n\n");
        for pod in &pods {
            pod.forget_answers();
        }
        let (other, also) = Stream::new();
        other.chunk("data: 1\n\n");
        pods[0].answer_next(answer);
        pods[1].answer_next(also);
        let mut reply = Request::chat("hello").open(envoy.routed).await;
        if reply.status == 200 {
            assert!(reply.chunk().await.unwrap().is_some());
        }
        held.push((stream, other, reply));
    }
    let refused = held.iter().filter(|(_, _, reply)| reply.status == 503).count();
    assert_eq!(refused, 1, "the limit of one request is met");
    drop(held);
    pods.iter().for_each(TestPod::forget_answers);
    // These take far less than a cool-down of one second.
    for _ in 0..4 {
        let reply = Request::chat("hello").send(envoy.routed).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let cooling =
        envoy.stat("wasmcustom.warmpath_unrouted_total.reason=all_cooling_down;.pool=default;").await;
    assert_eq!(cooling, 0);
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn a_client_that_goes_away_cools_no_pod_down() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods).fail_closed().start().await;
    envoy.sees_ready(2).await;
    let body = json!({"model": "/model/qwen", "messages": [{"role": "user", "content": "x".repeat(5000)}]})
        .to_string();
    for round in 0..3 {
        // The client leaves in the middle of its upload, before a decision.
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n";
        let mut socket = TcpStream::connect(envoy.routed).await.unwrap();
        socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        drop(socket);

        // The client leaves before the headers of the answer.
        pods.iter().for_each(|pod| pod.answer_all(|| Answer::Silence));
        let begun = pods[0].begun() + pods[1].begun();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut socket = TcpStream::connect(envoy.routed).await.unwrap();
        socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        until("the pod has the request", async || (pods[0].begun() + pods[1].begun() > begun).then_some(()))
            .await;
        drop(socket);

        // The client leaves after the headers and before any token.
        pods.iter().for_each(|pod| pod.answer_all(|| Answer::Completion));
        pods.iter().for_each(TestPod::forget_answers);
        let (one, answer) = Stream::new();
        let (other, also) = Stream::new();
        pods[0].answer_next(answer);
        pods[1].answer_next(also);
        // A keep-alive brings the headers.
        [&one, &other].iter().for_each(|stream| stream.chunk(": computing\n\n"));
        let reply = Request::chat(&format!("never mind {round}")).open(envoy.routed).await;
        assert_eq!(reply.status, 200);
        drop(reply);
        until("the pod noticed", async || (one.is_cut() || other.is_cut()).then_some(())).await;
        pods.iter().for_each(TestPod::forget_answers);
    }
    for _ in 0..6 {
        assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
    }
    let stats = envoy.stats("warmpath_(upstream_failures|unrouted)_total").await;
    assert!(stats.values().all(|&count| count == 0), "{stats:?}");
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn a_request_that_envoy_refuses_leaves_nothing_in_the_ledger() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::of(&pods)
        .flag("--max-body-mib", "1")
        .flag("--upload-timeout", "300ms")
        .fail_closed()
        .start()
        .await;
    envoy.sees_ready(2).await;
    let reply = Request::chat(&"x".repeat(3 << 20)).try_open(envoy.routed).await;
    assert!(reply.is_ok_and(|reply| reply.status == 413));
    // A client that is too slow with its body.
    let slow =
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{";
    let answer = raw(envoy.routed, slow).await;
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(Request::chat("hello").send(envoy.routed).await.status, 200);
    envoy.accounts_for_nothing().await;
}

#[tokio::test]
async fn a_websocket_is_in_flight_until_it_ends_and_never_waiting() {
    let pods = TestPod::several(2).await;
    pods.iter().for_each(|pod| pod.answer_all(|| Answer::Echo));
    let envoy = Envoy::of(&pods).start().await;
    envoy.sees_ready(2).await;
    let mut socket = TcpStream::connect(envoy.routed).await.unwrap();
    let upgrade = "GET /v1/realtime HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        within("the upgrade", socket.read_buf(&mut answer)).await.unwrap();
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    for _ in 0..3 {
        socket.write_all(b"hello").await.unwrap();
        let mut echo = [0; 5];
        within("the echo", socket.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, b"hello");
    }
    let gauge = async |name: &str| envoy.stat(&format!("wasmcustom.warmpath_{name}.pool=default;")).await;
    until("it was in flight, and waited for nothing", async || {
        (gauge("in_flight").await == 1 && gauge("waiting").await == 0).then_some(())
    })
    .await;
    drop(socket);
    envoy.accounts_for_nothing().await;
    assert_eq!(gauge("in_flight").await, 0);
}
