//! The plots of the pages, as SVG that takes its colours from the page's style: how long clients waited, how
//! evenly caches were used, how long queues grew.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

/// Colours there are; [`super::STYLE`] gives them.
const COLOURS: usize = 11;
/// Points of a line, at most: more cannot be seen.
const POINTS: usize = 100;
/// Stand-ins, as plotters knows no variables: [`themed`] puts the style's names in their place.
const GRID: RGBColor = RGBColor(1, 1, 0);
const TEXT: RGBColor = RGBColor(1, 2, 0);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A pod's values over time: seconds and value.
pub(crate) type Series = Vec<(f64, f64)>;

/// The stand-in for the `n`-th colour.
fn colour(n: usize) -> RGBColor {
    RGBColor(1, 0, (n % COLOURS) as u8)
}

/// The name of the `n`-th colour in the style.
pub(crate) fn colour_name(n: usize) -> String {
    format!("var(--s{})", n % COLOURS)
}

/// The plot with the style's names instead of stand-ins, and with nothing that a page does not need.
fn themed(svg: &str) -> String {
    let mut out = svg.replace("#010100", "var(--grid)").replace("#010200", "var(--dim)");
    for n in 0..COLOURS {
        out = out.replace(&format!("#0100{n:02X}"), &colour_name(n));
    }
    for needless in [
        " xmlns=\"http://www.w3.org/2000/svg\"",
        " opacity=\"1\"",
        " stroke-width=\"1\"",
        " font-family=\"sans-serif\"",
        "\n",
    ] {
        out = out.replace(needless, "");
    }
    // Of a font of 15 points.
    out.replace("\"12.096774193548388\"", "\"12.1\"")
}

fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> anyhow::Result<()>) -> anyhow::Result<String> {
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(|e| anyhow!("a plot: {e}"))?;
    }
    Ok(themed(&out))
}

/// Share of the times that are at most so long, over time on a logarithmic scale. Each line has its times in
/// ascending order and the number of its colour; the first one is the widest and on top.
///
/// # Errors
/// None that data can cause.
pub(crate) fn distribution(lines: &[(usize, &[f64])]) -> anyhow::Result<String> {
    let least = lines.iter().filter_map(|(_, t)| t.first()).copied().fold(f64::INFINITY, f64::min);
    let most = lines.iter().filter_map(|(_, t)| t.last()).copied().fold(0.0, f64::max);
    let (least, most) = (least.clamp(1e-4, 1e4), most.clamp(2e-4, 1e6));
    // On a short axis 1, 2 and 5 of each decade have a label, on a long one only its start: others would
    // overlap.
    let wide = (most / least).log10() > 2.2;
    let label = move |x: &f64| {
        let mantissa = x / 10f64.powf(x.log10().floor() + 1e-9);
        let shown = [1.0, 2.0, 5.0, 10.0].into_iter().any(|round| (mantissa / round - 1.0).abs() < 1e-3);
        let start = (mantissa.log10().rem_euclid(1.0) + 1e-3).rem_euclid(1.0) < 2e-3;
        if start || (shown && !wide) { seconds(*x) } else { String::new() }
    };
    svg((520, 320), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .margin_right(24)
            .x_label_area_size(48)
            .y_label_area_size(58)
            .build_cartesian_2d((least..most).log_scale(), 0.0..1.0)
            .map_err(|e| anyhow!("a plot: {e}"))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(TEXT)
            .label_style(("sans-serif", 15).into_font().color(&TEXT))
            .axis_desc_style(("sans-serif", 15).into_font().color(&TEXT))
            .y_labels(5)
            .x_desc("time to first token")
            .x_label_formatter(&label)
            .y_label_formatter(&|y| format!("{:.0} %", y * 100.0))
            .draw()
            .map_err(|e| anyhow!("a plot: {e}"))?;
        for (nth, (number, times)) in lines.iter().enumerate().rev() {
            let step = times.len().div_ceil(POINTS).max(1);
            let last = times.len().saturating_sub(1);
            let points = times
                .iter()
                .enumerate()
                .filter(move |(at, _)| at % step == 0 || *at == last)
                .map(|(at, &time)| (time.max(least), (at + 1) as f64 / times.len() as f64));
            let style = colour(*number).stroke_width(if nth == 0 { 4 } else { 2 });
            chart.draw_series(LineSeries::new(points, style)).map_err(|e| anyhow!("a plot: {e}"))?;
        }
        Ok(())
    })
}

