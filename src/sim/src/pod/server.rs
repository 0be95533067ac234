//! Connections: HTTP/1.1 as vLLM's server speaks it, and the faults that break them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::driver::Pod;
use super::error::ApiError;
use super::faults::{Fate, is_broken};
use super::{PodConfig, instant, routes};

/// Runs a pod on `listener` until the future is dropped, which closes the listener and every connection at once, as
/// when the process is killed. Fails at once on a configuration that cannot be.
pub async fn serve(listener: TcpListener, config: PodConfig) -> io::Result<()> {
    config.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let pod = Arc::new(Pod::new(config));
    let router = TowerToHyperService::new(routes::router(pod.clone()));
    // Owns the connections: dropped with this future.
    let mut tasks = JoinSet::new();
    tasks.spawn(pod.clone().drive());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tasks.spawn(connection(stream, pod.clone(), router.clone()));
                }
                // Out of descriptors, or a client that left the queue: the next one may do better.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// [`serve`] until `stop` is ready.
pub async fn serve_until(
    listener: TcpListener,
    config: PodConfig,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    tokio::select! {
        result = serve(listener, config) => result,
        () = stop => Ok(()),
    }
}

type Router = TowerToHyperService<axum::Router>;

async fn connection(stream: TcpStream, pod: Arc<Pod>, router: Router) {
    // Tokens are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| exchange(request, &pod, &router));
    let mut http =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let broken = (&mut http).await.is_err_and(|error| error.is_user());
    if broken {
        // Closed like this, the client sees a reset, as from a process that died, and not an orderly end.
        let _ = http.into_parts().io.into_inner().set_zero_linger();
    }
}

/// One request and its answer. An error breaks the connection.
async fn exchange(request: Request<Incoming>, pod: &Pod, router: &Router) -> io::Result<Response<Body>> {
    if pod.config.instant && request.method() == Method::POST && request.uri().path().starts_with("/v1/") {
        return Ok(instant::answer(request.into_body()).await);
    }
    let since = pod.now();
    let path = request.uri().path().to_owned();
    let request_bytes = request.body().size_hint().exact().unwrap_or(0);
    let mut response = inference_or_not(request, pod, router).await?;
    if is_broken(&response) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("uvicorn"));
    if path.starts_with("/v1/") {
        let response_bytes = response.body().size_hint().exact().unwrap_or(0);
        pod.count_http(&path, response.status().is_success(), request_bytes, response_bytes, since);
    }
    Ok(response)
}

async fn inference_or_not(
    mut request: Request<Incoming>,
    pod: &Pod,
    router: &Router,
) -> io::Result<Response<Body>> {
    if request.method() == Method::POST && request.uri().path().starts_with("/v1/") {
        let fate = pod.next_fate();
        match fate {
            Fate::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Fate::Failed(status) => {
                let error = ApiError {
                    status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                    kind: "InternalServerError",
                    message: "a fault was asked for".to_owned(),
                    param: None,
                };
                return Ok(error.into_response());
            }
            Fate::Served | Fate::CutAfter(_) => {
                request.extensions_mut().insert(fate);
            }
        }
    }
    match router.call(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}
