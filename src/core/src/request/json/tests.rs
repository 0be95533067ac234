//! The scanner against its naive twin, `serde_json`.

use super::spelling::code_point;
use super::*;
use proptest::prelude::*;

fn skip(bytes: &[u8]) -> JsonResult<&[u8]> {
    let mut scanner = Scanner::new(bytes);
    let value = scanner.skip()?;
    scanner.end()?;
    Ok(value)
}

fn text(bytes: &str) -> Text<'_> {
    Scanner::new(bytes.as_bytes()).string().unwrap()
}

/// The canonical spelling by way of a decoded string.
fn spelled(text: &str) -> Vec<u8> {
    let json = serde_json::to_string(text).unwrap();
    json.as_bytes()[1..json.len() - 1].to_vec()
}

#[test]
fn values_of_every_kind_are_passed_over() {
    for json in [
        "null",
        "true",
        "false",
        "0",
        "-0.5e+10",
        "12",
        "\"\"",
        "\"a\\n\\u00e9\"",
        "[]",
        "{}",
        "[1,[2],{}]",
        " { \"a\" : [ 1 , 2 ] , \"b\" : null } ",
    ] {
        assert_eq!(skip(json.as_bytes()), Ok(json.trim().as_bytes()), "{json}");
    }
}

#[test]
fn errors_have_their_place() {
    for (json, at) in [
        ("", 0),
        ("nul", 0),
        ("[1,]", 3),
        ("{\"a\" 1}", 5),
        ("\"abc", 4),
        ("\"a\\x\"", 3),
        ("\"\\u12g4\"", 5),
        ("01", 1),
        ("1.", 2),
        ("-", 1),
        ("1e", 2),
        ("[1}", 2),
        ("{1:2}", 1),
        ("1 2", 2),
        ("\"a\u{1}\"", 2),
    ] {
        assert_eq!(skip(json.as_bytes()), Err(JsonError::Syntax { at }), "{json}");
    }
}

#[test]
fn numbers_that_python_takes_are_passed_over() {
    for json in ["NaN", "Infinity", "-Infinity", "[NaN,-Infinity]", "{\"a\":Infinity}"] {
        assert_eq!(skip(json.as_bytes()), Ok(json.as_bytes()), "{json}");
        assert!(serde_json::from_str::<serde_json::Value>(json).is_err(), "the twin is stricter");
    }
    for (json, at) in [("-NaN", 1), ("nan", 0), ("Inf", 0), ("-Inf", 1), ("+Infinity", 0), ("NaN1", 3)] {
        assert_eq!(skip(json.as_bytes()), Err(JsonError::Syntax { at }), "{json}");
    }
}

