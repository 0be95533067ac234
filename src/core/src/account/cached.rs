//! What a replica wrote last to the ledger, so that it need not read it again.
//!
//! Envoy numbers the writes of all keys together, so as long as nobody else writes, a replica knows the version of its own
//! last write without being told. Compare-and-swap proves the guess: no version is given twice, and the guess is never above
//! the version that was given, so where it fits, the value is the one that was kept. A read costs 750 ns and a copy into the
//! VM, twice a request; a guess that was wrong costs a write that is refused, 150 ns, and the decision made for it. So only a
//! replica that is alone for some time guesses, as all are on an Envoy of one worker.

use crate::account::ledger::Ledger;

/// Reads in a row that have shown the own last write before the next ones are spared.
const SURE: u32 = 8;

/// The last write of a replica to the ledger.
#[derive(Debug, Default)]
pub struct Recall {
    /// The version that it has, if nobody else has written anything since the last read.
    version: u32,
    /// The version of the next write, on the same condition.
    next: u32,
    /// Reads in a row that have shown this version.
    shown: u32,
    ledger: Option<Ledger>,
}

impl Recall {
    /// The ledger and its version, if they are worth a guess.
    pub fn take(&mut self) -> Option<(Ledger, u32)> {
        self.ledger.take().map(|ledger| (ledger, self.version))
    }

    /// A read has brought this version.
    pub fn read(&mut self, version: u32) {
        if version == self.version {
            self.shown += 1;
        } else {
            *self = Recall { version, next: after(version), ..Recall::default() };
        }
    }

    /// The ledger was written.
    pub fn wrote(&mut self, ledger: Ledger) {
        self.version = self.next;
        self.wrote_another();
        self.ledger = (self.shown >= SURE).then_some(ledger);
    }

    /// Another key was written.
    pub fn wrote_another(&mut self) {
        self.next = after(self.next);
    }

    /// A write was refused: somebody else has written.
    pub fn refused(&mut self) {
        *self = Recall::default();
    }
}

/// The version after this one; 0 is none, and would be taken for a write without a condition.
fn after(version: u32) -> u32 {
    version.wrapping_add(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::{Map, SharedData};

    /// Writes as a router does, and says whether it had to read first.
    fn write(recall: &mut Recall, map: &mut Map) -> bool {
        let guess = recall.take();
        let reads = guess.is_none();
        let (ledger, version) = guess.unwrap_or_else(|| {
            let (bytes, version) = map.get("k").unwrap();
            recall.read(version);
            (Ledger::decode(bytes).unwrap(), version)
        });
        match map.set("k", ledger.encode(), Some(version)) {
            Ok(()) => recall.wrote(ledger),
            Err(_) => recall.refused(),
        }
        reads
    }

    fn alone() -> (Recall, Map) {
        let (mut recall, mut map) = (Recall::default(), Map::default());
        map.set("k", Ledger::default().encode(), None).unwrap();
        (0..=SURE).for_each(|_| assert!(write(&mut recall, &mut map)));
        (recall, map)
    }

    #[test]
    fn who_is_alone_reads_no_more() {
        let (mut recall, mut map) = alone();
        for _ in 0..100 {
            assert!(!write(&mut recall, &mut map));
            map.set("other", b"", None).unwrap();
            recall.wrote_another();
        }
    }

    #[test]
    fn a_write_of_another_is_never_overwritten() {
        for others in 1..5 {
            let (mut recall, mut map) = alone();
            let mut counted = Ledger::default();
            counted.count_opened(7);
            (0..others).for_each(|_| map.set("k", counted.encode(), None).unwrap());
            assert!(!write(&mut recall, &mut map), "it does not know yet");
            assert_eq!(map.get("k").unwrap().0, counted.encode());
            for _ in 0..=SURE {
                assert!(write(&mut recall, &mut map));
                assert_eq!(map.get("k").unwrap().0, counted.encode());
            }
            assert!(!write(&mut recall, &mut map));
        }
    }

    #[test]
    fn writes_to_other_keys_only_cost_a_read() {
        let (mut recall, mut map) = alone();
        map.set("other", b"", None).unwrap();
        // The guess still holds here, and the next one does not.
        assert!(!write(&mut recall, &mut map));
        assert!(!write(&mut recall, &mut map));
        assert!(write(&mut recall, &mut map));
    }

    #[test]
    fn no_guess_is_a_write_without_a_condition() {
        assert_eq!(after(u32::MAX), 1);
        assert!(Recall::default().take().is_none());
    }
}
