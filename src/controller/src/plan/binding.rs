//! Which backend of a rule is which pool, as one translation of Envoy Gateway's has it.
//!
//! Envoy Gateway names the pools of a route in the order of the rule, and asks for the endpoints of its
//! clusters afterwards, without naming pools. What it said first binds what it asks next: our own copy of the
//! route may be older or newer.

use thiserror::Error;

use super::facts::Rule;
use super::names::PoolKey;

/// The pools of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// All backends that are pools are this one.
    Only(PoolKey),
    /// The pool of each backend, by index.
    ByBackend(Vec<Option<PoolKey>>),
}

/// Our copy of the route has other pools than Envoy Gateway's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the controller's copy of the HTTPRoute does not have the pools that Envoy Gateway names, in their order"
)]
pub struct Disagreement;

impl Binding {
    /// Binds the pools that Envoy Gateway named to the backends of a rule. `weighted`: the rule has a cluster
    /// for each backend, so the index counts. `rule` is our copy.
    ///
    /// # Errors
    /// Where the index counts and our copy has other pools.
    pub fn of(pools: &[PoolKey], weighted: bool, rule: Option<&Rule>) -> Result<Binding, Disagreement> {
        if let [first, rest @ ..] = pools
            && !weighted
            && rest.iter().all(|pool| pool == first)
        {
            return Ok(Binding::Only(first.clone()));
        }
        let mut named = pools.iter().peekable();
        let backends = rule.map(|rule| rule.backends.as_slice()).unwrap_or_default();
        // Envoy Gateway leaves out a pool of weight 0, one that is not there, and one that it may not refer
        // to.
        let bound = backends.iter().map(|backend| match &backend.pool {
            Some(pool) if backend.weight > 0 => named.next_if_eq(&pool).cloned(),
            _ => None,
        });
        let bound = bound.collect();
        if named.peek().is_some() { Err(Disagreement) } else { Ok(Binding::ByBackend(bound)) }
    }

    /// Binds by our copy of the rule alone: for a question about a cluster whose route was not asked about
    /// before, as when another replica was asked about it. `None` where the rule has no pool.
    pub fn by_copy(rule: &Rule) -> Option<Binding> {
        let bound: Vec<_> = rule.backends.iter().map(|b| b.pool.clone().filter(|_| b.weight > 0)).collect();
        bound.iter().any(Option::is_some).then_some(Binding::ByBackend(bound))
    }

    /// The pool of a backend.
    pub fn pool(&self, backend: usize) -> Option<&PoolKey> {
        match self {
            Binding::Only(pool) => Some(pool),
            Binding::ByBackend(pools) => pools.get(backend)?.as_ref(),
        }
    }

    /// The pools, in the order of the backends.
    pub fn pools(&self) -> Vec<&PoolKey> {
        match self {
            Binding::Only(pool) => vec![pool],
            Binding::ByBackend(pools) => pools.iter().flatten().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::Backend;
    use crate::plan::names::PoolGroup;

    fn pool(name: &str) -> PoolKey {
        PoolKey { group: PoolGroup::Stable, namespace: "default".into(), name: name.into() }
    }

    fn rule(backends: &[(Option<&str>, u32)]) -> Rule {
        let backend = |(name, weight): &(Option<&str>, u32)| Backend {
            pool: name.map(pool),
            weight: *weight,
            filters: false,
        };
        Rule { backends: backends.iter().map(backend).collect(), mirrors: vec![] }
    }

    #[test]
    fn one_pool_needs_no_copy_of_the_route() {
        let newer = rule(&[(Some("other"), 1)]);
        assert_eq!(Binding::of(&[pool("a")], false, Some(&newer)), Ok(Binding::Only(pool("a"))));
        assert_eq!(Binding::of(&[pool("a"), pool("a")], false, None), Ok(Binding::Only(pool("a"))));
        assert_eq!(Binding::of(&[pool("a")], true, None), Err(Disagreement));
    }

    #[test]
    fn several_are_bound_by_their_place_in_the_rule() {
        let rule = rule(&[(Some("a"), 1), (None, 1), (Some("off"), 0), (Some("gone"), 1), (Some("b"), 3)]);
        let binding = Binding::of(&[pool("a"), pool("b")], true, Some(&rule)).unwrap();
        assert_eq!(binding.pools(), [&pool("a"), &pool("b")]);
        assert_eq!(
            (0..6).map(|i| binding.pool(i).map(|p| p.name.as_str())).collect::<Vec<_>>(),
            [Some("a"), None, None, None, Some("b"), None]
        );
    }

    #[test]
    fn another_order_is_a_disagreement() {
        let rule = rule(&[(Some("b"), 1), (Some("a"), 1)]);
        assert_eq!(Binding::of(&[pool("a"), pool("b")], false, Some(&rule)), Err(Disagreement));
    }
}
