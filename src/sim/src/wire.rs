//! The little of HTTP/1.1 that measuring needs: heads, and how long the body after one is.

use anyhow::{Context, bail};
use httparse::{Header, Status};

/// Headers of a head, at most: gateways add a few, never this many.
const MAX_HEADERS: usize = 96;

/// How a head says where its body ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// After this many bytes.
    Bytes(usize),
    /// After the last chunk.
    Chunked(ChunkedBody),
}

/// The head of a request.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead<'a> {
    /// Bytes of the head, the empty line included.
    pub(crate) bytes: usize,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) body: BodyLength,
    /// Whether the client waits for `100 Continue`.
    pub(crate) expects: bool,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub(crate) struct AnswerHead {
    /// Bytes of the head, the empty line included.
    pub(crate) bytes: usize,
    pub(crate) status: u16,
    pub(crate) body: BodyLength,
    /// Whether the connection ends with the body.
    pub(crate) closes: bool,
}

/// The request head at the start of `bytes`; `None` while its end is still to come.
pub(crate) fn request_head(bytes: &[u8]) -> anyhow::Result<Option<RequestHead<'_>>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Status::Complete(end) = request.parse(bytes).context("the head of a request")? else {
        return Ok(None);
    };
    Ok(Some(RequestHead {
        bytes: end,
        method: request.method.unwrap_or_default(),
        path: request.path.unwrap_or_default(),
        body: body_length(request.headers)?,
        expects: find(request.headers, "expect")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")),
    }))
}

/// The answer head at the start of `bytes`; `None` while its end is still to come.
pub(crate) fn answer_head(bytes: &[u8]) -> anyhow::Result<Option<AnswerHead>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let Status::Complete(end) = answer.parse(bytes).context("the head of an answer")? else {
        return Ok(None);
    };
    let closes = find(answer.headers, "connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    Ok(Some(AnswerHead {
        bytes: end,
        status: answer.code.context("no status")?,
        body: body_length(answer.headers)?,
        closes: closes || answer.version == Some(0),
    }))
}

fn find<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value.trim_ascii())
}

/// How long the body after these headers is; none of them means an empty one.
fn body_length(headers: &[Header<'_>]) -> anyhow::Result<BodyLength> {
    if find(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
        return Ok(BodyLength::Chunked(ChunkedBody::default()));
    }
    let Some(value) = find(headers, "content-length") else { return Ok(BodyLength::Bytes(0)) };
    let digits = std::str::from_utf8(value).context("content-length")?;
    Ok(BodyLength::Bytes(digits.parse().context("content-length")?))
}

/// A body in chunks, passed over as its bytes come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChunkedBody {
    /// Bytes of the chunk that are still to come, its line end included.
    missing: usize,
    /// The last chunk was there; only trailers and the empty line are missing.
    last: bool,
    done: bool,
    bytes: usize,
}

impl ChunkedBody {
    /// Whether the body has ended.
    pub(crate) fn done(&self) -> bool {
        self.done
    }

    /// Bytes of content so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the bytes that have come and returns how many of them belong to the body. The rest must be
    /// offered again with more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        let mut at = 0;
        while !self.done {
            let taken = self.missing.min(bytes.len() - at);
            self.missing -= taken;
            at += taken;
            if self.missing > 0 {
                break;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            if self.last {
                let Some(end) = memchr::memchr(b'\n', rest) else { break };
                self.done = rest.get(..end).unwrap_or_default().trim_ascii().is_empty();
                at += end + 1;
                continue;
            }
            match httparse::parse_chunk_size(rest) {
                Ok(Status::Complete((line, 0))) => {
                    at += line;
                    self.last = true;
                }
                Ok(Status::Complete((line, size))) => {
                    at += line;
                    self.bytes = self.bytes.saturating_add(size as usize);
                    self.missing = (size as usize).saturating_add(2);
                }
                Ok(Status::Partial) => break,
                Err(_) => bail!("a chunk without a size"),
            }
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_what_is_asked_and_how_long_the_body_is() {
        let head = request_head(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\nmore").unwrap().unwrap();
        assert_eq!((head.method, head.path, head.body), ("GET", "/metrics", BodyLength::Bytes(0)));
        let head = answer_head(b"HTTP/1.1 200 OK\r\nContent-LENGTH:  12\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.status, head.body, head.closes), (200, BodyLength::Bytes(12), false));
        let chunked =
            answer_head(b"HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        let chunked = chunked.unwrap().unwrap();
        assert_eq!(chunked.body, BodyLength::Chunked(ChunkedBody::default()));
        assert!(chunked.closes);
        assert!(request_head(b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n").is_err());
        assert!(request_head(b"GET / HTTP/1.1\r\nhost: a\r\n").unwrap().is_none());
    }

    #[test]
    fn chunks_end_where_they_end_wherever_they_are_cut() {
        let body = b"5\r\nhello\r\nA;name=value\r\n0123456789\r\n0\r\nx: y\r\n\r\nHTTP/1.1";
        let end = body.len() - b"HTTP/1.1".len();
        for cut in 0..end {
            let mut chunks = ChunkedBody::default();
            let first = chunks.feed(&body[..cut]).unwrap();
            assert!(first <= cut && !chunks.done());
            let second = chunks.feed(&body[first..]).unwrap();
            assert!(chunks.done(), "cut at {cut}");
            assert_eq!((first + second, chunks.bytes()), (end, 15));
        }
    }
}
