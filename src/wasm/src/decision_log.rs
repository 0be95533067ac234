//! The wording of the log lines that requests write, and how often each may be written.

use std::borrow::Cow;
use std::fmt::{self, Write};

use log::LevelFilter;
use warmpath::decide::pick::Candidate;
use warmpath::decide::reason::Reason;
use warmpath::router::{Decision, NoPod};
use warmpath::shared::pod_table::PodTable;
use warmpath::{Bytes, Micros};

use crate::host;
use crate::log_batch::{LogBatch, REPEAT_AFTER};

/// Share of the prompt above which a match is logged and counted, as in the reference.
pub const PREFIX_HIT: f64 = 0.5;
/// Longest part of a client's header that a line shows, in bytes.
const LONGEST_SHOWN: usize = 128;

/// The log of one worker's decisions.
#[derive(Debug)]
pub struct DecisionLog {
    /// What Envoy prints.
    level: LevelFilter,
    prefix_hits: LogBatch,
    /// When it was last logged that requests met no pod, and how many have met none since.
    no_pod_logged_at: Micros,
    without_pod: u64,
}

impl DecisionLog {
    /// A log at Envoy's present level.
    pub fn new() -> DecisionLog {
        DecisionLog {
            level: host::log_level(),
            prefix_hits: LogBatch::default(),
            no_pod_logged_at: Micros::ZERO,
            without_pod: 0,
        }
    }

    /// Asks for Envoy's level again, for an operator may change it while Envoy runs.
    pub fn refresh(&mut self) {
        self.level = host::log_level();
    }

    /// Prints what was held back.
    pub fn tick(&mut self, now: Micros) {
        self.prefix_hits.print(now);
    }

    /// Whether debug lines are printed.
    pub fn debug(&self) -> bool {
        self.level >= LevelFilter::Debug
    }

    /// The reference's line for a request whose pod holds much of its prompt.
    #[inline(never)]
    pub fn prefix_hit(&mut self, ratio: f64, pod: &str, now: Micros) {
        if self.level >= LevelFilter::Info {
            let request = host::request_header("x-request-id").unwrap_or_default();
            self.prefix_hits.add(now, |line| push_prefix_hit(line, &printable(&request), ratio, pod));
        }
    }

    /// A line for a request that leaves the pod which holds most of its prompt.
    #[inline(never)]
    pub fn left(&mut self, decision: &Decision, left: &Candidate, table: &PodTable, now: Micros) {
        if self.level < LevelFilter::Info {
            return;
        }
        let why = match decision.reason {
            Reason::Copy => "so many prompts begin like it that a second pod gets a copy",
            Reason::Busy => "that pod would answer later",
            _ => "that pod is left alone",
        };
        let request = host::request_header("x-request-id").unwrap_or_default();
        self.prefix_hits.add(now, |line| {
            let _ = write!(
                line,
                "warmpath: \"{}\" goes to {} and not to {}, which holds {} of its {} prompt tokens: {why}",
                printable(&request),
                table.name(decision.ticket.slot()),
                table.name(left.slot),
                Decimal(left.matched, 0),
                decision.tokens.0,
            );
        });
    }

    /// A debug line with all that a decision was made from.
    #[inline(never)]
    pub fn costs(&self, decision: &Decision, candidates: &[Candidate], table: &PodTable) {
        if !self.debug() {
            return;
        }
        let request = host::request_header("x-request-id").unwrap_or_default();
        // Without a prompt the rule counts one token of work, which is nobody's.
        let tokens = match candidates.first() {
            Some(candidate) if decision.bytes > Bytes::NONE => candidate.terms.uncached + candidate.matched,
            _ => 0.0,
        };
        let mut line = format!(
            "warmpath: chose {} for \"{}\", {} prompt tokens, of",
            table.name(decision.ticket.slot()),
            printable(&request),
            Decimal(tokens, 0),
        );
        for candidate in candidates {
            let terms = &candidate.terms;
            let _ = write!(
                line,
                " [{} {:?} matched {}, {} s = (attributable {} of uncached {} + queue_ahead {} + delay_to_others \
                 {} + decode {} + eviction {} + kv_pressure {} + adapter {}) / {} tok/s]",
                table.name(candidate.slot),
                candidate.rank,
                Decimal(candidate.matched, 0),
                Decimal(terms.seconds, 4),
                Decimal(terms.attributable, 0),
                Decimal(terms.uncached, 0),
                Decimal(terms.queue_ahead, 0),
                Decimal(terms.delay_to_others, 0),
                Decimal(terms.decode, 0),
                Decimal(terms.eviction, 0),
                Decimal(terms.kv_pressure, 0),
                Decimal(terms.adapter, 0),
                Decimal(terms.tokens_per_second, 0),
            );
        }
        log::debug!("{line}");
    }

