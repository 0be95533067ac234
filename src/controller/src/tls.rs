//! TLS for the hooks, and who may ask them: Envoy Gateway alone, by its certificate.
//!
//! By OpenSSL, and not by rustls as the connections to the API server: Envoy Gateway's gRPC client names the
//! server `HOST:PORT` (SNI), which is no host name. rustls refuses such a client; OpenSSL leaves to its user
//! what a name means. See `docs/adr/controller-tls.md`.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use openssl::ssl::{
    AlpnError, Ssl, SslAcceptor, SslFiletype, SslMethod, SslVerifyMode, SslVersion, select_next_proto,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_openssl::SslStream;
use tonic::transport::server::Connected;

/// How long a client may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The protocols in TLS's own form: a length and a name each.
const HTTP2: &[u8] = b"\x02h2";

/// The files that say who the server is and who may ask.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, and those between it and its authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authority of the clients that may ask, PEM; `None`: anybody may.
    pub client_authority: Option<PathBuf>,
}

impl Files {
    /// Reads the files into an acceptor. They are read for each connection, of which Envoy Gateway makes one,
    /// so that a new certificate needs no restart.
    ///
    /// # Errors
    /// A file that cannot be read, or a key that is not the certificate's.
    pub fn acceptor(&self) -> anyhow::Result<SslAcceptor> {
        let named = |path: &Path| path.display().to_string();
        let mut builder = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        builder.set_certificate_chain_file(&self.certificate).with_context(|| named(&self.certificate))?;
        builder.set_private_key_file(&self.key, SslFiletype::PEM).with_context(|| named(&self.key))?;
        builder.check_private_key().context("the key is not the certificate's")?;
        if let Some(authority) = &self.client_authority {
            builder.set_ca_file(authority).with_context(|| named(authority))?;
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        builder
            .set_alpn_select_callback(|_, offered| select_next_proto(HTTP2, offered).ok_or(AlpnError::NOACK));
        Ok(builder.build())
    }
}

/// The connections of clients that have shown who they are. One that has not is told so by TLS, and the log
/// names its address.
pub fn incoming(listener: TcpListener, files: Files) -> impl Stream<Item = io::Result<Connection>> {
    let (accepted, mut connections) = mpsc::channel(16);
    tokio::spawn(async move {
        while !accepted.is_closed() {
            let (socket, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (files, accepted) = (files.clone(), accepted.clone());
            tokio::spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE, handshake(socket, &files)).await;
                match shaken.unwrap_or_else(|_| Err(anyhow::anyhow!("it took too long"))) {
                    Ok(connection) => _ = accepted.send(Ok(connection)).await,
                    Err(error) => tracing::warn!(%from, error = format!("{error:#}"), "a client was refused"),
                }
            });
        }
    });
    futures::stream::poll_fn(move |context| connections.poll_recv(context))
}

async fn handshake(socket: TcpStream, files: &Files) -> anyhow::Result<Connection> {
    socket.set_nodelay(true)?;
    let ssl = Ssl::new(files.acceptor()?.context())?;
    let mut stream = SslStream::new(ssl, socket)?;
    Pin::new(&mut stream).accept().await?;
    Ok(Connection(stream))
}

/// A connection of a client that may ask.
#[derive(Debug)]
pub struct Connection(SslStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
