//! The server that modules are downloaded from, and modules that differ.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::sandbox::address;

/// A web server with modules; while it is away nobody can connect.
pub struct ModuleServer {
    files: Arc<Mutex<HashMap<String, Bytes>>>,
    server: Option<JoinHandle<()>>,
}

impl ModuleServer {
    /// Starts one without files.
    pub async fn start() -> ModuleServer {
        let mut server = ModuleServer { files: Arc::default(), server: None };
        server.come().await;
        server
    }

    /// Puts a module on it; returns its URL.
    pub fn put(&self, module: &Bytes) -> String {
        // A file name of its own for every module, as a release has.
        let path = format!("/warmpath-{:016x}.wasm", name(module));
        self.files.lock().unwrap().insert(path.clone(), module.clone());
        format!("http://modules.test{path}")
    }

    /// Puts other bytes where a module is.
    pub fn replace(&self, url: &str, bytes: &Bytes) {
        let path = url.trim_start_matches("http://modules.test").to_owned();
        self.files.lock().unwrap().insert(path, bytes.clone());
    }

    /// Is away from now on.
    pub fn go(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }

    /// Comes back.
    pub async fn come(&mut self) {
        self.go();
        let listener = TcpListener::bind((address::MODULES, 80)).await.unwrap();
        let files = Arc::clone(&self.files);
        self.server = Some(tokio::spawn(async move {
            // Dropped with this task: whoever keeps a connection loses it too.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let files = Arc::clone(&files);
                connections.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let found = files.lock().unwrap().get(request.uri().path()).cloned();
                        async move {
                            let mut answer = Response::new(Full::new(found.clone().unwrap_or_default()));
                            if found.is_none() {
                                *answer.status_mut() = StatusCode::NOT_FOUND;
                            }
                            Ok::<_, std::convert::Infallible>(answer)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        }));
    }
}

fn name(module: &Bytes) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    module.hash(&mut hasher);
    hasher.finish()
}

/// The same module with other bytes: a custom section, which does nothing, holds `note`.
pub fn variant(module: &Bytes, note: &str) -> Bytes {
    let name = b"note";
    let mut section = vec![name.len() as u8];
    section.extend_from_slice(name);
    section.extend_from_slice(note.as_bytes());
    let mut bytes = module.to_vec();
    bytes.push(0);
    assert!(section.len() < 128, "a length of one byte");
    bytes.push(section.len() as u8);
    bytes.extend_from_slice(&section);
    bytes.into()
}

/// The same module under another version, which has as many letters as its own.
pub fn of_version(module: &Bytes, version: &str) -> Bytes {
    let own = env!("CARGO_PKG_VERSION").as_bytes();
    assert_eq!(own.len(), version.len(), "a version of another length moves what follows it");
    let mut bytes = module.to_vec();
    let places: Vec<usize> =
        bytes.windows(own.len()).enumerate().filter(|(_, part)| *part == own).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the module does not say its version");
    for at in places {
        bytes[at..at + own.len()].copy_from_slice(version.as_bytes());
    }
    bytes.into()
}

/// Where Envoy finds the gateway's ports.
pub fn port(port: u16) -> SocketAddr {
    SocketAddr::new(address::ENVOY.parse().unwrap(), port)
}
