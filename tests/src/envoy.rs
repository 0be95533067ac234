//! A real Envoy with Warmpath in it.

mod builder;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::Request;
use crate::pod::TestPod;
use crate::reload::Listeners;
use crate::run::until;
pub use builder::{EnvoyBuilder, falls_back, filters_share_a_vm, form, is_1_40};

/// How much of Envoy's log a failed test shows.
const SHOWN_LINES: usize = 60;

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
        EnvoyBuilder::new(pods)
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

    /// Waits until log lines with this text have named so many pods, and the routers have a table with what
    /// those lines say.
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

    /// Waits until the workers have told of all requests that were sent to the routed port so far: they add
    /// up what they count, and tell it at their ticks.
    pub async fn told(&self) -> &Envoy {
        until("the workers had told of all requests", async || {
            let sent = self.stat("http.routed.downstream_rq_total").await;
            let told = self.stats("warmpath_(requests|unrouted|rejected)_total").await;
            (told.values().sum::<i64>() == sent).then_some(())
        })
        .await;
        self
    }

    /// How many requests so far, of all pools, met a pod that was believed to hold most of their prompts.
    pub async fn prefix_hits(&self) -> i64 {
        self.told().await.stats("warmpath_prefix_hits_total").await.values().sum()
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
