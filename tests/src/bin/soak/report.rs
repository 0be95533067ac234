//! Samples and counts of a run, and the verdict on them.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use warmpath_tests::Envoy;

use crate::clients::{Clients, Counts};
use crate::fleet::{Cut, Faults, Fleet};
use crate::options::Options;

/// Time until memory must be flat. Before, caches fill and V8 optimizes the code.
const WARM_UP: Duration = Duration::from_secs(60);
/// Memory that the last third may use beyond the first, as V8 and the allocator vary.
const BREATH: f64 = 1.08;
const BREATH_MIB: f64 = 8.0;

/// How long after its cause a client may see the end of a stream, on a busy machine.
const LATE: Duration = Duration::from_secs(10);

/// Envoy at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    at: Duration,
    rss_mib: f64,
    heap_mib: f64,
    names: usize,
    own_names: usize,
    in_flight: i64,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub samples: Vec<Sample>,
    pub failures: Vec<String>,
    counts: Counts,
    faults: Faults,
}

impl Sample {
    pub async fn take(envoy: &Envoy, at: Duration) -> Sample {
        let stats = envoy.stats(".").await;
        let own = |name: &&String| name.starts_with("wasmcustom.");
        let gauge = |name: &str| stats.get(name).copied().unwrap_or(0);
        Sample {
            at,
            rss_mib: rss(envoy.pid()),
            heap_mib: gauge("server.memory_allocated") as f64 / (1 << 20) as f64,
            names: stats.len(),
            own_names: stats.keys().filter(own).count(),
            in_flight: gauge("wasmcustom.warmpath_in_flight.pool=default;"),
        }
    }
}

