//! The page of a fleet: a verdict, what it is about, how it was run, and each case with its numbers and
//! plots. It needs no other file, so that it can be mailed, or opened years later.

use std::fmt::Write;

use super::cases::{cases, title};
use super::html::{STYLE, escaped};
use super::row::ResultRow;
use super::{matrix, plots};
use crate::engine::EngineLoad;
use crate::fleet::contender::Contender;
use crate::fleet::{FleetRun, RequestRecord};
use crate::workload;

/// How the runs came about.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// The command line.
    pub command: String,
    /// The program and the commit it was made of.
    pub program: String,
    /// The day, in UTC.
    pub date: String,
}

/// Results as one HTML page with inline SVG.
///
/// # Errors
/// When a plot cannot be drawn, which no data should cause.
pub fn html(rows: &[ResultRow], conditions: &Conditions) -> anyhow::Result<String> {
    let mut out = String::new();
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Warmpath: who answers first?</title>\
         <style>{STYLE}</style></head><body>\n<h1>Who answers first?</h1>\n\
         <p class=\"lead\">{}</p>\n\
         <p>The same requests to the same simulated vLLM pods, routed by different policies. A field says how many times as long \
         as with ours the first token takes with that policy, in the mean; where pods refuse requests, how many it answers \
         of those that ours answers.</p>\n\
         <p class=\"key\"><span class=\"better\">ours is better</span><span class=\"same\">within 5 % (answers: 1 %)</span>\
         <span class=\"worse\">ours is worse</span></p>\n{}",
        matrix::sentence(rows),
        matrix::html(rows)
    )?;
    explain(&mut out, rows, conditions)?;
    out.push_str("<h2>Case by case</h2>\n");
    for (nth, case) in first_seeds(rows).into_iter().enumerate() {
        section(&mut out, nth, case)?;
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

/// Of each case the rows of one seed: plots of all would show the same several times.
fn first_seeds(rows: &[ResultRow]) -> Vec<&[ResultRow]> {
    let mut seen: Vec<String> = Vec::new();
    cases(rows)
        .filter(|case| {
            let title = case.first().map(title).unwrap_or_default();
            let new = !seen.contains(&title);
            seen.push(title);
            new
        })
        .collect()
}

fn explain(out: &mut String, rows: &[ResultRow], conditions: &Conditions) -> std::fmt::Result {
    let mut seeds: Vec<u64> = rows.iter().map(|row| row.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    writeln!(
        out,
        "<h2>How it was run</h2>\n<p><code>{}</code><br>{}, {}; seed {}. Everything is simulated on virtual time, pods and clients \
         included: no figure here is from a GPU. Ours is the code that runs in Envoy.</p>",
        escaped(&conditions.command),
        escaped(&conditions.program),
        escaped(&conditions.date),
        seeds.join(", ")
    )?;
    writeln!(out, "<h2>The policies</h2>\n<dl>")?;
    let met = |name: &str, of: fn(&ResultRow) -> &str| rows.iter().any(|row| of(row) == name);
    for (name, about) in Contender::described().filter(|(name, _)| met(name, |row| &row.policy)) {
        writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(about))?;
    }
    writeln!(
        out,
        "</dl>\n<p class=\"dim\">The oracle does not compete: it sees every queue and cache as it is now, and sends each request \
         where its own first token comes soonest. It does not look ahead, so it is no bound, and now and then another policy \
         is better.</p>\n<h2>The workloads</h2>\n<dl>"
    )?;
    for spec in workload::ALL.iter().filter(|spec| met(spec.name, |row| &row.workload)) {
        writeln!(out, "<dt>{}</dt><dd>{}</dd>", spec.name, escaped(spec.explains))?;
    }
    writeln!(out, "</dl>")
}

fn section(out: &mut String, nth: usize, case: &[ResultRow]) -> anyhow::Result<()> {
    let Some(first) = case.first() else { return Ok(()) };
    let about = workload::find(&first.workload).map_or("requests of a trace", |spec| spec.about);
    writeln!(
        out,
        // The name stands inside, so that a link to it opens the case.
        "<details{}><summary>{} <span class=\"dim\">{}</span></summary><a id=\"case{nth}\"></a>",
        if nth == 0 { " open" } else { "" },
        escaped(&title(first)),
        escaped(about)
    )?;
    numbers(out, case)?;
    let runs: Vec<(usize, &ResultRow, &FleetRun)> =
        case.iter().enumerate().filter_map(|(number, row)| Some((number, row, row.run.as_ref()?))).collect();
    if !runs.is_empty() {
        first_tokens(out, &runs)?;
        pods(out, &runs)?;
    }
    writeln!(out, "</details>")?;
    Ok(())
}

/// The distribution of times, with a legend in the order of the table.
fn first_tokens(out: &mut String, runs: &[(usize, &ResultRow, &FleetRun)]) -> anyhow::Result<()> {
    let times: Vec<(usize, Vec<f64>)> =
        runs.iter().map(|(number, _, run)| (*number, sorted_times(&run.records))).collect();
    let lines: Vec<(usize, &[f64])> =
        times.iter().map(|(number, times)| (*number, times.as_slice())).collect();
    writeln!(out, "<h3>Time to first token</h3>\n<div class=\"legend\">")?;
    for (number, row, _) in runs {
        let colour = plots::colour_name(*number);
        writeln!(out, "<span><i style=\"background:{colour}\"></i>{}</span>", escaped(&row.policy))?;
    }
    writeln!(
        out,
        "</div><figure>{}<figcaption>Further left is better: a line says which share of the requests had a first token after so \
         long. The time axis is logarithmic, so a step to the left is a factor.</figcaption></figure>",
        plots::distribution(&lines)?
    )?;
    Ok(())
}

fn sorted_times(records: &[RequestRecord]) -> Vec<f64> {
    let mut times: Vec<f64> = records.iter().filter_map(RequestRecord::ttft).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// KV caches and queues over time, of ours and of the best of the others.
fn pods(out: &mut String, runs: &[(usize, &ResultRow, &FleetRun)]) -> anyhow::Result<()> {
    let mean = |row: &ResultRow| row.summary.ttft.mean;
    let ours = runs.iter().find(|(_, row, _)| row.is_ours());
    let rivals = runs.iter().filter(|(_, row, _)| row.is_rival());
    let best = rivals.min_by(|a, b| mean(a.1).total_cmp(&mean(b.1)));
    let shown: Vec<_> = ours.into_iter().chain(best).collect();
    let end = shown.iter().map(|(_, _, run)| run.ended).fold(1.0, f64::max);
    /// A heading, whether it is a share, and the value.
    type Kind = (&'static str, bool, fn(&EngineLoad) -> f64);
    let kinds: [Kind; 2] = [
        ("KV cache in use", true, |load| load.kv_usage),
        ("Requests that wait in a pod", false, |load| f64::from(load.waiting)),
    ];
    for (heading, percent, of) in kinds {
        let series: Vec<Vec<plots::Series>> = shown.iter().map(|(_, _, run)| over_time(run, of)).collect();
        let most = series.iter().flatten().flatten().map(|point| point.1).fold(0.0, f64::max);
        let most = if percent { most.max(0.02) } else { most.max(2.0) };
        writeln!(out, "<h3>{heading}</h3>\n<div class=\"plots\">")?;
        for ((number, row, _), pods) in shown.iter().zip(&series) {
            let plot = plots::over_time(pods, *number, end, most, percent)?;
            writeln!(out, "<figure>{plot}<figcaption>{}</figcaption></figure>", escaped(&row.policy))?;
        }
        writeln!(out, "</div>")?;
    }
    writeln!(
        out,
        "<p class=\"dim\">The line is the mean over pods, the band goes from the least pod to the most: a narrow band is an even \
         load. Shown are ours and the other policy with the shortest mean time to first token, on the same axes.</p>"
    )?;
    Ok(())
}

/// A value of every pod over time, while the pod was there.
fn over_time(run: &FleetRun, of: fn(&EngineLoad) -> f64) -> Vec<plots::Series> {
    let pods = run.samples.first().map_or(0, |sample| sample.pods.len());
    let there = |pod: usize| {
        run.samples.iter().filter(move |sample| sample.listed.get(pod).copied().unwrap_or(false))
    };
    (0..pods)
        .map(|pod| there(pod).filter_map(|sample| Some((sample.at, of(sample.pods.get(pod)?)))).collect())
        .collect()
}

/// The table of one case. Values better than ours are green, worse ones red.
fn numbers(out: &mut String, case: &[ResultRow]) -> std::fmt::Result {
    type Column = (&'static str, fn(&ResultRow) -> f64, fn(f64) -> String);
    let seconds: fn(f64) -> String = |value| format!("{value:.3}");
    let columns: [Column; 5] = [
        ("TTFT mean, s", |row| row.summary.ttft.mean, seconds),
        ("p50", |row| row.summary.ttft.p50, seconds),
        ("p90", |row| row.summary.ttft.p90, seconds),
        ("p99", |row| row.summary.ttft.p99, seconds),
        ("per token after, s", |row| row.summary.tpot.mean, |value| format!("{value:.4}")),
    ];
    let refuses = case.iter().any(|row| row.summary.refused > 0);
    write!(out, "<div class=\"scroll\"><table><tr><th>policy</th>")?;
    for (name, ..) in columns {
        write!(out, "<th>{name}</th>")?;
    }
    write!(out, "<th>prompt tokens cached</th><th>imbalance</th><th>tokens/s</th>")?;
    writeln!(out, "{}</tr>", if refuses { "<th>answered</th><th>refused</th>" } else { "" })?;
    let ours = case.iter().find(|row| row.policy == "warmpath");
    for row in case {
        let class = if row.is_ours() { " class=\"ours\"" } else { "" };
        let mark = if row.policy == "warmpath" { " (ours)" } else { "" };
        write!(out, "<tr{class}><td>{}{mark}</td>", escaped(&row.policy))?;
        for (_, of, show) in columns {
            let class = match ours.map(|ours| of(row) / of(ours)) {
                Some(ratio) if ratio < 0.95 => " class=\"better\"",
                Some(ratio) if ratio > 1.05 => " class=\"worse\"",
                _ => "",
            };
            write!(out, "<td{class}>{}</td>", show(of(row)))?;
        }
        let s = &row.summary;
        let (hits, tokens) = (s.hit_rate * 100.0, s.tokens_per_second);
        write!(out, "<td>{hits:.1} %</td><td>{:.2}</td><td>{tokens:.0}</td>", s.imbalance)?;
        if refuses {
            write!(out, "<td>{}</td><td>{}</td>", s.answered, s.refused)?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(
        out,
        "</table></div><p class=\"dim\">Green is better than ours by more than 5 %, red worse. Imbalance is the standard \
         deviation of KV cache use over pods, divided by its mean.</p>"
    )
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::entry;
    use super::*;
    use crate::fleet::FleetSample;
    use crate::workload::Dice;

    /// A case as `fleet` has it: ten policies, thousands of requests, and every pod looked at thousands of
    /// times.
    fn large_case(workload: &str) -> Vec<ResultRow> {
        let dice = &mut Dice::new(1, 1);
        (0..10)
            .map(|policy| {
                let name = if policy == 0 { "warmpath".to_owned() } else { format!("policy-{policy}") };
                let record = |time| RequestRecord { first_token: Some(time), ..RequestRecord::default() };
                let records = (0..3000).map(|_| record(dice.wait(1.0))).collect();
                let load = |dice: &mut Dice| EngineLoad {
                    kv_usage: dice.wait(0.1).min(1.0),
                    ..EngineLoad::default()
                };
                let samples = (0..4000).map(|at| FleetSample {
                    at: f64::from(at),
                    pods: (0..8).map(|_| load(dice)).collect(),
                    listed: vec![true; 8],
                });
                let run =
                    FleetRun { samples: samples.collect(), records, ended: 4000.0, ..FleetRun::default() };
                ResultRow { run: Some(run), ..entry(&name, workload, 1, 0.1) }
            })
            .collect()
    }

    #[test]
    fn all_workloads_on_all_profiles_have_a_page_of_less_than_a_megabyte() {
        let conditions = Conditions { command: String::new(), program: String::new(), date: String::new() };
        let size = |rows: &[ResultRow]| html(rows, &conditions).unwrap().len();
        let (one, two) = (large_case("a"), large_case("b"));
        let both = [one.clone(), two].concat();
        let case = size(&both) - size(&one);
        assert!(case > 20_000, "{case} bytes are no case with plots");
        let page = size(&one) + 29 * case;
        assert!(page < 950_000, "{page} bytes, {case} for each case");
    }

    #[test]
    fn the_page_says_verdict_conditions_and_meaning_and_needs_no_other_file() {
        let conditions = Conditions {
            command: "warmpath-sim fleet --workload <chats>".to_owned(),
            program: "warmpath-sim 1.2.3".to_owned(),
            date: "2026-01-02".to_owned(),
        };
        let rows = [entry("warmpath", "chats", 1, 0.1), entry("gie", "chats", 1, 0.2)];
        let page = html(&rows, &conditions).unwrap();
        for part in [
            "&lt;chats&gt;",
            "warmpath-sim 1.2.3",
            "2026-01-02",
            "Gateway API Inference Extension",
            "People who chat",
            "2.0×",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for outside in ["<script", "<link", "src=", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("round-robin"), "only what took part is explained");
    }
}
