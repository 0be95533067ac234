//! A pod, as far as it is a place to send to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFact {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: i64,
    /// `status.podIP`; `None` where it has none, or has ended and its address may be another pod's.
    pub address: Option<IpAddr>,
    /// Whether its condition Ready is True and it is not being deleted.
    pub ready: bool,
}

impl PodFact {
    /// Reads a pod. One that has ended has no address, whatever its status says: it may be given to another
    /// pod at once.
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let ended = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let address = status.pod_ip.as_deref().and_then(|ip| ip.parse().ok());
        PodFact {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            address: address.filter(|_| !ended),
            ready: ready && !ended && pod.metadata.deletion_timestamp.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn pod(status: Json, deleting: bool) -> PodFact {
        let mut object =
            json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": "vllm"}}, "status": status});
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        PodFact::of(&serde_json::from_value(object).unwrap())
    }

    fn running(ip: &str, ready: &str) -> Json {
        json!({"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]})
    }

    #[test]
    fn a_pod_is_ready_loading_or_leaving() {
        let ready = pod(running("10.244.0.11", "True"), false);
        assert_eq!((ready.address, ready.ready), (Some([10, 244, 0, 11].into()), true));
        let loading = pod(running("10.244.0.11", "False"), false);
        assert_eq!((loading.address.is_some(), loading.ready), (true, false));
        let leaving = pod(running("10.244.0.11", "True"), true);
        assert_eq!((leaving.address.is_some(), leaving.ready), (true, false));
    }

    #[test]
    fn an_evicted_pod_keeps_no_address_whatever_its_status_says() {
        for ip in [json!("10.244.0.12"), Json::Null] {
            let status =
                json!({"phase": "Failed", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]});
            let fact = pod(status, false);
            assert_eq!((fact.address, fact.ready), (None, false));
        }
    }

    #[test]
    fn a_dual_stack_pod_is_one_place_at_its_pod_ip() {
        let status = json!({"phase": "Running", "podIP": "fd00::11", "podIPs": [{"ip": "fd00::11"}, {"ip": "10.244.0.11"}],
                            "conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(pod(status, false).address, "fd00::11".parse().ok());
    }
}
