//! A recorded metrics page, cut into its families.

/// One `# HELP` line and all that follows up to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Family<'a> {
    /// The name, from the HELP line.
    pub(super) name: &'a str,
    /// `# HELP` and `# TYPE`.
    pub(super) comments: Vec<&'a str>,
    pub(super) histogram: bool,
    /// The series of each sample, and the value that was recorded.
    pub(super) samples: Vec<(&'a str, f64)>,
}

/// The families of a page, in its order.
pub(super) fn families(page: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap_or_default();
            families.push(Family { name, ..Family::default() });
        }
        let Some(family) = families.last_mut() else { continue };
        if line.starts_with('#') {
            family.comments.push(line);
            family.histogram |= line.starts_with("# TYPE ") && line.ends_with(" histogram");
        } else if let Some((series, value)) = line.rsplit_once(' ') {
            family.samples.push((series, value.parse().unwrap_or(0.0)));
        }
    }
    families
}

impl<'a> Family<'a> {
    /// The samples of a pod with so many engines, each with the number of its engine. Series that name no
    /// engine stand once. Histograms stand engine by engine, all else line by line, as in the recorded page
    /// of two.
    pub(super) fn by_engine(&self, engines: usize) -> Vec<(String, f64, usize)> {
        let of = |series: &str, engine: usize| series.replace(ENGINE, &format!("engine=\"{engine}\""));
        let names_engine = |series: &str| series.contains(ENGINE);
        let mut out = Vec::new();
        if self.histogram {
            for engine in 0..engines {
                let of_engine = self.samples.iter().filter(|(series, _)| engine == 0 || names_engine(series));
                out.extend(of_engine.map(|(series, value)| (of(series, engine), *value, engine)));
            }
            return out;
        }
        for (series, value) in &self.samples {
            let lines = if names_engine(series) { engines } else { 1 };
            out.extend((0..lines).map(|engine| (of(series, engine), *value, engine)));
        }
        out
    }
}

/// How the series of a recorded page name their engine.
const ENGINE: &str = "engine=\"0\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_at_its_help_lines() {
        let page = "# HELP a Is a.\n# TYPE a gauge\na{engine=\"0\"} 1.0\n# HELP b Is b.\n# TYPE b histogram\n\
                    b_bucket{engine=\"0\",le=\"+Inf\"} 2.0\nb_sum{engine=\"0\"} 3.0\n";
        let families = families(page);
        assert_eq!(
            families.iter().map(|family| (family.name, family.histogram)).collect::<Vec<_>>(),
            [("a", false), ("b", true)]
        );
        let series = |nth: usize| -> Vec<String> {
            families[nth].by_engine(2).into_iter().map(|(series, ..)| series).collect()
        };
        assert_eq!(series(0), ["a{engine=\"0\"}", "a{engine=\"1\"}"]);
        assert_eq!(
            series(1),
            [
                "b_bucket{engine=\"0\",le=\"+Inf\"}",
                "b_sum{engine=\"0\"}",
                "b_bucket{engine=\"1\",le=\"+Inf\"}",
                "b_sum{engine=\"1\"}"
            ]
        );
    }
}
