//! The store that the workers of one Envoy share: a few values under fixed keys, each read and written as a
//! whole, with compare-and-swap. Envoy gives it to modules as "shared data"; a simulation gives a map.

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

/// The version to write over when a key was never written: a missing key takes any version, and no key ever
/// has this one, so of two workers that both find nothing only the first writes.
pub const NEVER_WRITTEN: u32 = u32::MAX;

/// Another worker wrote first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

/// Tries to write a value over those of other workers. Each conflict means that another worker has written,
/// so the workers as a whole make progress; this many conflicts in a row do not happen by chance.
const TRIES: usize = 16;

/// Other workers wrote first at every try: nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contended;

/// Changes the value of `key`: reads it, lets `change` make the next value of it, and writes that if nobody
/// has written in between, else begins again. This is the only compare-and-swap loop of Warmpath.
///
/// `change` gets the bytes that are stored, `None` when there are none, and the shared data for whatever else
/// it reads. It returns the value to write and a result. It may be called several times and must not change
/// anything that has to be undone when its value is not written.
///
/// # Errors
/// What `change` returns, and then nothing is written; [`Contended`] when no try was written.
pub fn compare_and_swap<S: SharedData, V: AsRef<[u8]>, T, E: From<Contended>>(
    shared: &mut S,
    key: &str,
    mut change: impl FnMut(Option<Vec<u8>>, &S) -> Result<(V, T), E>,
) -> Result<(V, T), E> {
    for _ in 0..TRIES {
        let (bytes, version) =
            shared.get(key).map_or((None, NEVER_WRITTEN), |(bytes, version)| (Some(bytes), version));
        let (value, result) = change(bytes, shared)?;
        if shared.set(key, value.as_ref(), Some(version)).is_ok() {
            return Ok((value, result));
        }
    }
    Err(Contended.into())
}

/// Changes the value of `key` as [`compare_and_swap`] does, where nothing else is read and every change is
/// one to write.
///
/// # Errors
/// [`Contended`] when no try was written.
pub fn update<V: AsRef<[u8]>, T>(
    shared: &mut impl SharedData,
    key: &str,
    mut change: impl FnMut(Option<Vec<u8>>) -> (V, T),
) -> Result<T, Contended> {
    compare_and_swap(shared, key, |bytes, _| Ok(change(bytes))).map(|(_, result)| result)
}

/// The keys of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The table of pods and their load; written by the collector.
    pub table: String,
    /// The list of pods that routers were configured with; written by them, read by the collector.
    pub pods: String,
    /// The clusters that requests go to; written by routers, read by whoever discovers.
    pub wanted: String,
    /// Work in flight, and the open segment of the log; written by routers.
    pub ledger: String,
    /// The last good settings of each route, or of the page that is fetched; written by whoever reads them
    /// first.
    pub settings: String,
    /// Which pods have which LoRA adapters; written by the collector.
    pub adapter_lists: String,
    /// Which names are of one model; written by the collector.
    pub model_names: String,
    /// Which LoRA adapters were used where last; written by routers.
    pub adapter_uses: String,
    /// The outstanding work of each tenant; written by routers.
    pub tenants: String,
    /// Who collects when the collector is dead.
    pub lease: String,
    /// The models that have metrics of their own; written by routers.
    pub models: String,
    /// The tokens of prompts that each pod is believed to hold; written by routers.
    pub held: String,
    /// When somebody last looked at the console.
    pub looked: String,
    /// The last decisions, while somebody looks; written by routers.
    pub decisions: String,
    /// How many sealed segments of the log there are, a ring.
    pub segments: u64,
    log: String,
    responses: String,
    started: String,
}

impl Keys {
    /// The keys of `pool`, with a ring of `segments` log segments.
    pub fn of(pool: &str, segments: usize) -> Keys {
        let key = |name: &str| format!("warmpath/{pool}/{name}");
        Keys {
            table: key("table"),
            pods: key("pods"),
            wanted: key("wanted"),
            ledger: key("ledger"),
            settings: key("settings"),
            adapter_lists: key("adapters"),
            model_names: key("model-names"),
            adapter_uses: key("adapter-uses"),
            tenants: key("tenants"),
            lease: key("lease"),
            models: key("models"),
            held: key("held"),
            looked: key("looked"),
            decisions: key("decisions"),
            segments: segments.max(1) as u64,
            log: key("log"),
            responses: key("responses"),
            started: key("started"),
        }
    }

    /// The key of the last line that a role logged at its start.
    pub fn started(&self, role: &str) -> String {
        format!("{}/{role}", self.started)
    }

    /// The key of a list of stored responses.
    pub fn responses(&self, list: u64) -> String {
        format!("{}/{list}", self.responses)
    }

    /// The key of the log segment with number `segment`.
    pub fn segment(&self, segment: u64) -> String {
        format!("{}/{}", self.log, segment % self.segments)
    }
}

/// Shared data in one map: for tests, and for simulated gateways. A `BTreeMap`, because the random seed of a
/// `HashMap` changes the order in which values are freed, and with it the instruction counts of
/// `scripts/budget`.
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
        // As in Envoy, a version is never 0 and counts the writes of all keys; a missing key takes any
        // version.
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

    /// A map into which another worker writes before each of the next writes, so many times.
    struct Contested(Map, usize);

    impl SharedData for Contested {
        fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
            self.0.get(key)
        }
        fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
            if self.1 > 0 {
                self.1 -= 1;
                let (mut other, _) = self.get(key).unwrap_or_default();
                other.push(b'o');
                self.0.set(key, &other, None)?;
            }
            self.0.set(key, value, cas)
        }
    }

    /// Appends a letter, and says how many tries it took.
    fn append(shared: &mut Contested) -> Result<usize, Contended> {
        let mut tries = 0;
        let (_, tries) = compare_and_swap(shared, "k", |bytes, _| {
            tries += 1;
            Ok::<_, Contended>(([&bytes.unwrap_or_default()[..], b"m"].concat(), tries))
        })?;
        Ok(tries)
    }

    #[test]
    fn a_change_is_made_again_until_nobody_comes_between() {
        for others in [0, 1, TRIES - 1] {
            let mut shared = Contested(Map::default(), others);
            assert_eq!(append(&mut shared), Ok(others + 1));
            assert_eq!(shared.get("k").unwrap().0, [vec![b'o'; others], vec![b'm']].concat());
        }
    }

    #[test]
    fn a_change_that_loses_every_try_is_not_written() {
        let mut shared = Contested(Map::default(), TRIES);
        assert_eq!(append(&mut shared), Err(Contended));
        assert_eq!(shared.get("k").unwrap().0, vec![b'o'; TRIES]);
    }

    #[test]
    fn a_change_that_fails_is_not_written_and_not_tried_again() {
        let mut shared = Contested(Map::default(), 0);
        let mut tries = 0;
        let failed = compare_and_swap(&mut shared, "k", |_, _| {
            tries += 1;
            Err::<(&[u8], ()), _>(Contended)
        });
        assert_eq!((failed, tries, shared.get("k")), (Err(Contended), 1, None));
    }

    #[test]
    fn segments_go_round() {
        let keys = Keys::of("p", 4);
        assert_eq!(keys.segment(1), "warmpath/p/log/1");
        assert_eq!(keys.segment(5), keys.segment(1));
    }
}
