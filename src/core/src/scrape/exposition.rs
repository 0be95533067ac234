//! The text format of Prometheus, as a pod writes it. Only lines of wanted metrics are parsed.

use crate::units::decimal;

/// A sample: one line of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Name of the metric.
    pub name: &'a [u8],
    /// The text between the braces, still escaped; empty without labels.
    pub labels: &'a [u8],
    /// The value.
    pub value: f64,
}

impl<'a> Sample<'a> {
    /// The value of a label, still escaped.
    pub fn label(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.labels;
        loop {
            let equals = memchr::memchr(b'=', rest)?;
            let (key, value) = (rest.get(..equals)?, rest.get(equals + 2..)?);
            let end = closing_quote(value)?;
            if key.trim_ascii() == name.as_bytes() {
                return value.get(..end);
            }
            rest = value.get(end + 1..)?;
            rest = rest.strip_prefix(b",").unwrap_or(rest);
        }
    }
}

/// Calls `found` with every sample whose line `wanted` accepts by its start, where the name is. Of comments,
/// other metrics and malformed lines only the end is looked for, since most lines of a page are of these
/// kinds.
pub fn samples<'a>(page: &'a [u8], wanted: impl Fn(&[u8]) -> bool, mut found: impl FnMut(Sample<'a>)) {
    let mut rest = page;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        if wanted(line)
            && let Some(name) = name_of(line)
            && let Some(sample) = sample(line, name)
        {
            found(sample);
        }
        rest = tail.get(1..).unwrap_or_default();
    }
}

/// The start of a line up to its labels or its value.
fn name_of(line: &[u8]) -> Option<&[u8]> {
    if matches!(line.first(), None | Some(b'#')) {
        return None;
    }
    let end = line.iter().position(|b| matches!(b, b'{' | b' ' | b'\t'))?;
    line.get(..end)
}

fn sample<'a>(line: &'a [u8], name: &'a [u8]) -> Option<Sample<'a>> {
    let rest = line.get(name.len()..)?.trim_ascii_start();
    let (labels, rest) = match rest.strip_prefix(b"{") {
        Some(rest) => {
            let end = closing_brace(rest)?;
            (rest.get(..end)?, rest.get(end + 1..)?)
        }
        None => (&[][..], rest),
    };
    // A timestamp may follow the value.
    let value = rest.trim_ascii().split(|b| b.is_ascii_whitespace()).next()?;
    Some(Sample { name, labels, value: decimal(value)? })
}

/// Where the labels end: a brace inside quotes does not.
fn closing_brace(labels: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match memchr::memchr2(b'"', b'}', labels.get(at..)?)? + at {
            end if labels.get(end) == Some(&b'}') => return Some(end),
            quote => at = quote + 1 + closing_quote(labels.get(quote + 1..)?)? + 1,
        }
    }
}

/// Where a quoted value ends: a quote after a backslash does not.
fn closing_quote(value: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match memchr::memchr2(b'"', b'\\', value.get(at..)?)? + at {
            end if value.get(end) == Some(&b'"') => return Some(end),
            escape => at = escape + 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(page: &str) -> Vec<(String, String, f64)> {
        let mut out = Vec::new();
        samples(
            page.as_bytes(),
            |_| true,
            |s| {
                out.push((
                    String::from_utf8_lossy(s.name).into(),
                    String::from_utf8_lossy(s.labels).into(),
                    s.value,
                ));
            },
        );
        out
    }

    #[test]
    fn lines_are_taken_apart() {
        let page = "# HELP a b\na 1\nb{x=\"1\"} 2.5\nc{x=\"}\\\"\",y=\"z\"} 1e3 1700000000\n\nbroken{\nalso broken\nd NaN";
        let samples = all(page);
        assert_eq!(samples.len(), 4);
        assert_eq!(samples[0], ("a".into(), "".into(), 1.0));
        assert_eq!(samples[1], ("b".into(), "x=\"1\"".into(), 2.5));
        assert_eq!(samples[2], ("c".into(), "x=\"}\\\"\",y=\"z\"".into(), 1000.0));
        assert!(samples[3].2.is_nan());
    }

    #[test]
    fn labels_are_found_by_name() {
        let sample = Sample { name: b"n", labels: br#"a="1,b=\"2\"",b="3", c="4""#, value: 0.0 };
        assert_eq!(sample.label("a"), Some(&br#"1,b=\"2\""#[..]));
        assert_eq!(sample.label("b"), Some(&b"3"[..]));
        assert_eq!(sample.label("c"), Some(&b"4"[..]));
        assert_eq!(sample.label("d"), None);
    }

    #[test]
    fn carriage_returns_do_not_hurt() {
        assert_eq!(all("a 1\r\nb 2\r\n").len(), 2);
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(page in "[a-z:{}\"\\\\=, \n#0-9.e]{0,200}") {
            samples(page.as_bytes(), |_| true, |s| { s.label("a"); });
        }

        #[test]
        fn no_bytes_make_it_panic(page in prop::collection::vec(any::<u8>(), 0..200)) {
            samples(&page, |_| true, |s| { s.label("a"); });
        }
    }
}
