//! Whose fault a refusal was, once it is known who serves the request in the end, or that nobody does.

use super::{PICKS, Ticket};
use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::account::refusal::{AT_ONCE, Causes, IN_A_ROW};
use crate::answer::verdict::Decline;
use crate::request::blocks::bytes_of;
use crate::shared::pod_table::PodKey;
use crate::{Micros, Tokens};

impl Ticket {
    /// The pod serves the request, its answer has begun: `with` books what else that means for the pod's
    /// account. What it was believed to hold can be compared with what its page says, and pods that have
    /// refused the request are at fault.
    pub(super) fn note_served(&self, ledger: &mut Ledger, now: Micros, with: impl FnOnce(&mut PodAccount)) {
        let held = (self.belief.matched > 0 && self.was_computed()).then(|| {
            let bytes_per_token = ledger.bytes_per_token(self.prompt.model);
            Tokens::estimated(bytes_of(usize::from(self.belief.matched)).as_f32() / bytes_per_token)
        });
        ledger.change(self.pod, |account| {
            with(account);
            if let Some(held) = held {
                account.cache.add(held, self.sent_at);
            }
        });
        if ledger.has_refusals() {
            ledger.note_served(self.causes(), self.pod, self.observed(now));
        }
        if self.passed_over > 0 {
            for pod in self.declined_by(ledger).into_iter().flatten() {
                ledger.note_refusal(self.prompt.kind, pod, AT_ONCE, self.failure(now));
            }
        }
    }

    /// All pods that were asked have refused the request: its prompt goes elsewhere, and requests for a model
    /// that they do not have. Otherwise they agree that the request is at fault, if there were several.
    pub(super) fn note_declined(&self, ledger: &mut Ledger, how: Decline, at: Micros) {
        let Causes { kind, prompt } = self.causes();
        let declined = self.declined_by(ledger);
        let needed = match (how, self.passed_over) {
            (Decline::NoModel, _) => Some(AT_ONCE),
            (Decline::Other, 0) => Some(IN_A_ROW),
            (Decline::Other, _) => None,
        };
        for pod in declined.into_iter().flatten().chain([self.pod]) {
            if let Some(needed) = needed.filter(|_| !ledger.has_refused(prompt, pod)) {
                ledger.note_refusal(kind, pod, needed, self.failure(at));
            }
            ledger.note_refusal(prompt, pod, AT_ONCE, self.failure(at));
        }
    }

    /// The pods that have refused the request before it was sent to the one that it is booked on.
    fn declined_by(&self, ledger: &Ledger) -> [Option<PodKey>; PICKS] {
        let mut pods = self.picks;
        for (nth, place) in pods.iter_mut().enumerate() {
            *place = place.filter(|pod| {
                let account = ledger.account(pod.slot);
                nth < self.passed_over
                    && *pod != self.pod
                    && account.id == pod.id
                    && account.health.declined_at > self.decided_at
            });
        }
        pods
    }
}
