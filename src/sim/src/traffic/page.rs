//! The page: a table and plots, in one file that needs no other.

use std::fmt::Write;

use super::rows::{groups, rows};
use super::{TrafficRun, plots};

const STYLE: &str = "\
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 74rem; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.5rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d0d7de } h3 { margin: 1.2rem 0 .3rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .25rem .9rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f6f8fa }
.plots { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0 } figcaption { font-weight: 600 } svg { max-width: 100%; height: auto }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; font-size: 13px } .better { color: #1a7f37 } .worse { color: #cf222e }";

/// The page about these runs.
///
/// # Errors
/// When a plot cannot be drawn.
pub(super) fn html(records: &[TrafficRun], notes: &[String]) -> anyhow::Result<String> {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Warmpath: traffic compared</title>\n\
         <style>\n{STYLE}\n</style></head><body>\n<h1>Traffic compared</h1>\n"
    );
    for note in notes {
        let _ = writeln!(out, "<p>{}</p>", escaped(note));
    }
    for group in groups(records) {
        let Some(first) = group.first() else { continue };
        let _ = writeln!(out, "<h2>{}</h2>", first.workload.name());
        write_table(&mut out, &group);
        let _ = writeln!(
            out,
            "<h3>Time to first token</h3><p>The share of requests that had theirs after so long; further left is better, \
             and the time axis is logarithmic.</p>{}",
            plots::first_tokens(&group)?
        );
        if group.iter().any(|record| !record.samples.is_empty()) {
            for (title, plot) in [
                ("Cache usage of every pod", plots::cache_usage as fn(&[&TrafficRun], &TrafficRun) -> _),
                ("Requests in the queue of every pod", plots::queues),
            ] {
                let _ = writeln!(out, "<h3>{title}</h3><div class=\"plots\">");
                for record in group.iter().filter(|record| !record.samples.is_empty()) {
                    let _ = write!(
                        out,
                        "<figure><figcaption>{}</figcaption>{}</figure>",
                        escaped(&record.label),
                        plot(&group, record)?
                    );
                }
                out.push_str("</div>\n");
            }
        }
        for record in &group {
            let _ = writeln!(
                out,
                "<details><summary>{} ({})</summary><pre>{}</pre></details>",
                escaped(&record.label),
                escaped(&record.url),
                escaped(&record.text())
            );
        }
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

fn write_table(out: &mut String, group: &[&TrafficRun]) {
    out.push_str("<table><tr><th></th>");
    for (nth, record) in group.iter().enumerate() {
        let _ = write!(out, "<th>{}</th>", escaped(&record.label));
        if nth > 0 {
            out.push_str("<th>change</th>");
        }
    }
    out.push_str("</tr>\n");
    for row in rows(group) {
        let _ = write!(out, "<tr><td>{}</td>", escaped(row.name));
        for (nth, (value, change)) in row.cells.iter().enumerate() {
            let _ = write!(out, "<td>{}</td>", escaped(value));
            if nth > 0 {
                let better = change.is_some_and(|change| (change > 0.0) == row.more_is_better);
                let class = if better { "better" } else { "worse" };
                let change = change.map_or_else(String::new, |change| format!("{change:+.1} %"));
                let _ = write!(out, "<td class=\"{class}\">{change}</td>");
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::summary::tests_record as record;
    use crate::traffic::{PodSample, PoolSample};

    #[test]
    fn the_page_needs_no_other_file_and_has_a_plot_of_each_kind() {
        let mut with_pods = record();
        with_pods.label = "<routed>".to_owned();
        with_pods.pods = vec!["a:1".to_owned(), "b:1".to_owned()];
        let pod = |cache_usage| Some(PodSample { cache_usage, running: 1.0, waiting: 2.0 });
        with_pods.samples = (0..20)
            .map(|at| PoolSample {
                at: f64::from(at),
                pods: vec![pod(0.5), if at == 3 { None } else { pod(0.7) }],
            })
            .collect();
        let page = html(&[record(), with_pods], &["3 pods & more".to_owned()]).unwrap();
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("&lt;routed&gt;") && !page.contains("<routed>"));
        assert!(page.contains("3 pods &amp; more"));
        for outside in ["<script", "<link", "src=", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
