//! The root context of the answer filters: tells the routers which pods are full.

use warmpath::account::full::note_full;
use warmpath::account::transaction::LedgerStore;
use warmpath::config::Config;
use warmpath::decide::candidates::shortest_queue;
use warmpath::shared::pod_table::PodTable;
use warmpath::shared::store::{Keys, SharedData};

use crate::host::{self, Host};
use crate::metrics::AnswerMetrics;

/// Longest time after which a client is told to come again, in seconds: a queue may empty sooner than it seems.
const LONGEST_WAIT: u64 = 60;

/// What the answer filters of a VM share. They read the pod table anew when a pod refuses, for that is rare.
#[derive(Debug)]
pub struct AnswerRole {
    keys: Keys,
    store: LedgerStore,
    /// What they count.
    pub metrics: AnswerMetrics,
}

impl AnswerRole {
    /// The role for a pool.
    pub fn new(config: &Config) -> AnswerRole {
        let keys = Keys::of(&config.pool, config.index.log_segments);
        AnswerRole { store: LedgerStore::new(keys.clone()), keys, metrics: AnswerMetrics::of(&config.pool) }
    }

    /// The pod of the present attempt has refused it, because it takes no more at the moment: tells the routers. Returns the
    /// seconds after which the client may come again, should all pods refuse: those that the shortest queue takes.
    pub fn pod_is_full(&self) -> u64 {
        let now = host::now();
        let table = Host
            .get(&self.keys.table)
            .and_then(|(bytes, _)| PodTable::decode(&bytes).ok())
            .unwrap_or_default();
        let address = host::property(&["upstream", "address"]).unwrap_or_default();
        match note_full(&self.store, &table, &address, &mut Host, now) {
            Ok(ledger) => {
                shortest_queue(&table, &ledger, now).as_seconds().ceil().max(1.0).min(LONGEST_WAIT as f32)
                    as u64
            }
            Err(_) => {
                self.metrics.contended.count();
                1
            }
        }
    }
}
