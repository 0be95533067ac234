//! Hands the cases out to lanes, several clusters that run side by side, and tells how each case ended.
//!
//! Most cases wait more than they compute, so a few clusters on one machine take a fraction of the time of
//! one. Each has everything for itself, the addresses too, so that a case may stop Envoy Gateway or the API
//! server. What measures time comes when the rest is done, in two clusters, beside one case at most that
//! mostly waits; what measures how processors are shared has the machine for itself, at the end. So has, for
//! one more try, what has failed before; it is named.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use futures::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Notify;

use crate::cases::{Case, Ground, Pace};
use crate::ground::folder;
use crate::lane::Said;
use crate::sandbox;

const GROUNDS: [Ground; 2] = [Ground::Policies, Ground::Pools];

/// A virtual machine sometimes stands still for a second between two lines of a case that measures time.
const TRIES: usize = 2;

/// Memory that a cluster takes, with a margin, in kB.
const OF_A_CLUSTER: u64 = 1_500_000;

/// How many clusters there is memory for: many of the cases wait for minutes, while others compute.
pub fn room() -> usize {
    let page = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = page.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free: u64 = line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    (free / OF_A_CLUSTER).clamp(2, MOST) as usize
}

/// More clusters take more of the processors for themselves than they leave idle.
const MOST: u64 = 8;

/// How many lanes run cases that compute, where there are enough of them: they keep two processors busy. In
/// the others cases wait.
const COMPUTING: usize = 3;

/// How many lanes come first where several want a processor: the two that begin with the longest cases, one
/// of which must send so many requests per second.
const FIRST: usize = 2;

/// Runs the cases; the exit code.
pub async fn run(mut cases: Vec<Case>, lanes: usize, arguments: &[String]) -> i32 {
    let start = Instant::now();
    let _ = std::fs::remove_dir_all(folder());
    std::fs::create_dir_all(folder()).unwrap();
    // A sort that keeps the order of equals.
    cases.sort_by_key(|case| match case.pace {
        Pace::Early(seconds) => Reverse(seconds),
        _ => Reverse(0),
    });
    let (timed, cases): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| case.pace == Pace::Timed);
    let (mut alone, beside): (Vec<Case>, Vec<Case>) =
        cases.into_iter().partition(|case| case.pace == Pace::Alone);
    let lanes = lanes.min(beside.len());
    let all = Run {
        lanes,
        waiting: RefCell::new(beside),
        timed: RefCell::new(timed),
        running: RefCell::default(),
        ended: Notify::new(),
        again: RefCell::default(),
        claimed: Cell::default(),
        kept: RefCell::default(),
        tally: RefCell::default(),
        started: Cell::new(0),
        arguments: arguments.to_vec(),
    };
    // One ground each in turn, where both are asked for.
    let grounds = GROUNDS.into_iter().cycle().take(lanes);
    join_all(grounds.map(|ground| all.side_by_side(ground))).await;
    // Two clusters are left, fewer where fewer cases were asked for.
    let mut kept = all.kept.take();
    join_all(kept.iter_mut().zip(GROUNDS).map(|(lane, ground)| all.timed(lane, ground))).await;
    alone.extend(all.again.take());
    for (at, ground) in GROUNDS.into_iter().enumerate() {
        let cases: Vec<&Case> = alone.iter().filter(|case| case.ground.is_like(ground)).collect();
        if !cases.is_empty() {
            let mut lane = kept[at].take();
            kept = [None, None];
            for case in cases {
                all.try_alone(&mut lane, case).await;
            }
        }
    }
    let tally = all.tally.into_inner();
    if !tally.again.is_empty() {
        println!("not at the first try: {}", tally.again.join(", "));
    }
    if !tally.failed.is_empty() {
        println!("failed: {}", tally.failed.join(", "));
        println!("what every program said: {}", folder().display());
    }
    println!(
        "{} passed, {} failed, in {:.0} s; one after the other they took {:.0} s",
        tally.passed,
        tally.failed.len(),
        start.elapsed().as_secs_f64(),
        tally.seconds
    );
    i32::from(!tally.failed.is_empty())
}

