//! The outstanding work of each tenant, as the workers share it. The value exists once the settings name a
//! header for tenants.
//!
//! It is counted beside the ledger, by the same steps of a request: booked when it is sent, released at its
//! first token or its end. A worker that traps leaves its requests in it, so a tenant that has not been seen
//! for a while is forgotten with its work.

use crate::request::blocks::hash_of;
use crate::shared::codec::{CodecError, records};
use crate::shared::store::{Contended, SharedData, update};
use crate::{Micros, SECOND, Tokens};

/// Marks the tenants, and the version of their format.
const TENANTS_MARK: u32 = u32::from_le_bytes(*b"WPF1");
/// Most tenants that are told apart; those beyond share one place.
pub const MOST: usize = 64;
/// How long a tenant without outstanding work still has a share: about as long as somebody thinks between two
/// questions.
const PRESENT_FOR: Micros = Micros(10 * SECOND.0);
/// How long a tenant is kept that has outstanding work and is not seen.
const KEPT_FOR: Micros = Micros(120 * SECOND.0);

/// A tenant, by a hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantId(pub u32);

impl TenantId {
    /// All tenants for which there is no place.
    const OTHERS: TenantId = TenantId(0);

    /// The tenant of this name. Requests that name none are of one tenant too.
    pub fn of(name: &[u8]) -> TenantId {
        TenantId((hash_of(name) as u32).max(1))
    }
}

/// A request's part in the work of its tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantShare {
    /// Where it is counted: the tenant, or the place that others share.
    pub tenant: TenantId,
    /// Prompt tokens that it has to have computed.
    pub tokens: Tokens,
}

/// The tenants of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants(Vec<Tenant>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tenant {
    id: TenantId,
    /// Requests that wait for a first token.
    waiting: u32,
    /// Prompt tokens that they have still to have computed.
    tokens: u64,
    seen_at: Micros,
}

impl Tenants {
    /// The tenants as they are now; none where nothing can be read.
    #[inline(never)]
    pub fn read(key: &str, shared: &impl SharedData) -> Tenants {
        shared.get(key).and_then(|(bytes, _)| Tenants::decode(&bytes).ok()).unwrap_or_default()
    }

    /// Changes the tenants as one transaction.
    ///
    /// # Errors
    /// [`Contended`]: nothing has changed.
    #[inline(never)]
    pub fn change<T>(
        key: &str,
        shared: &mut impl SharedData,
        with: impl Fn(&mut Tenants) -> T,
    ) -> Result<T, Contended> {
        update(shared, key, |bytes| {
            let mut tenants = bytes.and_then(|bytes| Tenants::decode(&bytes).ok()).unwrap_or_default();
            let result = with(&mut tenants);
            (tenants.encode(), result)
        })
    }

    /// The outstanding work of a tenant, if it is more than its equal share of all; that of one that has none
    /// never is.
    pub fn over_share(&self, id: TenantId, now: Micros) -> Option<Tokens> {
        let of = self.place_of(id);
        let own = self.0.iter().find(|tenant| tenant.id == of).map_or(0, |tenant| tenant.tokens);
        let is_present = |tenant: &&Tenant| {
            tenant.id == of || tenant.tokens > 0 || now.since(tenant.seen_at) < PRESENT_FOR
        };
        let present = self.0.iter().filter(is_present).count().max(1) as u64;
        let all: u64 = self.0.iter().map(|tenant| tenant.tokens).sum();
        let is_over = own.saturating_mul(present) > all;
        is_over.then(|| Tokens(u32::try_from(own).unwrap_or(u32::MAX)))
    }

    /// A tenant is there, whether its request is taken or not. Those that are gone are forgotten.
    pub fn see(&mut self, id: TenantId, now: Micros) {
        self.0.retain(|tenant| {
            let age = now.since(tenant.seen_at);
            tenant.id == id || age < if tenant.waiting > 0 { KEPT_FOR } else { PRESENT_FOR }
        });
        let id = self.place_of(id);
        match self.0.iter_mut().find(|tenant| tenant.id == id) {
            Some(tenant) => tenant.seen_at = now,
            None => self.0.push(Tenant { id, waiting: 0, tokens: 0, seen_at: now }),
        }
    }

    /// A request of the tenant is sent; returns what is to be released.
    pub fn open(&mut self, id: TenantId, tokens: Tokens, now: Micros) -> TenantShare {
        self.see(id, now);
        let tenant = self.place_of(id);
        if let Some(tenant) = self.0.iter_mut().find(|other| other.id == tenant) {
            tenant.waiting = tenant.waiting.saturating_add(1);
            tenant.tokens = tenant.tokens.saturating_add(tokens.0.into());
        }
        TenantShare { tenant, tokens }
    }

