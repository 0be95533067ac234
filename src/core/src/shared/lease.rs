//! Who collects when there is no collector, or it is dead: one root context of a router at a time, under a
//! lease in shared data.
//!
//! Of two root contexts the one that was configured later takes the lease from the other. Those of a replaced
//! listener live on while it drains, with the former settings or even the former module.

use crate::Micros;
use crate::shared::codec::{CodecError, Reader};
use crate::shared::pod_table::PodTable;
use crate::shared::store::{NEVER_WRITTEN, SharedData};

/// Marks a lease, and the version of its format.
const LEASE_MARK: u32 = u32::from_le_bytes(*b"WPE2");
/// Age of the table at which its collector counts as dead: a living one publishes the table every second.
pub const DEAD_AFTER: Micros = Micros::from_seconds(3);
/// Root contexts that were configured within this time are of one change of the configuration: it reaches
/// every thread.
const ONE_CHANGE: Micros = Micros::from_seconds(5);
/// How long a lease holds. Its holder renews it at every tick.
const LEASE: Micros = Micros::from_seconds(3);

/// A root context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Tells it from others.
    pub id: u32,
    /// When it was configured.
    pub since: Micros,
}

impl Holder {
    fn is_older_than(self, other: Holder) -> bool {
        other.since.since(self.since) > ONE_CHANGE
    }
}

/// Whether nobody has published `table` for too long.
pub fn abandoned(table: &PodTable, now: Micros) -> bool {
    now.since(table.published_at) > DEAD_AFTER
}

/// Takes the lease for `holder`, or renews it; `false` while another has it that was not configured earlier.
pub fn take(key: &str, holder: Holder, shared: &mut impl SharedData, now: Micros) -> bool {
    let found = shared.get(key);
    let cas = found.as_ref().map_or(NEVER_WRITTEN, |&(_, cas)| cas);
    if let Some(Ok((other, until))) = found.map(|(bytes, _)| decode(&bytes))
        && other != holder
        && !other.is_older_than(holder)
        && now < until
    {
        return false;
    }
    let mut bytes = Vec::with_capacity(24);
    bytes.extend_from_slice(&LEASE_MARK.to_le_bytes());
    bytes.extend_from_slice(&holder.id.to_le_bytes());
    bytes.extend_from_slice(&holder.since.0.to_le_bytes());
    bytes.extend_from_slice(&(now + LEASE).0.to_le_bytes());
    shared.set(key, &bytes, Some(cas)).is_ok()
}

/// Whether one that was configured before `holder` has the lease.
pub fn is_held_by_an_older(key: &str, holder: Holder, shared: &impl SharedData, now: Micros) -> bool {
    let found = shared.get(key).and_then(|(bytes, _)| decode(&bytes).ok());
    found.is_some_and(|(other, until)| other.is_older_than(holder) && now < until)
}

fn decode(bytes: &[u8]) -> Result<(Holder, Micros), CodecError> {
    let mut from = Reader(bytes);
    from.mark(LEASE_MARK)?;
    let holder = Holder { id: from.u32()?, since: Micros(from.u64()?) };
    Ok((holder, Micros(from.u64()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::shared::store::Map;

    fn take(key: &str, id: u32, shared: &mut Map, now: Micros) -> bool {
        super::take(key, Holder { id, since: Micros::ZERO }, shared, now)
    }

    #[test]
    fn whoever_was_configured_later_takes_it() {
        let mut shared = Map::default();
        let holder = |id, since| Holder { id, since };
        let (old, twin, new) = (holder(1, SECOND), holder(3, 2 * SECOND), holder(2, 7 * SECOND));
        assert!(super::take("l", old, &mut shared, SECOND));
        assert!(!super::take("l", twin, &mut shared, SECOND));
        assert!(is_held_by_an_older("l", new, &shared, SECOND));
        assert!(!is_held_by_an_older("l", old, &shared, SECOND));
        assert!(super::take("l", new, &mut shared, SECOND));
        assert!(!super::take("l", old, &mut shared, 2 * SECOND));
        assert!(super::take("l", old, &mut shared, 5 * SECOND), "the newer one is gone");
    }

    #[test]
    fn one_holder_at_a_time_and_the_next_when_it_stops_renewing() {
        let mut shared = Map::default();
        assert!(take("l", 1, &mut shared, Micros::ZERO));
        assert!(!take("l", 2, &mut shared, SECOND));
        assert!(take("l", 1, &mut shared, 2 * SECOND), "renewed");
        assert!(!take("l", 2, &mut shared, 4 * SECOND));
        assert!(take("l", 2, &mut shared, 5 * SECOND));
        assert!(!take("l", 1, &mut shared, 6 * SECOND));
    }

    #[test]
    fn a_table_without_a_sign_of_life_is_abandoned() {
        let table = PodTable { published_at: 10 * SECOND, ..PodTable::default() };
        assert!(!abandoned(&table, 13 * SECOND));
        assert!(abandoned(&table, 13 * SECOND + Micros(1)));
    }

    #[test]
    fn garbage_is_no_lease() {
        let mut shared = Map::default();
        shared.set("l", b"garbage", None).unwrap();
        assert!(take("l", 1, &mut shared, Micros::ZERO));
    }
}
