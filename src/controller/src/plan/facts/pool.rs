//! An InferencePool, of either group.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::plan::names::{PoolGroup, PoolKey};

/// An InferencePool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// `metadata.generation`, which rises with each change of the spec.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The labels that a pod must have. An empty selector selects no pod.
    pub selector: BTreeMap<String, String>,
    /// The ports that each pod serves on, in order; at least one.
    pub ports: Vec<u16>,
    /// Whether the pods speak HTTP/2 without TLS.
    pub h2c: bool,
    /// The endpoint picker that the pool names. Warmpath needs none.
    pub picker: Option<Picker>,
    /// The object's `status` as it is.
    pub status: Json,
}

/// The endpoint picker that a pool names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picker {
    /// Its kind, `Service` where none is named.
    pub kind: String,
    /// Its name, in the pool's namespace.
    pub name: String,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    metadata: RawMeta,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: Json,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawMeta {
    name: String,
    namespace: String,
    generation: i64,
    resource_version: String,
    annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    selector: Json,
    target_ports: Vec<RawPort>,
    target_port_number: Option<u16>,
    app_protocol: Option<String>,
    endpoint_picker_ref: Option<RawPicker>,
    extension_ref: Option<RawPicker>,
}

#[derive(Deserialize)]
struct RawPort {
    number: u16,
}

#[derive(Deserialize)]
struct RawPicker {
    kind: Option<String>,
    name: String,
}

impl Pool {
    /// Reads an InferencePool.
    ///
    /// # Errors
    /// Where a field has another shape than the API says; the text names it.
    pub fn parse(object: &Json) -> Result<Self, String> {
        let raw = Raw::deserialize(object).map_err(|error| error.to_string())?;
        let spec = raw.spec;
        let selector = match spec.selector.get("matchLabels").unwrap_or(&spec.selector) {
            Json::Null => BTreeMap::new(),
            labels => Deserialize::deserialize(labels).map_err(|error| format!("spec.selector: {error}"))?,
        };
        let ports: Vec<u16> = match spec.target_port_number {
            Some(port) => vec![port],
            None => spec.target_ports.iter().map(|port| port.number).collect(),
        };
        if ports.is_empty() || ports.contains(&0) {
            return Err("spec.targetPorts: at least one port from 1 to 65535 is needed".into());
        }
        let picker = spec.endpoint_picker_ref.or(spec.extension_ref);
        Ok(Pool {
            generation: raw.metadata.generation,
            version: raw.metadata.resource_version,
            annotations: raw.metadata.annotations,
            selector,
            ports,
            h2c: spec.app_protocol.as_deref() == Some("kubernetes.io/h2c"),
            picker: picker.map(|p| Picker { kind: p.kind.unwrap_or_else(|| "Service".into()), name: p.name }),
            status: raw.status,
        })
    }
}

/// Which pool an object is, and its generation; `None` where it is no InferencePool.
pub fn pool_identity(object: &Json) -> Option<(PoolKey, i64)> {
    if object.get("kind")?.as_str()? != "InferencePool" {
        return None;
    }
    let group = PoolGroup::parse(object.get("apiVersion")?.as_str()?.split('/').next()?)?;
    let meta = RawMeta::deserialize(object.get("metadata")?).ok()?;
    Some((PoolKey { group, namespace: meta.namespace, name: meta.name }, meta.generation))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pools_of_both_groups_are_read() {
        let stable = Pool::parse(&json!({
            "metadata": {"name": "pool", "namespace": "default", "generation": 3},
            "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}, {"number": 8001}],
                     "appProtocol": "kubernetes.io/h2c", "endpointPickerRef": {"name": "none", "port": {"number": 9002}}},
        }))
        .unwrap();
        assert_eq!((stable.generation, stable.ports, stable.h2c), (3, vec![8000, 8001], true));
        assert_eq!(stable.picker, Some(Picker { kind: "Service".into(), name: "none".into() }));
        let old = Pool::parse(&json!({
            "spec": {"selector": {"app": "vllm"}, "targetPortNumber": 8000, "extensionRef": {"name": "x"}},
        }))
        .unwrap();
        assert_eq!((old.selector, old.ports, old.h2c), (stable.selector, vec![8000], false));
    }

    #[test]
    fn a_pool_that_cannot_be_read_names_the_field() {
        let error =
            Pool::parse(&json!({"spec": {"selector": {"app": 1}, "targetPortNumber": 8000}})).unwrap_err();
        assert!(error.contains("spec.selector"), "{error}");
        let error = Pool::parse(&json!({"spec": {"selector": {"app": "x"}}})).unwrap_err();
        assert!(error.contains("spec.targetPorts"), "{error}");
    }

    #[test]
    fn an_object_is_a_pool_by_kind_and_group() {
        let object = |group: &str, kind: &str| json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "p", "namespace": "n", "generation": 2}});
        let key = PoolKey { group: PoolGroup::Stable, namespace: "n".into(), name: "p".into() };
        assert_eq!(pool_identity(&object("inference.networking.k8s.io", "InferencePool")), Some((key, 2)));
        assert_eq!(pool_identity(&object("example.com", "InferencePool")), None);
        assert_eq!(pool_identity(&object("inference.networking.k8s.io", "Other")), None);
    }
}
