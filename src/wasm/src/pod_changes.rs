//! The log lines of pods whose scrapes begin or cease to bring a load: one line per change, and one for all
//! when many pods change at once, as when a whole fleet starts.

use log::Level;
use warmpath::shared::pod_table::PodState;

/// Pods that change to the same state at once and still have a line each.
const LINES: usize = 3;

/// Changes since the last print.
#[derive(Debug, Default)]
pub struct PodChanges(Vec<Change>);

#[derive(Debug)]
struct Change {
    address: String,
    before: PodState,
    after: PodState,
    why: String,
}

impl PodChanges {
    /// The pod at `address` was in one state and is in another; `why` tells what its scrape brought, if
    /// anything is wrong with it. Nothing is added where the states are equal.
    pub fn add(&mut self, address: &str, before: PodState, after: PodState, why: &str) {
        if before != after {
            self.0.push(Change { address: address.to_owned(), before, after, why: why.to_owned() });
        }
    }

    /// Prints the changes of a pool with `pods` pods, whose metrics are at `path`.
    pub fn print(&mut self, pods: usize, path: &str) {
        for state in [
            PodState::Unreachable,
            PodState::Unreadable,
            PodState::Hanging,
            PodState::Asleep,
            PodState::Ready,
        ] {
            let Some(Words { level, one, many }) = words(state) else { continue };
            let known = |change: &&Change| {
                change.after == state && (state != PodState::Ready || change.before != PodState::Unknown)
            };
            let changes: Vec<&Change> = self.0.iter().filter(known).collect();
            let Some(first) = changes.first() else { continue };
            if changes.len() > LINES {
                let why = reason(first, path);
                log::log!(
                    level,
                    "warmpath: {} of {pods} pods {many}; the first is {}{why}",
                    changes.len(),
                    first.address
                );
            } else {
                for change in changes {
                    log::log!(level, "warmpath: pod {} {one}{}", change.address, reason(change, path));
                }
            }
        }
        self.0.clear();
    }
}

/// What is said of a pod that has changed, and of several.
struct Words {
    level: Level,
    one: &'static str,
    many: &'static str,
}

/// The words for a change to `state`.
fn words(state: PodState) -> Option<Words> {
    let (level, one, many) = match state {
        PodState::Unreachable => (
            Level::Warn,
            "cannot be scraped, others are preferred",
            "cannot be scraped, others are preferred",
        ),
        PodState::Unreadable => (
            Level::Warn,
            "does not tell its load, it is routed to without",
            "do not tell their load, they are routed to without",
        ),
        PodState::Hanging => (
            Level::Warn,
            "has requests and computes nothing, others are preferred for a minute",
            "have requests and compute nothing, others are preferred for a minute",
        ),
        PodState::Asleep => (Level::Info, "sleeps, nothing is sent to it", "sleep, nothing is sent to them"),
        PodState::Ready => (Level::Info, "tells its load again", "tell their load again"),
        PodState::Unknown => return None,
    };
    Some(Words { level, one, many })
}

/// What the scrape brought, for the end of a line.
fn reason(change: &Change, path: &str) -> String {
    if change.why.is_empty() { String::new() } else { format!(": GET {path}: {}", change.why) }
}
