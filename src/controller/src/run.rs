//! Puts the parts together and lets them run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::cli::Options;
use crate::hooks::memory::Memory;
use crate::hooks::server::{Features, Hooks};
use crate::knock::knock;
use crate::kube::keeper::{Snapshot, keep};
use crate::kube::kinds::Kind;
use crate::kube::writer::Writer;
use crate::kube::{lease, watch as watches};
use crate::plan::status::Wiring;
use crate::plan::{PoolKey, World, view, wiring};
use crate::serve::{Pages, router};
use crate::telemetry::Metrics;
use crate::tls;
use crate::xds::listener::Module;

/// What the module is told where no file says otherwise: see `docs/adr/controller-and-module.md`.
const PLUGIN_CONFIG: &str =
    r#"{"destination":"list","discovery":{"cluster":"prometheus_stats"},"settings":"route"}"#;

/// The same where the conformance tests choose the pods.
const CONFORMANCE_CONFIG: &str = r#"{"destination":"list","discovery":{"cluster":"prometheus_stats"},"settings":"route","test_endpoint_header":true}"#;

/// Between two looks at whether Envoy Gateway has what the world says.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until a signal or an error ends it.
///
/// # Errors
/// A file that cannot be read, an address that cannot be listened on, no way to an API server.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let module = Arc::new(module(&options)?);
    let tls = tls_files(&options)?;
    let metrics = Arc::new(Metrics::default());
    let memory = Arc::new(Memory::default());
    let client = client().await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), replica = %options.replica, module = module.fingerprint(),
        "warmpath-controller starts"
    );

    let (changes, receiver) = mpsc::channel(1024);
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().chain(options.conformance.then_some(Kind::Service)).collect();
    for &kind in &kinds {
        tokio::spawn(watches::watch(client.clone(), kind, changes.clone()));
    }
    let (worlds, world) = watch::channel(Arc::new(World::default()));
    let (snapshots, mut snapshot) = watch::channel(None);
    tokio::spawn(keep(receiver, kinds.len(), worlds, snapshots, metrics.clone()));

    let features = Features { answer_filter: options.answer_filter, name_pods: options.conformance };
    let hooks = Hooks::new(world, memory.clone(), module, features, metrics.clone());
    let ready = Arc::new(AtomicBool::new(false));
    let pages = Pages { metrics: metrics.clone(), in_flight: hooks.in_flight(), ready: ready.clone() };
    let listener =
        TcpListener::bind(options.pages).await.with_context(|| format!("--pages {}", options.pages))?;
    tokio::spawn(async move { axum::serve(listener, router(pages)).await });

    // Whatever is asked before the caches are full would be answered with nothing: the port opens afterwards.
    snapshot.wait_for(Option::is_some).await.context("the watches ended")?;
    ready.store(true, Ordering::Relaxed);

    let (leads, leader) = watch::channel(false);
    let (lease_client, namespace, replica) =
        (client.clone(), options.namespace.clone(), options.replica.clone());
    let lease_metrics = metrics.clone();
    tokio::spawn(async move { lease::lead(lease_client, &namespace, &replica, leads, &lease_metrics).await });

    let wake = Arc::new(Notify::new());
    // Where nobody knocks, nothing is said to refuse.
    let (refusals, refusing) = watch::channel((options.knock_seconds == 0).then(BTreeSet::new));
    if options.knock_seconds > 0 {
        let every = Duration::from_secs(options.knock_seconds);
        tokio::spawn(knock(every, snapshot.clone(), leader.clone(), refusals, wake.clone()));
    }
    let judge = Arc::new(judge(memory.clone(), snapshot.clone(), metrics.clone()));
    let writer = || {
        let judge = judge.clone();
        let wiring = Arc::new(move |pool: &PoolKey| judge(pool));
        let (client, refusing, wake) = (client.clone(), refusing.clone(), wake.clone());
        Writer::new(client, options.gateway_controller.clone(), metrics.clone(), wiring, refusing, wake)
    };
    tokio::spawn(writer().run(snapshot.clone(), leader.clone()));
    tokio::spawn(look(writer(), memory, snapshot, leader, metrics.clone(), wake.clone()));

    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("--listen {}", options.listen))?;
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(hooks.service());
    tracing::info!(address = %options.listen, tls = tls.is_some(), "the hooks are served");
    match tls {
        Some(files) => server.serve_with_incoming_shutdown(tls::incoming(listener, files), signal()).await?,
        None => server.serve_with_incoming_shutdown(TcpIncoming::from(listener), signal()).await?,
    }
    Ok(())
}

