//! The roles that show things: they answer requests for the metrics page or the console themselves, whatever
//! route they are on. They stand in a VM of their own, so that a page can neither take the router's memory
//! nor end it.

use std::cell::RefCell;
use std::rc::Rc;

use crate::abi::Action;
use warmpath::config::Config;

use crate::callbacks::Callbacks;
use crate::console_page::{self, ConsolePage};
use crate::host;
use crate::metrics_page::MetricsPage;

/// The type of Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is shown.
#[derive(Debug)]
pub enum MonitorRole {
    /// `/metrics`.
    Metrics(Box<RefCell<MetricsPage>>),
    /// The console.
    Console(Box<RefCell<ConsolePage>>),
}

impl MonitorRole {
    /// The role `monitor` for a pool.
    pub fn metrics(config: &Config) -> MonitorRole {
        MonitorRole::Metrics(Box::new(RefCell::new(MetricsPage::new(config))))
    }

    /// The role `console` for a pool.
    pub fn console(config: &Config) -> MonitorRole {
        MonitorRole::Console(Box::new(RefCell::new(ConsolePage::new(config))))
    }

    /// Answers a GET of `path`; `false` when it is not one of its own.
    fn answer(&self, path: &[u8]) -> bool {
        // Nothing calls back while a page is written, so that nothing is borrowed twice.
        match (self, path) {
            (MonitorRole::Metrics(page), b"/metrics") => {
                let Ok(mut page) = page.try_borrow_mut() else { return false };
                respond(200, TEXT_FORMAT, page.write().as_bytes());
            }
            (MonitorRole::Console(_), _)
                if !is_local(&host::request_header(":authority").unwrap_or_default()) =>
            {
                respond(
                    403,
                    "text/plain",
                    b"open the console as http://127.0.0.1:PORT or http://localhost:PORT\n",
                );
            }
            (MonitorRole::Console(_), b"/") => respond(200, "text/html; charset=utf-8", console_page::HTML),
            (MonitorRole::Console(page), b"/console.json") => {
                let Ok(mut page) = page.try_borrow_mut() else { return false };
                respond(200, "application/json", page.write().as_bytes());
            }
            _ => return false,
        }
        true
    }
}

/// Whether a page was asked for by an address of this machine. A web page from elsewhere whose name was made
/// to lead here cannot read the console.
fn is_local(authority: &[u8]) -> bool {
    [&b"127.0.0.1"[..], b"localhost", b"[::1]"].iter().any(|name| {
        authority.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with(b":"))
    })
}

fn respond(status: u32, kind: &str, body: &[u8]) {
    let headers = [
        ("content-type", kind),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
        ),
    ];
    host::respond(status, &headers, body);
}

/// The filter of one request.
#[derive(Debug)]
pub struct MonitorFilter(pub Rc<MonitorRole>);

impl Callbacks for MonitorFilter {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let method = host::request_header(":method").unwrap_or_default();
        let path = host::request_header(":path").unwrap_or_default();
        let asked = path.split(|&byte| byte == b'?').next().unwrap_or_default();
        if method == b"GET" && self.0.answer(asked) { Action::Pause } else { Action::Continue }
    }
}
