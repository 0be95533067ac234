//! Numbers with a point or an exponent, as metrics pages and settings write them.

/// Digits that a mantissa of 64 bits surely holds.
const MOST_DIGITS: u32 = 19;
/// Exponents beyond make any mantissa zero or infinite.
const LARGEST_EXPONENT: i32 = 400;

/// Reads a number: digits with a point and an exponent where there are any, or `NaN`, `Inf` and `Infinity` in
/// any case.
///
/// Numbers of up to 15 digits whose exponent is 22 at most are exact; others may be off by a few units of the
/// last of their 53 bits. The standard library's reader is always exact, and its tables would be a thirtieth
/// of the module.
pub fn decimal(text: &[u8]) -> Option<f64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        text => (false, text),
    };
    let number = word(text).or_else(|| unsigned(text))?;
    Some(if negative { -number } else { number })
}

fn word(text: &[u8]) -> Option<f64> {
    if text.eq_ignore_ascii_case(b"nan") {
        Some(f64::NAN)
    } else if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
        Some(f64::INFINITY)
    } else {
        None
    }
}

fn unsigned(text: &[u8]) -> Option<f64> {
    let (mut mantissa, mut digits, mut exponent) = (0u64, 0, 0i32);
    let (mut any, mut after_point) = (false, false);
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        match byte {
            b'0'..=b'9' => {
                any = true;
                let kept = digits < MOST_DIGITS;
                if kept {
                    mantissa = mantissa * 10 + u64::from(byte - b'0');
                    digits += u32::from(mantissa > 0);
                }
                exponent = exponent.saturating_add(i32::from(!kept)).saturating_sub(i32::from(after_point));
            }
            b'.' if !after_point => after_point = true,
            b'e' | b'E' => {
                exponent = exponent.saturating_add(self::exponent(tail)?);
                break;
            }
            _ => return None,
        }
        rest = tail;
    }
    any.then(|| scaled(mantissa, exponent))
}

fn exponent(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?;
    // Too long to be kept is too large to matter.
    let is_number = text.strip_prefix(['+', '-']).unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(exponent) => Some(exponent),
        Err(_) if is_number && text.len() > 2 => {
            Some(if text.starts_with('-') { -LARGEST_EXPONENT } else { LARGEST_EXPONENT })
        }
        Err(_) => None,
    }
}

/// `mantissa * 10^exponent`, in steps whose power of ten is exact.
fn scaled(mantissa: u64, exponent: i32) -> f64 {
    let mut number = mantissa as f64;
    let mut left = exponent.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT);
    while left != 0 && number != 0.0 {
        let step = left.clamp(-22, 22);
        let power = (0..step.abs()).fold(1.0, |power, _| power * 10.0);
        number = if step > 0 { number * power } else { number / power };
        left -= step;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The naive twin.
    fn naive(text: &str) -> Option<f64> {
        text.parse().ok()
    }

    #[test]
    fn numbers_of_metrics_pages_are_exact() {
        for text in [
            "0",
            "1.0",
            "34.0",
            "0.09677419354838712",
            "1.79522467621e+09",
            "884210.0",
            "1e15",
            "5e-324",
            "1.7976931348623157e308",
            "-2.5E3",
            "+7",
            ".5",
            "5.",
            "+Inf",
            "-inf",
            "infinity",
            "00012",
        ] {
            let (read, exact) = (decimal(text.as_bytes()).unwrap(), naive(text).unwrap());
            assert!(
                read == exact || (read - exact).abs() <= exact.abs() * 1e-14,
                "{text}: {read} for {exact}"
            );
        }
        for text in ["34.0", "1.79522467621e+09", "884210.25", "123456789012345"] {
            assert_eq!(decimal(text.as_bytes()), naive(text), "{text}");
        }
        assert!(decimal(b"NaN").unwrap().is_nan());
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "", "-", "+", ".", "e5", "1e", "1e+", "1.2.3", "--1", "1 ", " 1", "0x1", "1_0", "one", "1e5.5",
            "1e--5",
        ] {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
            assert_eq!(naive(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_the_twin_reads(text in "[-+]?[0-9]{0,25}(\\.[0-9]{0,25})?([eE][-+]?[0-9]{0,5})?") {
            match (decimal(text.as_bytes()), naive(&text)) {
                (Some(read), Some(exact)) => {
                    let close = (read - exact).abs() <= exact.abs() * 1e-13 || (read - exact).abs() < 1e-307;
                    prop_assert!(read == exact || close || exact.abs() > 1e300, "{} for {}", read, exact);
                }
                (read, exact) => prop_assert_eq!(read, exact),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..30), text in "[0-9.eE+-]{0,30}") {
            let _ = decimal(&bytes);
            prop_assert_eq!(decimal(text.as_bytes()).is_some(), naive(&text).is_some());
        }
    }
}
