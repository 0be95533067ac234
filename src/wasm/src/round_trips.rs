//! Asks pods for something that costs them nothing, so that it is known how far away they are.

use std::time::Duration;

use warmpath::Micros;
use warmpath::collector::{Collector, DueScrape};

use crate::calls::Calls;
use crate::host;

/// What every server answers at once, whatever it answers.
const PATH: &str = "/health";

/// The questions under way, and when each was sent.
#[derive(Debug, Default)]
pub struct RoundTrips {
    under_way: Calls<(DueScrape, Micros)>,
}

impl RoundTrips {
    /// Asks the pod of `due` through the cluster `through`, at the address that its page comes from.
    pub fn ask(&mut self, due: &DueScrape, through: &str, address: &str, timeout: Duration) {
        let now = host::now();
        if let Some(call) = host::fetch(through, address, PATH, &[], timeout) {
            self.under_way.made(call, (due.clone(), now));
        }
    }

    /// Takes in an answer; returns whether the call was one of its own.
    pub fn answered(&mut self, call: u32, headers: usize, collector: &mut Collector) -> bool {
        let Some((due, sent_at)) = self.under_way.answered(call) else { return false };
        let now = host::now();
        // 503 and 504 are Envoy's own words for a pod that does not answer.
        if host::fetched(headers, 0).is_some_and(|(status, _)| !status.starts_with(b"5")) {
            collector.note_trip(&due, host::fetched_after(sent_at, now), now);
        }
        true
    }
}
