//! Who collects when the collector is dead: one root context of a router at a time, under a lease in shared data.

use crate::Micros;
use crate::shared::codec::{CodecError, Reader};
use crate::shared::pod_table::PodTable;
use crate::shared::store::{NEVER_WRITTEN, SharedData};

/// Marks a lease, and the version of its format.
const LEASE_MARK: u32 = u32::from_le_bytes(*b"WPE1");
/// Age of the table at which its collector counts as dead: a living one publishes the table every second.
pub const DEAD_AFTER: Micros = Micros::from_seconds(3);
/// How long a lease holds. Its holder renews it at every tick.
const LEASE: Micros = Micros::from_seconds(3);

/// Whether nobody has published `table` for too long.
pub fn abandoned(table: &PodTable, now: Micros) -> bool {
    now.since(table.published_at) > DEAD_AFTER
}

/// Takes the lease for `holder`, or renews it; `false` while another has it.
pub fn take(key: &str, holder: u32, shared: &mut impl SharedData, now: Micros) -> bool {
    let found = shared.get(key);
    let cas = found.as_ref().map_or(NEVER_WRITTEN, |&(_, cas)| cas);
    if let Some(Ok((other, until))) = found.map(|(bytes, _)| decode(&bytes))
        && other != holder
        && now < until
    {
        return false;
    }
    let mut bytes = Vec::with_capacity(16);
    bytes.extend_from_slice(&LEASE_MARK.to_le_bytes());
    bytes.extend_from_slice(&holder.to_le_bytes());
    bytes.extend_from_slice(&(now + LEASE).0.to_le_bytes());
    shared.set(key, &bytes, Some(cas)).is_ok()
}

fn decode(bytes: &[u8]) -> Result<(u32, Micros), CodecError> {
    let mut from = Reader(bytes);
    from.mark(LEASE_MARK)?;
    Ok((from.u32()?, Micros(from.u64()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::shared::store::Map;

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
