//! What an answer tells of the pod that gave it before the router sees it, as all workers get to know it.

use crate::account::ledger::Ledger;
use crate::account::pod_health::PodHealth;
use crate::account::ticket::claim;
use crate::account::transaction::LedgerStore;
use crate::shared::pod_table::{PodKey, PodTable};
use crate::shared::store::{Contended, SharedData};

/// Notes in the ledger what the pod at `address` has said, for all engines there: that it takes no more
/// requests ([`PodHealth::refused_as_full`]), or that another one is asked ([`PodHealth::declined`]). Returns
/// the ledger as written; a pod that is not in the table changes nothing in it.
///
/// # Errors
/// [`Contended`]: nothing has changed.
pub fn note(
    store: &LedgerStore,
    table: &PodTable,
    address: &[u8],
    shared: &mut impl SharedData,
    with: impl Fn(&mut PodHealth),
) -> Result<Ledger, Contended> {
    let (ledger, ()) = store.transact(shared, |ledger, _| {
        for (slot, pod) in table.at(address) {
            let key = PodKey { slot, id: pod.id };
            ledger.grow(table.pods.len());
            claim(ledger, table, key);
            ledger.change(key, |account| with(&mut account.health));
        }
        Ok::<_, Contended>(())
    })?;
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;
    use crate::shared::pod_table::Pod;
    use crate::shared::store::{Keys, Map};
    use crate::{Micros, SECOND};

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
        let ledger =
            note(&store, &table, b"10.0.0.2:8000", &mut shared, |pod| pod.refused_as_full(SECOND)).unwrap();
        let full = |slot| ledger.account(Slot(slot)).health.full(SECOND, Micros::ZERO);
        assert_eq!([full(0), full(1)], [false, true]);
        let same = note(&store, &table, b"10.0.0.3:8000", &mut shared, |pod| pod.declined(SECOND)).unwrap();
        assert_eq!(same, ledger);
    }
}
