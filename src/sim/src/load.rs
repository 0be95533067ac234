//! A closed loop of chat requests: every connection sends the next request when the last one is answered.
//! Cheap, so that one core can drive a gateway on another core to its limit.
//!
//! The traffic is what a prefix-aware router is made for: conversations that grow round by round and share a
//! system prompt. `conversations` makes their bodies; `client` sends them and reads the answers; this file
//! counts.

mod client;
mod conversations;
mod cpu;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use client::Connection;
use conversations::Conversations;
use cpu::cpu_time;

/// Latencies up to this are told apart, in nanoseconds: a minute.
const LONGEST_NS: u64 = 60_000_000_000;
/// A run that is bounded by requests ends after this all the same.
const LONGEST_RUN: Duration = Duration::from_secs(3600);

/// The flags of `warmpath-sim load`.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadOptions {
    /// Where to send, `http://ADDRESS:PORT`; the path is /v1/chat/completions unless one is given
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub connections: usize,
    /// How long to measure
    #[arg(long, value_name = "N", conflicts_with = "requests", required_unless_present = "requests")]
    pub seconds: Option<f64>,
    /// How many requests to send
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// Send for this long before measuring
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub warm_up: f64,
    /// Mean size of a body, in KiB
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub body_kib: f64,
    /// Conversations that are under way at a time; when all have had their last round, others begin
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub conversations: u64,
    /// Rounds of a conversation; its bodies grow by the same amount each round
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub rounds: u64,
    /// This many conversations of one round, all different, again and again; instead of --conversations and
    /// --rounds
    #[arg(long, value_name = "N", conflicts_with_all = ["conversations", "rounds"])]
    pub distinct: Option<u64>,
    /// Number of the first conversation: another one makes a run with other prompts
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first: u64,
    /// Name of the model in the bodies
    #[arg(long, value_name = "NAME", default_value = "warmpath-bench")]
    pub model: String,
    /// Ask for streamed answers
    #[arg(long)]
    pub stream: bool,
    /// Report the CPU time that this process takes during the run, threads included; may be given several
    /// times
    #[arg(long, value_name = "PID")]
    pub cpu_of: Vec<u32>,
    /// Print the summary as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// What a run came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadSummary {
    /// Requests that were answered, whatever the status.
    pub requests: u64,
    /// Answers that were no 200, and connections that broke.
    pub errors: u64,
    /// The first error.
    pub first_error: Option<String>,
    /// Time measured, in seconds.
    pub seconds: f64,
    /// Requests per second.
    pub rps: f64,
    /// Mean size of the bodies sent, in bytes.
    pub body_bytes: f64,
    /// Latency from the first byte written to the last byte read, in microseconds: half of the requests are
    /// faster.
    pub p50_us: f64,
    /// 90 % are faster.
    pub p90_us: f64,
    /// 99 % are faster.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// CPU time of the processes asked for, in microseconds per request.
    pub cpu_us: Option<f64>,
    /// Share of the time measured that they had a CPU; above 1 on several CPUs.
    pub cpu_share: Option<f64>,
}

/// What the connections share.
struct LoadRun {
    conversations: Conversations,
    /// The number of the next request.
    next: Cell<u64>,
    /// The number of the last one and the time after which no more is begun.
    last: Cell<u64>,
    until: Cell<Instant>,
    measured: RefCell<Measured>,
}

/// What is counted.
struct Measured {
    latencies: Histogram<u64>,
    requests: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
}

/// Runs the load, prints the summary.
///
/// # Errors
/// When the gateway cannot be reached at all, or a process asked for is not there; not when requests fail,
/// which the summary counts.
pub fn run(options: &LoadOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = tokio::task::LocalSet::new().block_on(&runtime, measure(options))?;
    if options.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{} requests in {:.1} s: {:.0}/s, p50 {:.0} us, p99 {:.0} us, {} errors",
            summary.requests, summary.seconds, summary.rps, summary.p50_us, summary.p99_us, summary.errors
        );
        if let (Some(us), Some(share)) = (summary.cpu_us, summary.cpu_share) {
            println!("CPU {us:.1} us per request, {:.0} % of the time", share * 100.0);
        }
        if let Some(error) = &summary.first_error {
            println!("first error: {error}");
        }
    }
    Ok(())
}

