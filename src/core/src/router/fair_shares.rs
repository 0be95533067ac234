//! The shares of tenants in the outstanding work, at the steps of a request. Without a tenant, no step does
//! anything.

use crate::account::ticket::Ticket;
use crate::shared::store::{Keys, SharedData};
use crate::shared::tenants::{TenantId, TenantShare, Tenants};
use crate::{Micros, Tokens};

/// The tenants of a pool. What cannot be written, because other workers write first at every try, is left
/// out: then a tenant has for a while more than its share, or less.
#[derive(Debug)]
pub(super) struct FairShares {
    key: String,
}

impl FairShares {
    /// The tenants under these keys.
    pub fn new(keys: &Keys) -> FairShares {
        FairShares { key: keys.tenants.clone() }
    }

    /// The outstanding work of the tenant, if it is more than its share.
    pub fn over_share(
        &self,
        tenant: Option<TenantId>,
        shared: &impl SharedData,
        now: Micros,
    ) -> Option<Tokens> {
        let tenant = tenant?;
        Tenants::read(&self.key, shared).over_share(tenant, now)
    }

    /// A request of the tenant is not sent.
    pub fn see(&self, tenant: Option<TenantId>, shared: &mut impl SharedData, now: Micros) {
        if let Some(tenant) = tenant {
            let _ = Tenants::change(&self.key, shared, |tenants| tenants.see(tenant, now));
        }
    }

    /// A request of the tenant is sent, with so many tokens to be computed.
    pub fn open(
        &self,
        tenant: Option<TenantId>,
        tokens: Tokens,
        shared: &mut impl SharedData,
        now: Micros,
    ) -> Option<TenantShare> {
        let tenant = tenant?;
        Tenants::change(&self.key, shared, |tenants| tenants.open(tenant, tokens, now)).ok()
    }

    /// A request is no longer outstanding.
    pub fn release(&self, ticket: &mut Ticket, shared: &mut impl SharedData) {
        if let Some(share) = ticket.take_share() {
            let _ = Tenants::change(&self.key, shared, |tenants| tenants.release(share));
        }
    }
}
