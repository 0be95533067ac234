//! The pods and their faults. One pod is faulty at a time, so that others always live.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use warmpath_tests::{Envoy, Random, SimPod};

use crate::acts::ADAPTERS;
use crate::ground::Ground;
use crate::options::Options;

/// Engines of a pod at first: 1 or 2.
pub const ENGINES: u32 = 2;

/// The faults.
pub const KINDS: [&str; 20] = [
    "killed",
    "paused",
    "503",
    "reset",
    "cut",
    "slow",
    "no metrics",
    "restarted",
    "cache emptied",
    "adapter away",
    "refuses",
    "error events",
    "no tokens",
    "keep-alives",
    "dead engine",
    "hangs",
    "asleep",
    "dear pages",
    "late pages",
    "stale gauges",
];

/// The pods, and the Envoy whose configuration lists some of them.
pub struct Fleet {
    pub envoy: Envoy,
    pub faults: Faults,
    pods: Vec<SimPod>,
    ground: Arc<Ground>,
    listed: Vec<usize>,
    /// Engines of each pod (data parallelism), and of those that come back.
    engines: (Vec<u32>, u32),
    clients: usize,
    /// The faults that are drawn.
    kinds: Vec<&'static str>,
    random: Random,
    trouble: Option<(usize, Trouble, Instant)>,
    /// The faults that may break streams off, in order of time.
    pub cuts: Vec<Cut>,
    quiet_until: Instant,
    reload_at: Instant,
}

/// A fault that breaks off streams that had begun.
#[derive(Clone, Debug)]
pub struct Cut {
    pub name: &'static str,
    pub from: Instant,
    /// Equal to `from` while the fault lasts.
    pub to: Instant,
    /// How many streams it may break off.
    pub most: usize,
}

