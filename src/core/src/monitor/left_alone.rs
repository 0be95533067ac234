//! Which pods are left alone because they failed, and since when no longer: one change when it begins and one
//! when the pod is back, however often its cool-down begins anew in between.
//!
//! A pod whose metrics page cannot be read either has one trouble and not two. The line of its scrape tells
//! that one, so it is no change here.

use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::account::pod_health::PodHealth;
use crate::shared::pod_table::{Pod, PodState, PodTable};

/// Why a pod is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It answered requests with errors of its own.
    Errors,
    /// It failed a request without a whole answer.
    Failures,
}

/// A pod that begins to be left alone, or is back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub pod: String,
    /// Why it is left alone; `None` when it is back.
    pub why: Option<Why>,
}

/// The pods that are left alone, as last seen: by slot the pod's name, and why.
#[derive(Clone, Debug, Default)]
pub struct LeftAlone(Vec<(String, Option<Why>)>);

impl LeftAlone {
    /// What has changed since the last look. A pod that is gone, or another one in its slot, is no change.
    pub fn see(&mut self, table: &PodTable, ledger: &Ledger) -> Vec<Change> {
        let mut changes = Vec::new();
        self.0.resize_with(table.pods.len(), Default::default);
        for ((slot, pod), (name, before)) in table.all().zip(&mut self.0) {
            let health = PodAccount::of(pod, ledger.account(slot)).health;
            let now = match health.failures {
                0 => None,
                _ if health.errors > 0 => Some(Why::Errors),
                _ => Some(Why::Failures),
            };
            if *name != pod.name() {
                *name = pod.name().into_owned();
                *before = None;
            }
            let now = now.filter(|&why| before.is_some() || is_news(why, pod, &health));
            if now.is_some() != before.is_some() && pod.id != 0 {
                changes.push(Change { pod: name.clone(), why: now });
            }
            *before = now;
        }
        changes
    }
}

/// Whether nothing but this tells of the pod's trouble: errors always are; failures are when its page was
/// read after them.
fn is_news(why: Why, pod: &Pod, health: &PodHealth) -> bool {
    match pod.state {
        _ if why == Why::Errors => true,
        PodState::Unknown | PodState::Unreachable => false,
        PodState::Unreadable => true,
        PodState::Ready | PodState::Hanging | PodState::Asleep => pod.scraped_at > health.failed_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::pod_health::Observed;
    use crate::{Micros, SECOND, Slot};

    const NOW: Observed = Observed { sent_at: SECOND, at: SECOND };

    fn table(pods: &[(u32, &str)]) -> PodTable {
        let pod = |&(id, address): &(u32, &str)| Pod {
            id,
            first_id: id,
            address: address.into(),
            state: PodState::Ready,
            scraped_at: 2 * SECOND,
            ..Pod::default()
        };
        PodTable { pods: pods.iter().map(pod).collect(), ..PodTable::default() }
    }

    fn ledger(accounts: &[PodAccount]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.grow(accounts.len());
        for (slot, account) in Slot::all().zip(accounts) {
            ledger.set_account(slot, account);
        }
        ledger
    }

    #[test]
    fn one_change_when_it_begins_and_one_when_it_ends() {
        let table = table(&[(1, "a:1"), (2, "b:1")]);
        let (well, mut sick) = (PodAccount::new(1), PodAccount::new(2));
        let mut left_alone = LeftAlone::default();
        assert_eq!(left_alone.see(&table, &ledger(&[well, sick])), []);
        sick.fail(NOW);
        let begins = Change { pod: "b:1".into(), why: Some(Why::Failures) };
        assert_eq!(left_alone.see(&table, &ledger(&[well, sick])), [begins]);
        sick.fail(Observed { sent_at: 5 * SECOND, at: 5 * SECOND });
        sick.err(Observed { sent_at: 9 * SECOND, at: 9 * SECOND });
        assert_eq!(left_alone.see(&table, &ledger(&[well, sick])), [], "it goes on");
        sick.health.answered(10 * SECOND);
        let ends = Change { pod: "b:1".into(), why: None };
        assert_eq!(left_alone.see(&table, &ledger(&[well, sick])), [ends]);
    }

    #[test]
    fn a_pod_that_cannot_be_scraped_either_has_one_trouble() {
        let mut sick = PodAccount::new(1);
        sick.fail(NOW);
        let seen = |state, scraped_at| {
            let mut table = table(&[(1, "a:1")]);
            (table.pods[0].state, table.pods[0].scraped_at) = (state, scraped_at);
            LeftAlone::default().see(&table, &ledger(&[sick])).len()
        };
        assert_eq!(seen(PodState::Ready, SECOND), 0, "its next page is not read yet");
        assert_eq!(seen(PodState::Unknown, Micros::ZERO), 0);
        assert_eq!(seen(PodState::Unreachable, SECOND), 0, "the scrape has told");
        assert_eq!(seen(PodState::Ready, 2 * SECOND), 1, "its page is read, and requests fail");
        assert_eq!(seen(PodState::Unreadable, Micros::ZERO), 1);
        // What was told once has an end that is told, whatever the scrapes say meanwhile.
        let mut left_alone = LeftAlone::default();
        let mut now = table(&[(1, "a:1")]);
        assert_eq!(left_alone.see(&now, &ledger(&[sick])).len(), 1);
        now.pods[0].state = PodState::Unreachable;
        assert_eq!(left_alone.see(&now, &ledger(&[sick])), []);
        sick.health.answered(10 * SECOND);
        assert_eq!(left_alone.see(&now, &ledger(&[sick])), [Change { pod: "a:1".into(), why: None }]);
    }

    #[test]
    fn errors_are_told_from_failures_and_a_pod_that_goes_is_no_change() {
        let mut left_alone = LeftAlone::default();
        let mut sick = PodAccount::new(1);
        (0..3).for_each(|_| sick.err(NOW));
        let changes = left_alone.see(&table(&[(1, "a:1")]), &ledger(&[sick]));
        assert_eq!(changes, [Change { pod: "a:1".into(), why: Some(Why::Errors) }]);
        assert_eq!(left_alone.see(&table(&[(3, "c:1")]), &ledger(&[sick])), []);
        assert_eq!(left_alone.see(&table(&[(0, "")]), &ledger(&[sick])), []);
        assert_eq!(left_alone.see(&PodTable::default(), &Ledger::default()), []);
    }
}
