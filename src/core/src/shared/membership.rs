//! Which pods there are, as the routers' configurations say: written by them, followed by the collector.
//!
//! The collector's own list, in the bootstrap, stays as it is until Envoy restarts; a router's can change while Envoy runs. So
//! each router that is configured writes its list down. That is not enough: replaced settings live on until their
//! connections are drained, for ten minutes by default, and settings that come back meanwhile, as when a change is taken
//! back, are not configured again; Envoy just uses them. Nobody tells the module which settings hold, but new
//! connections go to those alone, and Envoy numbers its connections. So as long as there are two opinions, each side looks
//! at the numbers of the connections its requests come by, and the list with the newest connection holds.
//!
//! Listeners that share a pool are expected to list the same pods.

use std::net::SocketAddr;

use crate::shared::pod_table::MAX_PODS;
use crate::shared::store::{Conflict, NEVER_WRITTEN, SharedData};
use crate::{Micros, SECOND};

/// Marks a list of pods, and its version.
const PODS_MARK: &str = "WPP2";
/// How long an objection, or a sign of life, counts. Both are renewed every second.
const LASTS: Micros = 5 * SECOND;

/// One router's say in which pods there are.
#[derive(Clone, Debug)]
pub struct Announcer {
    key: String,
    list: String,
    contested: bool,
    /// The newest connection that a request came by, since the list is contested.
    newest: u64,
    /// Since when another list has held.
    overruled_at: Option<Micros>,
}

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    /// The newest connection that the list's routers have seen; 0 for none.
    newest: u64,
    /// When one of them last said that it lives, while there was an objection.
    held_at: Micros,
    /// When a router last said that it has another list.
    contested_at: Micros,
    /// The pods, a line each.
    list: String,
}

impl Announcer {
    /// The say of a router that has just been configured with these pods: they hold from now on.
    pub fn configured(key: &str, pods: &[String], shared: &mut impl SharedData, now: Micros) -> Announcer {
        let mut announcer = Announcer {
            key: key.to_owned(),
            list: pods.join("\n"),
            contested: false,
            newest: 0,
            overruled_at: None,
        };
        let (record, cas) = announcer.read(shared);
        let other = record.as_ref().is_none_or(|record| record.list != announcer.list);
        // From the first request on: the settings may be replaced again before the first tick.
        announcer.contested = record.is_some_and(|record| other || recent(record.contested_at, now));
        if other {
            // On a conflict another worker of the same settings has just written the same.
            let _ = announcer.hold(now, cas, shared);
        }
        announcer
    }

    /// Whether [`Announcer::saw`] wants to be told of connections.
    pub fn contested(&self) -> bool {
        self.contested
    }

    /// A request has come by this connection.
    pub fn saw(&mut self, connection: u64) {
        self.newest = self.newest.max(connection);
    }

    /// Looks whether the own list still holds, once a second.
    pub fn tick(&mut self, shared: &mut impl SharedData, now: Micros) {
        let (Some(mut record), cas) = self.read(shared) else { return };
        if record.list == self.list {
            self.overruled_at = None;
            self.contested = recent(record.contested_at, now);
            if self.contested {
                record.held_at = now;
                record.newest = record.newest.max(self.newest);
                let _ = self.write(&record, cas, shared);
            }
            return;
        }
        self.contested = true;
        let since = *self.overruled_at.get_or_insert(now);
        // Nothing can be newer than what nobody has seen: then the list that was configured last holds.
        let newer = record.newest > 0 && self.newest > record.newest;
        let alone = !recent(record.held_at, now) && !recent(since, now);
        if newer || alone {
            let _ = self.hold(now, cas, shared);
        } else {
            record.contested_at = now;
            let _ = self.write(&record, cas, shared);
        }
    }

    /// Makes the own list the one that holds.
    fn hold(&mut self, now: Micros, cas: u32, shared: &mut impl SharedData) -> Result<(), Conflict> {
        self.overruled_at = None;
        let record = Record { newest: self.newest, held_at: now, contested_at: now, list: self.list.clone() };
        self.write(&record, cas, shared)
    }

    fn read(&self, shared: &impl SharedData) -> (Option<Record>, u32) {
        match shared.get(&self.key) {
            Some((bytes, cas)) => (Record::decode(&bytes), cas),
            None => (None, NEVER_WRITTEN),
        }
    }

    fn write(&self, record: &Record, cas: u32, shared: &mut impl SharedData) -> Result<(), Conflict> {
        shared.set(&self.key, record.encode().as_bytes(), Some(cas))
    }
}

impl Record {
    fn encode(&self) -> String {
        let Record { newest, held_at, contested_at, list } = self;
        format!("{PODS_MARK} {newest} {held_at} {contested_at}\n{list}")
    }

    fn decode(bytes: &[u8]) -> Option<Record> {
        let (head, list) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        let mut numbers = head.strip_prefix(PODS_MARK)?.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Record { newest: next()?, held_at: next()?, contested_at: next()?, list: list.to_owned() })
    }
}

fn recent(at: Micros, now: Micros) -> bool {
    now.saturating_sub(at) < LASTS
}

