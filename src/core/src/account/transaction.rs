//! A transaction on the ledger: read, change, write, and once more if another worker wrote in between.

use crate::account::ledger::Ledger;
use crate::prefix::log::seal;
use crate::shared::store::{Contended, Keys, SharedData, compare_and_swap};

/// Where the ledger of a pool lies in shared data.
#[derive(Clone, Debug)]
pub struct LedgerStore {
    keys: Keys,
}

impl LedgerStore {
    /// The ledger under these keys.
    pub fn new(keys: Keys) -> LedgerStore {
        LedgerStore { keys }
    }

    /// The ledger as it is now; `None` when there is none, or one of another version.
    pub fn read(&self, shared: &impl SharedData) -> Option<Ledger> {
        shared.get(&self.keys.ledger).and_then(|(bytes, _)| Ledger::decode(bytes).ok())
    }

    /// Changes the ledger as one transaction; returns it as it was written, with the result of `change`. A
    /// ledger that cannot be read is replaced by an empty one.
    ///
    /// `change` runs again when another worker wrote first, on the ledger of that worker. It must not change
    /// anything besides the ledger that has to be undone when the transaction fails.
    ///
    /// # Errors
    /// What `change` returns, or [`Contended`] when other workers wrote first at every try; the ledger is
    /// then unchanged.
    pub fn transact<S: SharedData, T, E: From<Contended>>(
        &self,
        shared: &mut S,
        mut change: impl FnMut(&mut Ledger, &S) -> Result<T, E>,
    ) -> Result<(Ledger, T), E> {
        let mut result = Err(E::from(Contended));
        let ledger = self.run(shared, &mut |ledger, shared| {
            result = change(ledger, shared);
            if result.is_ok() { Ok(()) } else { Err(Stopped) }
        });
        match (ledger, result) {
            (Ok(ledger), Ok(result)) => Ok((ledger, result)),
            (Err(Stopped), Err(error)) => Err(error),
            (_, _) => Err(E::from(Contended)),
        }
    }

    /// The transaction, whatever it changes: one function for all of them, for it is a large one.
    fn run<S: SharedData>(
        &self,
        shared: &mut S,
        change: &mut dyn FnMut(&mut Ledger, &S) -> Result<(), Stopped>,
    ) -> Result<Ledger, Stopped> {
        let (ledger, ()) = compare_and_swap(shared, &self.keys.ledger, |bytes, shared| {
            let mut ledger = bytes.and_then(|bytes| Ledger::decode(bytes).ok()).unwrap_or_default();
            change(&mut ledger, shared)?;
            Ok::<_, Stopped>((ledger, ()))
        })?;
        for segment in ledger.sealed() {
            // Unconditional, so it cannot be refused: only the worker whose write closed the segment has its
            // number.
            let _ = shared.set(&self.keys.segment(segment.number), &seal(segment), None);
        }
        Ok(ledger)
    }
}

/// A transaction has ended without a write: the change did not want one, or other workers wrote first at
/// every try.
struct Stopped;

impl From<Contended> for Stopped {
    fn from(_: Contended) -> Self {
        Stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;
    use crate::prefix::log::{LogRecord, SEGMENT_BYTES, unseal};
    use crate::shared::pod_table::PodKey;
    use crate::shared::store::{Conflict, Map};

    fn store() -> LedgerStore {
        LedgerStore::new(Keys::of("p", 4))
    }

    fn write(shared: &mut Map, with: impl Fn(&mut Ledger)) {
        let written = store().transact(shared, |ledger, _| {
            with(ledger);
            Ok::<_, Contended>(())
        });
        written.unwrap();
    }

    fn append(ledger: &mut Ledger, hashes: &[u8]) {
        let pod = PodKey { slot: Slot(0), id: 1 };
        ledger.append(&LogRecord { writer: 1, pod, correction: None, hashes });
    }

    #[test]
    fn a_ledger_of_another_version_is_replaced() {
        let mut shared = Map::default();
        shared.set("warmpath/p/ledger", b"WPL3 and more", None).unwrap();
        assert_eq!(store().read(&shared), None);
        write(&mut shared, Ledger::count_routed);
        assert_eq!(store().read(&shared).unwrap().routed(), 1);
    }

    #[test]
    fn sealed_segments_are_written_after_the_ledger() {
        let mut shared = Map::default();
        let hashes = [7; SEGMENT_BYTES / 2];
        for _ in 0..3 {
            write(&mut shared, |ledger| append(ledger, &hashes));
        }
        let (bytes, _) = shared.get("warmpath/p/log/1").unwrap();
        assert_eq!(unseal(&bytes).unwrap().0, 1);
        assert_eq!(store().read(&shared).unwrap().log().number, 2);
    }

    #[test]
    fn a_transaction_that_loses_every_try_writes_no_segment() {
        /// Shared data in which another worker always writes the ledger first.
        struct Contested(Map);
        impl SharedData for Contested {
            fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
                self.0.get(key)
            }
            fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
                if cas.is_some() { Err(Conflict) } else { self.0.set(key, value, cas) }
            }
        }
        let mut shared = Contested(Map::default());
        let hashes = [7; SEGMENT_BYTES];
        let lost = store().transact(&mut shared, |ledger, _| {
            append(ledger, &hashes);
            append(ledger, &hashes);
            assert_eq!(ledger.sealed().len(), 1);
            Ok::<_, Contended>(())
        });
        assert_eq!(lost.unwrap_err(), Contended);
        assert!(shared.0.keys().is_empty());
    }
}
