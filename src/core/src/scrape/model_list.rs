//! What a pod says of its models in its list of them: the names of its own model, and the LoRA adapters on
//! it.

use crate::ModelId;
use crate::scrape::adapters::insert;
use crate::settings::document::Value;
use crate::shared::model_names::LONGEST_NAME;

/// Most adapters of one pod. Of a pod that lists more it is not known what it has.
pub const MOST_ADAPTERS: usize = 4096;
/// Most names of one pod that are taken in.
const MOST_NAMES: usize = 16;

/// The models of a pod, as `GET /v1/models` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelList {
    /// The models that have a `parent`, in order.
    pub adapters: Vec<ModelId>,
    /// The names of each model that has several: those without a `parent` whose `root` is the same one.
    pub names: Vec<Vec<String>>,
}

/// A body that is no list of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoList;

impl ModelList {
    /// Reads the body of `GET /v1/models`.
    ///
    /// # Errors
    /// [`NoList`] when it is something else, or has more adapters than are taken in.
    pub fn parse(body: &[u8]) -> Result<ModelList, NoList> {
        let list = Value::parse(body).map_err(|_| NoList)?;
        let cards = list.get("data").and_then(Value::as_list).ok_or(NoList)?;
        let mut models = ModelList::default();
        let mut by_root: Vec<(&str, Vec<String>)> = Vec::new();
        let text = |card: &'_ Value, key| card.get(key).and_then(Value::as_text).map(str::to_owned);
        let mut names = 0;
        for card in cards {
            let Some(name) = text(card, "id") else { continue };
            if card.get("parent").and_then(Value::as_text).is_some() {
                if models.adapters.len() <= MOST_ADAPTERS {
                    insert(&mut models.adapters, ModelId::of(name.as_bytes()));
                }
                continue;
            }
            let Some(root) = card.get("root").and_then(Value::as_text) else { continue };
            if names == MOST_NAMES || name.is_empty() || name.len() > LONGEST_NAME {
                continue;
            }
            names += 1;
            match by_root.iter_mut().find(|(other, _)| *other == root) {
                Some((_, same)) if same.contains(&name) => {}
                Some((_, same)) => same.push(name),
                None => by_root.push((root, vec![name])),
            }
        }
        models.names = by_root.into_iter().map(|(_, names)| names).filter(|names| names.len() > 1).collect();
        if models.adapters.len() > MOST_ADAPTERS { Err(NoList) } else { Ok(models) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn adapters(body: &[u8]) -> Result<Vec<ModelId>, NoList> {
        ModelList::parse(body).map(|list| list.adapters)
    }

    fn names(body: &str) -> Vec<Vec<String>> {
        ModelList::parse(body.as_bytes()).unwrap().names
    }

    #[test]
    fn adapters_are_the_models_with_a_parent() {
        let body = br#"{"object":"list","data":[{"id":"base","parent":null},{"id":"sql","parent":"base"},
            {"id":"a\/b","parent":"base"},{"id":"sql","parent":"base"},{"parent":"base"},7]}"#;
        let mut expected = [ModelId::of(b"sql"), ModelId::of(b"a/b")];
        expected.sort_unstable();
        assert_eq!(adapters(body), Ok(expected.to_vec()));
        let recorded = include_bytes!("../../../../tests/fixtures/vllm-0.32/models.json");
        assert_eq!(ModelList::parse(recorded), Ok(ModelList::default()), "one model with one name");
        for none in [&b""[..], b"{}", b"[1]", br#"{"data": {}}"#, br#"{"error": {"code": 401}}"#] {
            assert_eq!(adapters(none), Err(NoList));
        }
    }

    #[test]
    fn names_of_one_model_have_one_root_and_no_parent() {
        let card = |id: &str, root: &str, parent: &str| {
            format!(r#"{{"id":"{id}","root":{root},"parent":{parent}}}"#)
        };
        let list = |cards: &[String]| format!(r#"{{"data":[{}]}}"#, cards.join(","));
        let of_vllm = list(&[
            card("qwen", r#""/model/qwen""#, "null"),
            card("gpt", r#""/model/qwen""#, "null"),
            card("gpt", r#""/model/qwen""#, "null"),
            card("sql", r#""/model/qwen""#, r#""qwen""#),
        ]);
        assert_eq!(names(&of_vllm), [["qwen", "gpt"]]);
        // Others list many models, each of which is its own root, or say nothing of roots.
        let of_others = [("a", r#""a""#), ("b", r#""b""#), ("c", "null"), ("d", "null"), ("", r#""a""#)];
        assert_eq!(
            names(&list(&of_others.map(|(id, root)| card(id, root, "null")))),
            Vec::<Vec<String>>::new()
        );
        let many: Vec<String> = (0..100).map(|n| card(&format!("m{n}"), r#""r""#, "null")).collect();
        assert_eq!(names(&list(&many))[0].len(), MOST_NAMES);
        let long = [card(&"m".repeat(LONGEST_NAME + 1), r#""r""#, "null"), card("a", r#""r""#, "null")];
        assert_eq!(names(&list(&long)), Vec::<Vec<String>>::new());
    }

    #[test]
    fn a_pod_with_more_adapters_than_are_taken_in_keeps_its_list_to_itself() {
        let list = |count: usize| {
            let cards: Vec<String> = (0..count).map(|n| format!(r#"{{"id":"a{n}","parent":"b"}}"#)).collect();
            format!(r#"{{"data":[{}]}}"#, cards.join(","))
        };
        assert_eq!(adapters(list(MOST_ADAPTERS).as_bytes()).unwrap().len(), MOST_ADAPTERS);
        assert_eq!(adapters(list(MOST_ADAPTERS + 1).as_bytes()), Err(NoList));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ModelList::parse(&bytes);
            let _ = ModelList::parse(&[&br#"{"data":[{"root":"r","id":""#[..], &bytes].concat());
        }
    }
}
