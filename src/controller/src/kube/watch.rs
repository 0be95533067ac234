//! One watch for each kind, for ever: through missing CRDs, gaps, and an API server that is away.

use std::time::Duration;

use futures::TryStreamExt;
use kube::api::DynamicObject;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;

use super::kinds::Kind;

/// What a watch has seen.
#[derive(Debug)]
pub enum Change {
    /// These are all objects of the kind; `absent` where its CRD is not installed.
    All {
        /// The kind.
        kind: Kind,
        /// Its objects.
        objects: Vec<DynamicObject>,
        /// Whether the API server does not know the kind.
        absent: bool,
    },
    /// An object is new or has changed.
    Set(Kind, Box<DynamicObject>),
    /// An object is gone.
    Gone(Kind, Box<DynamicObject>),
}

/// Between two tries while the API server is away or refuses.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks for a kind whose CRD is not installed.
const ABSENT: Duration = Duration::from_secs(4);
/// A watch ends after this many seconds and goes on from where it was: one that died in silence costs no
/// longer.
const WATCH_SECONDS: u32 = 60;

/// Watches a kind until nobody listens.
pub async fn watch(client: Client, kind: Kind, changes: mpsc::Sender<Change>) {
    let api: Api<DynamicObject> = Api::all_with(client, &kind.resource());
    let mut told_absent = false;
    loop {
        let stream = watcher(api.clone(), watcher::Config::default().timeout(WATCH_SECONDS));
        let mut stream = std::pin::pin!(stream);
        let mut listed = Vec::new();
        // The stream goes on after an error: from where it was, or with a new list where that is too old.
        loop {
            let change = match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => {
                    listed.clear();
                    continue;
                }
                Ok(Some(watcher::Event::InitApply(object))) => {
                    listed.push(object);
                    continue;
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    if told_absent {
                        tracing::info!(kind = kind.label(), "the kind is installed now");
                    }
                    told_absent = false;
                    Change::All { kind, objects: std::mem::take(&mut listed), absent: false }
                }
                Ok(Some(watcher::Event::Apply(object))) => Change::Set(kind, Box::new(object)),
                Ok(Some(watcher::Event::Delete(object))) => Change::Gone(kind, Box::new(object)),
                Ok(None) => break,
                Err(error) if absent(&error) => {
                    if !told_absent {
                        tracing::info!(
                            kind = kind.label(),
                            "the kind is not installed; looked for again every few seconds"
                        );
                        told_absent = true;
                        if changes
                            .send(Change::All { kind, objects: Vec::new(), absent: true })
                            .await
                            .is_err()
                        {
                            return;
                        }
                    }
                    tokio::time::sleep(ABSENT).await;
                    break;
                }
                Err(error) => {
                    tracing::debug!(kind = kind.label(), %error, "the watch broke");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// Whether the API server does not know the kind.
fn absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
