//! Writes what follows: the leader alone, in rounds, and nothing that is there already.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::{Timestamp, Unit};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::keeper::Snapshot;
use super::kinds::Kind;
use crate::knock::Refusing;
use crate::plan::condition::News;
use crate::plan::status::{CONTROLLER, Wiring};
use crate::plan::wiring::Hook;
use crate::plan::writes::{Circumstances, ModelKind, Write, version, writes};
use crate::plan::{ObjectKey, PoolKey, view, wiring};
use crate::telemetry::Metrics;

/// What changes at once is one round.
const GATHER: Duration = Duration::from_millis(20);
/// Between two rounds: Envoy Gateway translates for each change of a RoutedPool, and does not join them.
const SPACING: Duration = Duration::from_millis(100);
/// A round is repeated after so long where the API server refused something.
const RETRY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 8;

/// Writes to the API server.
pub struct Writer {
    client: Client,
    envoy_gateway: String,
    metrics: Arc<Metrics>,
    wiring: Arc<dyn Fn(&PoolKey) -> Wiring + Send + Sync>,
    refusing: watch::Receiver<Refusing>,
    wake: Arc<Notify>,
    recorder: Recorder,
}

impl Writer {
    /// A writer for the Envoy Gateway of that controller name. `wiring` says what is known of each pool's
    /// wiring, `refusing` which places refuse connections, and `wake` that one of the two has changed.
    pub fn new(
        client: Client,
        envoy_gateway: String,
        metrics: Arc<Metrics>,
        wiring: Arc<dyn Fn(&PoolKey) -> Wiring + Send + Sync>,
        refusing: watch::Receiver<Refusing>,
        wake: Arc<Notify>,
    ) -> Self {
        let recorder =
            Recorder::new(client.clone(), Reporter { controller: CONTROLLER.into(), instance: None });
        Writer { client, envoy_gateway, metrics, wiring, refusing, wake, recorder }
    }

