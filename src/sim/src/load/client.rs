//! One keep-alive connection.

use std::io::IoSlice;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::conversations::LoadBody;
use crate::wire::{BodyLength, answer_head};

/// Bytes read at a time.
const READ: usize = 64 * 1024;

/// A connection to the gateway, opened anew after it broke.
#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    /// The head up to the content length.
    head: String,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    scratch: String,
}

impl Connection {
    /// Connects.
    pub(super) async fn connect(address: SocketAddr, path: &str) -> anyhow::Result<Connection> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: warmpath-sim\r\naccept: */*\r\ncontent-type: application/json\r\ncontent-length: "
        );
        let mut client =
            Connection { address, head, stream: None, buffer: vec![0; READ], scratch: String::new() };
        client.stream = Some(client.open().await?);
        Ok(client)
    }

    async fn open(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends one request and reads its answer to the end; the status.
    pub(super) async fn request(&mut self, body: &LoadBody<'_>) -> anyhow::Result<u16> {
        use std::fmt::Write;
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open().await.context("connect")?,
        };
        self.scratch.clear();
        write!(self.scratch, "{}{}\r\n\r\n", self.head, body.len())?;
        let [start, tag, rest, end] = body.parts();
        let mut slices = [self.scratch.as_bytes(), start, tag, rest, end].map(IoSlice::new);
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            match stream.write_vectored(slices).await.context("write")? {
                0 => bail!("write: closed"),
                written => IoSlice::advance_slices(&mut slices, written),
            }
        }
        let (status, keep) = read_answer(&mut stream, &mut self.buffer).await.context("answer")?;
        if keep {
            self.stream = Some(stream);
        }
        Ok(status)
    }
}

/// Reads an answer to its end: its status, and whether the connection lives on.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<(u16, bool)> {
    let mut filled = 0;
    let head = loop {
        if let Some(head) = answer_head(buffer.get(..filled).unwrap_or_default())? {
            break head;
        }
        match stream.read(buffer.get_mut(filled..).unwrap_or_default()).await? {
            0 => bail!("the connection ended before the head was whole"),
            more => filled += more,
        }
    };
    buffer.copy_within(head.bytes..filled, 0);
    filled -= head.bytes;
    match head.body {
        BodyLength::Bytes(whole) => {
            let mut missing = whole.saturating_sub(filled);
            while missing > 0 {
                match stream.read(buffer).await? {
                    0 => bail!("the connection ended inside the body"),
                    more => missing = missing.saturating_sub(more),
                }
            }
        }
        BodyLength::Chunked(mut chunks) => loop {
            let taken = chunks.feed(buffer.get(..filled).unwrap_or_default())?;
            buffer.copy_within(taken..filled, 0);
            filled -= taken;
            if chunks.done() {
                break;
            }
            match stream.read(buffer.get_mut(filled..).unwrap_or_default()).await? {
                0 => bail!("the connection ended inside the body"),
                more => filled += more,
            }
        },
    }
    Ok((head.status, !head.closes))
}
