//! `scripts/soak`: Warmpath under mixed traffic and random faults, for as long as you like.
//!
//! There are an Envoy with two workers, five simulated pods in their own processes, and clients of all kinds,
//! bad ones included. One pod at a time has a random fault, and reloaded configurations add and remove pods.
//! A pod that was killed comes back with another number of engines (data parallelism).
//!
//! At least two healthy pods are always there, which have the LoRA adapters too, so no request may be lost
//! and none refused. Each answer must have the words that a pod would give which is asked alone, whichever
//! pod gives it. A stored response must be found as long as its pod is well. Only streams may break off, and
//! only when a pod was killed, hung or cut them. At the end the ledger must be empty, and memory and the
//! number of metrics must have stopped growing after the warm-up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod acts;
mod clients;
mod fleet;
mod ground;
mod options;
mod report;
mod stored;
mod truth;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use warmpath_tests::{Envoy, SimPod};

use crate::acts::ADAPTERS;
use crate::clients::Clients;
use crate::fleet::{ENGINES, Fleet};
use crate::ground::Ground;
use crate::options::Options;
use crate::report::{Report, Sample};
use crate::truth::Oracle;

/// Simulated pods. One is faulty at a time, and up to two are off the list.
const PODS: usize = 5;
/// What all pods have in common.
const MODEL: [&str; 4] = ["--profile", "h100", "--served-model-name", "/model/qwen,qwen"];
/// Time between two samples of memory and metrics.
const SAMPLE: Duration = Duration::from_secs(2);
/// Time between two lines of progress.
const LINE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let options = Options::parse();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(run(options))
}

async fn run(options: Options) -> ExitCode {
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    // Cargo puts both programs into one folder.
    let simulator = std::env::current_exe().unwrap().with_file_name("sim").display().to_string();
    let engines = ENGINES.to_string();
    let flags = ["--speed-up", "2", "--step-ms", "20", "--responses-store", "--data-parallel-size", &engines];
    let adapters = ADAPTERS.join(",");
    let with_adapters = ["--lora-modules", &adapters, "--max-loras", "1", "--lora-load-ms", "100"];
    // One takes few requests at a time and has no adapters, and one has several API servers.
    let full: &[&str] = &["--max-num-queued-reqs", "4"];
    let several = [&with_adapters[..], &["--api-server-count", "2"]].concat();
    let own: [&[&str]; PODS] = [full, &several, &with_adapters, &with_adapters, &with_adapters];
    let pods: Vec<SimPod> =
        own.iter().map(|own| SimPod::start(&simulator, &[&MODEL[..], &flags, own].concat())).collect();
    let at_once = ["--speed-up", "1000", "--step-ms", "1", "--lora-modules", &adapters, "--max-loras", "2"];
    let oracle = Oracle::new(SimPod::start(&simulator, &[&MODEL[..], &at_once].concat()));
    let ground = Arc::new(Ground::new(pods.iter().map(SimPod::address).collect()));
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect())
        .flag("--scrape-ms", "100")
        // Shorter than clients wait, longer than a healthy pod is silent on a busy machine.
        .flag("--pod-silence-timeout", "10s")
        .switch("--receipt")
        .edit(log_errors_only)
        .concurrency(2)
        .log_level("warn")
        // Longer than any request here takes, so that a reload cuts none off.
        .reloadable(20)
        .start()
        .await;
    envoy.sees_ready(PODS).await;

    let start = Instant::now();
    say(
        &options,
        &format!(
            "soak: {} minutes, seed {}, Envoy is process {}",
            options.minutes,
            options.seed,
            envoy.pid()
        ),
    );
    let clients = Arc::new(Clients::new(envoy.routed, oracle, Arc::clone(&ground)));
    let traffic = clients.start(options.clients, options.seed);
    let mut fleet = Fleet::new(pods, envoy, ground, &options);
    let mut report = Report::default();
    let (mut sampled, mut said) = (start, start);
    while start.elapsed() < length {
        fleet.step().await;
        if sampled.elapsed() >= SAMPLE {
            sampled = Instant::now();
            report.samples.push(Sample::take(&fleet.envoy, start.elapsed()).await);
        }
        if said.elapsed() >= LINE {
            said = Instant::now();
            if let Some(sample) = report.samples.last() {
                say(&options, &format!("{sample}, {}, {}", clients.counts(), fleet.faults));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    clients.stop();
    fleet.heal().await;
    traffic.join_all().await;
    report.finish(&fleet, &clients).await;
    if options.json {
        println!("{}", report.json(&options));
    } else {
        println!("{report}");
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An hour of access log would be a gigabyte; the errors in it tell what became of a request.
fn log_errors_only(configuration: String) -> String {
    const LOG: &str = "- name: envoy.access_loggers.file\n";
    let (before, after) = configuration.split_once(LOG).unwrap();
    let errors = "filter: { status_code_filter: { comparison: { op: GE, value: { default_value: 400, runtime_key: none } } } }";
    format!("{before}{LOG}                    {errors}\n{after}")
}

fn say(options: &Options, line: &str) {
    if options.json { eprintln!("{line}") } else { println!("{line}") }
}
