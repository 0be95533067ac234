//! The root context of the answer filters: tells the routers which pods are full.

use std::cell::Cell;

use crate::abi::Bytes;
use warmpath::account::told;
use warmpath::account::transaction::LedgerStore;
use warmpath::config::Config;
use warmpath::decide::candidates::shortest_queue;
use warmpath::decide::pick::PICKS;
use warmpath::shared::pod_table::PodTable;
use warmpath::shared::store::{Keys, SharedData};
use warmpath::{Micros, SECOND};

use crate::host::{self, Host};
use crate::metrics::AnswerMetrics;

/// Longest time after which a client is told to come again, in seconds: a queue may empty sooner than it
/// seems.
const LONGEST_WAIT: u64 = 60;
/// Requests that all pods may refuse in turn with one status, beyond one per second, before the first refusal
/// of a request with that status is believed: a client with a wrong key must not make three requests of each
/// of its own. What one client meets everywhere says nothing of a refusal with another status.
const MOST_IN_VAIN: u64 = 20;
/// The statuses of refusals that another pod may not give.
const STATUSES: [u16; 5] = [401, 403, 404, 429, 502];

/// The property of a stream that was sent to a pod whose engine has died. All attempts of a request have the
/// same properties.
const MET_DEAD: &str = "warmpath.met_dead_engine";

/// What the answer filters of a VM share. They read the pod table anew when a pod refuses, for that is rare.
#[derive(Debug)]
pub struct AnswerRole {
    keys: Keys,
    store: LedgerStore,
    /// By status, when the last of the requests would have been sent that all pods refused with it, had they
    /// come one per second.
    in_vain: [Cell<Micros>; STATUSES.len()],
    /// What they count.
    pub metrics: AnswerMetrics,
}

impl AnswerRole {
    /// The role for a pool.
    pub fn new(config: &Config) -> AnswerRole {
        let keys = Keys::of(&config.pool, config.index.log_segments);
        AnswerRole {
            store: LedgerStore::new(keys.clone()),
            keys,
            in_vain: Default::default(),
            metrics: AnswerMetrics::of(&config.pool),
        }
    }

    /// The pod of the present attempt has refused it, because it takes no more at the moment: tells the
    /// routers. Returns the seconds after which the client may come again, should all pods refuse: those that
    /// the shortest queue takes.
    pub fn pod_is_full(&self) -> u64 {
        let (now, table, address) = (host::now(), self.table(), pod());
        match told::note(&self.store, &table, &address, &mut Host, |pod| pod.refused_as_full(now)) {
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

    /// The pod of the present attempt has refused it with this status, in a way that another pod may not;
    /// `named` pods were named for the request. Returns whether another one is to be asked, and tells the
    /// routers if so: they learn from its answer who is at fault.
    pub fn asks_another(&self, status: u16, named: usize) -> bool {
        let at = STATUSES.iter().position(|&known| known == status);
        let Some(in_vain) = at.and_then(|at| self.in_vain.get(at)).filter(|_| !is_own_call()) else {
            return false;
        };
        let (now, table, address) = (host::now(), self.table(), pod());
        let attempt = host::number("upstream\0request_attempt_count").unwrap_or(1) as usize;
        let last = in_vain.get().max(now);
        if !another_follows(attempt, status, named, table.others(&address)) {
            if attempt > 1 {
                in_vain.set(last + SECOND);
            }
            return false;
        }
        if last > now + MOST_IN_VAIN * SECOND {
            return false;
        }
        match told::note(&self.store, &table, &address, &mut Host, |pod| pod.declined(now)) {
            Ok(_) => self.metrics.declined.count(),
            // The routers will take the refusal for a failure of the pod, which costs it a second. The client
            // must not pay for that.
            Err(_) => self.metrics.contended.count(),
        }
        true
    }

    /// The engine of the pod of the present attempt has died. Returns whether another pod is to be asked:
    /// only at the first dead engine that the request meets, so that one that kills engines kills no more
    /// than two. Pods that were full before have not computed it. The routers take a dead engine for the
    /// failure of the pod that it is.
    pub fn asks_another_once(&self) -> bool {
        if is_own_call() || host::property(MET_DEAD).is_some() || self.table().others(&pod()) == 0 {
            return false;
        }
        host::set_property(MET_DEAD, b"1");
        true
    }

    fn table(&self) -> PodTable {
        let shared = Host.get(&self.keys.table);
        shared.and_then(|(bytes, _)| PodTable::decode(&bytes).ok()).unwrap_or_default()
    }
}

/// Whether another pod is asked where that of this attempt refuses: one that is named, for those before it
/// may have left since, so that the `others` which are there now do not tell how many are left to ask. After
/// the last one Envoy finds a pod by itself, which may be one of them, or dead: that is better than a refusal
/// which passes, and worse than one that all pods would give.
fn another_follows(attempt: usize, status: u16, named: usize, others: usize) -> bool {
    let passes = matches!(status, 429 | 502);
    match named {
        0 => attempt <= others.min(PICKS - 1),
        PICKS if attempt == PICKS => passes && others >= PICKS,
        _ => attempt < named && others > 0,
    }
}

/// The address of the pod of the present attempt.
fn pod() -> Bytes {
    host::property("upstream\0address").unwrap_or_default()
}

/// Whether the attempt fetches a page for Warmpath itself: there the pod's own answer counts. Such a call has
/// no virtual host, and that of a request has a name. The header that it goes by cannot be seen here, as
/// Envoy shows none of the request any more.
fn is_own_call() -> bool {
    host::property("xds\0virtual_host_name").is_none_or(|name| name.is_empty())
}
