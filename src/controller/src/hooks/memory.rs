//! What the hooks remember from one question to the next: which cluster is which pools, and what Envoy
//! Gateway got of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use crate::plan::binding::Binding;
use crate::plan::wiring::Hook;
use crate::plan::{ClusterName, PoolKey, World};

/// Bindings that are kept before those of routes that are gone are thrown away.
const MANY: usize = 4096;

/// What is remembered. One a process, shared by all calls.
#[derive(Debug, Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bound: BTreeMap<ClusterName, Bound>,
    served: BTreeMap<PoolKey, String>,
    owed: BTreeSet<PoolKey>,
    asked: BTreeMap<PoolKey, BTreeSet<Hook>>,
    listeners: bool,
}

/// The pools of a rule, as the last translation named them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Which backend is which pool.
    pub binding: Binding,
    /// The revision of each pool, of our object that the translation had.
    pub revisions: BTreeMap<PoolKey, u64>,
}

impl Memory {
    /// Remembers the pools of a rule.
    pub fn bind(&self, rule: ClusterName, bound: Bound, world: &World) {
        self.with(|inner| {
            if inner.bound.len() >= MANY {
                inner.bound.retain(|cluster, _| world.routes.contains_key(&cluster.route));
            }
            inner.bound.insert(rule, bound);
        });
    }

    /// The pools of a rule: as the last translation named them, else by our copy of the route. `None` where
    /// it has none.
    pub fn bound(&self, rule: &ClusterName, world: &World) -> Option<Bound> {
        let named = self.with(|inner| inner.bound.get(rule).cloned());
        named.or_else(|| {
            let binding = Binding::by_copy(world.rule(rule)?)?;
            Some(Bound { binding, revisions: BTreeMap::new() })
        })
    }

    /// Notes what Envoy Gateway got of a pool: the digest of its state.
    pub fn serve(&self, pool: &PoolKey, digest: &str) {
        self.with(|inner| {
            inner.served.insert(pool.clone(), digest.to_owned());
            inner.owed.remove(pool);
        });
    }

    /// Notes that Envoy Gateway got an error about these pools. It does not ask again by itself.
    pub fn owe(&self, pools: impl IntoIterator<Item = PoolKey>) {
        self.with(|inner| inner.owed.extend(pools));
    }

    /// The same for the pools of a cluster.
    pub fn owe_cluster(&self, name: &str, world: &World) {
        let Some(cluster) = ClusterName::parse(name) else { return };
        self.owe(
            self.bound(&cluster.of_rule(), world).iter().flat_map(|bound| bound.binding.pools()).cloned(),
        );
    }

    /// The pools of which Envoy Gateway has something else than the world says, each named once: a revision
    /// has to be raised.
    pub fn behind(&self, world: &World) -> BTreeSet<PoolKey> {
        self.with(|inner| {
            let current = |pool: &PoolKey| world.pools.get(pool).map(|state| &state.digest);
            let other =
                |(pool, digest): &(&PoolKey, &String)| current(pool).is_some_and(|now| now != *digest);
            let mut behind: BTreeSet<PoolKey> =
                inner.served.iter().filter(other).map(|(pool, _)| pool.clone()).collect();
            behind.extend(
                std::mem::take(&mut inner.owed).into_iter().filter(|pool| world.pools.contains_key(pool)),
            );
            // Named once: where Envoy Gateway asks another replica now, its answers are not ours to follow.
            inner.served.retain(|pool, _| !behind.contains(pool));
            behind
        })
    }

    /// Notes that a hook was asked about these pools.
    pub fn asked_about<'p>(&self, hook: Hook, pools: impl IntoIterator<Item = &'p PoolKey>) {
        self.with(|inner| {
            for pool in pools {
                inner.asked.entry(pool.clone()).or_default().insert(hook);
            }
        });
    }

    /// Notes that the listeners' hook was asked; it names no pool.
    pub fn asked_about_listeners(&self) {
        self.with(|inner| inner.listeners = true);
    }

    /// The hooks that were asked about a pool since the start.
    pub fn asked(&self, pool: &PoolKey) -> BTreeSet<Hook> {
        self.with(|inner| {
            let mut asked = inner.asked.get(pool).cloned().unwrap_or_default();
            if inner.listeners {
                asked.insert(Hook::Listener);
            }
            asked
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        // A panic elsewhere leaves the maps whole: each change is one insert.
        f(&mut self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
