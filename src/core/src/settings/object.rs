//! Reads a JSON object key by key, so that every value is checked and every error names its key and the fix.
//!
//! The one reader of what users write: the plugin configuration, and the settings of a pool wherever they
//! come from.

use crate::settings::document::Value;
use crate::settings::error::SettingError;

/// What happens to keys that nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKeys {
    /// They are errors: a person wrote the document.
    Refused,
    /// They are passed over: a program wrote it that may be newer than this one.
    Ignored,
}

/// An object of a document. A value that is `null` counts as missing.
#[derive(Debug)]
pub struct Object<'a> {
    /// The path of its keys: empty, `scrape.` or `models[0].`.
    path: String,
    entries: &'a [(String, Value)],
    /// The keys that were asked for.
    known: Vec<&'static str>,
    unknown: UnknownKeys,
}

impl<'a> Object<'a> {
    /// The document `value`.
    ///
    /// # Errors
    /// [`SettingError`] when it is no object.
    pub fn document(value: &'a Value, unknown: UnknownKeys) -> Result<Object<'a>, SettingError> {
        Object::at(String::new(), value, unknown)
    }

    fn at(path: String, value: &'a Value, unknown: UnknownKeys) -> Result<Object<'a>, SettingError> {
        match value {
            Value::Object(entries) => Ok(Object { path, entries, known: Vec::new(), unknown }),
            _ => {
                let key = path.trim_end_matches('.');
                Err(SettingError::new(key, format!("is {}; write an object: {{...}}", value.kind())))
            }
        }
    }

    /// An object without keys.
    pub fn empty() -> Object<'a> {
        Object { path: String::new(), entries: &[], known: Vec::new(), unknown: UnknownKeys::Refused }
    }

    /// The full name of a key.
    pub fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// An error about a key.
    ///
    /// # Errors
    /// Always.
    pub fn refuse<T>(&self, key: &str, reason: impl Into<String>) -> Result<T, SettingError> {
        Err(SettingError::new(self.path(key), reason))
    }

    /// The value of a key, of any kind.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        let found = self.entries.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value).filter(|value| **value != Value::Null)
    }

