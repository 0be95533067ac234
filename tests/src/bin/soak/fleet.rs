//! The pods and their faults. One pod is faulty at a time, so that others always live.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::json;
use warmpath_tests::{Envoy, Random, SimPod};

/// The pods, and the Envoy whose configuration lists some of them.
pub struct Fleet {
    pub envoy: Envoy,
    pub faults: Faults,
    pods: Vec<SimPod>,
    listed: Vec<usize>,
    clients: usize,
    /// Whether what pods answer has faults, too.
    answers: bool,
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
    /// A fault of the simulator, which is revoked at the end.
    Simulated,
}

impl Fleet {
    pub fn new(pods: Vec<SimPod>, envoy: Envoy, clients: usize, seed: u64, answers: bool) -> Fleet {
        let now = Instant::now();
        Fleet {
            envoy,
            faults: Faults::default(),
            listed: (0..pods.len()).collect(),
            pods,
            clients,
            answers,
            random: Random::new(seed ^ 0xF1EE7),
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

    async fn begin(&mut self) {
        let pod = self.random.within(0, self.pods.len() as u64) as usize;
        let count = self.random.within(1, 20);
        // Those from 9 on are in what pods answer.
        let (name, trouble, fault) = match self.random.within(0, if self.answers { 19 } else { 9 }) {
            0 | 1 => ("killed", Trouble::Killed, None),
            2 => ("paused", Trouble::Paused, None),
            3 => ("503", Trouble::Simulated, Some(json!({"fail": count, "status": 503}))),
            4 => ("reset", Trouble::Simulated, Some(json!({"reset": count}))),
            5 => ("cut", Trouble::Simulated, Some(json!({"cut": count, "cut_after": count % 5}))),
            6 => ("slow", Trouble::Simulated, Some(json!({"slow_down": 6}))),
            7 => ("no metrics", Trouble::Simulated, Some(json!({"refuse_metrics": true}))),
            8 => ("restarted", Trouble::Simulated, Some(json!({"restart": true}))),
            9 => {
                let status = self.random.of(&[401, 404, 429, 502]);
                ("refuses", Trouble::Simulated, Some(json!({"fail": count, "status": status})))
            }
            10 => ("error events", Trouble::Simulated, Some(json!({"error_event": count, "status": 503}))),
            11 => ("no tokens", Trouble::Simulated, Some(json!({"done_only": count}))),
            12 => ("keep-alives", Trouble::Simulated, Some(json!({"slow_down": 6, "keep_alive_ms": 100}))),
            13 => ("dead engine", Trouble::Simulated, Some(json!({"dead_engine": count}))),
            14 => ("hangs", Trouble::Simulated, Some(json!({"hang": true}))),
            15 => ("asleep", Trouble::Asleep, None),
            16 => ("dear pages", Trouble::Simulated, Some(json!({"metrics_busy_ms": 30}))),
            17 => {
                ("late pages", Trouble::Simulated, Some(json!({"metrics_delay_ms": 300, "deferred": count})))
            }
            _ => ("stale gauges", Trouble::Simulated, Some(json!({"stale_gauges": true}))),
        };
        // Each client has one request at a time, which bounds the streams on one pod. A simulated engine that
        // restarts breaks off its requests, as one that dies does.
        let most = match name {
            "killed" | "paused" | "restarted" => Some(self.clients),
            "cut" => Some(count as usize),
            _ => None,
        };
        let now = Instant::now();
        self.cuts.extend(most.map(|most| Cut { name, from: now, to: now, most }));
        match trouble {
            Trouble::Killed => self.pods[pod].kill(),
            Trouble::Paused => self.pods[pod].pause(),
            Trouble::Asleep => self.pods[pod].operate("/sleep?level=1").await,
            Trouble::Simulated => self.pods[pod].fault(&fault.unwrap_or_default()).await,
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
            Trouble::Killed => self.pods[pod].revive(),
            Trouble::Paused => self.pods[pod].resume(),
            Trouble::Asleep => self.pods[pod].operate("/wake_up").await,
            Trouble::Simulated => self.pods[pod].fault(&json!({})).await,
        }
    }

    /// Configures another list of at least three pods, and sometimes another strategy.
    async fn reload(&mut self) {
        let out = self.random.number() as usize;
        let gone = [out % self.pods.len(), (out / 7) % self.pods.len()];
        let few = self.random.within(0, 3) as usize;
        self.listed = (0..self.pods.len()).filter(|pod| !gone[..few].contains(pod)).collect();
        let list: Vec<String> = self.listed.iter().map(|&pod| self.pods[pod].address()).collect();
        let strategy = if self.random.within(0, 4) == 0 { "LOAD_ONLY" } else { "PREFIX_CACHE" };
        let reloads = self.faults.0.entry("reloads").or_default();
        *reloads += 1;
        // A list may come back while its listener still drains: the revision says that it is newer.
        let settings = (json!(list), json!(strategy), json!(*reloads));
        self.envoy.reload(|now| (now["pods"], now["strategy"], now["revision"]) = settings).await;
    }

    /// How many pods the list has.
    pub fn listed(&self) -> usize {
        self.listed.len()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, count)| format!("{name} {count}")).collect();
        write!(f, "faults: {}", all.join(" "))
    }
}
