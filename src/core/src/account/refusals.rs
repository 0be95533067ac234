//! What a pod refuses while another may serve it: requests of one kind for one model, or one prompt.
//!
//! A pod that lacks an adapter, takes no key or fails one model says so within milliseconds. So it always
//! looks least busy, and draws the requests that it refuses. It may serve all others well: nothing is held
//! against the pod as a whole. The ledger keeps which requests it has refused, and they go elsewhere, unless
//! every pod has refused them.
//!
//! | evidence | what follows |
//! | --- | --- |
//! | another pod serves the very same request | requests of that kind go elsewhere |
//! | the pod says that it does not have the model | the same |
//! | any other refusal or error | the same prompt goes elsewhere; requests of that kind do after three in a row |
//!
//! A prompt that no pod can serve is refused by one pod after the other. It is then kept away from all of
//! them, which is as good as from none, and no other request is kept away from any.
//!
//! As after a failure, the time doubles with each refusal, and one request at a time probes whether the pod
//! still refuses.

use crate::Micros;
use crate::account::ledger::Ledger;
use crate::account::pod_health::Observed;
use crate::account::refusal::{AT_ONCE, Cause, Causes, Refusal};
use crate::shared::pod_table::PodKey;

/// Refusals that are kept at most; the one that ends first makes room.
const MOST: usize = 64;
/// How long a request that probes keeps the others off.
const PROBE_TIME: Micros = Micros::from_seconds(5);
/// How long a refusal is kept after its time, so that the next one doubles it.
const KEPT_FOR: Micros = Micros::from_seconds(60);

impl Ledger {
    /// The pods that refuse a request with these causes at `now`. Of those where the time is over, one is not
    /// among them, the first: it may be probed. Were it several, the pods of a request could all refuse it.
    pub fn refusing(&self, causes: Causes, now: Micros) -> impl Iterator<Item = PodKey> {
        let refuse = move |refusal: &Refusal| causes.have(refusal.cause) && refusal.until > Micros::ZERO;
        let over = self.refusals().filter(refuse).filter(|refusal| refusal.until <= now);
        let probed = over.min_by_key(|refusal| refusal.until).map(|refusal| refusal.pod);
        self.refusals().filter(refuse).map(|refusal| refusal.pod).filter(move |&pod| Some(pod) != probed)
    }

    /// Whether the pod has refused this cause lately.
    pub fn has_refused(&self, cause: Cause, pod: PodKey) -> bool {
        cause != Cause::NONE && self.refusals().any(|refusal| (refusal.cause, refusal.pod) == (cause, pod))
    }

    /// A request is sent to a pod. If the time of a refusal is over there, it is a probe, and others keep off
    /// for a while. Refusals that are long over are forgotten.
    pub fn note_sent(&mut self, causes: Causes, pod: PodKey, now: Micros) {
        self.change_refusals(|list| {
            list.retain(|refusal| now < refusal.until.max(refusal.at) + KEPT_FOR);
            for refusal in list.iter_mut().filter(|r| r.pod == pod && causes.have(r.cause)) {
                if refusal.until > Micros::ZERO && refusal.until <= now {
                    refusal.until = now + PROBE_TIME;
                }
            }
        });
    }

    /// The pod serves a request: it does not refuse it. Where another pod has refused the same prompt, that
    /// pod is at fault.
    pub fn note_served(&mut self, causes: Causes, pod: PodKey, seen: Observed) {
        self.change_refusals(|list| {
            let by_others =
                |r: &Refusal| causes.prompt != Cause::NONE && r.cause == causes.prompt && r.pod != pod;
            let proven: Vec<Refusal> = list.iter().copied().filter(by_others).collect();
            let is_over = |r: &Refusal| r.pod == pod && causes.have(r.cause) && r.at <= seen.sent_at;
            list.retain(|refusal| !(by_others(refusal) || is_over(refusal)));
            for Refusal { pod, at, .. } in proven {
                // What was refused before the last proof tells nothing new.
                add(list, causes.kind, pod, AT_ONCE, Observed { sent_at: at, at: seen.at });
            }
        });
    }

    /// The pod has refused a request for this cause; `needed` refusals in a row are enough to send others
    /// elsewhere.
    #[inline(never)]
    pub fn note_refusal(&mut self, cause: Cause, pod: PodKey, needed: u16, seen: Observed) {
        let mut list: Vec<Refusal> = self.refusals().collect();
        add(&mut list, cause, pod, needed, seen);
        self.set_refusals(&list);
    }

    /// Changes the refusals, if there are any.
    #[inline(never)]
    fn change_refusals(&mut self, with: impl FnOnce(&mut Vec<Refusal>)) {
        if !self.has_refusals() {
            return;
        }
        let before: Vec<Refusal> = self.refusals().collect();
        let mut list = before.clone();
        with(&mut list);
        if list != before {
            self.set_refusals(&list);
        }
    }
}