/// Everything about a run that its lanes share.
struct Run {
    lanes: usize,
    waiting: RefCell<Vec<Case>>,
    /// Those that measure time and wait for the others.
    timed: RefCell<Vec<Case>>,
    running: RefCell<Vec<Case>>,
    /// One of them has ended.
    ended: Notify,
    /// Those that have failed beside others.
    again: RefCell<Vec<Case>>,
    /// Whether a lane of each ground has claimed what measures time.
    claimed: Cell<[bool; 2]>,
    /// Those lanes, when they have done that.
    kept: RefCell<[Option<Lane>; 2]>,
    tally: RefCell<Tally>,
    started: Cell<usize>,
    arguments: Vec<String>,
}

/// What is told at the end.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<&'static str>,
    again: Vec<&'static str>,
    seconds: f64,
}

impl Run {
    /// Runs one waiting case after the other in a lane until none waits, first those that begin with
    /// `ground`. The first lane of a ground that comes so far runs what measures time, and is kept; the
    /// others end.
    async fn side_by_side(&self, mut ground: Ground) {
        let mut lane = None;
        while let Some(case) = self.next(ground) {
            ground = case.ground;
            self.try_once(&mut lane, &case).await;
        }
        let place = usize::from(ground.is_like(Ground::Pools));
        let mut claimed = self.claimed.get();
        if !std::mem::replace(&mut claimed[place], true) {
            self.claimed.set(claimed);
            self.timed(&mut lane, ground).await;
            self.kept.borrow_mut()[place] = lane;
        }
    }

    /// Runs the cases of this ground that measure time, one after the other, when the machine is calm.
    async fn timed(&self, lane: &mut Option<Lane>, ground: Ground) {
        while self.timed.borrow().iter().any(|case| case.ground.is_like(ground)) {
            if !self.is_calm(ground) {
                self.ended.notified().await;
                continue;
            }
            let case = take(&mut self.timed.borrow_mut(), |case| case.ground.is_like(ground));
            self.try_once(lane, &case.expect("there was one")).await;
        }
    }

    /// Whether a case of this ground may measure time: none runs that computes much, and one at most that
    /// mostly waits; one more may measure time, of the other ground.
    fn is_calm(&self, ground: Ground) -> bool {
        let running = self.running.borrow();
        let times = |case: &Case| case.pace == Pace::Timed && !case.ground.is_like(ground);
        running.iter().all(|case| times(case) || case.waits())
            && running.iter().filter(|case| case.waits()).count() <= 1
    }

    /// What others took of the machine is no excuse when a case has the machine for itself: one that fails is
    /// tried again then.
    async fn try_once(&self, lane: &mut Option<Lane>, case: &Case) {
        let outcome = self.attempt(lane, case).await;
        if outcome.failure.is_none() {
            self.tell(case, outcome, 1);
        } else {
            outcome.print("AGAIN", case);
            self.again.borrow_mut().push(*case);
        }
    }

    /// The first case of this ground, else the first of the other. Half of the lanes at least run cases that
    /// mostly wait, so that the processors have work all the time.
    fn next(&self, ground: Ground) -> Option<Case> {
        let mut waiting = self.waiting.borrow_mut();
        let to_wait = self.lanes.saturating_sub(COMPUTING).max(self.lanes.div_ceil(2));
        let enough = self.running.borrow().iter().filter(|case| case.waits()).count() >= to_wait;
        take(&mut waiting, |case| case.ground.is_like(ground) && case.waits() != enough)
            .or_else(|| take(&mut waiting, |case| case.ground.is_like(ground)))
            .or_else(|| take(&mut waiting, |_| true))
    }

    async fn try_alone(&self, lane: &mut Option<Lane>, case: &Case) {
        let first = if case.pace == Pace::Alone { 1 } else { TRIES };
        for number in first.. {
            let outcome = self.attempt(lane, case).await;
            if outcome.failure.is_none() || number == TRIES {
                return self.tell(case, outcome, number);
            }
            outcome.print("AGAIN", case);
        }
    }

