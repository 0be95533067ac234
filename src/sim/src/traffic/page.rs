//! The page: a sentence, a table and plots, in one file that needs no other.

use std::fmt::Write;

use super::rows::{groups, rows};
use super::stats::mean;
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

/// One way to the pods: what its runs of a workload came to, in the mean over them.
struct Way<'a> {
    label: &'a str,
    seconds: f64,
    hits: Option<f64>,
}

/// The ways of a group, in the order in which they come first.
fn ways<'a>(group: &[&'a TrafficRun]) -> Vec<Way<'a>> {
    let mut labels: Vec<&str> = Vec::new();
    for run in group {
        if !labels.contains(&run.label.as_str()) {
            labels.push(&run.label);
        }
    }
    let of = |label| {
        let runs: Vec<&&TrafficRun> = group.iter().filter(|run| run.label == label).collect();
        let hits: Vec<f64> = runs.iter().filter_map(|run| run.hit_rate).collect();
        let seconds: Vec<f64> = runs.iter().map(|run| run.ttft.mean).collect();
        Way { label, seconds: mean(&seconds), hits: (!hits.is_empty()).then(|| mean(&hits)) }
    };
    labels.into_iter().map(of).collect()
}

/// What each way of a workload has over the first one, or what a single one came to.
fn sentence(group: &[&TrafficRun]) -> String {
    let ways = ways(group);
    let (Some((first, others)), Some(run)) = (ways.split_first(), group.first()) else {
        return String::new();
    };
    let mut text = format!("{}, {}: the first token comes after", run.workload.name(), first.label);
    let _ = write!(text, " {} in the mean", time(first.seconds));
    let cached = |hits: f64| format!(", with {:.0} % of the prompt tokens cached", hits * 100.0);
    text.push_str(&first.hits.map_or_else(String::new, cached));
    for other in others {
        let change = (other.seconds / first.seconds - 1.0) * 100.0;
        let _ = write!(text, "; {}: after {} ({change:+.0} %)", other.label, time(other.seconds));
        text.push_str(&other.hits.map_or_else(String::new, |hits| format!(", with {:.0} %", hits * 100.0)));
    }
    text.push('.');
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
    fn runs_of_one_way_count_as_their_mean_and_every_way_is_told() {
        let run = |label: &str, seconds, hits| {
            let mut run = record();
            (run.label, run.ttft.mean, run.hit_rate) = (label.to_owned(), seconds, Some(hits));
            run
        };
        let runs = [
            run("plain", 0.3, 0.4),
            run("routed", 0.1, 0.8),
            run("picker", 0.2, 0.7),
            run("plain", 0.5, 0.5),
            run("routed", 0.1, 0.8),
        ];
        let said = sentence(&runs.iter().collect::<Vec<_>>());
        let wanted = "plain: the first token comes after 400 ms in the mean, with 45 % of the prompt tokens cached; \
                      routed: after 100 ms (-75 %), with 80 %; picker: after 200 ms (-50 %), with 70 %.";
        assert!(said.ends_with(wanted), "{said}");
    }

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
        assert!(page.contains("&lt;routed&gt;: after") && page.contains("(+0 %)"), "{page}");
        assert!(page.contains("&lt;routed&gt;") && !page.contains("<routed>"));
        assert!(page.contains("3 pods &amp; more"));
        for outside in ["<script", "<link", "src=", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