/// Adds a refusal to the list, or to the one that is there.
fn add(list: &mut Vec<Refusal>, cause: Cause, pod: PodKey, needed: u16, seen: Observed) {
    if cause == Cause::NONE || pod == PodKey::NONE {
        return;
    }
    if let Some(known) = list.iter_mut().find(|refusal| (refusal.cause, refusal.pod) == (cause, pod)) {
        return known.again(needed, seen);
    }
    if list.len() >= MOST
        && let Some((first, _)) = (0..).zip(&*list).min_by_key(|(_, refusal)| refusal.until)
    {
        list.swap_remove(first);
    }
    let mut refusal = Refusal { cause, pod, count: 0, at: Micros::ZERO, until: Micros::ZERO };
    refusal.again(needed, seen);
    list.push(refusal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::refusal::IN_A_ROW;
    use crate::{SECOND, Slot};

    const KIND: Causes = Causes { kind: Cause(7), prompt: Cause(8) };
    const POD: PodKey = PodKey { slot: Slot(0), id: 1 };
    const OTHER: PodKey = PodKey { slot: Slot(1), id: 2 };

    fn seen(sent_at: u64, at: u64) -> Observed {
        Observed { sent_at: sent_at * SECOND, at: at * SECOND }
    }

    fn refuses(ledger: &Ledger, causes: Causes, now: Micros) -> Vec<PodKey> {
        ledger.refusing(causes, now).collect()
    }

    #[test]
    fn what_is_proven_goes_elsewhere_at_once_for_a_time_that_doubles() {
        let mut ledger = Ledger::default();
        ledger.note_refusal(KIND.kind, POD, AT_ONCE, seen(1, 1));
        // Sent before the first refusal was known.
        ledger.note_refusal(KIND.kind, POD, AT_ONCE, seen(0, 1));
        assert_eq!(refuses(&ledger, KIND, SECOND + SECOND / 2), [POD]);
        assert_eq!(refuses(&ledger, KIND, 2 * SECOND), []);
        assert_eq!(
            refuses(&ledger, Causes { kind: Cause(9), ..Causes::default() }, SECOND),
            [],
            "other requests"
        );
        ledger.note_refusal(KIND.kind, POD, AT_ONCE, seen(2, 2));
        assert_eq!(refuses(&ledger, KIND, 4 * SECOND - Micros(1)), [POD]);
        assert_eq!(refuses(&ledger, KIND, 4 * SECOND), []);
    }

    #[test]
    fn one_request_probes_while_the_others_keep_off() {
        let mut ledger = Ledger::default();
        ledger.note_refusal(KIND.kind, POD, AT_ONCE, seen(1, 1));
        ledger.note_sent(KIND, POD, 3 * SECOND);
        assert_eq!(refuses(&ledger, KIND, 3 * SECOND), [POD]);
        ledger.note_served(KIND, POD, seen(3, 4));
        assert_eq!(refuses(&ledger, KIND, 4 * SECOND), []);
        assert!(!ledger.has_refusals());
    }

    #[test]
    fn one_pod_at_a_time_is_probed() {
        let mut ledger = Ledger::default();
        for (at, pod) in [(1, POD), (2, OTHER)] {
            ledger.note_refusal(KIND.kind, pod, AT_ONCE, seen(at, at));
        }
        assert_eq!(refuses(&ledger, KIND, 9 * SECOND), [OTHER]);
        ledger.note_sent(KIND, POD, 9 * SECOND);
        assert_eq!(refuses(&ledger, KIND, 10 * SECOND), [POD]);
    }

    #[test]
    fn without_a_proof_it_takes_three_in_a_row() {
        let mut ledger = Ledger::default();
        for n in 1..=2 {
            ledger.note_refusal(KIND.kind, POD, IN_A_ROW, seen(n, n));
        }
        assert_eq!(refuses(&ledger, KIND, 2 * SECOND), []);
        ledger.note_served(KIND, POD, seen(2, 3));
        for n in 4..=6 {
            assert_eq!(refuses(&ledger, KIND, n * SECOND), []);
            ledger.note_refusal(KIND.kind, POD, IN_A_ROW, seen(n, n));
        }
        assert_eq!(refuses(&ledger, KIND, 6 * SECOND), [POD]);
    }

    #[test]
    fn a_prompt_that_another_pod_serves_proves_the_first_one_at_fault() {
        let mut ledger = Ledger::default();
        ledger.note_refusal(KIND.prompt, POD, AT_ONCE, seen(1, 1));
        let same_kind = Causes { prompt: Cause(99), ..KIND };
        assert_eq!(
            (refuses(&ledger, KIND, SECOND), refuses(&ledger, same_kind, SECOND)),
            (vec![POD], vec![])
        );
        ledger.note_served(KIND, OTHER, seen(1, 2));
        assert_eq!(refuses(&ledger, same_kind, 2 * SECOND), [POD]);
        let count = |ledger: &Ledger| ledger.refusals().find(|r| r.cause == KIND.kind).unwrap().count;
        let before = count(&ledger);
        // Another prompt of the same time: no news.
        ledger.note_refusal(Cause(50), POD, AT_ONCE, seen(1, 1));
        ledger.note_served(Causes { prompt: Cause(50), ..KIND }, OTHER, seen(1, 3));
        assert_eq!(count(&ledger), before);
    }

    #[test]
    fn a_prompt_that_nobody_serves_costs_no_other_request_anything() {
        let mut ledger = Ledger::default();
        for pod in [POD, OTHER] {
            ledger.note_refusal(KIND.prompt, pod, AT_ONCE, seen(1, 1));
        }
        assert_eq!(refuses(&ledger, KIND, SECOND), [POD, OTHER]);
        assert_eq!(refuses(&ledger, Causes { prompt: Cause(99), ..KIND }, SECOND), []);
    }

    #[test]
    fn they_are_bounded_and_forgotten() {
        let mut ledger = Ledger::default();
        for cause in 1..1000 {
            ledger.note_refusal(Cause(cause), POD, AT_ONCE, seen(0, u64::from(cause)));
        }
        assert_eq!(ledger.refusals().count(), MOST);
        assert!(ledger.has_refused(Cause(999), POD) && !ledger.has_refused(Cause(900), POD));
        ledger.note_sent(KIND, POD, 1000 * SECOND + KEPT_FOR);
        assert!(!ledger.has_refusals());
        ledger.note_refusal(Cause::NONE, POD, AT_ONCE, seen(1, 1));
        ledger.note_refusal(Cause(1), PodKey::NONE, AT_ONCE, seen(1, 1));
        assert!(!ledger.has_refusals(), "nothing that could be told apart");
    }
}