/// Warms up, measures.
async fn measure(options: &LoadOptions) -> anyhow::Result<LoadSummary> {
    ensure!(options.connections > 0, "--connections is 0; use at least 1");
    ensure!(options.body_kib >= 0.5, "--body-kib is {}; use at least 0.5", options.body_kib);
    let (address, path) = target(&options.url)?;
    let (conversations, rounds) = match options.distinct {
        Some(distinct) => (distinct, 1),
        None => (options.conversations, options.rounds),
    };
    ensure!(conversations > 0 && rounds > 0, "there must be at least 1 conversation of 1 round");
    let bodies = Conversations::new(&conversations::Shape {
        bytes: (options.body_kib * 1024.0) as usize,
        conversations,
        rounds,
        first: options.first,
        again: options.distinct.is_some(),
        model: &options.model,
        stream: options.stream,
    });
    let run = Rc::new(LoadRun {
        conversations: bodies,
        next: Cell::new(0),
        last: Cell::new(u64::MAX),
        until: Cell::new(Instant::now()),
        measured: RefCell::new(Measured::new()?),
    });
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        clients.push(Connection::connect(address, &path).await.with_context(|| options.url.clone())?);
    }

    if options.warm_up > 0.0 {
        run.until.set(Instant::now() + Duration::from_secs_f64(options.warm_up));
        clients = drive(&run, clients).await?;
        run.measured.replace(Measured::new()?);
    }

    let before = cpu_time(&options.cpu_of)?;
    let began = Instant::now();
    let limit = options.seconds.map_or(LONGEST_RUN, Duration::from_secs_f64);
    run.until.set(began + limit);
    run.last.set(options.requests.map_or(u64::MAX, |n| run.next.get().saturating_add(n)));
    drive(&run, clients).await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_time(&options.cpu_of)?.zip(before).map(|(after, before)| after - before);

    let measured = run.measured.borrow();
    let us = |quantile| measured.latencies.value_at_quantile(quantile) as f64 / 1000.0;
    let each = 1.0 / measured.requests.max(1) as f64;
    Ok(LoadSummary {
        requests: measured.requests,
        errors: measured.errors,
        first_error: measured.first_error.clone(),
        seconds,
        rps: measured.requests as f64 / seconds,
        body_bytes: measured.bytes as f64 * each,
        p50_us: us(0.5),
        p90_us: us(0.9),
        p99_us: us(0.99),
        max_us: measured.latencies.max() as f64 / 1000.0,
        cpu_us: cpu.map(|seconds| seconds * 1e6 * each),
        cpu_share: cpu.map(|cpu| cpu / seconds),
    })
}

/// Lets every client send until the run ends; gives them back for the next one.
async fn drive(run: &Rc<LoadRun>, clients: Vec<Connection>) -> anyhow::Result<Vec<Connection>> {
    let tasks: Vec<_> =
        clients.into_iter().map(|client| tokio::task::spawn_local(send(Rc::clone(run), client))).collect();
    let mut clients = Vec::new();
    for task in tasks {
        clients.push(task.await?);
    }
    Ok(clients)
}

/// One connection's loop.
async fn send(run: Rc<LoadRun>, mut client: Connection) -> Connection {
    let mut failed_in_a_row = 0u32;
    while run.next.get() < run.last.get() && Instant::now() < run.until.get() {
        let nth = run.next.get();
        run.next.set(nth + 1);
        let body = run.conversations.body(nth);
        let began = Instant::now();
        let outcome = client.request(&body).await;
        let took = began.elapsed();

        if run.count(body.len(), took, outcome) {
            failed_in_a_row = 0;
            continue;
        }
        failed_in_a_row += 1;
        // A gateway that is gone refuses at once: do not turn that into a storm.
        tokio::time::sleep(Duration::from_millis(u64::from(failed_in_a_row.min(100)))).await;
    }
    client
}

impl LoadRun {
    /// Counts a request; whether it was answered with 200.
    fn count(&self, bytes: usize, took: Duration, outcome: anyhow::Result<u16>) -> bool {
        let mut measured = self.measured.borrow_mut();
        measured.requests += 1;
        measured.bytes += bytes as u64;
        // In range, so it cannot fail.
        let _ = measured.latencies.record((took.as_nanos() as u64).clamp(1, LONGEST_NS));
        let error = match outcome {
            Ok(200) => return true,
            Ok(status) => format!("status {status}"),
            Err(error) => format!("{error:#}"),
        };
        measured.errors += 1;
        measured.first_error.get_or_insert(error);
        false
    }
}

impl Measured {
    fn new() -> anyhow::Result<Measured> {
        Ok(Measured {
            latencies: Histogram::new_with_bounds(1, LONGEST_NS, 3)?,
            requests: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
        })
    }
}

/// Address and path of a URL; names are not resolved.
fn target(url: &str) -> anyhow::Result<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url:?} does not begin with http://"))?;
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p));
    let address = authority
        .parse()
        .with_context(|| format!("{authority:?} is not ADDRESS:PORT, like 127.0.0.1:8081"))?;
    let path = if path.is_empty() { "/v1/chat/completions".into() } else { format!("/{path}") };
    Ok((address, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses() {
        assert_eq!(
            target("http://127.0.0.1:81").unwrap(),
            ("127.0.0.1:81".parse().unwrap(), "/v1/chat/completions".into())
        );
        assert_eq!(target("http://[::1]:81/v1/completions").unwrap().1, "/v1/completions");
        assert!(target("https://127.0.0.1:81").is_err());
        assert!(target("http://localhost:81").is_err());
    }
}
