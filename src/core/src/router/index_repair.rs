//! What a request changes in the prefix index: that a pod will hold its prompt, and what is taken back when
//! the pod does not.

use crate::account::ledger::Ledger;
use crate::account::ticket::{Belief, Repair, Ticket};
use crate::prefix::index::{PrefixMatch, UseStamp};
use crate::prefix::log::Correction;
use crate::prefix::replica::PrefixReplica;
use crate::shared::pod_table::PodKey;

/// Writes to the log that a pod will hold the prompt `hashes`.
pub fn write_prompt(replica: &mut PrefixReplica, ledger: &mut Ledger, pod: PodKey, hashes: &[u32]) {
    if let Some(record) = replica.record(pod, None, hashes) {
        ledger.append(&record);
    }
}

/// Writes a repair of the index to the log; returns the correction that is to be applied here once the ledger
/// is written.
pub fn write(
    replica: &mut PrefixReplica,
    ledger: &mut Ledger,
    ticket: &Ticket,
    repair: Repair,
) -> Option<Correction> {
    if ticket.pod() == PodKey::NONE {
        return None;
    }
    let Belief { matched, used, .. } = ticket.belief();
    let prompts_ago = |at| replica.prompts_since(ticket.slot(), at);
    let (correction, hashes) = match repair {
        Repair::EvictUpTo(at) => (Correction::EvictUpTo { prompts_ago: prompts_ago(at) }, &[][..]),
        Repair::Retract if ticket.hashes().is_empty() => return None,
        Repair::Retract => {
            (Correction::KeepBlocks { blocks: matched, prompts_ago: prompts_ago(used.at) }, ticket.hashes())
        }
    };
    ledger.append(&replica.record(ticket.pod(), Some(correction), hashes)?);
    Some(correction)
}

/// Applies a correction that is written.
pub fn apply(replica: &mut PrefixReplica, ticket: &Ticket, correction: Option<Correction>) {
    if let Some(correction) = correction {
        replica.correct(ticket.slot(), correction, ticket.hashes());
    }
}

/// The pod that the request was moved to holds its prompt from now on; `ahead` requests waited there.
pub fn hold(replica: &mut PrefixReplica, found: &mut PrefixMatch, ticket: &mut Ticket, ahead: u32) {
    let mut belief = Belief { matched: 0, used: UseStamp::default(), ahead };
    if ticket.pod() != PodKey::NONE && !ticket.hashes().is_empty() {
        replica.look_up(ticket.hashes(), found);
        belief.matched = found.blocks(ticket.slot());
        belief.used = replica.insert(ticket.slot(), ticket.hashes());
    }
    ticket.set_belief(belief);
}
