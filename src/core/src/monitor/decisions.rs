//! The last decisions of all workers, for the console: one JSON object per line, in one shared value.
//!
//! They are kept while somebody looks, and for nobody otherwise.

use crate::decide::pick::{Candidate, Rank};
use crate::monitor::json_text::JsonText;
use crate::router::Decision;
use crate::shared::pod_table::PodTable;
use crate::shared::store::{SharedData, update};
use crate::{Micros, SECOND};

/// Decisions that are kept.
pub const KEPT: usize = 100;
/// Bytes of them that are kept at most.
const MOST_BYTES: usize = 128 << 10;
/// Pods that a decision is shown with; in a larger pool those in the first slots, and always the chosen one.
const PODS: usize = 8;
/// How long after the last look decisions are kept.
const LOOKS: Micros = Micros::from_seconds(10);

/// Notes that somebody looks.
pub fn look(key: &str, shared: &mut impl SharedData, now: Micros) {
    let _ = shared.set(key, &now.0.to_le_bytes(), None);
}

/// Whether somebody has looked just now.
pub fn watched(key: &str, shared: &impl SharedData, now: Micros) -> bool {
    let at = shared.get(key).and_then(|(bytes, _)| bytes.try_into().ok()).map(u64::from_le_bytes);
    at.is_some_and(|at| now.since(Micros(at)) < LOOKS && at <= (now + SECOND).0)
}

/// A decision as JSON; `request` is its id.
pub fn describe(
    decision: &Decision,
    candidates: &[Candidate],
    table: &PodTable,
    request: &[u8],
    now: Micros,
) -> String {
    let chosen = decision.ticket.slot();
    let mut json = JsonText::default();
    json.open('{');
    for (key, number) in
        [("at", now.0), ("tokens", decision.tokens.0.into()), ("matched", decision.matched_tokens.0.into())]
    {
        json.key(key);
        json.number(number);
    }
    json.key("id");
    json.text(request.get(..64).unwrap_or(request));
    json.key("reason");
    json.text(decision.reason.as_str().as_bytes());
    json.key("pod");
    json.text(table.name(chosen).as_bytes());
    if let Some(left) = decision.left {
        json.key("left");
        json.text(table.name(left).as_bytes());
    }
    json.key("pods");
    json.open('[');
    for (nth, candidate) in candidates.iter().enumerate() {
        if nth >= PODS && candidate.slot != chosen && Some(candidate.slot) != decision.left {
            continue;
        }
        let terms = &candidate.terms;
        json.open('{');
        json.key("pod");
        json.text(table.name(candidate.slot).as_bytes());
        json.key("rank");
        json.text(rank(candidate.rank).as_bytes());
        json.key("cost");
        json.number((terms.seconds * 1e6) as u64);
        json.key("rate");
        json.number((terms.tokens_per_second as u64).max(1));
        json.key("terms");
        json.open('[');
        for tokens in [
            terms.attributable,
            terms.queue_ahead,
            terms.delay_to_others,
            terms.decode,
            terms.eviction,
            terms.kv_pressure,
            terms.adapter,
        ] {
            json.number(tokens as u64);
        }
        json.close(']');
        json.close('}');
    }
    json.close(']');
    json.close('}');
    json.into_text()
}

/// Adds decisions to those of other workers; the oldest go.
pub fn add(lines: &[String], key: &str, shared: &mut impl SharedData) {
    let _ = update(shared, key, |bytes| {
        let before = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let all: Vec<&str> = before.lines().chain(lines.iter().map(String::as_str)).collect();
        let mut room = MOST_BYTES;
        let fits = all.iter().rev().take(KEPT).take_while(|line| {
            room = room.saturating_sub(line.len() + 1);
            room > 0
        });
        let kept = all.get(all.len() - fits.count()..).unwrap_or_default().join("\n");
        (kept, ())
    });
}

/// The decisions as values of a list.
pub fn listed(key: &str, shared: &impl SharedData) -> String {
    let text = shared.get(key).and_then(|(bytes, _)| String::from_utf8(bytes).ok()).unwrap_or_default();
    text.replace('\n', ",")
}

fn rank(rank: Rank) -> &'static str {
    match rank {
        Rank::Ready => "Ready",
        Rank::Refusing => "Refusing",
        Rank::Unreachable => "Unreachable",
        Rank::Erring => "Erring",
        Rank::CoolingDown => "CoolingDown",
        Rank::Hanging => "Hanging",
        Rank::Asleep => "Asleep",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::Map;

    #[test]
    fn the_last_decisions_of_all_workers_are_kept() {
        let mut shared = Map::default();
        let line = |number: usize| format!("{{\"at\":{number}}}");
        for first in (0..250).step_by(50) {
            let lines: Vec<String> = (first..first + 50).map(line).collect();
            add(&lines, "k", &mut shared);
        }
        let listed: Vec<serde_json::Value> =
            serde_json::from_str(&format!("[{}]", listed("k", &shared))).unwrap();
        assert_eq!(listed.len(), KEPT);
        assert_eq!((&listed[0]["at"], &listed[99]["at"]), (&150.into(), &249.into()));
        add(&["x".repeat(MOST_BYTES)], "k", &mut shared);
        assert!(shared.get("k").unwrap().0.len() <= MOST_BYTES, "one that is too long is not kept");
    }

    #[test]
    fn somebody_looks_for_ten_seconds() {
        let mut shared = Map::default();
        assert!(!watched("k", &shared, SECOND));
        look("k", &mut shared, SECOND);
        assert!(watched("k", &shared, 10 * SECOND));
        assert!(!watched("k", &shared, 11 * SECOND));
    }
}