/// The pods that hold, and the version of what is written; `None` when no router has announced any.
pub fn announced(key: &str, shared: &impl SharedData) -> Option<(Vec<String>, u32)> {
    let (bytes, version) = shared.get(key)?;
    let list = Record::decode(&bytes)?.list;
    // Only addresses: whatever else stands there, nobody is to be sent to.
    let pods = list
        .lines()
        .filter(|line| line.parse::<SocketAddr>().is_ok())
        .take(MAX_PODS)
        .map(str::to_owned)
        .collect();
    Some((pods, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::Map;

    fn pods(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("10.0.0.{}:1", name.len())).collect()
    }

    fn holds(shared: &Map) -> Vec<String> {
        announced("k", shared).unwrap().0
    }

    #[test]
    fn the_list_that_was_configured_last_holds() {
        let mut shared = Map::default();
        assert_eq!(announced("k", &shared), None);
        Announcer::configured("k", &pods(&["a", "bb"]), &mut shared, 0);
        let (found, version) = announced("k", &shared).unwrap();
        assert_eq!(found, pods(&["a", "bb"]));
        // The other workers of the same Envoy.
        Announcer::configured("k", &pods(&["a", "bb"]), &mut shared, 1);
        assert_eq!(announced("k", &shared).unwrap().1, version);
        Announcer::configured("k", &[], &mut shared, 2);
        assert_eq!(holds(&shared), Vec::<String>::new());
        shared.set("k", b"\xff", None).unwrap();
        assert_eq!(announced("k", &shared), None);
        Announcer::configured("k", &pods(&["ccc"]), &mut shared, 3);
        assert_eq!(holds(&shared), pods(&["ccc"]));
    }

    #[test]
    fn without_another_opinion_nobody_looks_at_connections_or_writes() {
        let mut shared = Map::default();
        let mut only = Announcer::configured("k", &pods(&["a"]), &mut shared, 0);
        assert!(!only.contested());
        only.tick(&mut shared, 10 * SECOND);
        let version = announced("k", &shared).unwrap().1;
        only.tick(&mut shared, 11 * SECOND);
        assert!(!only.contested());
        assert_eq!(announced("k", &shared).unwrap().1, version);
    }

    /// Settings `a` replaced by `bb`, both with connections, two seconds after.
    fn replaced(shared: &mut Map) -> (Announcer, Announcer) {
        let mut old = Announcer::configured("k", &pods(&["a"]), shared, 0);
        let mut new = Announcer::configured("k", &pods(&["bb"]), shared, 100 * SECOND);
        for second in 101..103 {
            for (announcer, connection) in [(&mut old, 70), (&mut new, 80)] {
                if announcer.contested() {
                    announcer.saw(connection);
                }
                announcer.tick(shared, second * SECOND);
            }
        }
        (old, new)
    }

    #[test]
    fn connections_that_are_being_drained_do_not_bring_old_settings_back() {
        let mut shared = Map::default();
        let (mut old, mut new) = replaced(&mut shared);
        for second in 103..800 {
            assert_eq!(holds(&shared), pods(&["bb"]), "after {second} s");
            old.saw(79);
            old.tick(&mut shared, second * SECOND);
            // The new settings may have no request for a long time.
            new.tick(&mut shared, second * SECOND + 1);
        }
        // The drained ones are gone, and nobody looks any more.
        new.tick(&mut shared, 900 * SECOND);
        assert!(!new.contested());
    }

    #[test]
    fn settings_that_come_back_hold_with_their_first_new_connection() {
        let mut shared = Map::default();
        let (mut old, mut new) = replaced(&mut shared);
        old.saw(90);
        old.tick(&mut shared, 103 * SECOND);
        assert_eq!(holds(&shared), pods(&["a"]));
        // What is replaced now has its connections, too.
        for second in 104..110 {
            new.saw(81);
            new.tick(&mut shared, second * SECOND);
            old.tick(&mut shared, second * SECOND + 1);
            assert_eq!(holds(&shared), pods(&["a"]));
        }
        new.saw(91);
        new.tick(&mut shared, 110 * SECOND);
        assert_eq!(holds(&shared), pods(&["bb"]));
    }

    #[test]
    fn settings_may_come_back_before_the_first_tick() {
        let mut shared = Map::default();
        let mut old = Announcer::configured("k", &pods(&["a"]), &mut shared, 0);
        // In two workers; the one that is configured second finds its list written.
        let mut new =
            [0, 1].map(|n| Announcer::configured("k", &pods(&["bb"]), &mut shared, 10 * SECOND + n));
        assert!(new.iter().all(Announcer::contested));
        new[1].saw(20);
        old.tick(&mut shared, 10 * SECOND + 5);
        old.saw(21);
        new[1].tick(&mut shared, 10 * SECOND + 6);
        old.tick(&mut shared, 11 * SECOND);
        assert_eq!(holds(&shared), pods(&["a"]));
    }

    #[test]
    fn settings_that_come_back_before_the_others_had_a_connection_hold_when_those_are_gone() {
        let mut shared = Map::default();
        let mut old = Announcer::configured("k", &pods(&["a"]), &mut shared, 0);
        drop(Announcer::configured("k", &pods(&["bb"]), &mut shared, 10 * SECOND));
        for second in 11..16 {
            old.saw(second);
            old.tick(&mut shared, second * SECOND);
            assert_eq!(holds(&shared), pods(&["bb"]));
        }
        old.tick(&mut shared, 16 * SECOND);
        assert_eq!(holds(&shared), pods(&["a"]));
    }
}
