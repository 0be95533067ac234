//! How a real Envoy with Warmpath in it is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::Envoy;
use crate::client::Request;
use crate::reload::Listeners;
use crate::run::{command, target, until};

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
    pub(super) fn new(pods: Vec<String>) -> EnvoyBuilder {
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
        // A copy: Envoy reads the file again with each new listener, and a build may have replaced it by
        // then.
        let wasm = file("warmpath.wasm");
        std::fs::copy(module(), &wasm).unwrap();
        let (wasm, access) = (wasm.display().to_string(), access_log.display().to_string());
        let mut arguments =
            vec!["--pods", &pods, "--port=0", "--plain-port=0", "--admin-port=0", "--wasm", &wasm];
        // One VM less per test; those of the metrics page and the console ask for it.
        arguments.extend(["--metrics-port=none", "--console-port=none"]);
        let form = form();
        arguments.extend(["--access-log", &access, &form]);
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
    is_1_40()
}

/// Whether both filters may share a VM: since Envoy 1.40. For older ones `scripts/envoy-config` gives each
/// its own.
pub fn filters_share_a_vm() -> bool {
    is_1_40()
}

/// Whether Envoy wants what a role may call in its `vm_config`, and warns where it stands beside it.
pub fn is_1_40() -> bool {
    let version = version();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(1), Some(40))
}

/// The flag of `scripts/envoy-config` that prints the form of the Envoy under test.
pub fn form() -> String {
    format!("--envoy-version={}", version())
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
