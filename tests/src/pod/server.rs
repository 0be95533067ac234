//! How a pod answers one request over HTTP.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;

use super::script::{Answer, Load, PageEnd, Received, StreamEnd};
use super::state::State;

type Body = BoxBody<Bytes, io::Error>;

fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A body with one piece, after which the connection is cut or stays silent.
fn broken(first: io::Result<Frame<Bytes>>, cut: bool) -> Body {
    let rest = futures::stream::once(async move {
        if !cut {
            std::future::pending::<()>().await;
        }
        // Gives the first piece time to be sent before the connection ends.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Err(io::Error::other("the test cuts the page"))
    });
    let pieces = futures::StreamExt::chain(futures::stream::once(async move { first }), rest);
    StreamBody::new(pieces).boxed()
}

pub(super) async fn respond(
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    mut request: hyper::Request<Incoming>,
) -> io::Result<hyper::Response<Body>> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    if head.uri.path() == "/metrics" {
        let mut state = state.lock().unwrap();
        state.scrapes += 1;
        state.scrape_headers = Some(head.headers);
        let response = hyper::Response::builder()
            .status(state.metrics_status)
            .header("content-type", "text/plain; version=0.0.4; charset=utf-8");
        let load = Load { running: state.load.running + state.working, ..state.load.clone() };
        let page = state.page.clone().unwrap_or_else(|| load.page());
        return Ok(match state.page_end {
            PageEnd::Whole => response.body(whole(page)).unwrap(),
            PageEnd::CutAfter(size) | PageEnd::StallsAfter(size) => {
                let first = Ok(Frame::data(Bytes::from(page.as_bytes()[..size].to_vec())));
                let cut = state.page_end == PageEnd::CutAfter(size);
                // The length is that of the whole page, so the client notices that a part is missing.
                let response = response.header("content-length", page.len());
                response.body(broken(first, cut)).unwrap()
            }
        });
    }

    let from_gateway = head.headers.contains_key("x-warmpath-scrape");
    if from_gateway && head.uri.path() == "/health" {
        return Ok(hyper::Response::new(whole("")));
    }
    if from_gateway && head.uri.path() == "/v1/models" {
        let mut state = state.lock().unwrap();
        state.lists += 1;
        let status = if state.models.is_some() { 200 } else { 401 };
        let response = hyper::Response::builder().status(status).header("content-type", "application/json");
        return Ok(response.body(whole(state.models.clone().unwrap_or_default())).unwrap());
    }

    let working = Working::new(&state);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let streams = serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|body| body["stream"] == true);
    let mut answer = {
        let received = Received {
            at: Instant::now(),
            method: head.method.to_string(),
            path: head.uri.to_string(),
            headers: head.headers,
            body,
        };
        let mut state = state.lock().unwrap();
        state.received.push(received.clone());
        let usual = Arc::clone(&state.usual);
        state.next.pop_front().unwrap_or_else(|| usual(&received))
    };
    while let Answer::After(time, then) = answer {
        tokio::time::sleep(time).await;
        answer = *then;
    }
    let response = hyper::Response::builder().header("x-test-pod", address.to_string());
    let response = match answer {
        Answer::Completion => {
            response.header("content-type", "application/json").body(whole(completion())).unwrap()
        }
        Answer::Whole(status, headers, body) => {
            let response =
                headers.into_iter().fold(response.status(status), |r, (name, value)| r.header(name, value));
            response.body(whole(body)).unwrap()
        }
        Answer::Stream(StreamEnd(mut receiver)) => {
            // The pod works on the request until the stream ends.
            let frames = futures::stream::poll_fn(move |context| {
                let _working = &working;
                receiver.poll_recv(context)
            });
            let frames = StreamBody::new(frames);
            response.header("content-type", "text/event-stream").body(frames.boxed()).unwrap()
        }
        Answer::Echo => {
            tokio::spawn(async move {
                let _working = working;
                if let Ok(connection) = upgrade.await {
                    let (mut from, mut to) = tokio::io::split(TokioIo::new(connection));
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                }
            });
            let headers = [("connection", "upgrade"), ("upgrade", "websocket")];
            let response =
                headers.iter().fold(response.status(101), |r, (name, value)| r.header(*name, *value));
            response.body(whole("")).unwrap()
        }
        Answer::Tokens { first, each, tokens, cut } => {
            if streams {
                let events = events(first, each, tokens, cut, working);
                response.header("content-type", "text/event-stream").body(events).unwrap()
            } else {
                tokio::time::sleep(first + each * cut.unwrap_or(tokens)).await;
                if cut.is_some() {
                    return Err(io::Error::other("the test breaks the answer off"));
                }
                response.header("content-type", "application/json").body(whole(completion())).unwrap()
            }
        }
        // An error of the service makes hyper close the connection without an answer.
        Answer::Reset => return Err(io::Error::other("the test resets the connection")),
        Answer::Silence | Answer::After(..) => std::future::pending().await,
    };
    Ok(response)
}

/// Counts a request that the pod works on, until the answer or the connection is dropped.
struct Working(Arc<Mutex<State>>);

impl Working {
    fn new(state: &Arc<Mutex<State>>) -> Working {
        let mut counts = state.lock().unwrap();
        counts.begun += 1;
        counts.working += 1;
        Working(Arc::clone(state))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.lock().unwrap().working -= 1;
    }
}

/// Server-sent events, one per token, each sent when its time has come.
fn events(first: Duration, each: Duration, tokens: u32, cut: Option<u32>, working: Working) -> Body {
    let stream = futures::stream::unfold((0, working), move |(n, working)| async move {
        let frame = match n {
            n if n > tokens => return None,
            n if n == tokens => Ok(Frame::data(Bytes::from("data: [DONE]\n\n"))),
            n => {
                tokio::time::sleep(if n == 0 { first } else { each }).await;
                let token =
                    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{n} \"}}}}]}}\n\n");
                match cut {
                    Some(cut) if cut == n => Err(io::Error::other("the test breaks the answer off")),
                    _ => Ok(Frame::data(token.into())),
                }
            }
        };
        Some((frame, (n + 1, working)))
    });
    StreamBody::new(stream).boxed()
}

fn completion() -> String {
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_795_224_855, "model": "/model/qwen",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 15, "total_tokens": 17, "completion_tokens": 2},
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use crate::client::Request;
    use crate::pod::{Stream, TestPod};
    use crate::run::until;

    #[tokio::test]
    async fn a_stream_is_a_running_request_of_the_page_until_it_ends() {
        let pod = TestPod::start().await;
        let to = pod.address().parse().unwrap();
        let running = async || {
            let page = Request::get("/metrics").send(to).await.text();
            let line = page.lines().find(|line| line.starts_with("vllm:num_requests_running{")).unwrap();
            line.rsplit_once(' ').unwrap().1.to_owned()
        };
        let (stream, answer) = Stream::new();
        pod.answer_next(answer);
        let opened = Request::chat("Who?").open(to).await;
        assert_eq!(running().await, "1.0");
        stream.chunk("data: [DONE]\n\n");
        drop(stream);
        assert_eq!(opened.finish().await.unwrap().status, 200);
        until("the pod is idle", async || (running().await == "0.0").then_some(())).await;
    }
}
