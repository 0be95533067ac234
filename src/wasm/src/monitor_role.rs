//! The role that shows things: answers requests for the metrics page itself, whatever route they are on. It stands in a VM of its
//! own, so that a page can neither slow the router's memory nor end it.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::types::Action;
use warmpath::config::Config;

use crate::callbacks::Callbacks;
use crate::host;
use crate::metrics_page::MetricsPage;

/// Where the metrics page is.
const METRICS: &[u8] = b"/metrics";
/// The type of Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the filters of a VM share.
#[derive(Debug)]
pub struct MonitorRole {
    metrics: RefCell<MetricsPage>,
}

impl MonitorRole {
    /// The role for a pool.
    pub fn new(config: &Config) -> MonitorRole {
        MonitorRole { metrics: RefCell::new(MetricsPage::new(config)) }
    }
}

/// The filter of one request.
#[derive(Debug)]
pub struct MonitorFilter(pub Rc<MonitorRole>);

impl Callbacks for MonitorFilter {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let method = host::request_header(":method").unwrap_or_default();
        let path = host::request_header(":path").unwrap_or_default();
        let asked = path.split(|&byte| byte == b'?').next().unwrap_or_default();
        if method != b"GET" || asked != METRICS {
            return Action::Continue;
        }
        // Nothing calls back while the page is written.
        let Ok(mut metrics) = self.0.metrics.try_borrow_mut() else { return Action::Continue };
        let text = metrics.write();
        host::respond(200, &[("content-type", TEXT_FORMAT)], text.as_bytes());
        Action::Pause
    }
}
