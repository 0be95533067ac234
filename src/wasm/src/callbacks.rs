//! What Envoy calls on a stream.

use crate::abi::Action;

/// The calls in which any role is interested; `callbacks.txt` lists them by role.
pub trait Callbacks {
    /// The request's headers are here.
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    /// A part of the request's body is here.
    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    /// The request's trailers are here.
    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        Action::Continue
    }

    /// The answer's headers are here.
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    /// A part of the answer's body is here.
    fn on_http_response_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    /// The answer's trailers are here.
    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        Action::Continue
    }
}