    /// Writes while this replica leads, until nobody tells anything any more.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Option<Snapshot>>,
        mut leader: watch::Receiver<bool>,
    ) {
        loop {
            if leader.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            tokio::time::sleep(GATHER).await;
            let started = Instant::now();
            let snapshot = snapshots.borrow_and_update().clone();
            let all_good = match snapshot {
                Some(snapshot) => self.round(&snapshot).await,
                None => true,
            };
            tokio::time::sleep_until(started + SPACING).await;
            let retry = async {
                if all_good { std::future::pending().await } else { tokio::time::sleep(RETRY).await }
            };
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                () = self.wake.notified() => {}
                () = retry => {}
                changed = leader.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One round; `false` where something was refused for another reason than a change meanwhile.
    async fn round(&self, snapshot: &Snapshot) -> bool {
        let results = futures::stream::iter(self.plan(snapshot))
            .map(|write| self.write(write))
            .buffer_unordered(AT_ONCE);
        results.fold(true, |all, good| async move { all && good }).await
    }

    fn plan(&self, snapshot: &Snapshot) -> Vec<Write> {
        let wiring = |pool: &PoolKey| (self.wiring)(pool);
        let refusing = self.refusing.borrow();
        let circumstances = Circumstances {
            envoy_gateway: &self.envoy_gateway,
            wiring: &wiring,
            refusing: refusing.as_ref(),
            now: &now(),
        };
        writes(&snapshot.facts, &snapshot.world, &circumstances)
    }

    /// Raises the revision of the RoutedPools of these pools, so that Envoy Gateway asks again. Any replica
    /// may.
    pub async fn raise(&self, pools: &BTreeSet<PoolKey>, snapshot: &Snapshot) {
        for (key, object) in &snapshot.facts.views {
            if !view::identity(object).is_some_and(|(pool, _)| pools.contains(&pool)) {
                continue;
            }
            let spec = object.get("spec").cloned().unwrap_or_default();
            let Some(spec) = view::write(Some(object), &spec, true) else { continue };
            tracing::info!(routed_pool = %key, "Envoy Gateway is asked to ask again");
            self.write(Write::UpdateView { key: key.clone(), spec, version: version(object) }).await;
        }
    }

    /// Tells the other replicas, by an annotation that Envoy Gateway does not look at, which hooks this one
    /// was asked. Any replica may.
    pub async fn tell_asked(&self, asked: impl Fn(&PoolKey) -> BTreeSet<Hook>, snapshot: &Snapshot) {
        for (key, object) in &snapshot.facts.views {
            let Some((pool, _)) = view::identity(object) else { continue };
            let ours = asked(&pool);
            let told = view::asked(object);
            if ours.is_subset(&told) {
                continue;
            }
            let asked = wiring::write(&ours.union(&told).copied().collect());
            let (key, version) = (key.clone(), version(object));
            let (name, value, news) = (wiring::ASKED, Some(asked), None);
            self.write(Write::AnnotateView { key, name, value, news, version }).await;
        }
    }

    async fn write(&self, write: Write) -> bool {
        let kind = match &write {
            Write::CreateView { .. }
            | Write::UpdateView { .. }
            | Write::DeleteView { .. }
            | Write::AnnotateView { .. } => Kind::View,
            Write::PoolStatus { pool, .. } => Kind::Pool(pool.group),
            Write::ModelStatus { kind: ModelKind::Model, .. } => Kind::Model,
            Write::ModelStatus { kind: ModelKind::Objective, .. } => Kind::Objective,
        };
        let result = tokio::time::timeout(TIMEOUT, self.send(kind, write)).await;
        let (outcome, good) = match result {
            Ok(Ok(())) => ("ok", true),
            // The object has changed or is gone: what follows from that is on its way here.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => ("stale", true),
            Ok(Err(error)) => {
                tracing::warn!(kind = kind.label(), %error, "a write was refused");
                ("error", false)
            }
            Err(_) => {
                tracing::warn!(kind = kind.label(), "a write got no answer");
                ("error", false)
            }
        };
        self.metrics.write(kind.label(), outcome);
        good
    }

    async fn send(&self, kind: Kind, write: Write) -> Result<(), kube::Error> {
        let api = |namespace: &str| -> Api<DynamicObject> {
            Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
        };
        let merge = PatchParams::default();
        match write {
            Write::CreateView { key, spec } => {
                let object = view_object(&key, spec);
                api(&key.namespace).create(&PostParams::default(), &object?).await?;
            }
            Write::UpdateView { key, spec, version } => {
                let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
                api(&key.namespace).patch(&key.name, &merge, &Patch::Merge(patch)).await?;
            }
            Write::AnnotateView { key, name, value, news, version } => {
                let metadata = json!({"resourceVersion": version, "annotations": {name: value}});
                api(&key.namespace)
                    .patch(&key.name, &merge, &Patch::Merge(json!({"metadata": metadata})))
                    .await?;
                if let Some((pool, news)) = news {
                    let of = ObjectKey { namespace: pool.namespace, name: pool.name };
                    self.tell(Kind::Pool(pool.group), &of, vec![news]).await;
                }
            }
            Write::DeleteView { key } => {
                api(&key.namespace).delete(&key.name, &DeleteParams::default()).await?;
            }
            Write::PoolStatus { pool, status, news, version } => {
                let key = ObjectKey { namespace: pool.namespace, name: pool.name };
                let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
                api(&key.namespace).patch_status(&key.name, &merge, &Patch::Merge(patch)).await?;
                self.tell(kind, &key, news).await;
            }
            Write::ModelStatus { key, status, news, version, .. } => {
                let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
                api(&key.namespace).patch_status(&key.name, &merge, &Patch::Merge(patch)).await?;
                self.tell(kind, &key, news).await;
            }
        }
        Ok(())
    }
}

impl Writer {
    /// Publishes events at an object. What is lost is in the object's conditions too.
    async fn tell(&self, kind: Kind, key: &ObjectKey, news: Vec<News>) {
        let resource = kind.resource();
        let regarding = ObjectReference {
            api_version: Some(resource.api_version.clone()),
            kind: Some(resource.kind.clone()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            ..ObjectReference::default()
        };
        for News { warning, reason, message } in news {
            let event = Event {
                type_: if warning { EventType::Warning } else { EventType::Normal },
                reason,
                note: Some(message.chars().take(1000).collect()),
                action: "Reconcile".into(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &regarding).await {
                tracing::debug!(object = %key, %error, "an event was not taken");
            }
        }
    }
}

fn view_object(key: &ObjectKey, spec: Json) -> Result<DynamicObject, kube::Error> {
    let object = json!({
        "apiVersion": format!("{}/{}", view::GROUP, view::VERSION), "kind": view::KIND,
        "metadata": {"namespace": key.namespace, "name": key.name, "labels": {"app.kubernetes.io/managed-by": "warmpath-controller"}},
        "spec": spec,
    });
    serde_json::from_value(object).map_err(kube::Error::SerdeError)
}

/// The time as conditions have it.
fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}
