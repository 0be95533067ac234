//! Knocks at the places where requests go. A pod that is ready and does not listen, as a helper with the
//! label of the servers, is in no status of Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::kube::keeper::Snapshot;
use crate::plan::World;

/// So many refusals in a row count: a server that has just turned ready may not listen yet.
const STRIKES: u32 = 2;
const TIMEOUT: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 16;
/// Most places that are knocked at within a second, over a whole round.
const PER_SECOND: f64 = 50.0;

/// The places that refuse connections; `None` while it is too early to say.
pub type Refusing = Option<BTreeSet<SocketAddr>>;

/// What a place says to a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Opens,
    Refuses,
    /// Nothing in time, or no way there: a network policy may be between, so this says nothing of the pod.
    Silence,
}

/// Knocks every so often while this replica leads; `wake` is told when another place refuses, or one opens
/// again.
pub async fn knock(
    every: Duration,
    snapshots: watch::Receiver<Option<Snapshot>>,
    mut leader: watch::Receiver<bool>,
    refusing: watch::Sender<Refusing>,
    wake: Arc<Notify>,
) {
    while leader.wait_for(|leads| *leads).await.is_ok() {
        let mut strikes: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        let mut rounds = 0;
        while *leader.borrow() {
            let world =
                snapshots.borrow().as_ref().map(|snapshot| snapshot.world.clone()).unwrap_or_default();
            let places = places(&world);
            let answers = futures::stream::iter(places.keys().copied()).map(ask).buffer_unordered(AT_ONCE);
            let answers: Vec<_> = answers.collect().await;
            strikes = count(&strikes, &answers);
            rounds += 1;
            // Until then, what the leader before this one found is more than is known here.
            if rounds >= STRIKES {
                let struck = strikes.iter().filter(|(_, count)| **count >= STRIKES);
                let now: BTreeSet<SocketAddr> = struck.map(|(place, _)| *place).collect();
                tell(refusing.borrow().as_ref().unwrap_or(&BTreeSet::new()), &now, &places);
                if refusing.send_replace(Some(now.clone())) != Some(now) {
                    wake.notify_one();
                }
            }
            tokio::time::sleep(every.max(Duration::from_secs_f64(places.len() as f64 / PER_SECOND))).await;
        }
        refusing.send_replace(None);
    }
}

/// Where requests may go, and whose place it is: pool and pod.
fn places(world: &World) -> BTreeMap<SocketAddr, String> {
    let mut places = BTreeMap::new();
    for (pool, state) in &world.pools {
        let whose = |(place, pod)| (place, format!("{pod} of InferencePool {pool}"));
        places.extend(state.ready_places().map(whose));
    }
    places
}

async fn ask(place: SocketAddr) -> (SocketAddr, Answer) {
    let answer = match tokio::time::timeout(TIMEOUT, TcpStream::connect(place)).await {
        Ok(Ok(_)) => Answer::Opens,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Answer::Refuses,
        _ => Answer::Silence,
    };
    (place, answer)
}

/// Refusals in a row of each place that was asked.
fn count(before: &BTreeMap<SocketAddr, u32>, answers: &[(SocketAddr, Answer)]) -> BTreeMap<SocketAddr, u32> {
    let counted = |&(place, answer): &(SocketAddr, Answer)| {
        let so_far = before.get(&place).copied().unwrap_or(0);
        let now = match answer {
            Answer::Opens => 0,
            Answer::Refuses => so_far.saturating_add(1),
            Answer::Silence => so_far,
        };
        (place, now)
    };
    answers.iter().map(counted).collect()
}

/// A log line for each change.
fn tell(before: &BTreeSet<SocketAddr>, now: &BTreeSet<SocketAddr>, places: &BTreeMap<SocketAddr, String>) {
    for place in now.difference(before) {
        let whose = places.get(place).map_or("?", String::as_str);
        tracing::warn!("pod {whose} is ready and refuses connections at {place}");
    }
    for place in before.difference(now) {
        if let Some(whose) = places.get(place) {
            tracing::info!("pod {whose} listens at {place} now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    #[test]
    fn refusals_in_a_row_count_and_silence_says_nothing() {
        let place: SocketAddr = "10.0.0.1:8000".parse().unwrap();
        let mut strikes = BTreeMap::new();
        for (answer, expected) in [
            (Answer::Refuses, 1),
            (Answer::Silence, 1),
            (Answer::Refuses, 2),
            (Answer::Opens, 0),
            (Answer::Refuses, 1),
        ] {
            strikes = count(&strikes, &[(place, answer)]);
            assert_eq!(strikes[&place], expected);
        }
        assert_eq!(count(&strikes, &[]), BTreeMap::new(), "a place that is gone");
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_an_open_one_opens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        assert_eq!(ask(place).await, (place, Answer::Opens));
        drop(listener);
        assert_eq!(ask(place).await, (place, Answer::Refuses));
    }

    #[test]
    fn places_that_requests_go_to_have_the_name_of_their_pod() {
        let mut facts = testing::facts();
        facts.pods.values_mut().next().unwrap().ready = false;
        let world = World::of(&facts, &World::default(), |_| None);
        let found = places(&world);
        assert_eq!(found.len(), 1);
        assert_eq!(found.first_key_value().unwrap().0.to_string(), "10.244.0.12:8000");
        assert!(found.first_key_value().unwrap().1.starts_with("pod-12 of InferencePool "));
    }
}
