//! The models that have metrics of their own: the first few that pods have served, the same for all workers
//! of an Envoy.
//!
//! Clients name models, so their number has no bound; series of metrics live for ever. A model that no pod
//! serves gets none.

use crate::shared::store::{SharedData, update};

/// Marks a list of models, and the version of its format.
const MODELS_MARK: &str = "WPM1";
/// Models that have metrics of their own.
pub const MOST_MODELS: usize = 16;
/// The name that all others share.
pub const OTHER: &str = "other";
/// Longest name, in bytes.
const LONGEST: usize = 96;

/// The models of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Models(Vec<String>);

impl Models {
    /// The names as labels, in the order in which they were first served.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The place of a model that a request names; `None` when it has none.
    pub fn place(&self, name: &[u8]) -> Option<usize> {
        self.0.iter().position(|known| is_label_of(known, name))
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.0.len() < MOST_MODELS
    }

    /// The models that are shared under `key`.
    pub fn shared(key: &str, shared: &impl SharedData) -> Models {
        shared.get(key).map(|(bytes, _)| Models::decode(&bytes)).unwrap_or_default()
    }

    /// Gives a model that a pod has served a place, if there is room; reads what other workers have added.
    pub fn add(&mut self, name: &[u8], key: &str, shared: &mut impl SharedData) {
        let added = update(shared, key, |bytes| {
            let mut models = bytes.as_deref().map(Models::decode).unwrap_or_default();
            if models.place(name).is_none() && models.has_room() {
                models.0.push(label(name));
            }
            (models.encode(), models)
        });
        if let Ok(models) = added {
            *self = models;
        }
    }

    fn encode(&self) -> String {
        format!("{MODELS_MARK}\n{}", self.0.join("\n"))
    }

    fn decode(bytes: &[u8]) -> Models {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let lines =
            text.strip_prefix(MODELS_MARK).and_then(|rest| rest.strip_prefix('\n')).unwrap_or_default();
        Models(lines.lines().take(MOST_MODELS).map(|line| label(line.as_bytes())).collect())
    }
}

/// A model's name as a label: what would end a label of Envoy's metrics, a line or a quoted text is `_`.
fn label(name: &[u8]) -> String {
    if name.is_empty() {
        return "none".to_owned();
    }
    name.iter().take(LONGEST).map(|&byte| char::from(letter(byte))).collect()
}

fn is_label_of(label: &str, name: &[u8]) -> bool {
    match name {
        b"" => label == "none",
        _ => label.bytes().eq(name.iter().take(LONGEST).map(|&byte| letter(byte))),
    }
}

fn letter(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() || b"-_./:@+".contains(&byte) { byte } else { b'_' }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::Map;

    #[test]
    fn the_first_models_get_a_place_on_every_worker() {
        let mut shared = Map::default();
        let (mut one, mut other) = (Models::default(), Models::default());
        one.add(b"qwen", "k", &mut shared);
        other.add(b"llama", "k", &mut shared);
        assert_eq!(other.names(), ["qwen", "llama"]);
        one.add(b"qwen", "k", &mut shared);
        assert_eq!(one, other);
        assert_eq!((one.place(b"llama"), one.place(b"mistral")), (Some(1), None));
        for number in 0..40 {
            one.add(format!("m{number}").as_bytes(), "k", &mut shared);
        }
        assert_eq!((one.names().len(), one.has_room(), one.place(b"m13")), (MOST_MODELS, false, Some(15)));
        assert_eq!(one.place(b"m14"), None);
        assert_eq!(Models::shared("k", &shared), one);
    }

    #[test]
    fn a_name_cannot_leave_its_label() {
        let mut models = Models::default();
        let mut shared = Map::default();
        let name = b"a;.pool=x\n\"\\\xff";
        models.add(name, "k", &mut shared);
        models.add(b"", "k", &mut shared);
        models.add(&[b'x'; 300], "k", &mut shared);
        assert_eq!(models.names()[..2], ["a_.pool_x____", "none"]);
        assert_eq!(models.names()[2].len(), LONGEST);
        assert_eq!(
            [models.place(name), models.place(b""), models.place(&[b'x'; 300])],
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!(Models::shared("k", &shared), models);
    }

    #[test]
    fn bytes_that_are_no_list_are_an_empty_one() {
        for bytes in [&b""[..], b"WPM0\nqwen", b"\xff\xfe", b"WPM1"] {
            assert_eq!(Models::decode(bytes), Models::default());
        }
    }
}
