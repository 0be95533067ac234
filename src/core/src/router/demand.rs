//! What a request asks of the router, and why it may get nothing.

use crate::request::parse_cache::ParsedRequest;
use crate::settings::criticality::Criticality;
use crate::shared::clusters::ClusterSet;
use crate::shared::pod_table::PodKey;
use crate::shared::store::Contended;
use crate::shared::tenants::TenantId;

/// What a request is routed by.
#[derive(Clone, Copy, Debug)]
pub enum RouteBy<'a> {
    /// The prompt of an inference request, and load.
    Prompt(&'a ParsedRequest<'a>),
    /// Load alone, though it has a prompt: a sample of plain routing. The prompt is known to lie where it
    /// went all the same.
    Plain(&'a ParsedRequest<'a>),
    /// Load alone, for any other request.
    Load,
}

impl<'a> RouteBy<'a> {
    /// The request, if it has a prompt.
    pub fn prompt(self) -> Option<&'a ParsedRequest<'a>> {
        match self {
            RouteBy::Prompt(request) | RouteBy::Plain(request) => Some(request),
            RouteBy::Load => None,
        }
    }
}

/// What a request asks for besides a pod.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// The clusters whose pods may serve it.
    pub among: ClusterSet,
    /// How much it matters.
    pub criticality: Criticality,
    /// Whose it is, where tenants have fair shares.
    pub tenant: Option<TenantId>,
    /// The pod, if there is one, which has what the request goes on from: it goes there, and the others
    /// follow for the case that the pod is gone.
    pub holder: Option<PodKey>,
}

/// Why no pod could be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPod {
    /// There is no table yet, or it has no candidate.
    NoTable,
    /// Discovery does not know the request's cluster yet.
    UnknownCluster,
    /// The request may be shed, and the pool is saturated ([`crate::decide::shedding`]).
    Saturated {
        /// Seconds after which the client may come again.
        seconds: u32,
    },
    /// The pool is saturated, and the request's tenant has more than its share of the work.
    OverShare {
        /// Seconds after which the client may come again.
        seconds: u32,
    },
    /// Every pod has failed and is cooling down, or is asleep. A pod that answers at all, even with errors,
    /// is not among them.
    AllCoolingDown,
    /// Every pod that has the request's LoRA adapter is asleep. The other pods do not have it.
    AdapterAsleep,
    /// Other workers wrote first at every try.
    Contended,
}

impl From<Contended> for NoPod {
    fn from(_: Contended) -> Self {
        NoPod::Contended
    }
}
