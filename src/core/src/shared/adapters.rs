//! LoRA adapters, as the workers share them: which pods have which, and which were used where last. Two
//! values, which exist once a pod lists an adapter, and once one is used.
//!
//! vLLM keeps an adapter on the GPU after its last request, until another one needs the place, and its
//! metrics page tells only of those that have requests. So what the workers have sent is remembered: the last
//! adapters of each pod, as many as it has places.

use crate::shared::codec::{CodecError, records};
use crate::shared::pod_table::{MAX_PODS, PodKey};
use crate::shared::store::{Contended, SharedData, update};
use crate::{MILLISECOND, Micros, ModelId};

/// Marks the lists of adapters, and the version of their format.
const LISTS_MARK: u32 = u32::from_le_bytes(*b"WPA1");
/// Marks the uses of adapters, and the version of their format.
const USES_MARK: u32 = u32::from_le_bytes(*b"WPU1");
/// Most entries over all lists.
pub const MOST_ENTRIES: usize = 1 << 16;
/// Most uses that are kept; the oldest make room.
const MOST_USES: usize = 512;
/// A use that is noted again within this time changes nothing: their order hardly does.
const NEWS_AFTER: Micros = Micros(200 * MILLISECOND.0);

/// Which pods have which adapters. Of a pod without a list it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterLists {
    /// Each list in order.
    pub lists: Vec<(PodKey, Vec<ModelId>)>,
}

impl AdapterLists {
    /// The pods that list the adapter.
    pub fn pods_with(&self, adapter: ModelId) -> impl Iterator<Item = PodKey> {
        let has = move |list: &[ModelId]| list.binary_search(&adapter).is_ok();
        self.lists.iter().filter(move |(_, list)| has(list)).map(|(pod, _)| *pod)
    }

    /// Whether it is known that a pod does not have the adapter.
    pub fn lacks(&self, pod: PodKey, adapter: ModelId) -> bool {
        let list = self.lists.iter().find(|(of, _)| *of == pod);
        list.is_some_and(|(_, list)| list.binary_search(&adapter).is_err())
    }

    /// The bytes to share.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = LISTS_MARK.to_le_bytes().to_vec();
        for (pod, list) in &self.lists {
            pod.encode(&mut out);
            out.extend_from_slice(&(list.len() as u16).to_le_bytes());
            list.iter().for_each(|adapter| out.extend_from_slice(&adapter.0.to_le_bytes()));
        }
        out
    }

    /// Reads the lists.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<AdapterLists, CodecError> {
        let lists = records(bytes, LISTS_MARK, MAX_PODS, |from| {
            let (pod, count) = (PodKey::decode(from)?, from.u16()?);
            let list = (0..count).map(|_| from.u32().map(ModelId)).collect::<Result<_, _>>()?;
            Ok((pod, list))
        })?;
        Ok(AdapterLists { lists })
    }
}

/// That a request for an adapter was sent to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterUse {
    /// The adapter.
    pub adapter: ModelId,
    /// The pod.
    pub pod: PodKey,
    /// When that was last so.
    pub at: Micros,
}

/// The last uses, in no order.
pub fn uses(key: &str, shared: &impl SharedData) -> Vec<AdapterUse> {
    shared.get(key).and_then(|(bytes, _)| decode_uses(&bytes).ok()).unwrap_or_default()
}

/// Notes a use, if it is not among `known`, which were read for the decision. `slots` are the adapters that
/// the pod can have at a time; it has put the others away.
///
/// # Errors
/// [`Contended`]: nothing has changed.
pub fn note_use(
    key: &str,
    used: AdapterUse,
    slots: usize,
    known: &[AdapterUse],
    shared: &mut impl SharedData,
) -> Result<(), Contended> {
    let same = |other: &&AdapterUse| (other.adapter, other.pod) == (used.adapter, used.pod);
    if known.iter().find(same).is_some_and(|known| used.at.since(known.at) < NEWS_AFTER) {
        return Ok(());
    }
    update(shared, key, |bytes| {
        let mut uses = bytes.and_then(|bytes| decode_uses(&bytes).ok()).unwrap_or_default();
        // A pod that has restarted has nothing of what it had.
        uses.retain(|other| {
            !same(&other) && (other.pod.slot != used.pod.slot || other.pod.id == used.pod.id)
        });
        while uses.iter().filter(|other| other.pod == used.pod).count() >= slots.max(1) {
            remove_oldest(&mut uses, |other| other.pod == used.pod);
        }
        while uses.len() >= MOST_USES {
            remove_oldest(&mut uses, |_| true);
        }
        uses.push(used);
        (encode_uses(&uses), ())
    })
}