    /// A request has its first token, or has ended without one. Of a tenant that was forgotten nothing is
    /// left to release.
    pub fn release(&mut self, share: TenantShare) {
        if let Some(tenant) = self.0.iter_mut().find(|tenant| tenant.id == share.tenant) {
            tenant.waiting = tenant.waiting.saturating_sub(1);
            let left = tenant.tokens.saturating_sub(share.tokens.0.into());
            tenant.tokens = if tenant.waiting == 0 { 0 } else { left };
        }
    }

    /// Where the work of a tenant is counted.
    fn place_of(&self, id: TenantId) -> TenantId {
        let known = self.0.iter().any(|tenant| tenant.id == id);
        if known || self.0.len() < MOST { id } else { TenantId::OTHERS }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = TENANTS_MARK.to_le_bytes().to_vec();
        for Tenant { id, waiting, tokens, seen_at } in &self.0 {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&waiting.to_le_bytes());
            out.extend_from_slice(&tokens.to_le_bytes());
            out.extend_from_slice(&seen_at.0.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Tenants, CodecError> {
        // And the place that others share.
        let tenants = records(bytes, TENANTS_MARK, MOST + 1, |from| {
            let (id, waiting) = (TenantId(from.u32()?), from.u32()?);
            Ok(Tenant { id, waiting, tokens: from.u64()?, seen_at: Micros(from.u64()?) })
        })?;
        Ok(Tenants(tenants))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::store::Map;
    use proptest::prelude::*;

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);

    fn share(tenant: TenantId, tokens: u32) -> TenantShare {
        TenantShare { tenant, tokens: Tokens(tokens) }
    }

    #[test]
    fn a_tenant_alone_has_all_of_it_and_two_have_half_each() {
        let mut tenants = Tenants::default();
        tenants.open(A, Tokens(1000), SECOND);
        assert_eq!(tenants.over_share(A, SECOND), None);
        tenants.see(B, SECOND);
        assert_eq!(tenants.over_share(A, SECOND), Some(Tokens(1000)), "the other one may come with work");
        assert_eq!(tenants.over_share(B, SECOND), None);
        tenants.open(B, Tokens(1000), 2 * SECOND);
        assert_eq!([A, B].map(|tenant| tenants.over_share(tenant, 2 * SECOND)), [None; 2], "half each");
        tenants.release(share(B, 1000));
        assert_eq!(tenants.over_share(A, 11 * SECOND), Some(Tokens(1000)));
        assert_eq!(tenants.over_share(A, 12 * SECOND), None, "the other one has gone");
    }

    #[test]
    fn what_is_released_is_gone_and_never_negative() {
        let mut tenants = Tenants::default();
        tenants.open(A, Tokens(70), SECOND);
        tenants.open(A, Tokens(30), SECOND);
        tenants.release(share(A, 70));
        assert_eq!((tenants.0[0].waiting, tenants.0[0].tokens), (1, 30));
        tenants.release(share(A, 10));
        tenants.release(share(A, 99));
        tenants.release(share(B, 99));
        assert_eq!((tenants.0.len(), tenants.0[0].waiting, tenants.0[0].tokens), (1, 0, 0));
    }

    #[test]
    fn they_are_bounded_and_forgotten() {
        let mut tenants = Tenants::default();
        for n in 1..1000 {
            tenants.open(TenantId(n), Tokens(1), SECOND);
        }
        assert_eq!(tenants.0.len(), MOST + 1);
        let others = tenants.0.iter().find(|tenant| tenant.id == TenantId::OTHERS).unwrap();
        assert_eq!(others.tokens, 999 - MOST as u64);
        assert_eq!(tenants.over_share(TenantId(900), SECOND), Some(Tokens(999 - MOST as u32)));
        assert_eq!(tenants.over_share(TenantId(3), SECOND), None);
        tenants.release(share(TenantId(3), 1));
        tenants.see(A, 12 * SECOND);
        assert_eq!(tenants.0.len(), MOST, "one has left");
        // What a trapped worker left behind.
        tenants.see(A, 122 * SECOND);
        assert_eq!(tenants.0.len(), 1);
    }

    #[test]
    fn workers_share_them() {
        let mut shared = Map::default();
        for _ in 0..2 {
            Tenants::change("k", &mut shared, |tenants| tenants.open(A, Tokens(5), SECOND)).unwrap();
        }
        assert_eq!(Tenants::read("k", &shared).0[0].tokens, 10);
        shared.set("k", b"WPF0 and more", None).unwrap();
        assert_eq!(Tenants::read("k", &shared), Tenants::default());
    }

    proptest! {
        #[test]
        fn they_round_trip_and_no_bytes_make_it_panic(tenants in prop::collection::vec(any::<(u32, u32, u64, u64)>(), 0..5), bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let tenant = |(id, waiting, tokens, at)| Tenant { id: TenantId(id), waiting, tokens, seen_at: Micros(at) };
            let tenants = Tenants(tenants.into_iter().map(tenant).collect());
            prop_assert_eq!(Tenants::decode(&tenants.encode()), Ok(tenants));
            let _ = Tenants::decode(&[&b"WPF1"[..], &bytes].concat());
        }
    }
}
