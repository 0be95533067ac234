//! Connections: HTTP/1.1 as vLLM's server speaks it, and the faults that break them.

use std::future::Future;
use std::io;
use std::pin::Pin;
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

use super::api::text_of;
use super::driver::LivePod;
use super::error::ApiError;
use super::faults::{Treatment, is_broken};
use super::idle::Activity;
use super::{PodConfig, instant, routes};

/// Runs a pod on `listener` until the future is dropped, which closes the listener and every connection at
/// once, as when the process is killed. Fails at once on a configuration that cannot be.
pub async fn serve(listener: TcpListener, config: PodConfig) -> io::Result<()> {
    config.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let pod = Arc::new(LivePod::new(config));
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

async fn connection(stream: TcpStream, pod: Arc<LivePod>, router: Router) {
    // Tokens are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let activity = Activity::default();
    let service = service_fn(|request| exchange(request, &pod, &router, &activity));
    let mut http =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        result = &mut http => Some(result),
        () = activity.idle_for(pod.config.idle_seconds) => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            Pin::new(&mut http).graceful_shutdown();
            (&mut http).await
        }
    };
    if result.is_err_and(|error| error.is_user()) {
        // Closed like this, the client sees a reset, as from a process that died, and not an orderly end.
        let _ = http.into_parts().io.into_inner().set_zero_linger();
    }
}

/// One request and its answer. An error breaks the connection.
async fn exchange(
    request: Request<Incoming>,
    pod: &LivePod,
    router: &Router,
    activity: &Activity,
) -> io::Result<Response<Body>> {
    if pod.config.instant && request.method() == Method::POST && request.uri().path().starts_with("/v1/") {
        return Ok(instant::answer(request.into_body()).await);
    }
    let under_way = activity.begin();
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
    Ok(under_way.until_the_end_of(response))
}

async fn inference_or_not(
    mut request: Request<Incoming>,
    pod: &LivePod,
    router: &Router,
) -> io::Result<Response<Body>> {
    if !knows_the_key(&request, pod) {
        let body = (StatusCode::UNAUTHORIZED, r#"{"error":"Unauthorized"}"#);
        return Ok(body.into_response());
    }
    if request.method() == Method::POST && INFERENCE.contains(&request.uri().path()) {
        match pod.next_treatment() {
            Treatment::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Treatment::Failed(status) => return Ok(ApiError::of_fault(status).into_response()),
            other => {
                request.extensions_mut().insert(other);
            }
        }
    }
    match router.call(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

/// The paths that faults count.
const INFERENCE: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"];

/// Whether a request may be answered: everything under `/v1` wants the key, if there is one.
fn knows_the_key(request: &Request<Incoming>, pod: &LivePod) -> bool {
    let Some(key) = pod.config.api_key.as_deref() else { return true };
    let said = text_of(request.headers(), "authorization").and_then(|said| said.strip_prefix("Bearer "));
    !request.uri().path().starts_with("/v1") || said == Some(key)
}
