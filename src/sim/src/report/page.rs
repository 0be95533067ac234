//! The page with plots: self-contained, so that it can be mailed, or opened years later.

use std::fmt::Write;

use super::{ResultRow, cases, plots, title};
use crate::engine::EngineLoad;
use crate::fleet::FleetRun;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:960px;margin:2em auto;padding:0 1em}\
h1{font-size:1.6em}h2{margin-top:2.5em;border-bottom:1px solid #ddd}h3{margin:1.5em 0 .3em}\
table{border-collapse:collapse;width:100%;font-size:.9em;font-variant-numeric:tabular-nums}\
th,td{padding:.25em .6em;text-align:right;border-bottom:1px solid #eee}th:first-child,td:first-child{text-align:left}\
tr.ours{background:#fdf1e6;font-weight:600}td.best{color:#0072b2;font-weight:600}\
p.say{color:#555;font-size:.92em;margin:.2em 0 1em}.panels{display:flex;flex-wrap:wrap;gap:12px}\
figure{margin:0}figcaption{font-size:.9em;font-weight:600}svg{max-width:100%;height:auto}";

/// Results as one HTML page with inline SVG.
///
/// # Errors
/// When a plot cannot be drawn, which no data should cause.
pub fn html(entries: &[ResultRow]) -> anyhow::Result<String> {
    let mut out = String::new();
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Warmpath: a fleet on virtual time</title>\
         <style>{STYLE}</style></head><body>\n<h1>Who answers first?</h1>\n\
         <p>The same requests to the same simulated vLLM pods, routed by different policies. Time to first token (TTFT) \
         and time per output token (TPOT) in seconds; <em>hits</em> is the share of prompt tokens that a pod had \
         cached; <em>imbalance</em> is the standard deviation of KV cache use over pods, by its mean. Ours is shaded, \
         the best of the others is blue; the oracle sees what no router can see, and does not compete.</p>\n"
    )?;
    for case in cases(entries) {
        section(&mut out, case)?;
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

fn section(out: &mut String, case: &[ResultRow]) -> anyhow::Result<()> {
    let Some(first) = case.first() else { return Ok(()) };
    writeln!(out, "<h2>{}</h2>", title(first))?;
    numbers(out, case)?;
    if case.iter().all(|entry| entry.run.is_none()) {
        return Ok(());
    }
    writeln!(
        out,
        "<h3>Time to first token</h3>\n{}\n<p class=\"say\">Further left is better: each line says which share of the \
         requests had a first token after so long. The time axis is logarithmic, so a step to the left is a factor.</p>",
        plots::first_tokens(case)?
    )?;
    panels(
        out,
        case,
        "KV cache in use",
        "One line a pod. Lines that lie together are an even load; a line at the top is a pod that makes requests wait for \
         memory, while one at the bottom idles.",
        true,
        |load| load.kv_usage,
    )?;
    panels(
        out,
        case,
        "Requests that wait in a pod's queue",
        "One line a pod, all panels on one scale. A single line far above the others is a pod that was sent too much.",
        false,
        |load| f64::from(load.waiting),
    )
}

fn panels(
    out: &mut String,
    case: &[ResultRow],
    heading: &str,
    caption: &str,
    percent: bool,
    value: impl Fn(&EngineLoad) -> f64 + Copy,
) -> anyhow::Result<()> {
    let runs: Vec<(&ResultRow, &FleetRun)> = case.iter().filter_map(|e| Some((e, e.run.as_ref()?))).collect();
    let most = runs
        .iter()
        .flat_map(|(_, run)| run.samples.iter().flat_map(|sample| sample.pods.iter().map(value)))
        .fold(1.0, f64::max);
    writeln!(out, "<h3>{heading}</h3>\n<p class=\"say\">{caption}</p>\n<div class=\"panels\">")?;
    for (entry, run) in runs {
        let plot = plots::pods_over_time(&run.samples, most, percent, value)?;
        writeln!(out, "<figure><figcaption>{}</figcaption>{plot}</figure>", entry.policy)?;
    }
    writeln!(out, "</div>")?;
    Ok(())
}

fn numbers(out: &mut String, case: &[ResultRow]) -> std::fmt::Result {
    writeln!(
        out,
        "<table><tr><th>policy</th><th>TTFT mean</th><th>p50</th><th>p90</th><th>p99</th><th>TPOT</th><th>hits</th>\
         <th>imbalance</th><th>tokens/s</th></tr>"
    )?;
    let ttft: [fn(&ResultRow) -> f64; 4] =
        [|e| e.summary.ttft.mean, |e| e.summary.ttft.p50, |e| e.summary.ttft.p90, |e| e.summary.ttft.p99];
    for entry in case {
        let class = if entry.is_ours() { " class=\"ours\"" } else { "" };
        write!(out, "<tr{class}><td>{}</td>", entry.policy)?;
        for of in ttft {
            let least = case.iter().filter(|e| e.is_rival()).map(of).fold(f64::INFINITY, f64::min);
            let best = if entry.is_rival() && of(entry) == least { " class=\"best\"" } else { "" };
            write!(out, "<td{best}>{:.3}</td>", of(entry))?;
        }
        let s = &entry.summary;
        writeln!(
            out,
            "<td>{:.4}</td><td>{:.1} %</td><td>{:.2}</td><td>{:.0}</td></tr>",
            s.tpot.mean,
            s.hit_rate * 100.0,
            s.imbalance,
            s.tokens_per_second
        )?;
    }
    writeln!(out, "</table>")
}
