//! Traps on purpose: what a defect in the module would do. Only in the builds of tests (feature `trap`).

use crate::host;

/// Ends the VM when the request has this header.
pub fn on_request() {
    if host::request_header("x-trap").is_some() {
        std::process::abort();
    }
}

/// Ends the collector's VM when a pod answers its scrape with "I'm a teapot".
pub fn on_page(headers: usize) {
    if host::fetched(headers, 0).is_some_and(|(status, _)| status == b"418") {
        std::process::abort();
    }
}
