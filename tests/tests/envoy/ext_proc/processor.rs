//! The server of an `ext_proc` filter that gives every body back as it came. Fields and their numbers are
//! those of `envoy.service.ext_proc.v3`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// Bytes of body in one message at most: Envoy refuses larger ones than 64 KiB in full duplex.
const CHUNK: usize = 62_000;

/// Bytes of a message at most.
const MOST: usize = 16 << 20;

/// When the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Headers and pieces of the body as they come.
    AtOnce,
    /// Headers and body when the body is whole, as an endpoint picker does.
    AtTheEnd,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FromEnvoy {
    #[prost(message, optional, tag = "2")]
    headers: Option<Headers>,
    #[prost(message, optional, tag = "4")]
    body: Option<Piece>,
    #[prost(message, optional, tag = "6")]
    trailers: Option<Nothing>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Headers {
    #[prost(bool, tag = "3")]
    end_of_stream: bool,
}

/// A piece of a body.
#[derive(Clone, PartialEq, prost::Message)]
struct Piece {
    #[prost(bytes = "vec", tag = "1")]
    body: Vec<u8>,
    #[prost(bool, tag = "2")]
    end_of_stream: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct ToEnvoy {
    #[prost(message, optional, tag = "1")]
    headers: Option<Change>,
    #[prost(message, optional, tag = "3")]
    body: Option<Change>,
    #[prost(message, optional, tag = "5")]
    trailers: Option<Nothing>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Change {
    #[prost(message, optional, tag = "1")]
    response: Option<Common>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Common {
    #[prost(message, optional, tag = "3")]
    body: Option<BodyChange>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BodyChange {
    #[prost(message, optional, tag = "3")]
    streamed: Option<Piece>,
}

impl ToEnvoy {
    fn headers() -> ToEnvoy {
        ToEnvoy { headers: Some(Change::default()), ..ToEnvoy::default() }
    }

    /// The same body, in pieces that Envoy takes.
    fn pieces(body: &[u8], end_of_stream: bool) -> Vec<ToEnvoy> {
        let mut chunks: Vec<&[u8]> = body.chunks(CHUNK).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let last = chunks.len() - 1;
        let piece = |(n, chunk): (usize, &[u8])| {
            let streamed = Piece { body: chunk.to_vec(), end_of_stream: end_of_stream && n == last };
            let body = BodyChange { streamed: Some(streamed) };
            let change = Change { response: Some(Common { body: Some(body) }) };
            ToEnvoy { body: Some(change), ..ToEnvoy::default() }
        };
        chunks.into_iter().enumerate().map(piece).collect()
    }
}

/// The server. It ends with the test.
#[derive(Clone)]
pub struct Processor {
    answers: Answers,
    port: u16,
    streams: Arc<AtomicUsize>,
}

impl Processor {
    /// Starts it on a free port.
    pub async fn start(answers: Answers) -> Processor {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let processor = Processor { answers, port, streams: Arc::default() };
        let server = Server::builder().add_service(processor.clone());
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        processor
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Requests that it has seen.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

impl NamedService for Processor {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl Service<http::Request<Body>> for Processor {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let echo = Echo(self.answers);
        let grpc = Grpc::new(ProstCodec::default());
        // After Warmpath the whole body comes in one message.
        let mut grpc = grpc.apply_max_message_size_config(Some(MOST), Some(MOST));
        Box::pin(async move { Ok(grpc.streaming(echo, request).await) })
    }
}

/// The one method, `Process`.
struct Echo(Answers);

type Outgoing = Pin<Box<dyn Stream<Item = Result<ToEnvoy, Status>> + Send>>;

impl StreamingService<FromEnvoy> for Echo {
    type Response = ToEnvoy;
    type ResponseStream = Outgoing;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Outgoing>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<FromEnvoy>>) -> Self::Future {
        let answers = self.0;
        let mut held: Vec<u8> = Vec::new();
        let outgoing = request.into_inner().flat_map(move |message| {
            let replies = message.map(|message| reply(message, answers, &mut held));
            let replies = match replies {
                Ok(replies) => replies.into_iter().map(Ok).collect(),
                Err(status) => vec![Err(status)],
            };
            futures::stream::iter(replies)
        });
        Box::pin(async move { Ok(Response::new(Box::pin(outgoing) as Outgoing)) })
    }
}

/// What the server says to a message; `held` is the body so far.
fn reply(message: FromEnvoy, answers: Answers, held: &mut Vec<u8>) -> Vec<ToEnvoy> {
    let FromEnvoy { headers, body, trailers } = message;
    let mut replies = Vec::new();
    if let Some(Headers { end_of_stream }) = headers
        && (answers == Answers::AtOnce || end_of_stream)
    {
        replies.push(ToEnvoy::headers());
    }
    if let Some(Piece { body, end_of_stream }) = body {
        if answers == Answers::AtOnce {
            replies.extend(ToEnvoy::pieces(&body, end_of_stream));
        } else {
            held.extend_from_slice(&body);
            if end_of_stream {
                replies.push(ToEnvoy::headers());
                replies.extend(ToEnvoy::pieces(held, true));
            }
        }
    }
    if trailers.is_some() {
        replies.push(ToEnvoy { trailers: Some(Nothing {}), ..ToEnvoy::default() });
    }
    replies
}
