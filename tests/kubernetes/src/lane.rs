//! A lane: one cluster in a sandbox of its own. It runs the cases whose names come on its standard input, one
//! after the other, and says on its standard output how each ended.

use std::io::BufRead;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::cases::{self, Case, Ground};
use crate::pools;
use crate::world::World;

/// No case takes half of it; one that hangs must not keep the rest from being told.
const LONGEST: Duration = Duration::from_secs(20 * 60);

/// What a lane says, a line of JSON each; other lines are what a case prints.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// The cluster is up, after so many seconds.
    Up(f64),
    /// The case has passed, after so many seconds.
    Passed(f64),
    /// The case has failed after so many seconds, and why.
    Failed(f64, String),
}

impl Said {
    fn say(&self) {
        println!("{}", serde_json::to_string(self).unwrap());
    }
}

/// Panics so far, each with its place.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Serves until the standard input ends. After a case that has failed it ends too: nobody knows what that
/// left behind.
pub async fn serve(tools: &Path, module: Option<&Path>, folder: PathBuf) -> i32 {
    let start = Instant::now();
    let mut names = names();
    record_panics();
    let mut world = World::start(tools, module, folder).await;
    Said::Up(start.elapsed().as_secs_f64()).say();
    while let Some(name) = names.recv().await {
        let case = cases::all().into_iter().find(|case| case.name == name).expect("the name of a case");
        let start = Instant::now();
        let run = AssertUnwindSafe(run(&mut world, &case)).catch_unwind();
        let passed = matches!(tokio::time::timeout(LONGEST, run).await, Ok(Ok(())));
        let seconds = start.elapsed().as_secs_f64();
        if !passed {
            let mut why = std::mem::take(&mut *PANICS.lock().unwrap());
            if why.is_empty() {
                why.push(format!("it ran for more than {LONGEST:?}"));
            }
            Said::Failed(seconds, why.join("\n")).say();
            return 1;
        }
        PANICS.lock().unwrap().clear();
        Said::Passed(seconds).say();
    }
    0
}

async fn run(world: &mut World, case: &Case) {
    match case.ground {
        Ground::Policies => world.reset().await,
        Ground::Bare => world.reset_without_envoy().await,
        Ground::Pools => pools::reset(world).await,
    }
    (case.run)(world).await;
}

/// The lines of the standard input. When it ends, so does this process, and with it the whole sandbox.
fn names() -> mpsc::UnboundedReceiver<String> {
    let (sender, names) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for name in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = sender.send(name);
        }
        std::process::exit(0);
    });
    names
}

/// Keeps what each panic says, and says it on standard error too.
fn record_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or("a panic without a text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        PANICS.lock().unwrap().push(format!("{place}: {text}"));
        usual(panic);
    }));
}