    /// A text.
    ///
    /// # Errors
    /// [`SettingError`] for a value of another kind.
    pub fn text(&mut self, key: &'static str) -> Result<Option<&'a str>, SettingError> {
        self.one(key, "write a text", Value::as_text)
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// [`SettingError`] for a value of another kind.
    pub fn flag(&mut self, key: &'static str) -> Result<Option<bool>, SettingError> {
        self.one(key, "write true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A whole number within a range.
    ///
    /// # Errors
    /// [`SettingError`] for any other value.
    pub fn whole(&mut self, key: &'static str, least: i64, most: i64) -> Result<Option<i64>, SettingError> {
        match self.one(key, "write a whole number", whole)? {
            Some(found) if !(least..=most).contains(&found) => {
                self.refuse(key, format!("is {found}; use {least} to {most}"))
            }
            found => Ok(found),
        }
    }

    /// One of some words, for what it stands.
    ///
    /// # Errors
    /// [`SettingError`] for any other value.
    pub fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, SettingError> {
        let Some(found) = self.text(key)? else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == found) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                self.refuse(key, format!("is {found:?}; use {}", words.join(" or ")))
            }
        }
    }

    /// A list.
    ///
    /// # Errors
    /// [`SettingError`] for a value of another kind, or a list that is longer than `most`.
    pub fn list(&mut self, key: &'static str, most: usize) -> Result<Option<&'a [Value]>, SettingError> {
        let list = self.one(key, "write a list: [...]", Value::as_list)?;
        match list {
            Some(list) if list.len() > most => {
                self.refuse(key, format!("lists {}; write at most {most}", list.len()))
            }
            list => Ok(list),
        }
    }

    /// An object inside this one.
    ///
    /// # Errors
    /// [`SettingError`] for a value of another kind.
    pub fn object(&mut self, key: &'static str) -> Result<Option<Object<'a>>, SettingError> {
        let path = self.path(key) + ".";
        self.get(key).map(|value| Object::at(path, value, self.unknown)).transpose()
    }

    /// The objects of a list.
    ///
    /// # Errors
    /// [`SettingError`] for a value of another kind, or a list that is longer than `most`.
    pub fn objects(
        &mut self,
        key: &'static str,
        most: usize,
    ) -> Result<Option<Vec<Object<'a>>>, SettingError> {
        let Some(list) = self.list(key, most)? else { return Ok(None) };
        let path = self.path(key);
        let each = |(nth, value)| Object::at(format!("{path}[{nth}]."), value, self.unknown);
        list.iter().enumerate().map(each).collect::<Result<_, _>>().map(Some)
    }

    /// All keys are read: the others are unknown.
    ///
    /// # Errors
    /// [`SettingError`] for a key that is there twice, and for an unknown one, if those are refused.
    pub fn end(self) -> Result<(), SettingError> {
        let mut names = self.entries.iter().map(|(name, _)| name);
        let twice = |name: &&String| self.entries.iter().filter(|(other, _)| other == *name).count() > 1;
        if let Some(name) = names.clone().find(twice) {
            return self.refuse(name, "is there twice; write each key once");
        }
        let stranger = names.find(|name| !self.known.contains(&name.as_str()));
        match stranger.filter(|_| self.unknown == UnknownKeys::Refused) {
            None => Ok(()),
            Some(stranger) => {
                self.refuse(stranger, format!("is no setting; there are {}", self.known.join(", ")))
            }
        }
    }

    fn one<T>(
        &mut self,
        key: &'static str,
        fix: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, SettingError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => self.refuse(key, format!("is {}; {fix}", value.kind())),
        }
    }
}

/// A whole number; those of a protobuf come with a fraction of zero.
fn whole(value: &Value) -> Option<i64> {
    match *value {
        Value::Whole(whole) => Some(whole),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(json: &str) -> Value {
        Value::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn each_error_names_the_key_and_the_fix() {
        let value = document(r#"{"a": {"n": 7, "w": "x", "l": [1, 2]}, "b": [{"t": 1}]}"#);
        let mut document = Object::document(&value, UnknownKeys::Refused).unwrap();
        let mut a = document.object("a").unwrap().unwrap();
        let says = |error: SettingError| error.to_string();
        assert_eq!(says(a.whole("n", 8, 9).unwrap_err()), "`a.n` is 7; use 8 to 9");
        assert_eq!(a.whole("n", 0, 9), Ok(Some(7)));
        assert_eq!(says(a.text("n").unwrap_err()), "`a.n` is a number; write a text");
        let words = [("y", 1), ("z", 2)];
        assert_eq!(says(a.word("w", &words).unwrap_err()), "`a.w` is \"x\"; use \"y\" or \"z\"");
        assert_eq!(says(a.list("l", 1).unwrap_err()), "`a.l` lists 2; write at most 1");
        assert_eq!(says(a.flag("w").unwrap_err()), "`a.w` is a text; write true or false");
        assert_eq!(a.end(), Ok(()));
        let mut b = document.objects("b", 9).unwrap().unwrap();
        assert_eq!(says(b[0].text("t").unwrap_err()), "`b[0].t` is a number; write a text");
    }

    #[test]
    fn unknown_keys_are_refused_or_ignored() {
        let value = document(r#"{"known": 1, "podz": 2}"#);
        for (unknown, says) in [
            (UnknownKeys::Refused, Some("`podz` is no setting; there are known")),
            (UnknownKeys::Ignored, None),
        ] {
            let mut document = Object::document(&value, unknown).unwrap();
            let _ = document.get("known");
            assert_eq!(document.end().err().map(|error| error.to_string()).as_deref(), says);
        }
        let list = Value::List(Vec::new());
        assert!(Object::document(&list, UnknownKeys::Ignored).unwrap_err().to_string().contains("is a list"));
        let twice = document(r#"{"a": 1, "a": 2}"#);
        let mut twice = Object::document(&twice, UnknownKeys::Ignored).unwrap();
        assert_eq!(twice.whole("a", 0, 9), Ok(Some(1)));
        assert_eq!(twice.end().unwrap_err().to_string(), "`a` is there twice; write each key once");
    }

    #[test]
    fn numbers_of_a_protobuf_are_whole_when_their_fraction_is_zero() {
        let read = |json: &str| whole(&document(json));
        assert_eq!([read("5.0"), read("-1"), read("0.5"), read("\"5\"")], [Some(5), Some(-1), None, None]);
    }
}
