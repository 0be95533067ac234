//! The page: a sentence, a table and plots, in one file that needs no other.

use std::fmt::Write;

use super::rows::{groups, rows};
use super::{PodSample, TrafficRun, plots};
use crate::report::plots::colour_name;
use crate::report::{STYLE, escaped};

/// The page about these runs.
///
/// # Errors
/// When a plot cannot be drawn.
pub(super) fn html(records: &[TrafficRun], notes: &[String]) -> anyhow::Result<String> {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Warmpath: traffic compared</title>\n\
         <style>\n{STYLE}\n</style></head><body>\n<h1>Traffic compared</h1>\n"
    );
    for group in groups(records) {
        let _ = writeln!(out, "<p class=\"lead\">{}</p>", escaped(&sentence(&group)));
    }
    for note in notes {
        let _ = writeln!(out, "<p class=\"dim\">{}</p>", escaped(note));
    }
    for group in groups(records) {
        section(&mut out, &group)?;
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

/// What the last run of a workload has over the first one, or what a single one came to.
fn sentence(group: &[&TrafficRun]) -> String {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return String::new() };
    let workload = last.workload.name();
    let own = format!(
        "{workload}, {}: the first token comes after {} in the mean",
        last.label,
        time(last.ttft.mean)
    );
    if group.len() < 2 {
        return format!("{own}.");
    }
    let change = (last.ttft.mean / first.ttft.mean - 1.0) * 100.0;
    let mut text = format!("{own} instead of {} ({change:+.0} %)", time(first.ttft.mean));
    if let (Some(ours), Some(theirs)) = (last.hit_rate, first.hit_rate) {
        let (ours, theirs) = (ours * 100.0, theirs * 100.0);
        let _ = write!(text, ", with {ours:.0} % of the prompt tokens cached instead of {theirs:.0} %");
    }
    let _ = write!(text, ", against {}.", first.label);
    text
}

fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

fn section(out: &mut String, group: &[&TrafficRun]) -> anyhow::Result<()> {
    let Some(first) = group.first() else { return Ok(()) };
    let _ = writeln!(out, "<h2>{}</h2>", first.workload.name());
    write_table(out, group);
    let colours = plots::colours(group);
    let _ = writeln!(out, "<h3>Time to first token</h3><div class=\"legend\">");
    for (colour, record) in colours.iter().zip(group) {
        let colour = colour_name(*colour);
        let _ = writeln!(out, "<span><i style=\"background:{colour}\"></i>{}</span>", escaped(&record.label));
    }
    let _ = writeln!(
        out,
        "</div><figure>{}<figcaption>The share of requests that had theirs after so long; further left is better, and the time \
         axis is logarithmic.</figcaption></figure>",
        plots::first_tokens(group)?
    );
    if group.iter().any(|record| !record.samples.is_empty()) {
        /// A heading, whether it is a share, and the value.
        type Kind = (&'static str, bool, fn(&PodSample) -> f64);
        let kinds: [Kind; 2] = [
            ("KV cache in use", true, |pod| pod.cache_usage),
            ("Requests that wait in a pod", false, |pod| pod.waiting),
        ];
        for (title, percent, of) in kinds {
            let _ = writeln!(out, "<h3>{title}</h3><div class=\"plots\">");
            for (colour, record) in colours.iter().zip(group).filter(|(_, record)| !record.samples.is_empty())
            {
                let plot = plots::over_time(group, record, *colour, percent, of)?;
                let _ =
                    write!(out, "<figure>{plot}<figcaption>{}</figcaption></figure>", escaped(&record.label));
            }
            out.push_str("</div>\n");
        }
        out.push_str(
            "<p class=\"dim\">The line is the mean over pods, the band goes from the least pod to the most.</p>\n",
        );
    }
    for record in group {
        let _ = writeln!(
            out,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escaped(&record.label),
            escaped(&record.text())
        );
    }
    Ok(())
}

fn write_table(out: &mut String, group: &[&TrafficRun]) {
    out.push_str("<div class=\"scroll\"><table><tr><th></th>");
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
    out.push_str("</table></div>\n");
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
        assert!(page.contains("in the mean instead of") && page.contains("(+0 %)"), "{page}");
        assert!(page.contains("&lt;routed&gt;") && !page.contains("<routed>"));
        assert!(page.contains("3 pods &amp; more"));
        for outside in ["<script", "<link", "src=", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
