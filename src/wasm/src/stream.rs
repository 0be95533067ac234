//! The context of a stream as the SDK calls it, whatever the role.
//!
//! The SDK's traits have a hundred methods with a default, and the module gets all of them for each type that
//! implements the traits. So one type does, and the filters implement [`Callbacks`].

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

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
    fn filter(&mut self) -> &mut dyn Callbacks {
        match self {
            Stream::Router(filter) => filter,
            Stream::Answer(filter) => filter,
            Stream::Monitor(filter) => filter,
            Stream::None(filter) => filter,
        }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        self.filter().on_http_request_headers(count, end_of_stream)
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.filter().on_http_request_body(size, end_of_stream)
    }

    fn on_http_request_trailers(&mut self, count: usize) -> Action {
        self.filter().on_http_request_trailers(count)
    }

    fn on_http_response_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        self.filter().on_http_response_headers(count, end_of_stream)
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.filter().on_http_response_body(size, end_of_stream)
    }

    fn on_http_response_trailers(&mut self, count: usize) -> Action {
        self.filter().on_http_response_trailers(count)
    }
}
