//! The last good documents of settings, by name: a worker that meets a bad one first knows what was in force
//! before.

use crate::request::blocks::hash_of;
use crate::shared::codec::{CodecError, records};
use crate::shared::store::{SharedData, update};

/// Marks a list of documents, and the version of its format.
const DOCUMENTS_MARK: u32 = u32::from_le_bytes(*b"WPD1");
/// Documents that are kept, the last written ones.
const MOST: usize = 32;
/// Longest document that is kept, in bytes.
pub const LONGEST: usize = 64 << 10;

/// A document, with the hash of its name.
type Entry<'a> = (u64, &'a [u8]);

/// Keeps `document` under `name`, in the place of the one before.
pub fn keep(key: &str, name: &str, document: &[u8], shared: &mut impl SharedData) {
    if document.len() > LONGEST {
        return;
    }
    let name = hash_of(name.as_bytes());
    // One that cannot be written is as good as one that no worker has met yet.
    let _ = update(shared, key, |bytes| {
        let bytes = bytes.unwrap_or_default();
        let mut entries = decode(&bytes).unwrap_or_default();
        entries.retain(|(other, _)| *other != name);
        entries.insert(0, (name, document));
        entries.truncate(MOST);
        (encode(&entries), ())
    });
}

/// The document that is kept under `name`.
pub fn find(key: &str, name: &str, shared: &impl SharedData) -> Option<Vec<u8>> {
    let name = hash_of(name.as_bytes());
    let (bytes, _) = shared.get(key)?;
    let entries = decode(&bytes).ok()?;
    entries.into_iter().find(|(other, _)| *other == name).map(|(_, document)| document.to_vec())
}

fn encode(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = DOCUMENTS_MARK.to_le_bytes().to_vec();
    for (name, document) in entries {
        out.extend_from_slice(&name.to_le_bytes());
        out.extend_from_slice(&(document.len() as u32).to_le_bytes());
        out.extend_from_slice(document);
    }
    out
}

fn decode(bytes: &[u8]) -> Result<Vec<Entry<'_>>, CodecError> {
    records(bytes, DOCUMENTS_MARK, MOST, |from| {
        let (name, length) = (from.u64()?, from.u32()? as usize);
        Ok((name, from.bytes(length)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::Map;
    use proptest::prelude::*;

    #[test]
    fn the_last_document_of_each_name_is_kept() {
        let mut shared = Map::default();
        assert_eq!(find("k", "a", &shared), None);
        keep("k", "a", b"1", &mut shared);
        keep("k", "b", b"2", &mut shared);
        keep("k", "a", b"333", &mut shared);
        assert_eq!(
            (find("k", "a", &shared), find("k", "b", &shared)),
            (Some(b"333".into()), Some(b"2".into()))
        );
        for n in 0..MOST - 1 {
            keep("k", &n.to_string(), b"n", &mut shared);
        }
        assert_eq!((find("k", "a", &shared), find("k", "b", &shared)), (Some(b"333".into()), None));
        keep("k", "long", &vec![0; LONGEST + 1], &mut shared);
        assert_eq!(find("k", "long", &shared), None);
    }

    #[test]
    fn another_value_is_replaced() {
        let mut shared = Map::default();
        shared.set("k", b"garbage", None).unwrap();
        keep("k", "a", b"1", &mut shared);
        assert_eq!(find("k", "a", &shared), Some(b"1".into()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
            let _ = decode(&[&b"WPD1"[..], &bytes].concat());
        }
    }
}
