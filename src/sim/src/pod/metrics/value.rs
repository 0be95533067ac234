//! Numbers and labels as Python's Prometheus client writes them.

use std::fmt::Write;

/// Appends the shortest form that reads back, with `.0` on whole numbers and an exponent from a million up
/// and below a ten-thousandth.
pub(super) fn push_value(out: &mut String, value: f64) {
    // Writing into a string cannot fail.
    if value == 0.0 {
        out.push_str("0.0");
    } else if value.fract() == 0.0 && value.abs() < 1e6 {
        let _ = write!(out, "{value:.1}");
    } else if value >= 1e6 || value.abs() < 1e-4 {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        let _ = write!(out, "{mantissa}e{sign}{digits:0>2}");
    } else {
        let _ = write!(out, "{value}");
    }
}

/// Quotes and backslashes as the text format wants them.
pub(super) fn label_value(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_form_of_pythons_client() {
        for (value, text) in [
            (0.0, "0.0"),
            (12.0, "12.0"),
            (0.25, "0.25"),
            (1e6, "1e+06"),
            (1_234_567.5, "1.2345675e+06"),
            (2.5e-5, "2.5e-05"),
            (0.0001, "0.0001"),
        ] {
            let mut ours = String::new();
            push_value(&mut ours, value);
            assert_eq!(ours, text);
        }
    }
}
