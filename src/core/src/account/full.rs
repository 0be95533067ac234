//! A pod that takes no more requests at the moment, as all workers get to know it.

use crate::Micros;
use crate::account::ledger::Ledger;
use crate::account::ticket::claim;
use crate::account::transaction::LedgerStore;
use crate::shared::pod_table::PodTable;
use crate::shared::store::{Contended, SharedData};

/// Notes in the ledger that the pod at `address` has refused a request because it takes no more. Returns the ledger as written;
/// a pod that is not in the table changes nothing in it.
///
/// # Errors
/// [`Contended`]: nothing has changed.
pub fn note_full(
    store: &LedgerStore,
    table: &PodTable,
    address: &[u8],
    shared: &mut impl SharedData,
    now: Micros,
) -> Result<Ledger, Contended> {
    let slot = table.live().find(|(_, pod)| pod.address.as_bytes() == address).map(|(slot, _)| slot);
    let key = slot.and_then(|slot| table.key(slot));
    let (ledger, ()) = store.transact(shared, |ledger, _| {
        if let Some(key) = key {
            ledger.grow(table.pods.len());
            claim(ledger, table, key);
            ledger.change(key, |account| account.health.refused_as_full(now));
        }
        Ok::<_, Contended>(())
    })?;
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::Slot;
    use crate::shared::pod_table::Pod;
    use crate::shared::store::{Keys, Map};

    #[test]
    fn only_the_pod_that_refused_is_full_and_it_need_not_have_had_a_request() {
        let pods = ["10.0.0.1:8000", "10.0.0.2:8000"];
        let pods = (1..).zip(pods).map(|(id, address)| Pod {
            id,
            first_id: id,
            address: address.into(),
            ..Pod::default()
        });
        let table = PodTable { pods: pods.collect(), ..PodTable::default() };
        let (store, mut shared) = (LedgerStore::new(Keys::of("p", 4)), Map::default());
        let ledger = note_full(&store, &table, b"10.0.0.2:8000", &mut shared, SECOND).unwrap();
        let full = |slot| ledger.account(Slot(slot)).health.full(SECOND, Micros::ZERO);
        assert_eq!([full(0), full(1)], [false, true]);
        let same = note_full(&store, &table, b"10.0.0.3:8000", &mut shared, 2 * SECOND).unwrap();
        assert_eq!(same, ledger);
    }
}
