//! A Gateway.

use serde::Deserialize;
use serde_json::Value as Json;

/// A Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// Its class.
    pub class: String,
    /// Its listeners: name and port.
    pub listeners: Vec<(String, u16)>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    spec: RawSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    gateway_class_name: String,
    listeners: Vec<RawListener>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawListener {
    name: String,
    port: u16,
}

impl Gateway {
    /// Reads a Gateway.
    ///
    /// # Errors
    /// Where a field has another shape than the API says; the text names it.
    pub fn parse(object: &Json) -> Result<Self, String> {
        let raw = Raw::deserialize(object).map_err(|error| error.to_string())?;
        let listeners = raw.spec.listeners.into_iter().map(|listener| (listener.name, listener.port));
        Ok(Gateway { class: raw.spec.gateway_class_name, listeners: listeners.collect() })
    }
}