#[test]
fn half_a_surrogate_pair_is_an_error_of_its_own() {
    for (json, at) in [(r#""\ud800""#, 1), (r#""ab\udc00\ud800""#, 3), (r#""\ud83d\u0041""#, 1)] {
        assert_eq!(skip(json.as_bytes()), Err(JsonError::Surrogate { at }), "{json}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(skip(nested(MAX_DEPTH as usize).as_bytes()).is_ok());
    let at = MAX_DEPTH as usize;
    assert_eq!(skip(nested(at + 1).as_bytes()), Err(JsonError::Depth { at }));
    assert_eq!(skip(nested(1_000_000).as_bytes()), Err(JsonError::Depth { at }));
}

#[test]
fn text_is_borrowed_in_its_canonical_spelling() {
    assert!(
        matches!(text(r#""plain \n \" \\ \t é""#), Cow::Borrowed(t) if t == r#"plain \n \" \\ \t é"#.as_bytes())
    );
    assert_eq!(&*text(r#""\u00e9\u000a\/\u0001\ud83d\ude00\u0022""#), "é\\n/\\u0001😀\\\"".as_bytes());
}

/// Where the string ends that begins at the start of `bytes`, and whether its spelling is canonical; byte by
/// byte.
fn naive_string(bytes: &[u8]) -> JsonResult<(usize, bool)> {
    let wrong = |at: usize| Err(JsonError::Syntax { at: at.min(bytes.len()) });
    let (mut at, mut canonical) = (1, true);
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok((at + 1, canonical)),
            Some(b'\\') => match bytes.get(at + 1) {
                Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'/') => (at, canonical) = (at + 2, false),
                Some(b'u') => (at, canonical) = (at + code_point(bytes, at)?.1, false),
                _ => return wrong(at + 1),
            },
            Some(0x20..) => at += 1,
            _ => return wrong(at),
        }
    }
}

proptest! {
    /// Escapes of every kind and runs of backslashes, at every place of a block, whole and broken.
    #[test]
    fn strings_end_where_the_twin_says(before in 0usize..70, pieces in prop::collection::vec(prop::sample::select(vec!["a", "a long text of no escapes at all, longer than half of a block is", "\\", "\\\\", "\\\\\\\\\\\\", "\"", "\\\"", "\\n", "n", "u", "/", "\\/", "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\u12", "\\x", "\t", "é"]), 0..40)) {
        let json = format!("{}\"{}", " ".repeat(before), pieces.concat());
        let mut scanner = Scanner::new(json.as_bytes());
        scanner.kind().unwrap();
        let found = scanner.skip_string().map(|canonical| (scanner.at(), canonical));
        let twin = match naive_string(&json.as_bytes()[before..]) {
            Ok((end, canonical)) => Ok((before + end, canonical)),
            Err(JsonError::Syntax { at }) => Err(JsonError::Syntax { at: before + at }),
            Err(JsonError::Surrogate { at }) => Err(JsonError::Surrogate { at: before + at }),
            Err(other) => Err(other),
        };
        prop_assert_eq!(found, twin, "{:?}", json);
    }

    /// Characters of every length, at every place of a block, cut and broken; in two strings with something
    /// between them.
    #[test]
    fn utf8_is_told_as_by_the_library(parts in prop::collection::vec(("[a-z]{0,150}", "[é€😀]{0,3}"), 0..6), gap in 0usize..200, at in 0usize..900, byte in prop::option::of(0x80u8..)) {
        let text: String = parts.into_iter().map(|(ascii, wide)| ascii + &wide).collect();
        let mut bytes = format!("[\"{text}\",{}1,\"{text}\"]", " ".repeat(gap)).into_bytes();
        if let Some((place, byte)) = bytes.get_mut(at).zip(byte)
            && (place.is_ascii_lowercase() || !place.is_ascii())
        {
            *place = byte;
        }
        let mut scanner = Scanner::new(&bytes);
        scanner.skip().and_then(|_| scanner.end()).unwrap();
        let twin = std::str::from_utf8(&bytes).err().map(|error| error.valid_up_to());
        prop_assert_eq!(scanner.not_utf8(), twin);
    }

    /// Any text, spelled in any way: the same canonical spelling, from which the text can be had again.
    #[test]
    fn spelling_does_not_matter(value: String, escape_all: bool) {
        let json = if escape_all {
            let units = value.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect::<String>();
            format!("\"{units}\"")
        } else {
            serde_json::to_string(&value).unwrap()
        };
        let canonical = text(&json);
        prop_assert_eq!(decoded(&canonical), value.as_str());
        prop_assert_eq!(canonical.into_owned(), spelled(&value));
    }

    /// What the twin takes and what it refuses, cut and changed at random places.
    #[test]
    fn agrees_with_serde_json(json in documents(), cut in 0usize..200, put in 0usize..200, byte in prop::sample::select(b"{}[]\",:\\ u0e-\n\x01\x80a".to_vec()), change in 0u8..3) {
        let mut json = json.into_bytes();
        match change {
            0 => {}
            1 => json.truncate(cut),
            _ => {
                let at = put % (json.len() + 1);
                json.insert(at, byte);
            }
        }
        // The scanner leaves UTF-8 to its caller.
        if let Ok(utf8) = std::str::from_utf8(&json) {
            let twin = serde_json::from_str::<serde_json::Value>(utf8);
            let ours = skip(utf8.as_bytes());
            // A number beyond f64 is one to us: the grammar allows it.
            let beyond = twin.as_ref().is_err_and(|e| e.to_string().contains("out of range"));
            prop_assert!(ours.is_ok() == twin.is_ok() || beyond, "{} {ours:?} {twin:?}", utf8);
        }
    }
}

fn documents() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("-1.5e3".to_owned()),
        any::<i32>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
        Just(r#""\u00e9\ud83d\ude00\/""#.to_owned()),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|list| format!("[{}]", list.join(" , "))),
            prop::collection::vec(("[a-z]{0,3}", inner), 0..5).prop_map(|list| {
                let list: Vec<String> =
                    list.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", list.join(",\n"))
            }),
        ]
    })
}