/// What the pods of one fleet had over time: their mean as a line, and a band from the least to the most.
/// Seconds go from 0 to `end`, values from 0 to `most`.
///
/// # Errors
/// None that data can cause.
pub(crate) fn over_time(
    pods: &[Series],
    number: usize,
    end: f64,
    most: f64,
    percent: bool,
) -> anyhow::Result<String> {
    let (mean, band) = spread(pods);
    svg((440, 230), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(20)
            .x_label_area_size(30)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..end.max(1e-9), 0.0..most.max(1e-9))
            .map_err(|e| anyhow!("a plot: {e}"))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(TEXT)
            .label_style(("sans-serif", 15).into_font().color(&TEXT))
            .x_labels(5)
            .y_labels(4)
            .x_label_formatter(&|x| seconds(*x))
            .y_label_formatter(&|y| value(*y, most, percent))
            .draw()
            .map_err(|e| anyhow!("a plot: {e}"))?;
        let failed = |e| anyhow!("a plot: {e:?}");
        chart.draw_series([Polygon::new(band, colour(number).mix(0.25))]).map_err(failed)?;
        chart.draw_series(LineSeries::new(mean, colour(number).stroke_width(2))).map_err(failed)?;
        Ok(())
    })
}

/// The mean over pods, and the outline of the band between the least and the most of them, in at most
/// [`POINTS`] slices of time.
fn spread(pods: &[Series]) -> (Series, Series) {
    let length = pods.iter().map(Vec::len).max().unwrap_or(0);
    let slice = length.div_ceil(POINTS).max(1);
    let (mut mean, mut low, mut high) = (Series::new(), Series::new(), Series::new());
    for from in (0..length).step_by(slice) {
        // The mean of each pod's own slice, so that a spike does not fill the band.
        let of_pods: Vec<(f64, f64)> = pods
            .iter()
            .filter_map(|pod| pod.get(from..(from + slice).min(pod.len())).filter(|slice| !slice.is_empty()))
            .map(|slice| {
                let count = slice.len() as f64;
                let sum = slice.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
                (sum.0 / count, sum.1 / count)
            })
            .collect();
        let count = of_pods.len().max(1) as f64;
        let at = of_pods.iter().map(|point| point.0).sum::<f64>() / count;
        let values = || of_pods.iter().map(|point| point.1);
        mean.push((at, values().sum::<f64>() / count));
        low.push((at, values().fold(f64::INFINITY, f64::min)));
        high.push((at, values().fold(0.0, f64::max)));
    }
    high.extend(low.into_iter().rev());
    (mean, high)
}

/// A value with as many digits as an axis up to `most` needs.
fn value(y: f64, most: f64, percent: bool) -> String {
    match (percent, most) {
        (true, most) if most > 0.1 => format!("{:.0} %", y * 100.0),
        (true, _) => format!("{:.1} %", y * 100.0),
        (false, most) if most >= 4.0 => format!("{y:.0}"),
        (false, _) => format!("{y:.1}"),
    }
}

fn seconds(x: f64) -> String {
    match x {
        0.0 => "0 s".to_owned(),
        x if x >= 0.9995 => format!("{} s", (x * 10.0).round() / 10.0),
        x => format!("{:.0} ms", x * 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_take_their_colours_from_the_style() {
        let times: Vec<f64> = (1..=300).map(|n| f64::from(n) / 100.0).collect();
        let plot = distribution(&[(0, &times), (9, &times)]).unwrap();
        for name in ["var(--s0)", "var(--s9)", "var(--grid)", "var(--dim)"] {
            assert!(plot.contains(name), "{name}");
        }
        assert!(!plot.contains("#0100") && !plot.contains("#0101"), "{plot}");
    }

    #[test]
    fn a_band_goes_from_the_least_pod_to_the_most() {
        let pods = [vec![(0.0, 1.0), (1.0, 3.0)], vec![(0.0, 2.0), (1.0, 5.0)]];
        let (mean, band) = spread(&pods);
        assert_eq!(mean, [(0.0, 1.5), (1.0, 4.0)]);
        assert_eq!(band, [(0.0, 2.0), (1.0, 5.0), (1.0, 3.0), (0.0, 1.0)]);
        assert!(over_time(&pods, 0, 1.0, 5.0, false).unwrap().contains("<polygon"));
        assert!(over_time(&[], 0, 0.0, 0.0, true).is_ok());
    }

    #[test]
    fn axes_name_their_values_with_the_digits_they_need() {
        assert_eq!([0.0, 0.05, 1.0, 2.5, 100.0].map(seconds), ["0 s", "50 ms", "1 s", "2.5 s", "100 s"]);
        assert_eq!([value(0.05, 0.08, true), value(0.5, 1.0, true)], ["5.0 %", "50 %"]);
        assert_eq!([value(0.5, 2.0, false), value(5.0, 9.0, false)], ["0.5", "5"]);
    }
}
