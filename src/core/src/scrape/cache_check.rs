//! Whether a pod's cache has been emptied while its process lives on: by a reset, new weights, or anything
//! that no page tells.
//!
//! vLLM counts the tokens that it looked up in its prefix cache and those that it found. The routers count,
//! for the same requests, the tokens that the pod was believed to hold. Other clients of the pod can only add
//! to what was found, so a pod that found far less than was believed of ours alone does not hold what is
//! believed. This needs no `cached_tokens` in the answers.

use crate::account::cache_tally::CacheTally;
use crate::scrape::vllm::PodLoad;
use crate::{Micros, SECOND};

/// Answers that must have been believed to be cached in part: one may have been evicted alone.
const MIN_ANSWERS: u16 = 3;
/// The cache is believed to be another one if it found less than this part of what was believed. Beliefs that
/// are wrong for single conversations are corrected one by one.
const PART: f64 = 1.0 / 3.0;
/// How long a comparison goes on at least, if nothing is wrong: so often it is begun anew, that what was
/// right an hour ago does not hide what is wrong now.
const LENGTH: Micros = SECOND;

/// Compares, page by page.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheCheck {
    begun: Option<Begun>,
}

/// A comparison under way.
#[derive(Clone, Copy, Debug)]
struct Begun {
    since: Micros,
    queries: f64,
    hits: f64,
    /// What was believed at the last page: its answers are on this page for sure, while the newest may not
    /// be.
    believed: CacheTally,
}

/// What a page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing yet.
    Undecided,
    /// A comparison is to begin, or the one before showed nothing wrong: the tally begins anew.
    Begin,
    /// The pod does not hold what it is believed to hold; the tally begins anew.
    Emptied,
}

impl CacheCheck {
    /// A page has come at `now`, while the ledger has `tally` for the pod. Unless the result is
    /// [`Finding::Undecided`], the caller begins a tally from `now` on.
    pub fn see(&mut self, load: &PodLoad, tally: CacheTally, now: Micros) -> Finding {
        let finding = match &mut self.begun {
            Some(begun) if begun.since == tally.since && load.cache_queries >= begun.queries => {
                begun.see(load, tally, now)
            }
            // The first page, another collector's tally, or counters that began anew.
            _ => Finding::Begin,
        };
        if finding != Finding::Undecided {
            let (queries, hits) = (load.cache_queries, load.cache_hits);
            self.begun = Some(Begun { since: now, queries, hits, believed: CacheTally::from(now) });
        }
        finding
    }
}

impl Begun {
    fn see(&mut self, load: &PodLoad, tally: CacheTally, now: Micros) -> Finding {
        let believed = std::mem::replace(&mut self.believed, tally);
        let tokens = f64::from(believed.tokens.0);
        // A page without the counters, or that does not have the requests yet.
        let has_them = load.cache_queries - self.queries >= tokens / 2.0;
        if believed.answers < MIN_ANSWERS || !has_them {
            Finding::Undecided
        } else if load.cache_hits - self.hits < PART * tokens {
            Finding::Emptied
        } else if now.since(self.since) >= LENGTH {
            Finding::Begin
        } else {
            Finding::Undecided
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokens;

    /// A pod that answers prompts of 5,000 tokens, of which 4,000 are believed to be cached.
    struct Pod {
        check: CacheCheck,
        load: PodLoad,
        tally: CacheTally,
        now: Micros,
    }

    impl Pod {
        fn new() -> Pod {
            let mut pod = Pod {
                check: CacheCheck::default(),
                load: PodLoad { cache_queries: 9e5, cache_hits: 5e5, ..PodLoad::default() },
                tally: CacheTally::default(),
                now: SECOND,
            };
            assert_eq!(pod.page(), Finding::Begin);
            pod
        }

        fn answer(&mut self, hits: f64) {
            self.load.cache_queries += 5000.0;
            self.load.cache_hits += hits;
            self.tally.add(Tokens(4000), self.now);
        }

        fn page(&mut self) -> Finding {
            self.now = self.now + SECOND / 10;
            let finding = self.check.see(&self.load, self.tally, self.now);
            if finding != Finding::Undecided {
                self.tally = CacheTally::from(self.now);
            }
            finding
        }

        fn pages(&mut self, count: usize) -> Vec<Finding> {
            let all = (0..count).map(|_| self.page());
            all.filter(|&finding| finding != Finding::Undecided).collect()
        }
    }

    #[test]
    fn three_answers_without_hits_show_that_the_cache_is_empty() {
        let mut pod = Pod::new();
        (0..2).for_each(|_| pod.answer(0.0));
        assert_eq!(pod.pages(20), []);
        pod.answer(0.0);
        assert_eq!(pod.page(), Finding::Undecided, "the page may lack the newest");
        assert_eq!(pod.page(), Finding::Emptied);
        assert_eq!(pod.pages(20), [], "said once");
    }

    #[test]
    fn hits_as_believed_show_nothing_and_do_not_hide_a_later_reset() {
        let mut pod = Pod::new();
        for _ in 0..100 {
            pod.answer(4000.0);
            assert!(!pod.pages(1).contains(&Finding::Emptied));
        }
        let mut answers = 0;
        while !pod.pages(1).contains(&Finding::Emptied) {
            pod.answer(0.0);
            answers += 1;
        }
        assert!(answers <= 35, "{answers}");
    }

    #[test]
    fn a_half_that_is_there_is_no_empty_cache() {
        let mut pod = Pod::new();
        for _ in 0..100 {
            pod.answer(2000.0);
            assert!(!pod.pages(1).contains(&Finding::Emptied));
        }
    }

    #[test]
    fn a_page_without_the_counters_shows_nothing() {
        let mut pod = Pod::new();
        for _ in 0..10 {
            pod.tally.add(Tokens(4000), pod.now);
            assert_eq!(pod.pages(1), []);
        }
    }

    #[test]
    fn counters_that_begin_anew_begin_a_new_comparison() {
        let mut pod = Pod::new();
        (0..2).for_each(|_| pod.answer(4000.0));
        assert_eq!(pod.page(), Finding::Undecided);
        pod.load = PodLoad::default();
        assert_eq!(pod.page(), Finding::Begin);
    }
}
