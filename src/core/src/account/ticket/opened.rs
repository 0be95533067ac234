//! Booking a request in the account of one pod.

use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::account::rate;
use crate::shared::pod_table::{PodKey, PodTable};
use crate::{Micros, Tokens};

/// What a request met on the pod that it was booked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Requests that waited there.
    pub ahead: u32,
    /// Whether it probes the pod, which had failed before.
    pub probes: bool,
}

/// Books a request on a pod.
pub(super) fn open(
    ledger: &mut Ledger,
    table: &PodTable,
    pod: PodKey,
    tokens: Tokens,
    now: Micros,
) -> Opened {
    claim(ledger, table, pod);
    let mut opened = Opened::default();
    ledger.change(pod, |account| {
        opened.ahead = account.waiting;
        opened.probes = account.open(tokens, now);
        rate::note_sent(account, tokens, now);
    });
    opened
}

/// Resets the account in the pod's slot to the pod, if the slot was reassigned to it; its requests died with
/// the pod before. No-op if the pod has left the table, or if the account is of a later pod: then this
/// replica of the table is the one that is out of date.
pub(in crate::account) fn claim(ledger: &mut Ledger, table: &PodTable, key: PodKey) {
    let in_slot = ledger.account(key.slot);
    if in_slot.id < key.id
        && let Some(pod) = table.get(key)
    {
        ledger.set_account(key.slot, &PodAccount::of(pod, in_slot));
    }
}