/// How often each fault was inflicted.
#[derive(Clone, Debug, Default)]
pub struct Faults(pub BTreeMap<&'static str, u32>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Killed,
    Paused,
    /// Put to sleep, as an operator does.
    Asleep,
    /// Its prefix cache is emptied while it lives on.
    Emptied,
    /// A LoRA adapter is taken away from it, and brought back.
    Without(&'static str),
    /// A fault of the simulator, which is revoked at the end.
    Simulated,
}

impl Fleet {
    /// The fleet of these pods, which have [`ENGINES`] engines each.
    pub fn new(pods: Vec<SimPod>, envoy: Envoy, ground: Arc<Ground>, options: &Options) -> Fleet {
        let now = Instant::now();
        Fleet {
            envoy,
            faults: Faults::default(),
            listed: (0..pods.len()).collect(),
            engines: (vec![ENGINES; pods.len()], 3 - ENGINES),
            pods,
            ground,
            clients: options.clients,
            // An update needs a pod after the other to be killed.
            kinds: KINDS
                .into_iter()
                .chain(["killed"; 3])
                .filter(|kind| options.only.is_empty() || options.only.iter().any(|only| only == kind))
                .collect(),
            random: Random::new(options.seed ^ 0xF1EE7),
            trouble: None,
            cuts: Vec::new(),
            quiet_until: now + Duration::from_secs(2),
            reload_at: now + Duration::from_secs(5),
        }
    }

    /// Begins or ends the fault that is due, and reloads when that is due.
    pub async fn step(&mut self) {
        let now = Instant::now();
        match self.trouble {
            Some((pod, trouble, until)) if now >= until => {
                self.end(pod, trouble).await;
                self.trouble = None;
                self.quiet_until = now + Duration::from_millis(self.random.within(500, 2500));
            }
            None if now >= self.quiet_until => self.begin().await,
            _ => {}
        }
        if now >= self.reload_at {
            self.reload().await;
            self.reload_at = now + Duration::from_millis(self.random.within(4000, 12_000));
        }
    }

    /// Ends the present fault.
    pub async fn heal(&mut self) {
        if let Some((pod, trouble, _)) = self.trouble.take() {
            self.end(pod, trouble).await;
        }
    }

    /// Draws the next fault, its pod, and a number of requests.
    fn draw(&mut self) -> (&'static str, Trouble, usize, u64, Value) {
        let mut pod = self.random.within(0, self.pods.len() as u64) as usize;
        let count = self.random.within(1, 20);
        let name = self.random.of(&self.kinds);
        let (trouble, fault) = match name {
            "killed" => {
                let (engines, next) = &self.engines;
                let old: Vec<usize> = (0..engines.len()).filter(|&pod| engines[pod] != *next).collect();
                pod = self.random.of(&old);
                (Trouble::Killed, Value::Null)
            }
            "paused" => (Trouble::Paused, Value::Null),
            "asleep" => (Trouble::Asleep, Value::Null),
            "cache emptied" => (Trouble::Emptied, Value::Null),
            "adapter away" => {
                // The first one has no adapter.
                pod = pod.max(1);
                (Trouble::Without(self.random.of(&ADAPTERS)), Value::Null)
            }
            name => (Trouble::Simulated, simulated(name, count, &mut self.random)),
        };
        (name, trouble, pod, count, fault)
    }

    async fn begin(&mut self) {
        let (name, trouble, pod, count, fault) = self.draw();
        // Each client has one request at a time, which bounds the streams on one pod. A simulated engine that
        // restarts breaks off its requests, as one that dies does.
        let most = match name {
            "killed" | "paused" | "restarted" => Some(self.clients),
            "cut" => Some(count as usize),
            _ => None,
        };
        let now = Instant::now();
        self.cuts.extend(most.map(|most| Cut { name, from: now, to: now, most }));
        self.ground.fault(pod, true);
        match trouble {
            Trouble::Killed => self.pods[pod].kill(),
            Trouble::Paused => self.pods[pod].pause(),
            Trouble::Asleep => self.pods[pod].operate("/sleep?level=1").await,
            Trouble::Emptied => self.pods[pod].operate("/reset_prefix_cache").await,
            Trouble::Without(adapter) => self.pods[pod].unload(adapter).await,
            Trouble::Simulated => self.pods[pod].fault(&fault).await,
        }
        *self.faults.0.entry(name).or_default() += 1;
        // One in five pauses is longer than a pod may be silent.
        let longest = if trouble == Trouble::Paused && count > 16 { 15_000 } else { 5000 };
        let time =
            Duration::from_millis(self.random.within(if longest > 5000 { 12_000 } else { 800 }, longest));
        self.trouble = Some((pod, trouble, Instant::now() + time));
    }

    async fn end(&mut self, pod: usize, trouble: Trouble) {
        if let Some(cut) = self.cuts.last_mut().filter(|cut| cut.to == cut.from) {
            cut.to = Instant::now();
        }
        match trouble {
            Trouble::Killed => self.replace(pod),
            Trouble::Paused => self.pods[pod].resume(),
            Trouble::Asleep => self.pods[pod].operate("/wake_up").await,
            Trouble::Emptied => {}
            Trouble::Without(adapter) => self.pods[pod].load(adapter).await,
            Trouble::Simulated => self.pods[pod].fault(&json!({})).await,
        }
        self.ground.fault(pod, false);
    }

    /// Brings a killed pod back with another number of engines, as an update does that goes from pod to pod.
    /// Once all of them have that number, the next update begins.
    fn replace(&mut self, pod: usize) {
        let (engines, next) = &mut self.engines;
        self.pods[pod].set_flag("--data-parallel-size", &next.to_string());
        self.pods[pod].revive();
        engines[pod] = *next;
        if engines.iter().all(|number| number == next) {
            *next = 3 - *next;
            *self.faults.0.entry("updates").or_default() += 1;
        }
    }

    /// Configures another list of at least three pods, and sometimes another strategy.
    async fn reload(&mut self) {
        let out = self.random.number() as usize;
        let gone = [out % self.pods.len(), (out / 7) % self.pods.len()];
        let few = self.random.within(0, 3) as usize;
        let listed: Vec<usize> = (0..self.pods.len()).filter(|pod| !gone[..few].contains(pod)).collect();
        let list: Vec<String> = listed.iter().map(|&pod| self.pods[pod].address()).collect();
        // A pod that comes is well from the end of this on, and one that goes is not from its beginning on.
        let both: Vec<usize> = listed.iter().copied().filter(|pod| self.listed.contains(pod)).collect();
        self.ground.list(&both);
        self.listed = listed;
        let strategy = if self.random.within(0, 4) == 0 { "LOAD_ONLY" } else { "PREFIX_CACHE" };
        let reloads = self.faults.0.entry("reloads").or_default();
        *reloads += 1;
        // A list may come back while its listener still drains: the revision says that it is newer.
        let settings = (json!(list), json!(strategy), json!(*reloads));
        self.envoy.reload(|now| (now["pods"], now["strategy"], now["revision"]) = settings).await;
        self.ground.list(&self.listed);
    }

    /// How many pods the list has.
    pub fn listed(&self) -> usize {
        self.listed.len()
    }
}

/// What a simulated pod is told for a fault, `count` requests long if it is of requests.
fn simulated(name: &str, count: u64, random: &mut Random) -> Value {
    match name {
        "503" => json!({"fail": count, "status": 503}),
        "reset" => json!({"reset": count}),
        "cut" => json!({"cut": count, "cut_after": count % 5}),
        "slow" => json!({"slow_down": 6}),
        "no metrics" => json!({"refuse_metrics": true}),
        "restarted" => json!({"restart": true}),
        "refuses" => json!({"fail": count, "status": random.of(&[401, 404, 429, 502])}),
        "error events" => json!({"error_event": count, "status": 503}),
        "no tokens" => json!({"done_only": count}),
        "keep-alives" => json!({"slow_down": 6, "keep_alive_ms": 100}),
        "dead engine" => json!({"dead_engine": count}),
        "hangs" => json!({"hang": true}),
        "dear pages" => json!({"metrics_busy_ms": 30}),
        "late pages" => json!({"metrics_delay_ms": 300, "deferred": count}),
        "stale gauges" => json!({"stale_gauges": true}),
        _ => panic!("{name} is no fault"),
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, count)| format!("{name} {count}")).collect();
        write!(f, "faults: {}", all.join(" "))
    }
}