    /// Runs a case in the lane, which is started where there is none. A lane in which a case has failed is no
    /// more.
    async fn attempt(&self, lane: &mut Option<Lane>, case: &Case) -> Outcome {
        if lane.is_none() {
            self.started.set(self.started.get() + 1);
            *lane = Some(Lane::start(self.started.get(), case.ground, &self.arguments));
        }
        let running = lane.as_mut().unwrap();
        running.ground = case.ground;
        self.running.borrow_mut().push(*case);
        let outcome = running.run(case).await;
        take(&mut self.running.borrow_mut(), |each| each.name == case.name);
        self.ended.notify_waiters();
        if outcome.failure.is_some() {
            lane.take().unwrap().end().await;
        }
        outcome
    }

    fn tell(&self, case: &Case, outcome: Outcome, tries: usize) {
        let mut tally = self.tally.borrow_mut();
        tally.seconds += outcome.seconds;
        if outcome.failure.is_none() {
            tally.passed += 1;
            outcome.print("PASS", case);
        } else {
            tally.failed.push(case.name);
            outcome.print("FAIL", case);
        }
        if tries > 1 {
            tally.again.push(case.name);
        }
    }
}

/// Takes the first of these cases out.
fn take(cases: &mut Vec<Case>, which: impl Fn(&Case) -> bool) -> Option<Case> {
    let at = cases.iter().position(which)?;
    Some(cases.remove(at))
}

/// How a case ended, what it printed, and where the logs are.
struct Outcome {
    seconds: f64,
    /// Why it has failed; `None` where it has passed.
    failure: Option<String>,
    notes: Vec<String>,
    logs: PathBuf,
}

impl Outcome {
    fn print(&self, word: &str, case: &Case) {
        println!("{word:<5} {:6.1} s  {}", self.seconds, case.name);
        self.notes.iter().for_each(|note| println!("      {}", note.trim()));
        if let Some(why) = &self.failure {
            why.lines().for_each(|line| println!("      {line}"));
            println!("      logs: {}", self.logs.display());
        }
    }
}

/// A process that runs cases; its end is the end of its sandbox.
struct Lane {
    ground: Ground,
    folder: PathBuf,
    child: Child,
    names: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Lane {
    fn start(number: usize, ground: Ground, arguments: &[String]) -> Lane {
        let folder = folder().join(format!("cluster-{number}"));
        let mut command = Command::from(sandbox::again(arguments.iter().map(String::as_str)));
        if number > FIRST {
            command.arg("--yields");
        }
        let mut child = command
            .arg("--lane")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.with_extension("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("unshare (of util-linux)");
        let names = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Lane { ground, folder, child, names, lines }
    }

    /// Has it run a case, and waits for its end.
    async fn run(&mut self, case: &Case) -> Outcome {
        let mut notes = Vec::new();
        // One that has ended says nothing more.
        let _ = self.names.write_all(format!("{}\n", case.name).as_bytes()).await;
        let (seconds, failure) = loop {
            let Ok(Some(line)) = self.lines.next_line().await else {
                break (0.0, Some(self.last_words()));
            };
            match serde_json::from_str(&line) {
                Ok(Said::Up(seconds)) => println!("{} is up after {seconds:.1} s", self.name()),
                Ok(Said::Passed(seconds)) => break (seconds, None),
                Ok(Said::Failed(seconds, why)) => break (seconds, Some(why)),
                Err(_) => notes.push(line),
            }
        };
        Outcome { seconds, failure, notes, logs: self.folder.join("logs") }
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn last_words(&self) -> String {
        let said = std::fs::read_to_string(self.folder.with_extension("log")).unwrap_or_default();
        format!("{} has ended:\n{}", self.name(), last_lines(&said))
    }

    async fn end(mut self) {
        drop(self.names);
        let _ = self.child.wait().await;
    }
}

/// The last ten lines.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// The flags of a lane's process.
pub fn flags(tools: &Path, module: Option<&Path>) -> Vec<String> {
    let mut flags = vec!["--tools".to_owned(), tools.display().to_string()];
    if let Some(module) = module {
        flags.extend(["--module".to_owned(), module.display().to_string()]);
    }
    flags
}
