//! Which names are names of one model, as the workers share it: one value, which exists once a pod lists
//! several names for its model.
//!
//! vLLM's cache does not know by which of its names a model was asked for. So one of them stands for all in
//! the prefix index, and a prompt under one name meets the cache of the same prompt under another.

use crate::shared::codec::{CodecError, records};

/// Marks the names, and the version of their format.
const NAMES_MARK: u32 = u32::from_le_bytes(*b"WPN1");
/// Longest name that is taken in, in bytes.
pub const LONGEST_NAME: usize = 256;
/// Most names over all models.
const MOST_NAMES: usize = 1024;

/// The names of models that have several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelNames {
    /// In order, each with the place of the name that stands for it. A name that stands for others is here
    /// too.
    names: Vec<(String, u16)>,
}

impl ModelNames {
    /// The name that stands for `name`: the same one, for a model with one name.
    pub fn one_of<'a>(&'a self, name: &'a [u8]) -> &'a [u8] {
        let one = self.find(name).and_then(|(_, one)| self.names.get(usize::from(*one)));
        one.map_or(name, |(one, _)| one.as_bytes())
    }

    fn place(&self, name: &[u8]) -> Result<usize, usize> {
        self.names.binary_search_by(|(other, _)| other.as_bytes().cmp(name))
    }

    fn find(&self, name: &[u8]) -> Option<&(String, u16)> {
        self.place(name).ok().and_then(|at| self.names.get(at))
    }

    /// Adds a group of names of one model. Groups with a name in common are of one model. Call
    /// [`ModelNames::chosen`] when all are there.
    pub fn join<'a>(&mut self, group: impl Iterator<Item = &'a String>) {
        let mut model = None;
        for name in group {
            // Until then models have numbers, so that names can come in between.
            let number =
                *model.get_or_insert(self.names.iter().map(|(_, number)| number + 1).max().unwrap_or(0));
            match self.place(name.as_bytes()) {
                Ok(at) => {
                    let same = self.names.get(at).map(|(_, number)| *number);
                    self.names
                        .iter_mut()
                        .filter(|(_, other)| Some(*other) == same)
                        .for_each(|(_, other)| *other = number);
                }
                Err(at) if self.names.len() < MOST_NAMES => self.names.insert(at, (name.clone(), number)),
                Err(_) => {}
            }
        }
    }

    /// Chooses the name that stands for each model: the one that stood for it in `before`, while it is a name
    /// of it, so that no worker forgets where prompts lie; else the first by spelling, so that gateways
    /// choose alike.
    pub fn chosen(mut self, before: &ModelNames) -> ModelNames {
        let places = self.names.iter().map(|(_, number)| {
            let of_model = |name: &[u8]| self.place(name).ok().filter(|&at| self.number(at) == Some(*number));
            let names =
                || self.names.iter().filter(|(_, other)| other == number).map(|(name, _)| name.as_bytes());
            let stood = names().filter(|name| before.find(name).is_some());
            let stood = stood.filter_map(|name| of_model(before.one_of(name))).min();
            stood.or_else(|| names().next().and_then(of_model)).unwrap_or_default() as u16
        });
        let places: Vec<u16> = places.collect();
        self.names.iter_mut().zip(places).for_each(|((_, number), place)| *number = place);
        self
    }

    fn number(&self, at: usize) -> Option<u16> {
        self.names.get(at).map(|(_, number)| *number)
    }

    /// The names of each model, as [`ModelNames::join`] takes them.
    pub fn groups(&self) -> impl Iterator<Item = Vec<String>> {
        let ones = (0..).zip(&self.names).filter(|(at, (_, one))| at == one);
        ones.map(|(at, _)| {
            self.names.iter().filter(|(_, one)| *one == at).map(|(name, _)| name.clone()).collect()
        })
    }

    /// The bytes to share.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = NAMES_MARK.to_le_bytes().to_vec();
        for (name, one) in &self.names {
            out.extend_from_slice(&one.to_le_bytes());
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    /// Reads the names.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<ModelNames, CodecError> {
        let names = records(bytes, NAMES_MARK, MOST_NAMES, |from| {
            let (one, length) = (from.u16()?, from.u16()?);
            let name =
                std::str::from_utf8(from.bytes(usize::from(length))?).map_err(|_| CodecError::Range)?;
            Ok((name.to_owned(), one))
        })?;
        Ok(ModelNames { names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(groups: &[&[&str]], before: &ModelNames) -> ModelNames {
        let groups: Vec<Vec<String>> =
            groups.iter().map(|group| group.iter().map(|&name| name.to_owned()).collect()).collect();
        joined_of(&groups, before)
    }

    fn joined_of(groups: &[Vec<String>], before: &ModelNames) -> ModelNames {
        let mut names = ModelNames::default();
        groups.iter().for_each(|group| names.join(group.iter()));
        names.chosen(before)
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
        assert_eq!(names.groups().collect::<Vec<_>>(), [&["chat", "gpt", "qwen"][..], &["x", "y"], &["z"]]);
        assert_eq!(none.groups().count(), 0);
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
        let names = joined_of(&groups, &ModelNames::default());
        assert_eq!(names.names.len(), MOST_NAMES);
        assert_eq!(ModelNames::decode(&names.encode()), Ok(names));
    }

    proptest! {
        #[test]
        fn they_round_trip_and_joining_again_changes_nothing(groups in prop::collection::vec(prop::collection::vec("[a-f]{1,2}", 1..4), 0..6)) {
            let none = ModelNames::default();
            let names = joined_of(&groups, &none);
            prop_assert_eq!(ModelNames::decode(&names.encode()), Ok(names.clone()));
            let known: Vec<Vec<String>> = names.groups().collect();
            prop_assert_eq!(&joined_of(&known, &names), &names);
            let reversed: Vec<Vec<String>> = groups.iter().rev().cloned().collect();
            prop_assert_eq!(joined_of(&reversed, &none), names.clone());
            // The naive twin: two names stand for each other if a chain of groups leads from one to the
            // other.
            for start in groups.iter().flatten() {
                let mut reached = vec![start];
                while let Some(more) = groups.iter().filter(|group| group.iter().any(|name| reached.contains(&name))).flatten().find(|name| !reached.contains(name)) {
                    reached.push(more);
                }
                let one = reached.iter().min().unwrap();
                prop_assert!(reached.iter().all(|name| one_of(&names, name) == **one));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = ModelNames::decode(&[&b"WPN1"[..], &bytes].concat());
        }
    }
}
