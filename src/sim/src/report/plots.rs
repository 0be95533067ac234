//! The plots of the page, as SVG: how long clients waited, how even the caches were used, how long the queues grew.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::ResultRow;
use crate::fleet::{FleetSample, RequestRecord};

/// Colours that stay apart for most eyes (after Okabe and Ito), in the order of policies: ours first, the oracle last.
const COLOURS: [RGBColor; 11] = [
    RGBColor(213, 94, 0),
    RGBColor(240, 170, 110),
    RGBColor(150, 150, 150),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 240),
    RGBColor(230, 190, 0),
    RGBColor(140, 80, 40),
    RGBColor(0, 0, 0),
];
const GRID: RGBColor = RGBColor(225, 225, 225);
const TEXT: RGBColor = RGBColor(60, 60, 60);
/// Points of a line, at most: more cannot be seen.
const POINTS: usize = 300;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A colour for the `n`-th of several.
fn colour(n: usize) -> RGBColor {
    COLOURS.get(n % COLOURS.len()).copied().unwrap_or(BLACK)
}

fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> anyhow::Result<()>) -> anyhow::Result<String> {
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(|e| anyhow!("a plot: {e}"))?;
    }
    Ok(out)
}

/// Share of the requests whose first token had come, over time on a logarithmic scale; a line a policy.
///
/// # Errors
/// None that data can cause.
pub fn first_tokens(case: &[ResultRow]) -> anyhow::Result<String> {
    let lines: Vec<(&str, Vec<f64>)> = case
        .iter()
        .filter_map(|entry| Some((entry.policy.as_str(), times(&entry.run.as_ref()?.records))))
        .collect();
    distribution(&lines)
}

/// Share of the times that are at most so long, over time on a logarithmic scale. Each line has a name and its times in
/// ascending order; the first one is the widest and on top.
///
/// # Errors
/// None that data can cause.
pub(crate) fn distribution(lines: &[(&str, Vec<f64>)]) -> anyhow::Result<String> {
    let least = lines.iter().filter_map(|(_, t)| t.first()).copied().fold(f64::INFINITY, f64::min);
    let most = lines.iter().filter_map(|(_, t)| t.last()).copied().fold(0.0, f64::max);
    let (least, most) = (least.clamp(1e-4, 1e4), most.clamp(2e-4, 1e6));
    svg((900, 420), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d((least..most).log_scale(), 0.0..1.0)
            .map_err(|e| anyhow!("a plot: {e}"))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(TEXT)
            .x_desc("seconds to the first token")
            .y_desc("share of requests")
            .x_label_formatter(&|x| seconds(*x))
            .y_label_formatter(&|y| format!("{:.0} %", y * 100.0))
            .draw()
            .map_err(|e| anyhow!("a plot: {e}"))?;
        // Ours last, so that it lies on top.
        for (n, (name, times)) in lines.iter().enumerate().rev() {
            let step = times.len().div_ceil(POINTS).max(1);
            let last = times.len().saturating_sub(1);
            let points = times
                .iter()
                .enumerate()
                .filter(move |(at, _)| at % step == 0 || *at == last)
                .map(|(at, &time)| (time.max(least), (at + 1) as f64 / times.len() as f64));
            let style = colour(n).stroke_width(if n == 0 { 4 } else { 2 });
            chart
                .draw_series(LineSeries::new(points, style))
                .map_err(|e| anyhow!("a plot: {e}"))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .draw()
            .map_err(|e| anyhow!("a plot: {e}"))
    })
}

fn times(records: &[RequestRecord]) -> Vec<f64> {
    let mut times: Vec<f64> = records.iter().filter_map(RequestRecord::ttft).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// One value of every pod over time; a line a pod.
///
/// # Errors
/// None that data can cause.
pub fn pods_over_time(
    samples: &[FleetSample],
    most: f64,
    percent: bool,
    value: impl Fn(&crate::engine::EngineLoad) -> f64,
) -> anyhow::Result<String> {
    let end = samples.last().map_or(1.0, |sample| sample.at).max(1.0);
    let pods = samples.first().map_or(0, |sample| sample.pods.len());
    let line = |pod: usize| {
        let there = samples.iter().filter(|sample| sample.listed.get(pod).copied().unwrap_or(false));
        there.filter_map(|sample| Some((sample.at, value(sample.pods.get(pod)?)))).collect()
    };
    let lines: Vec<Vec<(f64, f64)>> = (0..pods).map(line).collect();
    over_time(&lines, end, most, percent)
}

/// Points in order of time, in seconds from 0 to `end`; a line a pod. Values go from 0 to `most`.
///
/// # Errors
/// None that data can cause.
pub(crate) fn over_time(
    lines: &[Vec<(f64, f64)>],
    end: f64,
    most: f64,
    percent: bool,
) -> anyhow::Result<String> {
    svg((440, 230), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..end, 0.0..most.max(1e-9))
            .map_err(|e| anyhow!("a plot: {e}"))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(TEXT)
            .x_labels(6)
            .y_labels(5)
            .x_label_formatter(&|x| seconds(*x))
            .y_label_formatter(&|y| if percent { format!("{:.0} %", y * 100.0) } else { format!("{y:.0}") })
            .draw()
            .map_err(|e| anyhow!("a plot: {e}"))?;
        for (pod, points) in lines.iter().enumerate() {
            // The mean of what falls on one point.
            let points = points.chunks(points.len().div_ceil(POINTS).max(1)).filter_map(|chunk| {
                let sum: f64 = chunk.iter().map(|(_, value)| value).sum();
                Some((chunk.first()?.0, sum / chunk.len() as f64))
            });
            chart
                .draw_series(LineSeries::new(points, colour(pod).stroke_width(1)))
                .map_err(|e| anyhow!("a plot: {e}"))?;
        }
        Ok(())
    })
}

fn seconds(x: f64) -> String {
    match x {
        x if x >= 1.0 || x == 0.0 => format!("{x:.0} s"),
        x => format!("{:.0} ms", x * 1000.0),
    }
}
