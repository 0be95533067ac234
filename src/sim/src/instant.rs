//! An instant backend: answers every request at once with the same bytes, for as few cycles as a socket
//! allows. It stands in for vLLM where the cost of what is before it is measured, so that the backend's own
//! cost does not hide it.
//!
//! It knows as much HTTP/1.1 as gateways speak to a pod: keep-alive, pipelining, bodies by length or in
//! chunks. Bodies are passed over, never looked at.

mod answers;
mod options;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use self::answers::{Answers, set_number};
pub use self::options::InstantOptions;
use crate::wire::{BodyLength, request_head};

/// Bytes read at a time: a body of 256 KiB takes a handful of reads.
const READ: usize = 128 * 1024;
/// Longest head of a request: gateways add a few headers, never this much.
const MAX_HEAD: usize = 64 * 1024;

/// Serves until it is ended. Prints the addresses, one per line, once all ports are open.
///
/// # Errors
/// When a port cannot be opened.
pub fn run(options: &InstantOptions) -> anyhow::Result<()> {
    let answers: &'static Answers = Box::leak(Box::new(Answers::new(options)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut serving = Vec::new();
        for &port in &options.ports {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            let listener = TcpListener::bind(address).await.with_context(|| format!("port {port}"))?;
            println!("{}", listener.local_addr()?);
            serving.push(tokio::spawn(accept(listener, answers)));
        }
        for each in serving {
            each.await??;
        }
        Ok(())
    })
}

/// Takes connections until accepting fails.
async fn accept(listener: TcpListener, answers: &'static Answers) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A gateway may close or reset whenever it likes; that concerns nobody else.
            let _ = serve(stream, answers).await;
        });
    }
}

/// Answers the requests of one connection.
async fn serve(mut stream: TcpStream, answers: &Answers) -> anyhow::Result<()> {
    let mut buffer = vec![0; READ];
    let mut filled = 0;
    let mut chat = answers.chat.clone();
    loop {
        let (head, length, route, expects) = loop {
            if let Some(head) = request_head(buffer.get(..filled).unwrap_or_default())? {
                break (head.bytes, head.body, Route::of(head.method, head.path), head.expects);
            }
            if filled >= MAX_HEAD {
                bail!("a head of {filled} bytes");
            }
            match stream.read(buffer.get_mut(filled..).unwrap_or_default()).await? {
                0 => return Ok(()),
                more => filled += more,
            }
        };
        if expects {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        buffer.copy_within(head..filled, 0);
        filled -= head;

        let body = skip(&mut stream, &mut buffer, &mut filled, length).await?;
        let answer = match route {
            Route::Prompt if answers.events.is_empty() => {
                set_number(&mut chat, answers.tokens_at, body / 4);
                &chat
            }
            Route::Prompt => {
                for (nth, event) in answers.events.iter().enumerate() {
                    if nth > 1 && !answers.gap.is_zero() {
                        tokio::time::sleep(answers.gap).await;
                    }
                    stream.write_all(event).await?;
                }
                continue;
            }
            Route::Metrics => &answers.metrics,
            Route::Models => &answers.models,
            Route::Health => &answers.healthy,
            Route::Unknown => &answers.missing,
        };
        stream.write_all(answer).await?;
    }
}

/// Passes over a body; returns its length in bytes. What follows it is at the start of `buffer`.
async fn skip(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    filled: &mut usize,
    length: BodyLength,
) -> anyhow::Result<usize> {
    let mut chunks = match length {
        BodyLength::Bytes(mut missing) => {
            while missing > *filled {
                missing -= *filled;
                *filled = stream.read(buffer).await?;
                if *filled == 0 {
                    bail!("ended inside a body");
                }
            }
            buffer.copy_within(missing..*filled, 0);
            *filled -= missing;
            let BodyLength::Bytes(whole) = length else { return Ok(missing) };
            return Ok(whole);
        }
        BodyLength::Chunked(chunks) => chunks,
    };
    loop {
        let taken = chunks.feed(buffer.get(..*filled).unwrap_or_default())?;
        buffer.copy_within(taken..*filled, 0);
        *filled -= taken;
        if chunks.done() {
            return Ok(chunks.bytes());
        }
        match stream.read(buffer.get_mut(*filled..).unwrap_or_default()).await? {
            0 => bail!("ended inside a body"),
            more => *filled += more,
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Prompt,
    Metrics,
    Models,
    Health,
    Unknown,
}

impl Route {
    /// By method and path; any POST is taken for a prompt.
    fn of(method: &str, path: &str) -> Route {
        match (method, path) {
            ("POST", _) => Route::Prompt,
            (_, "/metrics") => Route::Metrics,
            (_, "/v1/models") => Route::Models,
            // Besides vLLM's own: what the stand-alone routers ask a worker before they trust it.
            (_, "/health" | "/ping" | "/health_generate") => Route::Health,
            _ => Route::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use memchr::memmem;

    use super::*;
    use crate::wire::answer_head;

    fn options() -> InstantOptions {
        InstantOptions { ports: vec![0], events: 0, event_gap_us: 0, cache_tokens: 1 << 20 }
    }

    #[test]
    fn the_metrics_tell_the_cache() {
        let answers = Answers::new(&options());
        let page = String::from_utf8(answers.metrics).unwrap();
        assert!(page.contains("block_size=\"128\"") && page.contains("num_gpu_blocks=\"8192\""));
    }

    #[test]
    fn the_number_of_tokens_is_written_in_place() {
        let options = options();
        let mut answers = Answers::new(&options);
        for number in [0, 7, 123_456] {
            set_number(&mut answers.chat, answers.tokens_at, number);
            let end = answer_head(&answers.chat).unwrap().unwrap().bytes;
            let body: serde_json::Value = serde_json::from_slice(&answers.chat[end..]).unwrap();
            assert_eq!(body["usage"]["prompt_tokens"], number);
        }
    }

    #[test]
    fn routes_are_told_apart() {
        assert_eq!(Route::of("POST", "/v1/chat/completions"), Route::Prompt);
        assert_eq!(Route::of("GET", "/metrics"), Route::Metrics);
        assert_eq!(Route::of("GET", "/nothing"), Route::Unknown);
    }

    #[tokio::test]
    async fn requests_in_one_packet_and_in_pieces_are_answered() {
        let options = options();
        let answers: &'static Answers = Box::leak(Box::new(Answers::new(&options)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, answers));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let requests = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 8\r\n\r\n{\"a\":12}\
            POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\n0123\r\n0\r\n\r\n\
            GET /health HTTP/1.1\r\n\r\n";
        for piece in [&requests[..30], &requests[30..70], &requests[70..]] {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let expected = answers.chat.len() * 2 + answers.healthy.len();
        let mut said = vec![0; expected];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(memmem::find_iter(&said, b"HTTP/1.1 200 OK").count(), 3);
        let text = String::from_utf8(said).unwrap();
        assert!(text.contains("\"prompt_tokens\":         2,"));
        assert!(text.contains("\"prompt_tokens\":         1,"));
    }
}
