//! Replays a file: JSON lines of `{"time": 1.5, "segments": [["system", 200], ["q1", 40]], "output_tokens":
//! 100}`.
//!
//! `time` is in seconds; the first request is at the start, so a trace may count from anywhere, as clocks do.
//! Segments of the same name share their text from its beginning. A segment whose name starts with `tools:`,
//! `system:`, `assistant:` or `tool:` has that role; all others are the user's.

use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::{Role, Session, Span, Turn, Workload, WorkloadError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    segments: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
}

/// Reads a trace from a file.
///
/// # Errors
/// [`WorkloadError`] with the file, or the line and the field that is wrong.
pub fn load(path: &str) -> Result<Workload, WorkloadError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| WorkloadError::Unreadable { path: path.to_owned(), reason: e.to_string() })?;
    parse(&text)
}

/// Reads a trace. Empty lines are skipped.
///
/// # Errors
/// [`WorkloadError`] with the line and the field that is wrong.
pub fn parse(text: &str) -> Result<Workload, WorkloadError> {
    let mut sessions = Vec::new();
    for (at, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        sessions.push(session(at, line)?);
    }
    if sessions.is_empty() {
        return Err(WorkloadError::Empty);
    }
    sessions.sort_by(|a, b| a.starts.total_cmp(&b.starts));
    let first = sessions.first().map_or(0.0, |session| session.starts);
    sessions.iter_mut().for_each(|session| session.starts -= first);
    Ok(Workload { sessions, ..Workload::default() })
}

fn session(at: usize, line: &str) -> Result<Session, WorkloadError> {
    let fail = |field, reason: String| WorkloadError::Line { line: at, field, reason };
    let raw: Line<'_> = serde_json::from_str(line).map_err(|e| fail("json", e.to_string()))?;
    let starts: f64 = field(at, "time", raw.time)?;
    if !starts.is_finite() || starts < 0.0 {
        return Err(fail("time", format!("is {starts}; use seconds, 0 or more")));
    }
    let segments: Vec<(String, u32)> = field(at, "segments", raw.segments)?;
    let output_tokens: u32 = field(at, "output_tokens", raw.output_tokens)?;
    let adds: Vec<Span> = segments
        .iter()
        .map(|(name, tokens)| Span { name: xxh3_64(name.as_bytes()), tokens: *tokens, role: role(name) })
        .collect();
    if adds.iter().map(|span| u64::from(span.tokens)).sum::<u64>() == 0 {
        return Err(fail("segments", "has no tokens; a prompt has at least one".into()));
    }
    let answer = xxh3_64(line.as_bytes()) ^ at as u64;
    Ok(Session {
        starts,
        turns: vec![Turn { think: 0.0, adds, output_tokens, answer }],
        ..Session::default()
    })
}

fn field<'a, T: Deserialize<'a>>(
    line: usize,
    field: &'static str,
    raw: Option<&'a RawValue>,
) -> Result<T, WorkloadError> {
    let fail = |reason: String| WorkloadError::Line { line, field, reason };
    let raw = raw.ok_or_else(|| fail("is missing".into()))?;
    serde_json::from_str(raw.get()).map_err(|e| fail(format!("is {}: {e}", raw.get())))
}

fn role(name: &str) -> Role {
    match name.split_once(':').map(|(role, _)| role) {
        Some("tools") => Role::Tools,
        Some("system") => Role::System,
        Some("assistant") => Role::Assistant,
        Some("tool") => Role::Tool,
        _ => Role::User,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_requests_in_order_of_time() {
        let text = concat!(
            "{\"time\": 2, \"segments\": [[\"system:a\", 100], [\"q2\", 7]], \"output_tokens\": 5}\n\n",
            "{\"time\": 0.5, \"segments\": [[\"system:a\", 100], [\"q1\", 9]], \"output_tokens\": 0}\n",
        );
        let workload = parse(text).unwrap();
        assert_eq!(workload.requests(), 2);
        let [first, second] = &workload.sessions[..] else { panic!() };
        assert_eq!((first.starts, second.starts), (0.0, 1.5), "counted from the first");
        assert_eq!(first.turns[0].adds[0], second.turns[0].adds[0]);
        assert_eq!(first.turns[0].adds[0].role, Role::System);
        assert_ne!(first.turns[0].adds[1].name, second.turns[0].adds[1].name);
    }

    #[test]
    fn errors_name_line_and_field() {
        let good = "{\"time\": 0, \"segments\": [[\"a\", 1]], \"output_tokens\": 1}";
        let error = |line: &str| parse(&format!("{good}\n{line}")).unwrap_err().to_string();
        assert!(error("{").starts_with("trace line 2: `json` EOF"));
        assert_eq!(
            error("{\"segments\": [[\"a\", 1]], \"output_tokens\": 1}"),
            "trace line 2: `time` is missing"
        );
        assert!(
            error("{\"time\": -1, \"segments\": [[\"a\", 1]], \"output_tokens\": 1}")
                .contains("`time` is -1")
        );
        assert!(
            error("{\"time\": 0, \"segments\": [[\"a\", -3]], \"output_tokens\": 1}")
                .contains("`segments` is")
        );
        assert!(
            error("{\"time\": 0, \"segments\": [], \"output_tokens\": 1}")
                .contains("`segments` has no tokens")
        );
        assert!(
            error("{\"time\": 0, \"segments\": [[\"a\", 1]], \"output_tokens\": \"x\"}")
                .contains("`output_tokens`")
        );
        assert!(error("{\"tim\": 0}").contains("unknown field `tim`"));
        assert_eq!(parse("\n").unwrap_err(), WorkloadError::Empty);
    }
}
