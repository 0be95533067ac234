//! The table for a terminal: one block per workload and fleet, one line per policy, with the mean over seeds.

use std::fmt::Write;

use super::cases::{CaseSummary, over_seeds};
use super::row::ResultRow;

/// All results as text. `>` marks ours, `*` the best of the others in a column of times.
pub fn table(entries: &[ResultRow]) -> String {
    let mut out = String::new();
    for CaseSummary { title, seeds, policies } in over_seeds(entries) {
        let title = if seeds > 1 { format!("{title}, mean of {seeds} seeds") } else { title };
        block(&mut out, &title, &policies);
    }
    out.push_str(
        "> ours, * best of the others (the oracle, which no router can be, aside). Times in seconds.\n",
    );
    out
}

fn block(out: &mut String, title: &str, case: &[ResultRow]) {
    let _ = writeln!(out, "{title}");
    let _ = writeln!(
        out,
        "  {:<18}{:>10}{:>10}{:>10}{:>10}{:>9}{:>7}{:>11}{:>10}",
        "", "TTFT mean", "p50", "p90", "p99", "TPOT", "hits", "imbalance", "tokens/s"
    );
    let least = |of: fn(&ResultRow) -> f64| {
        case.iter().filter(|e| e.is_rival()).map(of).fold(f64::INFINITY, f64::min)
    };
    let times: [fn(&ResultRow) -> f64; 4] =
        [|e| e.summary.ttft.mean, |e| e.summary.ttft.p50, |e| e.summary.ttft.p90, |e| e.summary.ttft.p99];
    for entry in case {
        let _ = write!(out, "{} {:<18}", if entry.is_ours() { '>' } else { ' ' }, entry.policy);
        for of in times {
            let value = of(entry);
            if value.is_nan() {
                let _ = write!(out, "{:>10}", "-");
                continue;
            }
            let mark = if entry.is_rival() && value == least(of) { "*" } else { "" };
            let _ = write!(out, "{:>10}", format!("{mark}{value:.3}"));
        }
        let s = &entry.summary;
        let _ = write!(
            out,
            "{:>9.4}{:>6.1}%{:>11.2}{:>10.0}",
            s.tpot.mean,
            s.hit_rate * 100.0,
            s.imbalance,
            s.tokens_per_second
        );
        if s.broken + s.failed > 0 {
            let _ = write!(out, "  {} broken off, {} never answered", s.broken, s.failed);
        }
        if s.refusals > 0 {
            let _ = write!(out, "  {} answered, {} refused", s.answered, s.refused);
        }
        out.push('\n');
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::entry;
    use super::*;

    #[test]
    fn seeds_are_one_line_with_their_mean() {
        let one = table(&[entry("warmpath", "chats", 1, 1.0), entry("gie", "chats", 1, 2.0)]);
        assert!(one.starts_with("chats on 4 A10 pods, 1 worker\n") && one.contains("*2.000"), "{one}");
        let two = table(&[
            entry("warmpath", "chats", 1, 1.0),
            entry("gie", "chats", 1, 2.0),
            entry("warmpath", "chats", 2, 1.5),
            entry("gie", "chats", 2, 4.0),
        ]);
        assert!(two.starts_with("chats on 4 A10 pods, 1 worker, mean of 2 seeds\n"), "{two}");
        assert!(two.contains("1.250") && two.contains("*3.000") && !two.contains("1.500"), "{two}");
    }
}
