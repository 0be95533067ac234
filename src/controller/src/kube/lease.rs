//! Who writes: one replica at a time, by a Lease.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::telemetry::Metrics;

/// The name of the Lease.
pub const NAME: &str = "warmpath-controller";
/// A leader that has not renewed for so long is none.
const DURATION: Duration = Duration::from_secs(6);
const RENEW: Duration = Duration::from_secs(2);
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's: take it.
    Take,
    /// It is another's.
    Wait,
}

/// `holder`: who the lease names. `unchanged`: how long it has been seen as it is, by our own clock.
fn step(holder: Option<&str>, me: &str, unchanged: Duration) -> Step {
    match holder {
        Some(holder) if holder == me => Step::Renew,
        Some(holder) if !holder.is_empty() && unchanged < DURATION => Step::Wait,
        _ => Step::Take,
    }
}

/// Tries for the lease for ever, and tells whether it is ours. A leader that cannot renew stops to be one
/// before another can take the lease.
pub async fn lead(client: Client, namespace: &str, me: &str, leader: watch::Sender<bool>, metrics: &Metrics) {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let mut seen: Option<(String, Instant)> = None;
    let mut renewed: Option<Instant> = None;
    loop {
        let tried = tokio::time::timeout(TIMEOUT, once(&api, me, &mut seen)).await;
        if tried.as_ref().is_ok_and(Result::is_ok) {
            metrics.api_server_answered();
        }
        match tried {
            Ok(Ok(true)) => {
                renewed = Some(Instant::now());
                if !leader.send_replace(true) {
                    tracing::info!(replica = me, "this replica writes now");
                }
            }
            Ok(Ok(false)) => {
                renewed = None;
                if leader.send_replace(false) {
                    tracing::warn!(replica = me, "another replica writes now");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "the lease cannot be renewed"),
            Err(_) => tracing::debug!("the lease cannot be renewed: no answer"),
        }
        if renewed.is_some_and(|at| at.elapsed() + TIMEOUT > DURATION) && leader.send_replace(false) {
            tracing::warn!(
                replica = me,
                "this replica does not write any more: the lease could not be renewed"
            );
        }
        tokio::time::sleep(RENEW).await;
    }
}

/// One try; `true` where the lease is ours afterwards.
async fn once(api: &Api<Lease>, me: &str, seen: &mut Option<(String, Instant)>) -> Result<bool, kube::Error> {
    let now = MicroTime(Timestamp::now());
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let spec = LeaseSpec {
            holder_identity: Some(me.into()),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
        return written(api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await);
    };
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    let since = match seen {
        Some((known, since)) if *known == version => *since,
        _ => seen.insert((version, Instant::now())).1,
    };
    let spec = lease.spec.get_or_insert_default();
    match step(spec.holder_identity.as_deref(), me, since.elapsed()) {
        Step::Wait => return Ok(false),
        Step::Renew => {}
        Step::Take => {
            spec.holder_identity = Some(me.into());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
        }
    }
    spec.renew_time = Some(now);
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    written(api.replace(NAME, &PostParams::default(), &lease).await)
}

/// A conflict means that another was faster.
fn written(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_only_when_nobody_renews_it() {
        let fresh = Duration::from_secs(1);
        assert_eq!(step(Some("me"), "me", fresh), Step::Renew);
        assert_eq!(step(Some("other"), "me", fresh), Step::Wait);
        assert_eq!(step(Some("other"), "me", DURATION), Step::Take);
        assert_eq!(step(Some(""), "me", fresh), Step::Take);
        assert_eq!(step(None, "me", fresh), Step::Take);
    }
}
