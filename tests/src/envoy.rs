//! A real Envoy with Warmpath in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::Request;
use crate::pod::TestPod;
use crate::reload::Listeners;
use crate::run::{command, target, until};

/// How much of Envoy's log a failed test shows.
const SHOWN_LINES: usize = 60;

/// How an Envoy is started.
pub struct EnvoyBuilder {
    pods: Vec<String>,
    flags: Vec<String>,
    concurrency: u32,
    log_level: &'static str,
    edit: Box<dyn FnOnce(String) -> String>,
    drain: Option<u32>,
}

impl EnvoyBuilder {
    /// Adds a flag of `scripts/envoy-config` and its value.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push(format!("{name}={value}"));
        self
    }

    /// Adds a flag of `scripts/envoy-config` that has no value.
    pub fn switch(mut self, name: &str) -> Self {
        self.flags.push(name.to_owned());
        self
    }

    /// Lets Warmpath answer 503 while it knows no pod (`--fail-closed`).
    pub fn fail_closed(mut self) -> Self {
        self.flags.push("--fail-closed".to_owned());
        self
    }

    /// Sets the number of worker threads; one by default.
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// Sets the level of the module's log; `debug` by default.
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Changes the configuration's text before Envoy reads it, after the edits before. `edit` should assert
    /// that it changed something.
    pub fn edit(mut self, edit: impl FnOnce(String) -> String + 'static) -> Self {
        let before = std::mem::replace(&mut self.edit, Box::new(|configuration| configuration));
        self.edit = Box::new(move |configuration| edit(before(configuration)));
        self
    }

    /// Gives the plugin configuration these settings, an object, besides its own.
    pub fn settings(self, settings: &Value) -> Self {
        let Value::Object(settings) = settings else { panic!("{settings} is no object") };
        let more: String = settings.iter().map(|(key, value)| format!("\"{key}\": {value}, ")).collect();
        self.edit(move |text| {
            let with = text.replace("\"fail_open\": true,", &format!("\"fail_open\": true, {more}"));
            assert_ne!(with, text);
            with
        })
    }

    /// Keeps the listeners in a file, so that [`Envoy::reload`] can change them. A replaced listener has
    /// `drain` seconds for its connections; 600 in production.
    pub fn reloadable(mut self, drain: u32) -> Self {
        self.drain = Some(drain);
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Envoy {
        let folder = tempfile::Builder::new().prefix("warmpath-envoy-").tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (access_log, config) = (file("access.log"), file("envoy.yaml"));
        // With port 0 the kernel chooses a free port, and Envoy reports it. So two tests never want the same
        // one.
        let pods = self.pods.join(",");
        let (wasm, access) = (module().display().to_string(), access_log.display().to_string());
        let mut arguments =
            vec!["--pods", &pods, "--port=0", "--plain-port=0", "--admin-port=0", "--wasm", &wasm];
        // One VM less per test; those of the metrics page and the console ask for it.
        arguments.extend(["--metrics-port=none", "--console-port=none"]);
        let version = version();
        arguments.extend(["--access-log", &access, "--envoy-version", &version]);
        arguments.extend(self.flags.iter().map(String::as_str));
        let printed = command("scripts/envoy-config", &arguments, &[]);
        assert_eq!(printed.code, 0, "scripts/envoy-config {arguments:?}: {}", printed.err);
        let mut text = (self.edit)(without_guards(printed.out));
        let mut more = Vec::new();
        let listeners = self.drain.map(|seconds| {
            let (bootstrap, listeners) = Listeners::split(&text, &file("listeners.yaml"));
            text = bootstrap;
            // An Envoy that reads listeners from a file needs a node name.
            more = ["--service-node", "test", "--service-cluster", "test"].map(str::to_owned).to_vec();
            more.extend(["--drain-time-s".to_owned(), seconds.to_string()]);
            listeners
        });
        std::fs::write(&config, text).unwrap();

        let log = std::fs::File::create(file("envoy.log")).unwrap();
        let child = Command::new(binary())
            .arg("--config-path")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(file("admin.address"))
            .args(["--concurrency", &self.concurrency.to_string()])
            .args(["--log-level", "warning", "--component-log-level", &format!("wasm:{}", self.log_level)])
            // Hot restart would share memory with the Envoys of other tests. Logs are flushed at once,
            // because tests wait for lines.
            .args(["--disable-hot-restart", "--file-flush-interval-msec", "20"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy = Envoy { child, folder, admin: nowhere, routed: nowhere, plain: nowhere, listeners };

        envoy.admin = until("Envoy wrote its admin address", async || {
            envoy.must_run();
            std::fs::read_to_string(envoy.folder.path().join("admin.address")).ok()?.trim().parse().ok()
        })
        .await;
        until("Envoy was ready", async || {
            envoy.must_run();
            (Request::get("/ready").send(envoy.admin).await.status == 200).then_some(())
        })
        .await;
        (envoy.routed, envoy.plain) = (envoy.listener("routed").await, envoy.listener("plain").await);
        envoy
    }
}

/// A running Envoy. Dropping it ends it. If the test is failing, the end of its log goes to standard error.
pub struct Envoy {
    child: Child,
    folder: TempDir,
    admin: SocketAddr,
    listeners: Option<Listeners>,
    /// The address that Warmpath routes (8081 for users).
    pub routed: SocketAddr,
    /// The address with Envoy's own balancing (8080 for users).
    pub plain: SocketAddr,
}

impl Envoy {
    /// An Envoy for these pods.
    pub fn of(pods: &[TestPod]) -> EnvoyBuilder {
        Self::at(pods.iter().map(TestPod::address).collect())
    }

    /// An Envoy for pods at these addresses.
    pub fn at(pods: Vec<String>) -> EnvoyBuilder {
        EnvoyBuilder {
            pods,
            // Load changes fast in tests, and without traffic Warmpath scrapes ten times less often than
            // this.
            flags: vec!["--scrape-ms=20".to_owned()],
            concurrency: 1,
            log_level: "debug",
            edit: Box::new(|configuration| configuration),
            drain: None,
        }
    }

    /// Starts an Envoy for these pods and waits until Warmpath has seen the load of each.
    pub async fn ready(pods: &[TestPod]) -> Self {
        let envoy = Self::of(pods).start().await;
        envoy.sees(pods).await;
        envoy
    }

    /// Waits until Warmpath has read the pods' present metrics. The second scrape from now begins after this
    /// call, and the third begins after the second was read.
    pub async fn sees(&self, pods: &[TestPod]) {
        for pod in pods {
            pod.scraped(3).await;
        }
    }

    /// Waits until the last scrape of so many pods brought a load. At a production pace of scrapes this is
    /// sooner than [`Envoy::sees`].
    pub async fn sees_ready(&self, pods: usize) {
        let name = "wasmcustom.warmpath_ready_pods.pool=default;";
        let what = format!("{pods} pods were ready");
        until(&what, async || (self.stat(name).await == pods as i64).then_some(())).await;
    }

    /// Waits until log lines with this text have named so many pods, and the routers have a table with what those lines say.
    pub async fn says_of_pods(&self, text: &str, pods: usize) {
        until(&format!("the log says \"{text}\" of {pods} pods"), async || {
            let log = self.log();
            let lines = log.lines().filter(|line| line.contains(text));
            let named: BTreeSet<&str> =
                lines.filter_map(|line| line.split_once("warmpath: pod ")?.1.split(' ').next()).collect();
            (named.len() == pods).then_some(())
        })
        .await;
        let generation = "wasmcustom.warmpath_pod_table_generation.pool=default;";
        let now = self.stat(generation).await;
        until("another table came", async || (self.stat(generation).await > now + 1).then_some(())).await;
    }

    /// The address of the listener with this name.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        let listeners = self.admin_json("/listeners?format=json").await;
        let of = |l: &&Value| l["name"] == name;
        let socket =
            &listeners["listener_statuses"].as_array().unwrap().iter().find(of).unwrap()["local_address"];
        let port = socket["socket_address"]["port_value"].as_u64().unwrap();
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()))
    }

    /// A page of the admin interface as JSON.
    pub async fn admin_json(&self, path: &str) -> Value {
        Request::get(path).send(self.admin).await.json()
    }

    /// The metrics page as Prometheus reads it.
    pub async fn prometheus(&self) -> String {
        Request::get("/stats/prometheus").send(self.admin).await.text()
    }

    /// Every counter and gauge whose name matches the regular expression `filter`.
    pub async fn stats(&self, filter: &str) -> BTreeMap<String, i64> {
        let encoded: String = filter.bytes().map(|b| format!("%{b:02x}")).collect();
        let page = Request::get(&format!("/stats?filter={encoded}")).send(self.admin).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let number =
            |line: &str| line.rsplit_once(": ").and_then(|(k, v)| Some((k.to_owned(), v.parse().ok()?)));
        page.text().lines().filter_map(number).collect()
    }

    /// One counter or gauge; 0 if Envoy does not have it (yet).
    pub async fn stat(&self, name: &str) -> i64 {
        self.stats(&format!("^{}$", name.replace('.', r"\."))).await.get(name).copied().unwrap_or(0)
    }

    /// Envoy's log so far, the module's lines included.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("envoy.log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Waits for a line of the log that contains all of `parts`, and returns it.
    pub async fn logs(&self, parts: &[&str]) -> String {
        let whole = |line: &&str| parts.iter().all(|part| line.contains(part));
        let what = format!("Envoy's log had a line with {parts:?}");
        until(&what, async || self.log().lines().find(whole).map(str::to_owned)).await
    }

    /// Waits for the access log line of the request with this `x-request-id`.
    pub async fn access(&self, request: &str) -> Value {
        until(&format!("the access log had the request {request}"), async || {
            let log = std::fs::read_to_string(self.folder.path().join("access.log")).ok()?;
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.into_iter().find(|line| line["request"] == request)
        })
        .await
    }

    /// The access log so far.
    pub fn access_log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("access.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The access log so far, line by line.
    pub fn access_lines(&self) -> Vec<Value> {
        self.access_log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until Warmpath's gauges say that nothing is in flight; panics with what is left.
    pub async fn accounts_for_nothing(&self) {
        self.settled().await.unwrap_or_else(|left| panic!("{left}"));
    }

    /// Waits until Warmpath's gauges say that nothing is in flight. This must be true within seconds of the
    /// last answer: leaked requests are reconciled after ten seconds, and must not pass for a correct ledger.
    ///
    /// # Errors
    /// What is left, in words.
    pub async fn settled(&self) -> Result<(), String> {
        const SOON: Duration = Duration::from_secs(8);
        let start = Instant::now();
        // The gauges are set with each pod table. The second table from now has the present values.
        let generation = self.stat("wasmcustom.warmpath_pod_table_generation.pool=default;").await;
        loop {
            let stats =
                self.stats("warmpath_(in_flight|waiting|outstanding_tokens|pod_table_generation)").await;
            let moved = stats.iter().any(|(name, n)| name.contains("generation") && *n >= generation + 2);
            let left: Vec<_> =
                stats.iter().filter(|(name, n)| !name.contains("generation") && **n != 0).collect();
            if moved && stats.len() == 4 && left.is_empty() {
                return Ok(());
            }
            if start.elapsed() > SOON {
                return Err(format!("{SOON:?} after the last answer there is left: {stats:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Changes Warmpath's settings in the router while Envoy runs, and waits until it has taken them.
    pub async fn reload(&mut self, with: impl FnOnce(&mut Value)) {
        const TAKEN: &str = "listener_manager.lds.update_success";
        let before = self.stat(TAKEN).await;
        self.listeners.as_mut().expect("EnvoyBuilder::reloadable").change(with);
        until("Envoy took the new listeners", async || (self.stat(TAKEN).await > before).then_some(())).await;
        assert_eq!(self.stat("listener_manager.lds.update_rejected").await, 0);
    }

    /// Like [`Envoy::reload`], for settings that Envoy must refuse.
    pub async fn reload_refused(&mut self, with: impl FnOnce(&mut Value)) {
        const REFUSED: &str = "listener_manager.lds.update_rejected";
        let before = self.stat(REFUSED).await;
        self.listeners.as_mut().expect("EnvoyBuilder::reloadable").change(with);
        until("Envoy refused the new listeners", async || (self.stat(REFUSED).await > before).then_some(()))
            .await;
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory of the process in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    fn must_run(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("Envoy ended ({status}) before it was ready");
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("--- Envoy's log, {} of {} lines", lines.len() - from, lines.len());
            lines[from..].iter().for_each(|line| eprintln!("{line}"));
            eprintln!("---");
        }
    }
}

/// Names of Envoy's runtime guards that all tests run without, separated by commas.
const GUARDS: &str = "WARMPATH_WITHOUT_GUARDS";

/// The configuration with the guards off that the environment names.
fn without_guards(configuration: String) -> String {
    let Ok(guards) = std::env::var(GUARDS) else { return configuration };
    let off: Vec<String> =
        guards.split(',').map(|guard| format!("envoy.reloadable_features.{guard}: false")).collect();
    let layer = format!("{{ name: {GUARDS}, static_layer: {{ {} }} }}", off.join(", "));
    format!("{configuration}\nlayered_runtime: {{ layers: [{layer}] }}\n")
}

/// Whether a retry passes over a place of the ranking that names no pod, and so comes to the fallback. Envoy
/// does since 1.40 unless a guard is off; older ones answer 503 there. A request for which no pod is named at
/// all has the fallback on every version.
pub fn falls_back() -> bool {
    if std::env::var(GUARDS).is_ok_and(|guards| guards.contains("composite_cluster_skip")) {
        return false;
    }
    let version = version();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(1), Some(40))
}

/// The Envoy that `scripts/envoy` runs.
fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let which = command("scripts/envoy", &["--which"], &[]);
        assert_eq!(which.code, 0, "{}", which.err);
        which.out.trim().into()
    })
}

/// Its version, which decides the form of the configuration. Envoy prints `... version:
/// COMMIT/VERSION/STATE/TYPE/TLS`.
fn version() -> String {
    let said = Command::new(binary()).arg("--version").output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    said.split('/').rev().nth(3).unwrap_or_else(|| panic!("no version in: {said}")).to_owned()
}

/// The module. Tests do not build it, because cargo is running them.
fn module() -> PathBuf {
    let module = target().join("warmpath.wasm");
    assert!(
        module.exists(),
        "{} is missing: run scripts/build, or all tests with scripts/test",
        module.display()
    );
    module
}