fn remove_oldest(uses: &mut Vec<AdapterUse>, of: impl Fn(&AdapterUse) -> bool) {
    let oldest = (0..).zip(uses.iter()).filter(|(_, one)| of(one)).min_by_key(|(_, one)| one.at);
    if let Some((at, _)) = oldest {
        uses.swap_remove(at);
    }
}

fn encode_uses(uses: &[AdapterUse]) -> Vec<u8> {
    let mut out = USES_MARK.to_le_bytes().to_vec();
    for AdapterUse { adapter, pod, at } in uses {
        out.extend_from_slice(&adapter.0.to_le_bytes());
        pod.encode(&mut out);
        out.extend_from_slice(&at.0.to_le_bytes());
    }
    out
}

fn decode_uses(bytes: &[u8]) -> Result<Vec<AdapterUse>, CodecError> {
    records(bytes, USES_MARK, MOST_USES, |from| {
        Ok(AdapterUse { adapter: ModelId(from.u32()?), pod: PodKey::decode(from)?, at: Micros(from.u64()?) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::Map;
    use crate::{SECOND, Slot};
    use proptest::prelude::*;

    fn pod(slot: u16, id: u32) -> PodKey {
        PodKey { slot: Slot(slot), id }
    }

    fn used(adapter: u32, pod: PodKey, seconds: u64) -> AdapterUse {
        AdapterUse { adapter: ModelId(adapter), pod, at: seconds * SECOND }
    }

    fn adapters(shared: &Map, of: PodKey) -> Vec<u32> {
        let mut found: Vec<u32> =
            uses("k", shared).iter().filter(|one| one.pod == of).map(|one| one.adapter.0).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_pod_keeps_its_last_adapters() {
        let mut shared = Map::default();
        let (one, two) = (pod(0, 1), pod(1, 2));
        for (second, adapter) in [(1, 10), (2, 11), (3, 10), (4, 12)] {
            note_use("k", used(adapter, one, second), 2, &[], &mut shared).unwrap();
        }
        note_use("k", used(10, two, 9), 2, &[], &mut shared).unwrap();
        assert_eq!((adapters(&shared, one), adapters(&shared, two)), (vec![10, 12], vec![10]));
        // After a restart it has none of them.
        note_use("k", used(13, pod(0, 5), 10), 2, &[], &mut shared).unwrap();
        assert_eq!((adapters(&shared, one), adapters(&shared, pod(0, 5))), (vec![], vec![13]));
    }

    #[test]
    fn what_is_known_is_not_written_again_and_all_is_bounded() {
        let mut shared = Map::default();
        note_use("k", used(1, pod(0, 1), 1), 2, &[], &mut shared).unwrap();
        let (before, known) = (shared.get("k"), uses("k", &shared));
        let soon = AdapterUse { at: known[0].at + MILLISECOND, ..known[0] };
        note_use("k", soon, 2, &known, &mut shared).unwrap();
        assert_eq!(shared.get("k"), before);
        for n in 0..3 * MOST_USES as u32 {
            note_use("k", used(n, pod(n as u16, n), n.into()), 2, &[], &mut shared).unwrap();
        }
        assert_eq!(uses("k", &shared).len(), MOST_USES);
        shared.set("k", b"WPU0 and more", None).unwrap();
        assert_eq!(uses("k", &shared), []);
    }

    #[test]
    fn a_pod_without_a_list_may_have_it() {
        let lists =
            AdapterLists { lists: vec![(pod(0, 1), vec![ModelId(3), ModelId(7)]), (pod(1, 2), vec![])] };
        assert_eq!(lists.pods_with(ModelId(7)).collect::<Vec<_>>(), [pod(0, 1)]);
        let lacks = |pod| lists.lacks(pod, ModelId(7));
        assert_eq!([pod(0, 1), pod(1, 2), pod(0, 9), pod(2, 3)].map(lacks), [false, true, false, false]);
    }

    proptest! {
        #[test]
        fn lists_round_trip_and_truncations_are_errors(lists in prop::collection::vec((any::<(u16, u32)>(), prop::collection::vec(any::<u32>(), 0..5)), 0..5)) {
            let list = |list: Vec<u32>| list.into_iter().map(ModelId).collect();
            let lists = AdapterLists { lists: lists.into_iter().map(|((slot, id), of)| (pod(slot, id), list(of))).collect() };
            let bytes = lists.encode();
            prop_assert_eq!(AdapterLists::decode(&bytes), Ok(lists.clone()));
            let whole = |end| AdapterLists::decode(&bytes[..end]).is_ok_and(|cut| cut.lists != lists.lists[..cut.lists.len()]);
            prop_assert!(!(0..bytes.len()).any(whole), "a cut between two lists loses the rest, and nothing else");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = AdapterLists::decode(&[&b"WPA1"[..], &bytes].concat());
            let _ = decode_uses(&[&b"WPU1"[..], &bytes].concat());
        }
    }
}
