//! What a scripted pod has been told, and what it has seen.

use std::collections::VecDeque;
use std::sync::Arc;

use hyper::header::HeaderMap;

use super::script::{Answer, Load, PageEnd, Received};

/// The state of a pod, which the test and the pod's server share.
pub struct State {
    pub load: Load,
    pub page: Option<String>,
    pub metrics_status: u16,
    pub page_end: PageEnd,
    pub scrapes: usize,
    pub scrape_headers: Option<HeaderMap>,
    pub models: Option<String>,
    pub lists: usize,
    pub begun: usize,
    pub working: u32,
    pub received: Vec<Received>,
    pub next: VecDeque<Answer>,
    pub usual: Usual,
}

/// The answer to a request that has none of its own.
pub type Usual = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

impl State {
    /// An idle pod that answers everything with [`Answer::Completion`].
    pub fn new(load: Load) -> State {
        State {
            load,
            page: None,
            metrics_status: 200,
            page_end: PageEnd::Whole,
            scrapes: 0,
            scrape_headers: None,
            models: None,
            lists: 0,
            begun: 0,
            working: 0,
            received: Vec::new(),
            next: VecDeque::new(),
            usual: Arc::new(|_| Answer::Completion),
        }
    }
}
