//! What the workers of one Envoy share: a few values under fixed keys, each read and written whole, with
//! compare-and-swap. Envoy gives it to modules as "shared data"; a simulation gives a map.

/// Values by key, with compare-and-swap.
///
/// Keys cannot be deleted or listed, so the set of keys is fixed ([`Keys`]), whatever pods come and go.
pub trait SharedData {
    /// The value of `key` and the number of its version; `None` when it was never written.
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)>;

    /// Writes `value`, unconditionally or only over the version `cas`. No version is ever given twice.
    ///
    /// # Errors
    /// [`Conflict`] when another worker wrote since that version was read.
    fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict>;
}

/// The version to write over when a key was never written: a missing key takes any version, and no key ever has this one,
/// so of two workers that both find nothing only the first writes.
pub const NEVER_WRITTEN: u32 = u32::MAX;

/// Another worker wrote first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

/// The keys of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The table of pods and their load; written by the collector.
    pub table: String,
    /// The pods that routers were configured with; written by them, read by the collector.
    pub pods: String,
    /// Work in flight, and the open segment of the log; written by routers.
    pub ledger: String,
    /// Who collects when the collector is dead.
    pub lease: String,
    /// How many sealed segments of the log there are, a ring.
    pub segments: u64,
    log: String,
}

impl Keys {
    /// The keys of `pool`, with a ring of `segments` log segments.
    pub fn of(pool: &str, segments: usize) -> Keys {
        let key = |name: &str| format!("warmpath/{pool}/{name}");
        Keys {
            table: key("table"),
            pods: key("pods"),
            ledger: key("ledger"),
            lease: key("lease"),
            segments: segments.max(1) as u64,
            log: key("log"),
        }
    }

    /// The key of the log segment with number `segment`.
    pub fn segment(&self, segment: u64) -> String {
        format!("{}/{}", self.log, segment % self.segments)
    }
}

/// Shared data in one map: for tests, and for gateways that are simulated. It is ordered, for one that hashes with a seed of its own
/// frees its values in another order each time, and what comes after takes other paths through the allocator: then steps that
/// are counted in instructions (`scripts/budget`) differ by a tenth from run to run.
#[derive(Clone, Debug, Default)]
pub struct Map {
    values: std::collections::BTreeMap<String, (Vec<u8>, u32)>,
    version: u32,
}

#[cfg(test)]
impl Map {
    /// Every key that was ever written.
    pub(crate) fn keys(&self) -> std::collections::BTreeSet<&str> {
        self.values.keys().map(String::as_str).collect()
    }
}

impl SharedData for Map {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.values.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        // As Envoy does it: versions are never 0 and count the writes of all keys; a missing key takes any.
        let version = self.version.wrapping_add(1).max(1);
        match self.values.get_mut(key) {
            Some((_, current)) if cas.is_some_and(|cas| cas != *current) => return Err(Conflict),
            Some(stored) => {
                stored.0.clear();
                stored.0.extend_from_slice(value);
                stored.1 = version;
            }
            None => {
                self.values.insert(key.to_owned(), (value.to_vec(), version));
            }
        }
        self.version = version;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_over_an_old_version_is_refused() {
        let mut map = Map::default();
        assert_eq!(map.get("k"), None);
        map.set("k", b"1", Some(NEVER_WRITTEN)).unwrap();
        assert_eq!(map.set("k", b"0", Some(NEVER_WRITTEN)), Err(Conflict));
        let (value, version) = map.get("k").unwrap();
        assert_eq!(value, b"1");
        map.set("k", b"2", Some(version)).unwrap();
        assert_eq!(map.set("k", b"3", Some(version)), Err(Conflict));
        map.set("k", b"4", None).unwrap();
        assert_eq!(map.get("k").unwrap().0, b"4");
    }

    #[test]
    fn segments_go_round() {
        let keys = Keys::of("p", 4);
        assert_eq!(keys.segment(1), "warmpath/p/log/1");
        assert_eq!(keys.segment(5), keys.segment(1));
    }
}