/// Looks now and then whether Envoy Gateway asked about what has changed, and makes it ask where it did not.
async fn look(
    writer: Writer,
    memory: Arc<Memory>,
    snapshot: watch::Receiver<Option<Snapshot>>,
    leader: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    wake: Arc<Notify>,
) {
    let mut ticks = tokio::time::interval(LOOK);
    let mut before = (Arc::new(World::default()), false);
    let mut woken = Instant::now();
    loop {
        ticks.tick().await;
        let leads = *leader.borrow();
        metrics.leader(leads);
        let Some(now) = snapshot.borrow().clone() else { continue };
        // A new leader does not know whether Envoy Gateway got an error from the one before.
        if leads && !before.1 {
            writer.raise(&now.world.pools.keys().cloned().collect(), &now).await;
        }
        // What has just changed is on its way; only what stayed for a whole interval is behind.
        if Arc::ptr_eq(&now.world, &before.0) {
            let behind = memory.behind(&now.world);
            writer.raise(&behind, &now).await;
            writer.tell_asked(|pool| memory.asked(pool), &now).await;
        }
        before = (now.world, leads);
        if woken.elapsed() > Duration::from_secs(10) {
            // The judgement of the wiring changes with time alone.
            wake.notify_one();
            woken = Instant::now();
        }
    }
}

/// What is known of each pool's wiring, by what this replica and others were asked.
fn judge(
    memory: Arc<Memory>,
    snapshot: watch::Receiver<Option<Snapshot>>,
    metrics: Arc<Metrics>,
) -> impl Fn(&PoolKey) -> Wiring + Send + Sync {
    let routed_since: Mutex<BTreeMap<PoolKey, Instant>> = Mutex::default();
    move |pool| {
        let snapshot = snapshot.borrow().clone()?;
        let mut since = routed_since.lock().unwrap_or_else(PoisonError::into_inner);
        if !snapshot.world.routes.values().any(|route| route.pools().contains(pool)) {
            since.remove(pool);
            return None;
        }
        let waited = since.entry(pool.clone()).or_insert_with(Instant::now).elapsed();
        let of_pool =
            |object: &&serde_json::Value| view::identity(object).is_some_and(|(key, _)| key == *pool);
        let mut asked = memory.asked(pool);
        asked.extend(snapshot.facts.views.values().filter(of_pool).flat_map(view::asked));
        let judged = wiring::judge(pool.group, &asked, waited);
        metrics.serving(pool, judged.as_ref().map(Result::is_ok));
        judged
    }
}

fn module(options: &Options) -> anyhow::Result<Module> {
    let code = read("--module", &options.module)?;
    anyhow::ensure!(
        code.starts_with(b"\0asm"),
        "--module {}: not a WebAssembly module",
        options.module.display()
    );
    let configuration = match &options.plugin_config {
        None if options.conformance => CONFORMANCE_CONFIG.to_owned(),
        None => PLUGIN_CONFIG.to_owned(),
        Some(path) => {
            let text =
                String::from_utf8(read("--plugin-config", path)?).context("--plugin-config: not UTF-8")?;
            let json: serde_json::Value =
                serde_json::from_str(&text).with_context(|| format!("--plugin-config {}", path.display()))?;
            anyhow::ensure!(json.is_object(), "--plugin-config {}: not a JSON object", path.display());
            text
        }
    };
    Ok(Module::new(code, configuration))
}

fn read(flag: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{flag} {}", path.display()))
}

/// A client whose connections do not wait for ever on an API server that has gone silent.
async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer()
        .await
        .context("no way to an API server: neither a kubeconfig nor a pod's service account")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(75));
    config.write_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).context("the client of the API server")
}

/// The files for TLS, which must be good at the start.
fn tls_files(options: &Options) -> anyhow::Result<Option<tls::Files>> {
    let (Some(certificate), Some(key)) = (options.tls_cert.clone(), options.tls_key.clone()) else {
        return Ok(None);
    };
    let files = tls::Files { certificate, key, client_authority: options.client_ca.clone() };
    files.acceptor().context("--tls-cert, --tls-key, --client-ca")?;
    Ok(Some(files))
}

/// Ends with SIGTERM or SIGINT.
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
