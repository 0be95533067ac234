//! The little of HTTP/1.1 that measuring needs: where a head ends, how long a body is.

use anyhow::{Context, bail};
use memchr::memmem;

/// How a head says where its body ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// After this many bytes.
    Bytes(usize),
    /// After the last chunk.
    Chunked(Chunks),
}

/// Where the head at the start of `bytes` ends, the empty line included.
pub(crate) fn header_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// How long the body behind `head` is; without a word, it is empty.
pub(crate) fn length(head: &[u8]) -> anyhow::Result<Length> {
    let mut length = Length::Bytes(0);
    for line in head.split(|&b| b == b'\n').skip(1) {
        let Some((name, value)) = memchr::memchr(b':', line).and_then(|at| line.split_at_checked(at)) else {
            continue;
        };
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = std::str::from_utf8(value).context("content-length")?;
            length = Length::Bytes(digits.parse().context("content-length")?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            return Ok(Length::Chunked(Chunks::default()));
        }
    }
    Ok(length)
}

/// A body in chunks, passed over as its bytes come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// Bytes of the chunk that are still to come, its line end included.
    missing: usize,
    /// The last chunk was there; only trailers and the empty line are missing.
    last: bool,
    done: bool,
    bytes: usize,
}

impl Chunks {
    /// Whether the body has ended.
    pub(crate) fn done(&self) -> bool {
        self.done
    }

    /// Bytes of content so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes what has come; returns how many bytes of it belong to the body. The rest must be offered again with more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        let mut at = 0;
        while !self.done {
            let taken = self.missing.min(bytes.len() - at);
            self.missing -= taken;
            at += taken;
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', rest).filter(|_| self.missing == 0) else { break };
            let line = rest.get(..end).unwrap_or_default().trim_ascii();
            at += end + 1;
            if self.last {
                self.done = line.is_empty();
                continue;
            }
            let size = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
            let size = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
            match size {
                Some(0) => self.last = true,
                Some(size) => {
                    self.bytes += size;
                    self.missing = size + 2;
                }
                None => bail!("a chunk without a size"),
            }
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_in_any_case() {
        assert_eq!(length(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap(), Length::Bytes(0));
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-LENGTH:  12\r\n\r\n").unwrap(), Length::Bytes(12));
        let chunked = length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert_eq!(chunked, Length::Chunked(Chunks::default()));
        assert!(length(b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n").is_err());
    }

    #[test]
    fn chunks_end_where_they_end_wherever_they_are_cut() {
        let body = b"5\r\nhello\r\nA;name=value\r\n0123456789\r\n0\r\nx: y\r\n\r\nHTTP/1.1";
        let end = body.len() - b"HTTP/1.1".len();
        for cut in 0..end {
            let mut chunks = Chunks::default();
            let first = chunks.feed(&body[..cut]).unwrap();
            assert!(first <= cut && !chunks.done());
            let second = chunks.feed(&body[first..]).unwrap();
            assert!(chunks.done(), "cut at {cut}");
            assert_eq!((first + second, chunks.bytes()), (end, 15));
        }
    }
}
