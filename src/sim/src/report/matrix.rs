//! The verdict at a glance: a row per case, a column per policy, and how each compares with ours.

use std::fmt::Write;

use super::cases::{CaseSummary, over_seeds, short_title};
use super::html::escaped;
use super::row::ResultRow;

/// Within this share of each other, two are the same.
const SAME: f64 = 0.05;
/// The policy that all others are held against.
const OURS: &str = "warmpath";

/// How ours compares with another policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Better,
    Same,
    Worse,
}

/// One field of the matrix.
#[derive(Clone, Debug, PartialEq)]
struct Cell {
    standing: Standing,
    text: String,
    /// In full, for those who point at it.
    title: String,
}

/// The cell of `other`. Where pods refused requests it is about how many were answered, else about the mean
/// time to first token.
fn cell(ours: &ResultRow, other: &ResultRow, refuses: bool) -> Cell {
    let standing = |gain: f64| match gain {
        gain if gain > 1.0 + SAME => Standing::Better,
        gain if gain < 1.0 - SAME => Standing::Worse,
        _ => Standing::Same,
    };
    if refuses {
        let (we, they) = (ours.summary.answered, other.summary.answered);
        let share = they as f64 / we.max(1) as f64;
        let standing = match share {
            share if share < 1.0 - SAME / 5.0 => Standing::Better,
            share if share > 1.0 + SAME / 5.0 => Standing::Worse,
            _ => Standing::Same,
        };
        let title = format!("{} answers {they} requests, {OURS} {we}", other.policy);
        return Cell { standing, text: format!("{:.0} %", share * 100.0), title };
    }
    let (we, they) = (ours.summary.ttft.mean, other.summary.ttft.mean);
    let gain = they / we;
    // NaN, from a run that answered nobody, is no match for ours.
    let standing = if they.is_nan() { Standing::Better } else { standing(gain) };
    let digits = if gain < 10.0 { 1 } else { 0 };
    let text = if gain.is_finite() { format!("{gain:.digits$}×") } else { "-".to_owned() };
    Cell { standing, text, title: format!("{}: {they:.3} s, {OURS}: {we:.3} s", other.policy) }
}

/// The cases that ours took part in.
fn judged(rows: &[ResultRow]) -> Vec<(CaseSummary, ResultRow)> {
    let ours = |case: &CaseSummary| case.policies.iter().find(|row| row.policy == OURS).cloned();
    over_seeds(rows).into_iter().filter_map(|case| ours(&case).map(|ours| (case, ours))).collect()
}

fn refuses(case: &CaseSummary) -> bool {
    case.policies.iter().any(|row| row.summary.refused > 0)
}

/// The verdict in one sentence; empty when ours did not take part.
pub(super) fn sentence(rows: &[ResultRow]) -> String {
    let mut standings = Vec::new();
    let cases = judged(rows);
    let mut first = 0;
    for (case, ours) in &cases {
        let rivals = case.policies.iter().filter(|row| row.is_rival());
        let of: Vec<Standing> = rivals.map(|row| cell(ours, row, refuses(case)).standing).collect();
        first += usize::from(!of.contains(&Standing::Worse));
        standings.extend(of);
    }
    if standings.is_empty() {
        return String::new();
    }
    let count = |what| standings.iter().filter(|standing| **standing == what).count();
    format!(
        "Against {} pairs of a workload and another policy, {OURS} is better in {}, the same within 5 % in {} and worse in \
         {}; in {first} of {} cases nobody is better than it.",
        standings.len(),
        count(Standing::Better),
        count(Standing::Same),
        count(Standing::Worse),
        cases.len()
    )
}

/// The matrix as HTML.
pub(super) fn html(rows: &[ResultRow]) -> String {
    let cases = judged(rows);
    let mut others: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| row.policy != OURS) {
        if !others.contains(&row.policy.as_str()) {
            others.push(&row.policy);
        }
    }
    let mut out = String::from("<div class=\"scroll\"><table class=\"matrix\"><tr><th></th><th>ours</th>");
    // Writing into a string cannot fail.
    for other in &others {
        let _ = write!(out, "<th>{}</th>", escaped(other));
    }
    out.push_str("</tr>\n");
    for (nth, (case, ours)) in cases.iter().enumerate() {
        let own = match refuses(case) {
            true => format!("{} answered", ours.summary.answered),
            false => format!("{:.3} s", ours.summary.ttft.mean),
        };
        let _ = write!(
            out,
            "<tr><td><a href=\"#case{nth}\">{}</a></td><td><b>{own}</b></td>",
            escaped(&short_title(ours, rows))
        );
        for other in &others {
            let Some(row) = case.policies.iter().find(|row| row.policy == *other) else {
                out.push_str("<td></td>");
                continue;
            };
            let Cell { standing, text, title } = cell(ours, row, refuses(case));
            let class = match standing {
                Standing::Better => "better",
                Standing::Same => "same",
                Standing::Worse => "worse",
            };
            let _ = write!(out, "<td class=\"{class}\" title=\"{}\">{text}</td>", escaped(&title));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::entry;
    use super::*;

    #[test]
    fn others_are_told_by_how_many_times_ours_they_take() {
        let rows = [
            entry("warmpath", "a", 1, 0.1),
            entry("gie", "a", 1, 0.2),
            entry("sglang", "a", 1, 0.102),
            entry("dynamo", "a", 1, 0.05),
            entry("oracle", "a", 1, 0.01),
        ];
        let page = html(&rows);
        for cell in [
            "class=\"better\" title=\"gie: 0.200 s, warmpath: 0.100 s\">2.0×",
            ">1.0×",
            "class=\"worse\" title=\"dynamo",
        ] {
            assert!(page.contains(cell), "{cell}: {page}");
        }
        let said = sentence(&rows);
        assert!(
            said.starts_with("Against 3 pairs")
                && said.contains("better in 1, the same within 5 % in 1 and worse in 1")
        );
        assert!(said.contains("in 0 of 1 cases nobody is better"), "{said}");
        assert_eq!(sentence(&rows[1..]), "");
    }

    #[test]
    fn where_pods_refuse_it_is_about_answers() {
        let mut rows = [entry("warmpath", "a", 1, 0.1), entry("gie", "a", 1, 0.01)];
        (rows[0].summary.answered, rows[1].summary.answered, rows[1].summary.refused) = (100, 90, 10);
        assert!(
            html(&rows).contains("class=\"better\" title=\"gie answers 90 requests, warmpath 100\">90 %")
        );
    }
}