    /// A warning that requests met no pod, now and then: under load there are thousands a second. At the
    /// level debug each request has a line.
    pub fn no_pod(&mut self, no_pod: NoPod, fail_open: bool, now: Micros) {
        let outcome = if fail_open { "left to the fallback cluster" } else { "answered 503" };
        let reason = in_words(no_pod);
        self.without_pod += 1;
        if now.since(self.no_pod_logged_at) >= REPEAT_AFTER {
            log::warn!(
                "warmpath: {} requests without a pod since the last such line, {outcome}: {reason}",
                self.without_pod
            );
            self.no_pod_logged_at = now;
            self.without_pod = 0;
        }
        if self.debug() {
            let request = host::request_header("x-request-id").unwrap_or_default();
            log::debug!("warmpath: chose no pod for \"{}\", {outcome}: {reason}", printable(&request));
        }
    }
}

/// Why no pod was named, for clients and the log.
pub fn in_words(no_pod: NoPod) -> &'static str {
    match no_pod {
        NoPod::NoTable => "no pod is known yet",
        NoPod::UnknownCluster => "the pods of its cluster are not known yet",
        NoPod::Saturated { .. } => "all pods are busy, and the request may be shed",
        NoPod::OverShare { .. } => "all pods are busy, and the tenant has more than its share of the work",
        NoPod::AllCoolingDown => "every pod has failed a moment ago",
        NoPod::AdapterAsleep => "every pod that has the LoRA adapter is asleep",
        NoPod::Contended => "the gateway is overloaded",
    }
}

/// A client's bytes for a quoted field of the log, escaped as in JSON: they can end neither the field nor the
/// line, and harmless ones read as they do in the access log.
fn printable(bytes: &[u8]) -> Cow<'_, str> {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    let bytes = bytes.get(..LONGEST_SHOWN).unwrap_or(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && bytes.iter().all(|&byte| plain(byte))
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', byte as char]),
            _ if plain(byte) => text.push(byte as char),
            _ => drop(write!(text, "\\u{byte:04x}")),
        }
    }
    Cow::Owned(text)
}

/// Appends the line of a prefix hit, as the reference words it. Nearly every request has one, so it is put
/// together without the machinery that formats fractions.
fn push_prefix_hit(line: &mut String, request: &str, ratio: f64, pod: &str) {
    line.push_str("Do prefix-aware routing! {\"request\": \"");
    line.push_str(request);
    line.push_str("\", \"matching ratio\": \"");
    push_hundredths(line, ratio);
    line.push_str(" > ");
    push_hundredths(line, PREFIX_HIT);
    line.push_str("\", \"pod\": \"");
    line.push_str(pod);
    line.push_str("\"}");
}

/// Appends a share from 0 to 1 with two digits after the point.
fn push_hundredths(line: &mut String, share: f64) {
    let hundredths = (share * 100.0).round() as u32;
    let digit = |number: u32| char::from(b'0' + (number % 10) as u8);
    line.extend([digit(hundredths / 100), '.', digit(hundredths / 10), digit(hundredths)]);
}

/// A number with so many digits after its point. The standard library prints fractions to any precision, with
/// code that would be a fiftieth of the module.
struct Decimal(f32, u32);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Decimal(number, digits) = self;
        let scale = 10u64.pow(digits);
        let scaled = (f64::from(number.abs()) * scale as f64).round() as u64;
        let sign = if number < 0.0 { "-" } else { "" };
        write!(f, "{sign}{}", scaled / scale)?;
        if digits == 0 { Ok(()) } else { write!(f, ".{:0width$}", scaled % scale, width = digits as usize) }
    }
}
