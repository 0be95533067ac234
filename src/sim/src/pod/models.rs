//! The models a pod serves: one under one or several names, and LoRA adapters on it, each a model of its own.

use std::sync::{PoisonError, RwLock};

use axum::http::StatusCode;

use super::PodConfig;
use super::error::ApiError;
use super::ids::{unique, unix_seconds};
use super::json::quoted;

/// The model that a request asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Served {
    /// Its name in the answer.
    pub(super) name: String,
    /// The adapter it is, if it is none of the base model's names.
    pub(super) adapter: Option<String>,
}

/// All models of a pod. Adapters come and go while it runs.
#[derive(Debug)]
pub(super) struct Models {
    /// Where the base model lies.
    root: String,
    /// Its names, at least one.
    names: Vec<String>,
    adapters: RwLock<Vec<String>>,
    max_model_len: u32,
}

impl Models {
    pub(super) fn new(config: &PodConfig) -> Models {
        let names = match config.served_names.is_empty() {
            true => vec![config.model.clone()],
            false => config.served_names.clone(),
        };
        Models {
            root: config.model.clone(),
            names,
            adapters: RwLock::new(config.adapters.clone()),
            max_model_len: config.max_model_len,
        }
    }

    /// The model of a request; without a name, and with an empty one, it is the base model.
    ///
    /// # Errors
    /// 404 for a model that is not here.
    pub(super) fn find(&self, asked: Option<&str>) -> Result<Served, ApiError> {
        let base = || Served { name: self.names.first().cloned().unwrap_or_default(), adapter: None };
        let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(base()) };
        if self.names.iter().any(|name| name == asked) {
            return Ok(base());
        }
        if self.adapters().iter().any(|adapter| adapter == asked) {
            return Ok(Served { name: asked.to_owned(), adapter: Some(asked.to_owned()) });
        }
        Err(ApiError::unknown_model(asked, &self.names.join(", ")))
    }

    /// The adapters there are.
    pub(super) fn adapters(&self) -> Vec<String> {
        self.adapters.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds an adapter.
    ///
    /// # Errors
    /// 400 for one that is there already, and for one without a name.
    pub(super) fn load(&self, adapter: &str) -> Result<(), ApiError> {
        let mut adapters = self.adapters.write().unwrap_or_else(PoisonError::into_inner);
        if adapter.is_empty() {
            let message = "Both 'lora_name' and 'lora_path' must be provided.".to_owned();
            return Err(ApiError::bad_request("lora_name", message));
        }
        if adapters.iter().any(|there| there == adapter) {
            let message = format!("The lora adapter '{adapter}' has already been loaded.");
            return Err(ApiError::bad_request("lora_name", message));
        }
        adapters.push(adapter.to_owned());
        Ok(())
    }

    /// Takes an adapter away.
    ///
    /// # Errors
    /// 404 for one that is not there.
    pub(super) fn unload(&self, adapter: &str) -> Result<(), ApiError> {
        let mut adapters = self.adapters.write().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = adapters.iter().position(|there| there == adapter) else {
            return Err(ApiError {
                status: StatusCode::NOT_FOUND,
                kind: "NotFoundError",
                message: format!("The lora adapter '{adapter}' cannot be found."),
                param: None,
            });
        };
        adapters.remove(at);
        Ok(())
    }

    /// The body of `GET /v1/models`: every name with the same `root`, every adapter with the base model as
    /// `parent`.
    pub(super) fn list(&self) -> String {
        let base = self.names.first().map_or("", String::as_str);
        let names = self.names.iter().map(|name| self.card(name, &self.root, None));
        let adapters = self.adapters();
        let adapters = adapters.iter().map(|name| self.card(name, &format!("/adapters/{name}"), Some(base)));
        let cards: Vec<String> = names.chain(adapters).collect();
        format!(r#"{{"object":"list","data":[{}]}}"#, cards.join(","))
    }

    fn card(&self, id: &str, root: &str, parent: Option<&str>) -> String {
        format!(
            concat!(
                r#"{{"id":{id},"object":"model","created":{created},"owned_by":"vllm","root":{root},"#,
                r#""parent":{parent},"max_model_len":{length},"permission":[{{"id":"modelperm-{unique}","#,
                r#""object":"model_permission","created":{created},"allow_create_engine":false,"#,
                r#""allow_sampling":true,"allow_logprobs":true,"allow_search_indices":false,"allow_view":true,"#,
                r#""allow_fine_tuning":false,"organization":"*","group":null,"is_blocking":false}}]}}"#
            ),
            id = quoted(id),
            root = quoted(root),
            parent = parent.map_or("null".to_owned(), quoted),
            created = unix_seconds(),
            length = if parent.is_some() { "null".to_owned() } else { self.max_model_len.to_string() },
            unique = unique(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_adapters_are_told_apart() {
        let config = PodConfig {
            served_names: vec!["a".to_owned(), "b".to_owned()],
            adapters: vec!["sql".to_owned()],
            ..PodConfig::default()
        };
        let models = Models::new(&config);
        let base = Served { name: "a".to_owned(), adapter: None };
        for asked in [None, Some(""), Some("a"), Some("b")] {
            assert_eq!(models.find(asked).as_ref(), Ok(&base), "{asked:?}");
        }
        assert_eq!(models.find(Some("sql")).unwrap().adapter.as_deref(), Some("sql"));
        assert_eq!(models.find(Some("/model/qwen")).unwrap_err().status, StatusCode::NOT_FOUND);
        models.unload("sql").unwrap();
        assert!(models.find(Some("sql")).is_err() && models.unload("sql").is_err());
        models.load("new").unwrap();
        assert!(models.find(Some("new")).is_ok() && models.load("new").is_err());
        let list: serde_json::Value = serde_json::from_str(&models.list()).unwrap();
        let ids = |field: &str| -> Vec<String> {
            list["data"].as_array().unwrap().iter().map(|card| card[field].to_string()).collect()
        };
        assert_eq!(ids("id"), ["\"a\"", "\"b\"", "\"new\""]);
        assert_eq!(ids("root"), ["\"/model/qwen\"", "\"/model/qwen\"", "\"/adapters/new\""]);
        assert_eq!(ids("parent"), ["null", "null", "\"a\""]);
    }
}
