//! The context of a stream, whatever the role.

use crate::answer_filter::AnswerFilter;
use crate::callbacks::Callbacks;
use crate::filter::Filter;
use crate::monitor_role::MonitorFilter;

/// A stream, by role.
#[derive(Debug)]
pub enum Stream {
    /// A request on its way to a pod.
    Router(Filter),
    /// An attempt of a request.
    Answer(AnswerFilter),
    /// A request for what the module shows.
    Monitor(MonitorFilter),
    /// A stream of a role that has no filter.
    None(PassThrough),
}

/// Lets everything pass.
#[derive(Debug)]
pub struct PassThrough;

impl Callbacks for PassThrough {}

impl Stream {
    /// What Envoy's callbacks go to.
    pub fn filter(&mut self) -> &mut dyn Callbacks {
        match self {
            Stream::Router(filter) => filter,
            Stream::Answer(filter) => filter,
            Stream::Monitor(filter) => filter,
            Stream::None(filter) => filter,
        }
    }
}
