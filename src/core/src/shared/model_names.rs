//! Which names are names of one model, as the workers share it: one value, which exists once a pod lists
//! several names for its model.
//!
//! vLLM's cache does not know by which of its names a model was asked for. So one of them stands for all in
//! the prefix index, and a prompt under one name meets the cache of the same prompt under another.

use crate::shared::codec::{CodecError, Reader, records};

/// Marks the names, and the version of their format.
const NAMES_MARK: u32 = u32::from_le_bytes(*b"WPN1");
/// Longest name that is taken in, in bytes.
pub const LONGEST_NAME: usize = 256;
/// Most names over all models.
const MOST_NAMES: usize = 1024;

/// The names of models that have several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelNames {
    /// Each with the name that stands for it, in order of the first. A name that stands for others is
    /// here too.
    names: Vec<(String, String)>,
}

impl ModelNames {
    /// The name that stands for `name`: the same one, for a model with one name.
    pub fn one_of<'a>(&'a self, name: &'a [u8]) -> &'a [u8] {
        self.find(name).map_or(name, |(_, one)| one.as_bytes())
    }

    fn find(&self, name: &[u8]) -> Option<&(String, String)> {
        let at = self.names.binary_search_by(|(other, _)| other.as_bytes().cmp(name)).ok()?;
        self.names.get(at)
    }

    /// Joins `groups`: each has names of one model, and groups with a name in common are of one model.
    /// The name that stands for a model in `before` goes on to do so while it is a name of it, so that no
    /// worker forgets where prompts lie; else it is the first by spelling, so that gateways choose alike.
    pub fn joined<'a>(groups: impl Iterator<Item = &'a [String]>, before: &ModelNames) -> ModelNames {
        let mut models: Vec<Vec<&String>> = Vec::new();
        for group in groups {
            if models.iter().map(Vec::len).sum::<usize>() + group.len() > MOST_NAMES {
                break;
            }
            let mut model: Vec<&String> = group.iter().collect();
            models.retain(|other| {
                let is_same = other.iter().any(|name| group.contains(name));
                if is_same {
                    model.extend(other);
                }
                !is_same
            });
            model.sort_unstable();
            model.dedup();
            models.push(model);
        }
        let mut names = Vec::new();
        for model in models.iter().filter(|model| model.len() > 1) {
            let stood = model.iter().filter_map(|name| before.find(name.as_bytes()));
            let stood = stood.map(|(_, one)| one).filter(|one| model.contains(one)).min();
            let Some(one) = stood.or(model.first().copied()) else { continue };
            names.extend(model.iter().map(|&name| (name.clone(), one.clone())));
        }
        names.sort_unstable();
        ModelNames { names }
    }

    /// The names of each model, as [`ModelNames::joined`] takes them.
    pub fn groups(&self) -> Vec<Vec<String>> {
        let mut groups: Vec<(&String, Vec<String>)> = Vec::new();
        for (name, one) in &self.names {
            match groups.iter_mut().find(|(other, _)| *other == one) {
                Some((_, names)) => names.push(name.clone()),
                None => groups.push((one, vec![name.clone()])),
            }
        }
        groups.into_iter().map(|(_, names)| names).collect()
    }

    /// The bytes to share.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = NAMES_MARK.to_le_bytes().to_vec();
        for text in self.names.iter().flat_map(|(name, one)| [name, one]) {
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out
    }

    /// Reads the names.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<ModelNames, CodecError> {
        let mut names = records(bytes, NAMES_MARK, MOST_NAMES, |from| Ok((text(from)?, text(from)?)))?;
        names.sort_unstable();
        Ok(ModelNames { names })
    }
}

fn text(from: &mut Reader<'_>) -> Result<String, CodecError> {
    let length = usize::from(from.u16()?);
    let bytes = from.bytes(length)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CodecError::Range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(groups: &[&[&str]], before: &ModelNames) -> ModelNames {
        let groups: Vec<Vec<String>> =
            groups.iter().map(|group| group.iter().map(|&name| name.to_owned()).collect()).collect();
        ModelNames::joined(groups.iter().map(Vec::as_slice), before)
    }

    fn one_of(names: &ModelNames, name: &str) -> String {
        String::from_utf8(names.one_of(name.as_bytes()).to_vec()).unwrap()
    }

    #[test]
    fn names_that_any_pod_has_for_one_model_are_of_one_model() {
        let none = ModelNames::default();
        let names =
            joined(&[&["qwen", "gpt"], &["x", "y"], &["gpt", "chat"], &["qwen", "gpt"], &["z"]], &none);
        let ones = ["qwen", "gpt", "chat", "x", "y", "z", "other"].map(|name| one_of(&names, name));
        assert_eq!(ones, ["chat", "chat", "chat", "x", "x", "z", "other"]);
        assert_eq!(names.groups(), [&["chat", "gpt", "qwen"][..], &["x", "y"]]);
        assert_eq!(none.groups(), Vec::<Vec<String>>::new());
    }

    #[test]
    fn the_name_that_stands_for_a_model_stays_while_it_is_one_of_its_names() {
        let before = joined(&[&["gpt", "qwen"]], &ModelNames::default());
        assert_eq!(one_of(&before, "qwen"), "gpt");
        let more = joined(&[&["gpt", "qwen"], &["a", "gpt"]], &before);
        assert_eq!(["a", "qwen"].map(|name| one_of(&more, name)), ["gpt", "gpt"]);
        let without = joined(&[&["qwen", "b"]], &more);
        assert_eq!(["gpt", "qwen"].map(|name| one_of(&without, name)), ["gpt", "b"]);
    }

    #[test]
    fn names_are_bounded() {
        let groups: Vec<Vec<String>> =
            (0..MOST_NAMES).map(|n| vec![format!("{n}"), format!("{n}'")]).collect();
        let names = ModelNames::joined(groups.iter().map(Vec::as_slice), &ModelNames::default());
        assert_eq!(names.names.len(), MOST_NAMES);
        assert_eq!(ModelNames::decode(&names.encode()), Ok(names));
    }

    proptest! {
        #[test]
        fn they_round_trip_and_joining_again_changes_nothing(groups in prop::collection::vec(prop::collection::vec("[a-f]{1,2}", 1..4), 0..6)) {
            let names = ModelNames::joined(groups.iter().map(Vec::as_slice), &ModelNames::default());
            prop_assert_eq!(ModelNames::decode(&names.encode()), Ok(names.clone()));
            let known = names.groups();
            prop_assert_eq!(&ModelNames::joined(known.iter().map(Vec::as_slice), &names), &names);
            let order = groups.iter().rev();
            prop_assert_eq!(ModelNames::joined(order.map(Vec::as_slice), &ModelNames::default()), names);
            // The naive twin: two names stand for each other if a chain of groups leads from one to the
            // other.
            for start in groups.iter().flatten() {
                let mut reached = vec![start];
                while let Some(more) = groups.iter().filter(|group| group.iter().any(|name| reached.contains(&name))).flatten().find(|name| !reached.contains(name)) {
                    reached.push(more);
                }
                let one = reached.iter().min().unwrap();
                prop_assert!(reached.iter().all(|name| one_of(&joined_of(&groups), name) == **one));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = ModelNames::decode(&[&b"WPN1"[..], &bytes].concat());
        }
    }

    fn joined_of(groups: &[Vec<String>]) -> ModelNames {
        ModelNames::joined(groups.iter().map(Vec::as_slice), &ModelNames::default())
    }
}
