//! Runs Warmpath where it is used: real etcd, API server, Envoy Gateway and Envoy, pods as processes and tasks of this machine.
//!
//! `scripts/test --kubernetes` starts it. It makes namespaces of its own ([`sandbox`]), starts the cluster in them
//! ([`ground`]), and runs one case after the other ([`cases`]): a line for each, and `N passed, N failed` at the end. What every
//! program said lies in one folder, which a failure names.

// A harness fails loudly: what it cannot do ends the case at the line that asked for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod api;
mod cases;
mod conformance;
mod container;
mod gateway;
mod ground;
mod kubelet;
mod modules;
mod objects;
mod pools;
mod process;
mod sandbox;
mod services;
mod world;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use futures::FutureExt;

use world::World;

/// Tests Warmpath against a real Kubernetes API server, Envoy Gateway and Envoy.
#[derive(Debug, Parser)]
struct Args {
    /// Only the cases whose name contains one of these
    filter: Vec<String>,
    /// Print the names of the cases, and run nothing
    #[arg(long)]
    list: bool,
    /// Run the conformance suite of the Gateway API Inference Extension and write its report; a word names the one test to run
    #[arg(long, value_name = "REPORT")]
    conformance: Option<std::path::PathBuf>,
    /// Leave out the cases that measure, and name them
    #[arg(long)]
    ci: bool,
    /// Start the cluster, print how to reach it, and stay until Ctrl-C
    #[arg(long)]
    stay: bool,
    /// Folder of the programs that scripts/kubernetes-tools gets
    #[arg(long, required_unless_present = "list")]
    tools: Option<std::path::PathBuf>,
    /// The module under test [target/warmpath.wasm]
    #[arg(long)]
    module: Option<std::path::PathBuf>,
}

// One thread: Envoy ends with the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let chosen: Vec<_> = cases::all()
        .into_iter()
        .filter(|case| {
            args.filter.is_empty() || args.filter.iter().any(|word| case.name.contains(word.as_str()))
        })
        .filter(|case| !args.ci || left_out(case.name).is_none())
        .collect();
    if args.list {
        chosen.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    }
    sandbox::enter();
    let code = tokio::select! {
        code = run(args, chosen) => code,
        () = interrupted() => {
            println!("interrupted");
            130
        }
    };
    // With this process all others of the sandbox end, at once.
    std::process::exit(code)
}

/// Why `--ci` leaves a case out; nothing if it does not.
fn left_out(name: &str) -> Option<&'static str> {
    cases::NOT_IN_CI.iter().find(|(case, _)| *case == name).map(|(_, why)| *why)
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

async fn run(args: Args, chosen: Vec<cases::Case>) -> i32 {
    if let Some(report) = &args.conformance {
        let module = world::module(args.module.as_deref());
        let test = args.filter.first().map(String::as_str);
        return conformance::run(&args.tools.unwrap_or_default(), &module, report, test).await;
    }
    let start = Instant::now();
    let mut world = World::start(&args.tools.clone().unwrap_or_default(), args.module.as_deref()).await;
    println!(
        "the cluster is up after {:.1} s; logs in {}",
        start.elapsed().as_secs_f64(),
        world.ground.logs().display()
    );
    if args.stay {
        println!("{}", world.ground.invitation());
        std::future::pending::<()>().await;
    }
    for (name, _) in cases::NOT_IN_CI {
        assert!(cases::all().iter().any(|case| case.name == *name), "there is no case {name}");
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for case in chosen {
        let start = Instant::now();
        let outcome = AssertUnwindSafe(async {
            match case.ground {
                cases::Ground::Policies => world.reset().await,
                cases::Ground::Pools => pools::reset(&mut world).await,
            }
            (case.run)(&mut world).await;
        })
        .catch_unwind()
        .await;
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("PASS  {seconds:6.1} s  {}", case.name);
            }
            // The panic's message and place are on standard error already.
            Err(_) => {
                println!("FAIL  {seconds:6.1} s  {}", case.name);
                world.spoilt();
                failed.push(case.name);
            }
        }
    }
    if args.ci {
        cases::NOT_IN_CI.iter().for_each(|(name, why)| println!("not run: {name}: {why}"));
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        println!("what every program said: {}", world.ground.logs().display());
    }
    println!("{passed} passed, {} failed", failed.len());
    let code = i32::from(!failed.is_empty());
    // Its end would be the orderly end of every program, and takes seconds.
    std::mem::forget(world);
    code
}