/// Resident memory of a process in MiB.
fn rss(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

impl Report {
    /// Checks what is left at the end, and gives the verdict.
    pub async fn finish(&mut self, fleet: &Fleet, clients: &Clients) {
        let envoy = &fleet.envoy;
        (self.counts, self.faults) = (clients.counts(), fleet.faults.clone());
        if let Err(left) = envoy.settled().await {
            self.failures.push(left);
        }
        let Counts { refused, lost, torn, wrong, .. } = self.counts;
        self.must(lost == 0, format!("{lost} requests were lost"));
        self.must(refused == 0, format!("{refused} were refused"));
        self.must(torn == 0, format!("{torn} whole answers broke off"));
        self.must(wrong == 0, format!("{wrong} were not what was asked for"));
        let lines = envoy.access_lines();
        for complaint in self.counts.complaints.clone() {
            let line = lines.iter().find(|line| line["request"] == complaint.request.as_str());
            let envoy_says = line.map_or("nothing".to_owned(), ToString::to_string);
            self.failures
                .push(format!("{}: {}; Envoy says: {envoy_says}", complaint.request, complaint.seen));
        }
        let unexplained = unexplained(&self.counts.broken, &fleet.cuts);
        self.must(unexplained.is_empty(), format!("streams broke off without a fault: {unexplained:?}"));
        // A router takes the collector's place on a machine that is too busy to run it for three seconds; one
        // that has trapped says so in Envoy's log.
        let zero = "vm_reload|bad_pod_table|unrouted_total|lds.update_rejected|leaked_requests_total";
        let bad: Vec<_> = envoy.stats(zero).await.into_iter().filter(|(_, count)| *count != 0).collect();
        self.must(bad.is_empty(), format!("counts that must be 0: {bad:?}"));
        let log = envoy.log();
        let traps: Vec<&str> =
            log.lines().filter(|line| line.contains("panicked") || line.contains("RuntimeError")).collect();
        self.must(traps.is_empty(), format!("the module trapped: {traps:?}"));
        let pods = envoy.stat("wasmcustom.warmpath_pods.pool=default;").await;
        self.must(pods == fleet.listed() as i64, format!("{pods} pods instead of {}", fleet.listed()));

        let samples = self.samples.clone();
        let flat: Vec<&Sample> = samples.iter().filter(|sample| sample.at > WARM_UP).collect();
        let third = flat.len() / 3;
        if third < 5 {
            return self.must(self.samples.len() < 30, "too few samples to judge memory by".into());
        }
        let (first, last) = (mean(&flat[..third]), mean(&flat[flat.len() - third..]));
        let grown = format!("Envoy grew from {first:.1} to {last:.1} MiB after the warm-up");
        self.must(last <= first * BREATH + BREATH_MIB, grown);
        let (before, after) = (flat[third], flat[flat.len() - 1]);
        let names = format!("{} names of statistics became {}", before.names, after.names);
        self.must(before.own_names == after.own_names && after.names <= before.names + 20, names);
    }

    fn must(&mut self, holds: bool, what: String) {
        if !holds {
            self.failures.push(what);
        }
    }

    /// The report as JSON.
    pub fn json(&self, options: &Options) -> Value {
        let samples: Vec<Value> = self
            .samples
            .iter()
            .map(|s| json!({"s": s.at.as_secs(), "rss_mib": s.rss_mib, "heap_mib": s.heap_mib, "names": s.names}))
            .collect();
        let Counts { answered, aborted, gone, broken, torn, wrong, refused, lost, .. } = &self.counts;
        json!({
            "passed": self.failures.is_empty(), "failures": self.failures,
            "minutes": options.minutes, "seed": options.seed, "clients": options.clients,
            "answered": answered, "aborted": aborted, "gone": gone, "broken": broken.len(), "torn": torn, "wrong": wrong,
            "refused": refused, "lost": lost,
            "faults": self.faults.0, "samples": samples,
        })
    }
}

/// Streams that broke off without a fault that explains it, or more of them than the fault explains, each
/// with the time since the last such fault.
fn unexplained(broken: &[Instant], cuts: &[Cut]) -> Vec<String> {
    let mut left: Vec<usize> = cuts.iter().map(|cut| cut.most).collect();
    let mut unexplained = Vec::new();
    for &at in broken {
        // A killed pod breaks streams off at once, a hung one when Envoy's silence timeout has passed.
        let by = cuts.iter().zip(&mut left).find(|(cut, left)| {
            let end = if ["killed", "restarted"].contains(&cut.name) { cut.from } else { cut.to };
            **left > 0 && cut.from <= at && at <= end + LATE
        });
        match by {
            Some((_, left)) => *left -= 1,
            None => {
                let last = cuts.iter().rfind(|cut| cut.from <= at);
                unexplained.push(match last {
                    Some(cut) => format!("{:.1?} after {}", at.duration_since(cut.from), cut.name),
                    None => "before any fault".to_owned(),
                });
            }
        }
    }
    unexplained
}

fn mean(samples: &[&Sample]) -> f64 {
    samples.iter().map(|sample| sample.rss_mib).sum::<f64>() / samples.len().max(1) as f64
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sample { at, rss_mib, heap_mib, names, in_flight, .. } = self;
        write!(
            f,
            "{:5} s: {rss_mib:.0} MiB ({heap_mib:.0} allocated), {names} statistics, {in_flight} in flight",
            at.as_secs()
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flat: Vec<&Sample> = self.samples.iter().filter(|sample| sample.at > WARM_UP).collect();
        let third = flat.len() / 3;
        writeln!(f, "requests: {}", self.counts)?;
        for (name, count) in &self.counts.answered {
            writeln!(f, "  {count:8} {name}")?;
        }
        writeln!(f, "{}", self.faults)?;
        if third > 0 {
            let (first, last) = (mean(&flat[..third]), mean(&flat[flat.len() - third..]));
            writeln!(
                f,
                "memory: {first:.1} MiB in the first third after the warm-up, {last:.1} MiB in the last"
            )?;
        }
        if let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) {
            writeln!(f, "statistics: {} names at first, {} at last", first.names, last.names)?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        write!(f, "soak: {}", if self.failures.is_empty() { "passed" } else { "failed" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_breaks_off_needs_a_fault_of_its_own() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let cut = |name, from, to, most| Cut { name, from: at(from), to: at(to), most };
        let cuts = [cut("killed", 10, 15, 8), cut("paused", 40, 45, 8), cut("cut", 60, 62, 2)];
        assert_eq!(unexplained(&[at(10), at(11), at(43), at(45), at(60), at(61)], &cuts), [""; 0]);
        // Before any fault, long after a pod was killed, and one more than a pod was told to cut.
        assert_eq!(unexplained(&[at(5)], &cuts), ["before any fault"]);
        assert_eq!(unexplained(&[at(23)], &cuts), ["13.0s after killed"]);
        assert_eq!(unexplained(&[at(60), at(60), at(61)], &cuts), ["1.0s after cut"]);
    }
}
