//! A long way to a pod: bytes take their time in each direction, and none takes longer for another one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// A port of loopback from which it is far to a server. Dropping it cuts all connections.
#[derive(Debug)]
pub struct Distance {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Distance {
    /// Listens on a free port; every byte takes `one_way` to the server at `to`, and as long back.
    pub async fn to(to: String, one_way: Duration) -> Distance {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let to = to.clone();
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(&to).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    // What one side has ended ends for the other one as well.
                    tokio::join!(carry(near_in, far_out, one_way), carry(far_in, near_out, one_way));
                });
            }
        });
        Distance { address, server }
    }

    /// Its near end, `ip:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Carries bytes from one end to the other until there are no more.
async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    one_way: Duration,
) {
    let (sent, mut on_the_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let send = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(size) = from.read(&mut buffer).await
            && size > 0
            && sent.send((Instant::now() + one_way, buffer[..size].to_vec())).is_ok()
        {}
    };
    let arrive = async move {
        while let Some((at, bytes)) = on_the_way.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(send, arrive);
}
