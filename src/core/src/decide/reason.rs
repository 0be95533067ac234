//! Why a request goes to its pod, in one word: for the log, the access log and whoever looks at a single
//! request.

use crate::Slot;
use crate::decide::pick::Candidate;

/// Why a request goes to its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// The load: the request has no prompt, or no pod holds much of it.
    #[default]
    Load,
    /// The prefix: no other pod holds much more of the prompt.
    Prefix,
    /// Another pod holds most of the prompt, and so many requests begin like this one that a second pod gets
    /// a copy.
    Copy,
    /// Another pod holds most of the prompt, and would answer later than this one.
    Busy,
    /// Another pod holds most of the prompt, and is left alone: it cannot be reached, has failed, hangs or
    /// sleeps.
    Away,
    /// It is a sample of plain routing: by load, whatever the pods hold.
    Plain,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 6] =
        [Reason::Load, Reason::Prefix, Reason::Copy, Reason::Busy, Reason::Away, Reason::Plain];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Load => "load",
            Reason::Prefix => "prefix",
            Reason::Copy => "copy",
            Reason::Busy => "busy",
            Reason::Away => "away",
            Reason::Plain => "plain",
        }
    }
}

/// Share of a prompt that a pod must hold to be missed when the request goes elsewhere.
const MUCH: f32 = 0.5;

/// Why the request went to the pod in the slot `chosen`; with the pod that holds most of the prompt, where
/// that is another one.
pub fn reason(candidates: &[Candidate], chosen: Slot) -> (Reason, Option<Slot>) {
    let Some(best) = candidates.iter().find(|candidate| candidate.slot == chosen) else {
        return (Reason::Load, None);
    };
    let holder = candidates
        .iter()
        .max_by(|a, b| a.matched.total_cmp(&b.matched))
        .filter(|holder| holder.matched > MUCH * (holder.matched + holder.terms.uncached))
        .filter(|holder| best.matched < MUCH * holder.matched);
    match holder {
        None if best.matched > 0.0 => (Reason::Prefix, None),
        None => (Reason::Load, None),
        Some(holder) if holder.rank > best.rank => (Reason::Away, Some(holder.slot)),
        Some(holder) if best.terms.attributable < best.terms.uncached => (Reason::Copy, Some(holder.slot)),
        Some(holder) => (Reason::Busy, Some(holder.slot)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::cost::CostTerms;
    use crate::decide::pick::Rank;

    fn candidate(slot: u16, matched: f32) -> Candidate {
        let uncached = 1000.0 - matched;
        let terms = CostTerms { uncached, attributable: uncached, ..CostTerms::default() };
        Candidate { slot: Slot(slot), engine: None, rank: Rank::Ready, matched, waits: 0.0, terms }
    }

    #[test]
    fn each_has_its_number_and_its_word() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{}", reason.as_str());
        }
    }

    #[test]
    fn the_pod_that_holds_most_is_chosen_for_the_prefix_and_an_empty_one_for_its_load() {
        let candidates = [candidate(0, 0.0), candidate(1, 800.0), candidate(2, 100.0)];
        assert_eq!(reason(&candidates, Slot(1)), (Reason::Prefix, None));
        assert_eq!(reason(&[candidate(0, 0.0), candidate(1, 0.0)], Slot(1)), (Reason::Load, None));
        assert_eq!(reason(&[], Slot(1)), (Reason::Load, None));
    }

    #[test]
    fn a_short_common_beginning_keeps_nobody_on_its_pod() {
        let candidates = [candidate(0, 0.0), candidate(1, 400.0)];
        assert_eq!(reason(&candidates, Slot(0)), (Reason::Load, None));
        let candidates = [candidate(0, 500.0), candidate(1, 900.0)];
        assert_eq!(reason(&candidates, Slot(0)), (Reason::Prefix, None), "it holds half of that");
    }

    #[test]
    fn leaving_the_holder_has_a_reason() {
        let holder = candidate(1, 800.0);
        assert_eq!(reason(&[candidate(0, 0.0), holder], Slot(0)), (Reason::Busy, Some(Slot(1))));
        let away = Candidate { rank: Rank::CoolingDown, ..holder };
        assert_eq!(reason(&[candidate(0, 0.0), away], Slot(0)), (Reason::Away, Some(Slot(1))));
        let mut copy = candidate(0, 0.0);
        copy.terms.attributable = 300.0;
        assert_eq!(reason(&[copy, holder], Slot(0)), (Reason::Copy, Some(Slot(1))));
    }
}
