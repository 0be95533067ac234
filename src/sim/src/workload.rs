//! What is asked of a fleet: sessions of turns, and what becomes of the pods while it runs. Data only;
//! `catalog` lists the workloads that are built in, and [`trace`] reads one from a file.
//!
//! A session is one client: it sends a turn, waits for the answer, thinks, and sends the next, whose prompt
//! is all that was said before and what the turn adds. An open loop is many sessions of one turn each.

mod capacity;
mod catalog;
pub mod classes;
mod conversations;
mod dice;
mod open_loop;
pub mod trace;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::QueueLimits;

pub use capacity::Traffic;
pub use catalog::{ALL, Spec, find};
pub use dice::Dice;
pub use open_loop::{EQUAL_PROMPT_TOKENS, EQUAL_PROMPTS};

/// Who says a piece of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Tool definitions, which every chat template puts first.
    Tools,
    /// The system prompt, and documents put there.
    System,
    /// The client.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// A piece of a prompt. Its text follows from its name: equal names share a prefix, different ones share
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The text.
    pub name: u64,
    /// Its length in tokens.
    pub tokens: u32,
    /// Who says it.
    pub role: Role,
}

/// One request of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Seconds between the end of the answer before and this turn; for the first, since the session's start.
    pub think: f64,
    /// What is added to the prompt.
    pub adds: Vec<Span>,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// The name of the answer's text, which is part of the session's next prompt.
    pub answer: u64,
}

/// What a request is besides its prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestClass {
    /// Whether it may be shed when the pool is saturated.
    pub sheddable: bool,
    /// The LoRA adapter that it is for, by number.
    pub adapter: Option<u32>,
    /// Whose it is, where tenants have fair shares.
    pub tenant: Option<u32>,
}

impl RequestClass {
    /// What its adapter is called.
    pub fn adapter_name(&self) -> Option<String> {
        self.adapter.map(adapter_name)
    }
}

/// One client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// Seconds.
    pub starts: f64,
    /// In order.
    pub turns: Vec<Turn>,
    /// What its requests are.
    pub class: RequestClass,
}

/// What an adapter is called in requests and on metrics pages.
pub fn adapter_name(adapter: u32) -> String {
    format!("lora-{adapter}")
}

/// How pods have LoRA adapters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterSetup {
    /// How many one batch can have.
    pub slots: usize,
    /// How long a request waits for one that is not loaded, in seconds.
    pub load_seconds: f64,
    /// How many there are; each pod can load any of them.
    pub count: u32,
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It crashes: what it had is lost, and it refuses connections.
    Dies,
    /// It is back, with an empty cache.
    Returns,
    /// It is taken out of the pool, and finishes what it has.
    Leaves,
    /// It is put into the pool.
    Joins,
}

/// A change in the fleet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Seconds.
    pub at: f64,
    /// Which pod, from 0.
    pub pod: usize,
    /// What becomes of it.
    pub fate: Fate,
}

/// Everything that is asked of a fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// The clients, by their start.
    pub sessions: Vec<Session>,
    /// What becomes of pods, by time. Pods that join later than at the start are not in the pool before.
    pub changes: Vec<Change>,
    /// When each pod refuses requests; pods beyond the end never do.
    pub limits: Vec<QueueLimits>,
    /// The pods' LoRA adapters; `None` when they have none.
    pub adapters: Option<AdapterSetup>,
}

impl Workload {
    /// How many requests there are.
    pub fn requests(&self) -> usize {
        self.sessions.iter().map(|session| session.turns.len()).sum()
    }
}

/// Why there is no workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadError {
    /// A name that is none of the built-in ones.
    Unknown(String),
    /// The workload `trace` needs a file.
    NoTrace,
    /// The trace file cannot be read.
    Unreadable {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// A line of a trace is wrong.
    Line {
        /// From 1.
        line: usize,
        /// Which field, or `json`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The trace has no requests.
    Empty,
}

impl fmt::Display for WorkloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkloadError::Unknown(name) => {
                let names: Vec<&str> = ALL.iter().map(|spec| spec.name).collect();
                write!(f, "no workload is called {name:?}; there are {}, trace and all", names.join(", "))
            }
            WorkloadError::NoTrace => write!(f, "the workload `trace` needs --trace FILE"),
            WorkloadError::Unreadable { path, reason } => write!(f, "trace {path}: {reason}"),
            WorkloadError::Line { line, field, reason } => {
                write!(f, "trace line {line}: `{field}` {reason}")
            }
            WorkloadError::Empty => write!(f, "the trace has no requests"),
        }
    }
}

impl std::error::Error for WorkloadError {}
