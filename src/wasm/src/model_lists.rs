//! Fetches the lists of models of the pods.

use std::time::Duration;

use warmpath::Micros;
use warmpath::collector::{Collector, DueScrape};
use warmpath::config::Scrape;

use crate::calls::Calls;
use crate::host::{self, Host};

/// The path of the list.
const PATH: &str = "/v1/models";
/// Longest list that is taken in: a card has some 500 bytes.
const LONGEST_LIST: usize = 1 << 20;

/// The lists under way.
#[derive(Debug, Default)]
pub struct ModelLists {
    under_way: Calls<DueScrape>,
}

impl ModelLists {
    /// Asks the pods that are due, each through the cluster that `through` names for its address.
    pub fn tick<'a>(
        &mut self,
        collector: &mut Collector,
        scrape: &Scrape,
        through: impl Fn(&str) -> Option<&'a str>,
        now: Micros,
    ) {
        let timeout = Duration::from_micros(scrape.timeout.0);
        for due in collector.due_lists(now) {
            let Some(through) = through(&due.address) else { continue };
            let authorization = scrape.authorization.as_ref().map(|value| ("authorization", &*value.0));
            if let Some(call) = host::fetch(through, &due.address, PATH, &[authorization], timeout) {
                self.under_way.made(call, due);
            }
        }
    }

    /// Takes in what was fetched; returns whether the call was one of its own.
    pub fn answered(
        &mut self,
        call: u32,
        headers: usize,
        body_size: usize,
        collector: &mut Collector,
    ) -> bool {
        let Some(due) = self.under_way.answered(call) else { return false };
        // Without an answer, what is known stays. A pod that keeps its list to itself, or has none, may have
        // any adapter.
        if let Some((status, body)) = host::fetched(headers, body_size.min(LONGEST_LIST))
            && !status.starts_with(b"5")
        {
            let body = if status == b"200" && body_size <= LONGEST_LIST { body } else { Vec::new() };
            let news = collector.take_list(&due, &body, &mut Host);
            if let Some(adapters) = news.adapters {
                log::info!("warmpath: pod {} lists {adapters} LoRA adapters", due.address);
            }
            if let Some(names) = news.names {
                log::info!(
                    "warmpath: pod {} has {names} names for its model, which share prefixes",
                    due.address
                );
            }
        }
        true
    }
}
