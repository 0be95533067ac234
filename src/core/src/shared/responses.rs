//! Which pod has which stored response: a follow-up, a look at it or a cancel means nothing to any other pod,
//! and may come to any worker.
//!
//! Responses are told apart by a hash of their id. They lie in a fixed number of values, each with a fixed
//! number of places, so that a write touches a small value; the oldest make room, and none is kept for long.

use crate::request::blocks::hash_of;
use crate::shared::codec::{CodecError, records};
use crate::shared::pod_table::PodKey;
use crate::shared::store::{Contended, Keys, SharedData, update};
use crate::{Micros, SECOND};

/// Marks a list of responses, and the version of its format.
const RESPONSES_MARK: u32 = u32::from_le_bytes(*b"WPR1");
/// Values that the responses are spread over.
pub const LISTS: u64 = 64;
/// Responses in a value at most.
const MOST: usize = 128;
/// How long a response is known. A client that comes later finds it if its pod is the one that the load
/// names.
const KEPT_FOR: Micros = Micros(24 * 3600 * SECOND.0);

/// A response, and the pod that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: u64,
    pod: PodKey,
    at: Micros,
}

/// Notes that `pod` has the response with this id.
///
/// # Errors
/// [`Contended`]: nothing has changed.
#[inline(never)]
pub fn note(
    keys: &Keys,
    id: &[u8],
    pod: PodKey,
    shared: &mut impl SharedData,
    now: Micros,
) -> Result<(), Contended> {
    let id = hash_of(id);
    update(shared, &keys.responses(id % LISTS), |bytes| {
        let mut entries = bytes.and_then(|bytes| decode(&bytes).ok()).unwrap_or_default();
        entries.retain(|entry| entry.id != id && now.since(entry.at) < KEPT_FOR);
        let surplus = (entries.len() + 1).saturating_sub(MOST);
        entries.drain(..surplus);
        entries.push(Entry { id, pod, at: now });
        (encode(&entries), ())
    })
}

/// The pod that has the response with this id, if that is known.
#[inline(never)]
pub fn find(keys: &Keys, id: &[u8], shared: &impl SharedData, now: Micros) -> Option<PodKey> {
    let id = hash_of(id);
    let (bytes, _) = shared.get(&keys.responses(id % LISTS))?;
    let entry = decode(&bytes).ok()?.into_iter().find(|entry| entry.id == id)?;
    (now.since(entry.at) < KEPT_FOR).then_some(entry.pod)
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = RESPONSES_MARK.to_le_bytes().to_vec();
    for Entry { id, pod, at } in entries {
        out.extend_from_slice(&id.to_le_bytes());
        pod.encode(&mut out);
        out.extend_from_slice(&at.0.to_le_bytes());
    }
    out
}

fn decode(bytes: &[u8]) -> Result<Vec<Entry>, CodecError> {
    records(bytes, RESPONSES_MARK, MOST, |from| {
        Ok(Entry { id: from.u64()?, pod: PodKey::decode(from)?, at: Micros(from.u64()?) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;
    use crate::shared::store::Map;

    fn keys() -> Keys {
        Keys::of("p", 4)
    }

    fn pod(id: u32) -> PodKey {
        PodKey { slot: Slot(id as u16), id }
    }

    #[test]
    fn a_response_is_found_by_its_id_and_the_last_pod_counts() {
        let mut shared = Map::default();
        note(&keys(), b"resp_1", pod(1), &mut shared, SECOND).unwrap();
        note(&keys(), b"resp_2", pod(2), &mut shared, SECOND).unwrap();
        note(&keys(), b"resp_1", pod(3), &mut shared, SECOND).unwrap();
        let find = |id| find(&keys(), id, &shared, 2 * SECOND);
        assert_eq!([find(b"resp_1"), find(b"resp_2"), find(b"resp_3")], [Some(pod(3)), Some(pod(2)), None]);
    }

    #[test]
    fn they_are_bounded_in_number_and_time() {
        let mut shared = Map::default();
        for n in 0..100_000u32 {
            note(&keys(), &n.to_le_bytes(), pod(n % 9), &mut shared, SECOND).unwrap();
        }
        let sizes = (0..LISTS).map(|list| shared.get(&keys().responses(list)).unwrap().0.len());
        assert!(sizes.max().unwrap() <= 4 + MOST * 22);
        let last = 99_999u32.to_le_bytes();
        assert!(find(&keys(), &last, &shared, KEPT_FOR).is_some());
        assert!(find(&keys(), &last, &shared, KEPT_FOR + SECOND).is_none());
        assert!(find(&keys(), &0u32.to_le_bytes(), &shared, SECOND).is_none());
    }

    #[test]
    fn garbage_is_no_list_and_is_replaced() {
        let mut shared = Map::default();
        let list = keys().responses(hash_of(b"resp_1") % LISTS);
        shared.set(&list, b"WPR1 and a half", None).unwrap();
        assert_eq!(find(&keys(), b"resp_1", &shared, SECOND), None);
        note(&keys(), b"resp_1", pod(1), &mut shared, SECOND).unwrap();
        assert_eq!(find(&keys(), b"resp_1", &shared, SECOND), Some(pod(1)));
    }
}
