//! What became of the requests of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::envoy::Envoy;

/// How long Envoy may take to write its log.
const LOGGED: Duration = Duration::from_secs(5);

/// How a request ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// 2xx, to the last byte: a JSON document, or a stream up to `[DONE]`.
    Whole,
    /// Another status with its whole body.
    Error(u16),
    /// 2xx, then the end before any byte of body: the pod had begun to answer.
    BrokenAtHeaders,
    /// 2xx and a part of the body.
    Broken,
    /// No byte, or none in time. The text says why.
    Lost(String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its `x-request-id`.
    pub id: String,
    /// Whether a stream was asked for.
    pub streamed: bool,
    /// When it was sent, since the traffic started.
    pub at: Duration,
    /// How long it took to its end.
    pub took: Duration,
    /// Its end.
    pub ending: Ending,
    /// The [`crate::TestPod`] that answered, if one did.
    pub pod: Option<String>,
    /// Whether it was sent twice, because Envoy closed the idle connection as it was sent. Every HTTP/1.1
    /// client must do so.
    pub resent: bool,
}

/// All requests of a [`crate::Traffic`], in the order they were sent.
#[derive(Clone, Debug)]
pub struct Account {
    /// The requests.
    pub sent: Vec<Sent>,
}

/// How many requests of an [`Account`] met the fault, by Envoy's access log.
#[derive(Clone, Debug)]
pub struct Met {
    /// Requests that needed more than one attempt.
    pub moved: usize,
    /// Requests that needed more than one attempt or did not end whole.
    pub fault: usize,
}

/// How many attempts Envoy made for each request; waits until its log has them all.
async fn attempts(envoy: &Envoy, sent: &[Sent]) -> BTreeMap<String, u64> {
    let start = Instant::now();
    loop {
        let lines = envoy.access_lines();
        let of_load = lines.iter().filter_map(|line| {
            let id = line["request"].as_str().filter(|id| id.starts_with("load-"))?;
            Some((id.to_owned(), line["attempts"].as_u64().unwrap_or(0)))
        });
        let found: BTreeMap<String, u64> = of_load.collect();
        let missing: Vec<&Sent> = sent.iter().filter(|sent| !found.contains_key(&sent.id)).collect();
        if missing.is_empty() {
            return found;
        }
        assert!(start.elapsed() < LOGGED, "Envoy's log has nothing of {missing:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Account {
    /// How many requests ended like this.
    pub fn count(&self, like: impl Fn(&Ending) -> bool) -> usize {
        self.sent.iter().filter(|sent| like(&sent.ending)).count()
    }

    /// Requests that got no byte of an answer.
    pub fn lost(&self) -> Vec<&Sent> {
        self.sent.iter().filter(|sent| matches!(sent.ending, Ending::Lost(_))).collect()
    }

    /// Requests that were answered with an error.
    pub fn errors(&self) -> Vec<&Sent> {
        self.sent.iter().filter(|sent| matches!(sent.ending, Ending::Error(_))).collect()
    }

    /// Requests that broke off after the answer had begun.
    pub fn broken(&self) -> usize {
        self.count(|ending| matches!(ending, Ending::Broken | Ending::BrokenAtHeaders))
    }

    /// Requests that were sent twice because Envoy closed the connection. Only draining may cause any:
    /// elsewhere, a closed connection is a lost request that the client repaired.
    pub fn resent(&self) -> usize {
        self.sent.iter().filter(|sent| sent.resent).count()
    }

    /// The slowest request that ended whole.
    pub fn slowest(&self) -> Duration {
        let whole = self.sent.iter().filter(|sent| sent.ending == Ending::Whole);
        whole.map(|sent| sent.took).max().unwrap_or_default()
    }

    /// Prints the account under `name`, with the share of requests that met the fault.
    pub async fn print(&self, name: &str, envoy: &Envoy) -> Met {
        let attempts = attempts(envoy, &self.sent).await;
        let moved = |sent: &&Sent| attempts.get(&sent.id).is_some_and(|&attempts| attempts > 1);
        let met = Met {
            moved: self.sent.iter().filter(moved).count(),
            fault: self.sent.iter().filter(|sent| moved(sent) || sent.ending != Ending::Whole).count(),
        };
        let share = met.fault as f64 * 100.0 / self.sent.len().max(1) as f64;
        println!(
            "{name}: {self}; {} went on to another pod; {} ({share:.1} %) met the fault",
            met.moved, met.fault
        );
        met
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} whole (slowest {:.2} s), {} errors, {} broken off after the headers and {} later, {} resent, {} lost",
            self.sent.len(),
            self.count(|ending| *ending == Ending::Whole),
            self.slowest().as_secs_f64(),
            self.errors().len(),
            self.count(|ending| *ending == Ending::BrokenAtHeaders),
            self.count(|ending| *ending == Ending::Broken),
            self.resent(),
            self.lost().len(),
        )
    }
}
