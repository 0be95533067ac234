//! Prometheus' text format: families of samples, each family with its `HELP` and `TYPE`.

use std::fmt::Write;

/// A metrics page, written family by family.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Begins a family: `kind` is `counter`, `gauge` or `histogram`. Its samples follow.
    #[inline(never)]
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} ");
        push_escaped(&mut self.0, help, false);
        let _ = writeln!(self.0, "\n# TYPE {name} {kind}");
    }

    /// A sample of the family that was begun last: a whole number.
    #[inline(never)]
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.name(name, labels);
        let _ = writeln!(self.0, " {value}");
    }

    /// A sample that is given in millionths. All numbers here are whole ones in some unit, and to print those
    /// of the machine with a fraction takes a lot of code.
    #[inline(never)]
    pub fn sample_in_millionths(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.name(name, labels);
        let _ = writeln!(self.0, " {}.{:06}", value / 1_000_000, value % 1_000_000);
    }

    #[inline(never)]
    fn name(&mut self, name: &str, labels: &[(&str, &str)]) {
        self.0.push_str(name);
        for (nth, (key, label)) in labels.iter().enumerate() {
            self.0.push(if nth == 0 { '{' } else { ',' });
            self.0.push_str(key);
            self.0.push_str("=\"");
            push_escaped(&mut self.0, label, true);
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
    }
}

/// Appends a text as the format wants it in a line, and `quoted` in a label.
#[inline(never)]
fn push_escaped(to: &mut String, text: &str, quoted: bool) {
    for letter in text.chars() {
        match letter {
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '"' if quoted => to.push_str("\\\""),
            _ => to.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_help_and_type_and_labels_are_escaped() {
        let mut page = Page::default();
        page.family("a_total", "counter", "Says \"a\\b\".");
        page.sample("a_total", &[], 1);
        page.sample("a_total", &[("x", "\"\\\n"), ("y", "ü")], 2);
        page.sample_in_millionths("a_total", &[], 1_000_025);
        assert_eq!(
            page.into_text(),
            "# HELP a_total Says \"a\\\\b\".\n# TYPE a_total counter\na_total 1\na_total{x=\"\\\"\\\\\\n\",y=\"ü\"} 2\na_total 1.000025\n"
        );
    }
}
