//! How a pod is, in one word: what a person wants to know of it first.

use crate::Micros;
use crate::account::pod_account::PodAccount;
use crate::shared::pod_table::{Pod, PodState};

/// How a pod is. Of several things that hold, the one that keeps most requests away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodStatus {
    /// It sleeps until it is woken.
    Asleep,
    /// It has requests, and computes nothing.
    Hanging,
    /// It has never answered a scrape: it loads its model, or it is not there.
    Loading,
    /// It answered requests with errors of its own, and is left alone.
    Erring,
    /// It failed a request without an answer, and is left alone.
    CoolingDown,
    /// It has failed before, and one request finds out whether it serves again.
    Probing,
    /// It has answered scrapes, and does not now: it is gone, or refuses connections to its port.
    Unreachable,
    /// It has just refused a request, because it takes no more at the moment.
    Full,
    /// It answers scrapes with something else than vLLM's metrics.
    Unreadable,
    /// Nothing is known against it.
    Ready,
}

impl PodStatus {
    /// All of them.
    pub const ALL: [PodStatus; 10] = [
        PodStatus::Asleep,
        PodStatus::Hanging,
        PodStatus::Loading,
        PodStatus::Erring,
        PodStatus::CoolingDown,
        PodStatus::Probing,
        PodStatus::Unreachable,
        PodStatus::Full,
        PodStatus::Unreadable,
        PodStatus::Ready,
    ];

    /// How `pod` is, with its account.
    pub fn of(pod: &Pod, account: &PodAccount, now: Micros) -> PodStatus {
        let health = &account.health;
        let cooling = health.cooling_down(now, pod.recovered_at);
        match pod.state {
            PodState::Asleep => PodStatus::Asleep,
            PodState::Hanging => PodStatus::Hanging,
            PodState::Unknown | PodState::Unreachable if pod.scraped_at == Micros::ZERO => PodStatus::Loading,
            _ if health.failures > 0 && health.probes > 0 => PodStatus::Probing,
            _ if cooling && health.errors > 0 => PodStatus::Erring,
            _ if cooling => PodStatus::CoolingDown,
            PodState::Unreachable => PodStatus::Unreachable,
            _ if health.full(now, pod.scraped_at) => PodStatus::Full,
            PodState::Unreadable => PodStatus::Unreadable,
            PodState::Unknown | PodState::Ready => PodStatus::Ready,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            PodStatus::Asleep => "asleep",
            PodStatus::Hanging => "hanging",
            PodStatus::Loading => "loading",
            PodStatus::Erring => "erring",
            PodStatus::CoolingDown => "cooling_down",
            PodStatus::Probing => "probing",
            PodStatus::Unreachable => "unreachable",
            PodStatus::Full => "full",
            PodStatus::Unreadable => "unreadable",
            PodStatus::Ready => "ready",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::account::pod_health::{Observed, PodHealth};

    fn status(state: PodState, scraped_at: Micros, with: impl Fn(&mut PodHealth)) -> PodStatus {
        let mut account = PodAccount::new(1);
        with(&mut account.health);
        let pod = Pod { id: 1, state, scraped_at, ..Pod::default() };
        PodStatus::of(&pod, &account, 10 * SECOND)
    }

    #[test]
    fn each_state_has_its_word() {
        let at = |second: u64| Observed { sent_at: second * SECOND, at: second * SECOND };
        let nothing = |_: &mut PodHealth| {};
        assert_eq!(status(PodState::Ready, SECOND, nothing), PodStatus::Ready);
        assert_eq!(status(PodState::Unknown, Micros::ZERO, nothing), PodStatus::Loading);
        assert_eq!(status(PodState::Unreachable, Micros::ZERO, nothing), PodStatus::Loading);
        assert_eq!(status(PodState::Unreachable, SECOND, nothing), PodStatus::Unreachable);
        assert_eq!(status(PodState::Unreadable, SECOND, nothing), PodStatus::Unreadable);
        assert_eq!(status(PodState::Asleep, SECOND, |health| health.failed(at(10))), PodStatus::Asleep);
        assert_eq!(status(PodState::Hanging, SECOND, nothing), PodStatus::Hanging);
        assert_eq!(status(PodState::Ready, SECOND, |health| health.failed(at(10))), PodStatus::CoolingDown);
        let erring = |health: &mut PodHealth| (0..3).for_each(|_| health.upstream_error(at(10)));
        assert_eq!(status(PodState::Ready, SECOND, erring), PodStatus::Erring);
        let probing = |health: &mut PodHealth| {
            health.failed(at(5));
            let _ = health.request_sent(9 * SECOND);
        };
        assert_eq!(status(PodState::Ready, SECOND, probing), PodStatus::Probing);
        assert_eq!(
            status(PodState::Ready, SECOND, |health| health.refused_as_full(10 * SECOND)),
            PodStatus::Full
        );
        assert_eq!(
            status(PodState::Ready, SECOND, |health| health.failed(at(5))),
            PodStatus::Ready,
            "it is over"
        );
    }

    #[test]
    fn words_differ() {
        let words: std::collections::BTreeSet<&str> =
            PodStatus::ALL.iter().map(|status| status.as_str()).collect();
        assert_eq!(words.len(), PodStatus::ALL.len());
    }
}
