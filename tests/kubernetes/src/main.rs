//! Runs Warmpath where it is used: real etcd, API server, Envoy Gateway and Envoy, pods as processes and
//! tasks of this machine.
//!
//! `scripts/test --kubernetes` starts it. It makes namespaces of its own ([`sandbox`]) with a cluster in each
//! ([`ground`], [`lane`]), and hands the cases ([`cases`]) out to several of them ([`lanes`]): a line for
//! each, and `N passed, N failed` at the end. What every program said lies in one folder for each cluster,
//! which a failure names.

// A harness fails loudly: what it cannot do ends the case at the line that asked for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod access_log;
mod api;
mod beginning;
mod cases;
mod conformance;
mod container;
mod controller;
mod gateway;
mod ground;
mod kubelet;
mod lane;
mod lanes;
mod modules;
mod objects;
mod pools;
mod process;
mod sandbox;
mod services;
mod wait;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use cases::{Case, Pace};
use ground::{Ground, folder};
use world::World;

/// Tests Warmpath against a real Kubernetes API server, Envoy Gateway and Envoy.
#[derive(Debug, Parser)]
struct Args {
    /// Only the cases whose name contains one of these
    filter: Vec<String>,
    /// Only the cases with policies, or only those with InferencePools
    #[arg(long, value_name = "PART")]
    only: Option<cases::Ground>,
    /// Print the names of the cases, and run nothing
    #[arg(long)]
    list: bool,
    /// Run the conformance suite of the Gateway API Inference Extension and write its report; a word names
    /// the one test to run
    #[arg(long, value_name = "REPORT")]
    conformance: Option<PathBuf>,
    /// How many clusters run cases side by side [as many as memory is free for, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: Option<u8>,
    /// Run the cases that take minutes each too
    #[arg(long)]
    long: bool,
    /// Run the cases that come on standard input; everything of this cluster lies in this folder
    #[arg(long, value_name = "FOLDER", hide = true)]
    lane: Option<PathBuf>,
    /// Leave the processors to other lanes where both want them
    #[arg(long, hide = true)]
    yields: bool,
    /// Make what every cluster begins with
    #[arg(long, hide = true)]
    beginning: bool,
    /// Start the cluster, print how to reach it, and stay until Ctrl-C
    #[arg(long)]
    stay: bool,
    /// Folder of the programs that scripts/kubernetes-tools gets
    #[arg(long, required_unless_present = "list")]
    tools: Option<PathBuf>,
    /// The module under test [target/warmpath.wasm]
    #[arg(long)]
    module: Option<PathBuf>,
}

// One thread: Envoy ends with the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        chosen(&args).0.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    }
    let code = tokio::select! {
        code = run(&args) => code,
        () = interrupted() => {
            println!("interrupted");
            130
        }
    };
    // With this process all others of the sandbox end, at once.
    std::process::exit(code)
}

/// The first process of a namespace gets no signal that it does not ask for.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn run(args: &Args) -> i32 {
    let tools = args.tools.clone().unwrap_or_default();
    let module = args.module.as_deref();
    if let Some(folder) = &args.lane {
        sandbox::enter();
        if args.yields {
            // What this process starts is as modest as it is.
            sandbox::run("renice", &["-n", "5", "-p", &std::process::id().to_string()]);
        }
        return lane::serve(&tools, module, folder.clone()).await;
    }
    if args.beginning {
        sandbox::enter();
        begin(&tools).await;
        return 0;
    }
    if let Some(report) = &args.conformance {
        sandbox::enter();
        let test = args.filter.first().map(String::as_str);
        return conformance::run(&tools, &world::module(module), report, test).await;
    }
    if args.stay {
        sandbox::enter();
        return stay(&tools, module).await;
    }
    let (cases, left) = chosen(args);
    if cases.is_empty() && left.is_empty() {
        println!("no case has one of these words in its name: {}", args.filter.join(" "));
    }
    let code = if cases.is_empty() {
        1
    } else {
        let flags = lanes::flags(&tools, module);
        beginning::make(&tools, &flags);
        let jobs = args.jobs.map_or_else(lanes::room, usize::from);
        lanes::run(cases, jobs, &flags).await
    };
    left.iter().for_each(|case| println!("only with --long: {}", case.name));
    code
}

/// The cases that have one of the words in their name: those to run, and those that take so long that only
/// `--long` or their whole name asks for them.
fn chosen(args: &Args) -> (Vec<Case>, Vec<Case>) {
    let named = |case: &Case| {
        let of_part = args.only.is_none_or(|part| case.ground.is_like(part));
        of_part && (args.filter.is_empty() || args.filter.iter().any(|word| case.name.contains(word)))
    };
    let asked = |case: &Case| {
        case.pace != Pace::Long || args.long || args.filter.iter().any(|word| word == case.name)
    };
    cases::all().into_iter().filter(named).partition(asked)
}

/// Makes what every cluster begins with, in a cluster that lives as long as that takes.
async fn begin(tools: &Path) {
    let ground = Ground::start(tools, folder().join("beginning")).await;
    gateway::certify(&ground).await;
    beginning::keep(tools, &ground.end());
}

/// Starts a cluster and says how to look into it.
async fn stay(tools: &Path, module: Option<&Path>) -> i32 {
    let start = Instant::now();
    let world = World::start(tools, module, folder()).await;
    println!(
        "the cluster is up after {:.1} s; logs in {}",
        start.elapsed().as_secs_f64(),
        world.ground.logs().display()
    );
    println!("{}", world.ground.invitation());
    std::future::pending().await
}
