//! The client of a test: one request, one connection.
//!
//! Each request opens its own connection, so the kernel spreads requests over Envoy's workers, as with many
//! clients.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::run::within;

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in clear text, by prior knowledge.
    Http2,
}

/// A request of a test; the default is `GET /` without a body.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    frames: Vec<Bytes>,
    chunked: bool,
    trailers: Option<HeaderMap>,
    protocol: Protocol,
    authority: Option<String>,
}

impl Request {
    /// A request without a body.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: HeaderMap::new(),
            frames: Vec::new(),
            chunked: false,
            trailers: None,
            protocol: Protocol::Http1,
            authority: None,
        }
    }

    /// A `GET`.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A `POST` of a JSON document.
    pub fn post(path: &str, document: &Value) -> Self {
        Self::new("POST", path).header("content-type", "application/json").body(document.to_string())
    }

    /// A chat of one user message to the model of the tests.
    pub fn chat(prompt: &str) -> Self {
        Self::post(
            "/v1/chat/completions",
            &serde_json::json!({"model": "/model/qwen", "messages": [{"role": "user", "content": prompt}]}),
        )
    }

    /// The same, with a streamed answer.
    pub fn streamed_chat(prompt: &str) -> Self {
        Self::post(
            "/v1/chat/completions",
            &serde_json::json!({"model": "/model/qwen", "stream": true, "messages": [{"role": "user", "content": prompt}]}),
        )
    }

    /// Adds a header; the same name may come several times.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_bytes(value.as_ref()).unwrap());
        self
    }

    /// Sets the body, sent with its length.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.frames = vec![body.into()];
        self.chunked = false;
        self
    }

    /// Sends the body in pieces of `size` bytes and without its length: chunked in HTTP/1.1, DATA frames in
    /// HTTP/2.
    pub fn chunked(mut self, size: usize) -> Self {
        let whole: Bytes = self.frames.concat().into();
        self.frames =
            (0..whole.len()).step_by(size).map(|at| whole.slice(at..whole.len().min(at + size))).collect();
        self.chunked = true;
        self
    }

    /// Adds a trailer after the body.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.trailers.get_or_insert_default().append(name, value.parse().unwrap());
        self.chunked = true;
        self
    }

    /// Names a host other than the one that the request is sent to: `host` in HTTP/1.1, `:authority` in
    /// HTTP/2.
    pub fn authority(mut self, authority: &str) -> Self {
        self.authority = Some(authority.to_owned());
        self
    }

    /// Chooses the protocol.
    pub fn over(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sends the request and reads the whole answer.
    pub async fn send(self, to: SocketAddr) -> Reply {
        self.open(to).await.finish().await.unwrap_or_else(|e| panic!("the answer broke off: {e}"))
    }

    /// Sends the request and waits for the answer's headers only; panics when the connection ends before
    /// them.
    pub async fn open(self, to: SocketAddr) -> Opened {
        let said = format!("{} {}", self.method, self.path);
        self.try_open(to).await.unwrap_or_else(|e| panic!("{said}: no answer: {e}"))
    }

    /// Like [`Request::open`], for requests that may get no answer.
    ///
    /// # Errors
    /// When the connection ends before the answer's headers.
    pub async fn try_open(self, to: SocketAddr) -> Result<Opened, hyper::Error> {
        let io = TokioIo::new(within("the connection", TcpStream::connect(to)).await.unwrap());
        let authority = self.authority.unwrap_or_else(|| to.to_string());
        let uri = match self.protocol {
            Protocol::Http1 => self.path.clone(),
            Protocol::Http2 => format!("http://{authority}{}", self.path),
        };
        let mut request = hyper::Request::builder().method(self.method).uri(uri);
        if self.protocol == Protocol::Http1 {
            request = request.header("host", authority);
        }
        request.headers_mut().unwrap().extend(self.headers);
        let body: BoxBody<Bytes, std::convert::Infallible> = if self.chunked {
            let frames = self.frames.into_iter().map(Frame::data).chain(self.trailers.map(Frame::trailers));
            let frames: Vec<_> = frames.map(Ok).collect();
            BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))
        } else {
            BodyExt::boxed(http_body_util::Full::new(self.frames.concat().into()))
        };
        let request = request.body(body).unwrap();

        // The connection ends with the answer's body, whose owner keeps this guard.
        let (response, connection) = match self.protocol {
            Protocol::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                let task = tokio::spawn(connection);
                (within("the answer's headers", sender.send_request(request)).await, task)
            }
            Protocol::Http2 => {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                let task = tokio::spawn(connection);
                (within("the answer's headers", sender.send_request(request)).await, task)
            }
        };
        let (head, body) = response?.into_parts();
        Ok(Opened { status: head.status, headers: head.headers, body, connection: Guard(connection) })
    }
}

/// Sends bytes that no proper client would send, and returns everything that comes back until the connection
/// ends. The request must say `connection: close`.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = within("the connection", TcpStream::connect(to)).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is also an end.
    let _ = within("the end of the connection", socket.read_to_end(&mut answer)).await;
    answer
}

/// Dropping it ends the connection, as a client that goes away does.
struct Guard(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body is still arriving. Dropping it closes the connection, as a client that goes away
/// does.
pub struct Opened {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    connection: Guard,
}

impl Opened {
    /// The next piece of the body as it arrives; `None` at the end.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            match within("the next piece of the answer", self.body.frame()).await {
                None => return Ok(None),
                Some(frame) => {
                    // HTTP/2 may mark the end with an empty piece.
                    match frame?.into_data() {
                        Ok(data) if !data.is_empty() => return Ok(Some(data)),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Reads the rest of the body.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub async fn finish(self) -> Result<Reply, hyper::Error> {
        let collected = within("the rest of the answer", self.body.collect()).await?;
        drop(self.connection);
        let trailers = collected.trailers().cloned();
        Ok(Reply { status: self.status, headers: self.headers, body: collected.to_bytes(), trailers })
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers, if any came.
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// The value of a header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }

    /// The address of the [`crate::TestPod`] that answered; panics when none did.
    pub fn pod(&self) -> &str {
        self.header("x-test-pod")
            .unwrap_or_else(|| panic!("no pod answered: {} {}", self.status, self.text()))
    }
}
