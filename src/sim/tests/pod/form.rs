//! Comparing forms: what a JSON text or a metrics page looks like, whatever its values.

#![expect(clippy::string_slice, reason = "recorded answers are cut at their ASCII quotes and commas")]

use serde_json::Value;

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Keys whose texts differ from answer to answer.
const OWN: [&str; 3] = ["id", "content", "text"];

/// The text with what differs from answer to answer taken out: numbers become 0 or 0.0, ids and contents
/// become empty. Order of keys, nulls, brackets and all other texts stay.
pub fn form(text: &str) -> String {
    let mut form = String::new();
    let mut key = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let closing = |(at, _): &(usize, &str)| !rest[..*at].ends_with('\\');
                let end = rest.match_indices('"').skip(1).find(closing).expect("a closed string").0 + 1;
                let string = &rest[..end];
                if rest[end..].starts_with(':') {
                    key = string.trim_matches('"').to_owned();
                    form.push_str(string);
                } else {
                    form.push_str(if OWN.contains(&key.as_str()) { "\"\"" } else { string });
                }
                end
            }
            '0'..='9' | '-' => {
                let end = rest.find([',', '}', ']']).unwrap_or(rest.len());
                form.push_str(if rest[..end].contains('.') { "0.0" } else { "0" });
                end
            }
            other => {
                form.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    form
}

/// Asserts that two JSON texts have the same form.
pub fn assert_same_form(ours: &str, recorded: &str, what: &str) {
    assert_eq!(form(ours), form(recorded), "{what}");
}

/// The data of the events of a stream.
pub fn chunks(stream: &str) -> Vec<&str> {
    stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

/// A metrics page's lines without their values.
pub fn series(page: &str) -> Vec<&str> {
    page.lines()
        .map(|line| if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 })
        .collect()
}
