//! The module's own metrics, by name. `pool` is a label: the bootstrap's `stats_tags` turn `.pool=NAME;` into one.

use crate::host::Metric;

/// What a router counts: every way a request can go has its counter.
#[derive(Clone, Copy, Debug)]
pub struct RouterMetrics {
    /// Moves when there is a new table.
    pub table_generation: Metric,
    /// Requests that were routed by prefix and load.
    pub by_prefix: Metric,
    /// Requests that were routed by load alone.
    pub by_load: Metric,
    /// Requests whose best pod held more than half of the prompt.
    pub matched: Metric,
    /// 400: not JSON, or no model.
    pub bad_body: Metric,
    /// No table yet, or no pod in it: fallback or 503.
    pub no_table: Metric,
    /// Every pod in its pause: fallback or 503.
    pub all_cooling: Metric,
    /// Other workers always wrote first: fallback or 503.
    pub contended: Metric,
    /// Changes of the ledger that were lost during this: decide.
    pub contended_decide: Metric,
    /// Changes of the ledger that were lost during this: start.
    pub contended_start: Metric,
    /// Changes of the ledger that were lost during this: failover.
    pub contended_failover: Metric,
    /// Changes of the ledger that were lost during this: failure.
    pub contended_failure: Metric,
    /// Changes of the ledger that were lost during this: close.
    pub contended_close: Metric,
    /// Requests that a runner-up answered.
    pub moved: Metric,
    /// Requests that no pod answered.
    pub failed: Metric,
    /// Requests that a pod answered with an error of its own: 500, 502 or 504.
    pub erred: Metric,
    /// Streams that ended without an answer.
    pub aborted: Metric,
    /// Tables that could not be read.
    pub bad_table: Metric,
}

impl RouterMetrics {
    /// Defines them for a pool.
    pub fn of(pool: &str) -> RouterMetrics {
        let counter = |name: &str| Metric::counter(&format!("warmpath_{name}.pool={pool};"));
        RouterMetrics {
            table_generation: table_generation(pool),
            by_prefix: counter("requests_total.by=prefix;"),
            by_load: counter("requests_total.by=load;"),
            matched: counter("matched_total"),
            bad_body: counter("rejected_total.reason=bad_body;"),
            no_table: counter("unrouted_total.reason=no_table;"),
            all_cooling: counter("unrouted_total.reason=all_cooling;"),
            contended: counter("unrouted_total.reason=contended;"),
            contended_decide: counter("contended_total.during=decide;"),
            contended_start: counter("contended_total.during=start;"),
            contended_failover: counter("contended_total.during=failover;"),
            contended_failure: counter("contended_total.during=failure;"),
            contended_close: counter("contended_total.during=close;"),
            moved: counter("moved_total"),
            failed: counter("failed_total"),
            erred: counter("erred_total"),
            aborted: counter("aborted_total"),
            bad_table: counter("bad_table_total"),
        }
    }
}

/// What a collector counts.
#[derive(Clone, Copy, Debug)]
pub struct CollectorMetrics {
    /// Moves when there is a new table.
    pub table_generation: Metric,
    /// Pods in the table.
    pub pods: Metric,
    /// Pods whose last scrape brought a load.
    pub ready_pods: Metric,
    /// Requests that were sent to pods and have not ended.
    pub in_flight: Metric,
    /// Those of them that wait for their first byte of body.
    pub waiting: Metric,
    /// Prompt tokens those have still to compute, as estimated.
    pub outstanding_tokens: Metric,
    /// Scrapes that brought a load.
    pub scraped: Metric,
    /// Scrapes without an answer.
    pub unreachable: Metric,
    /// Answers that were no metrics of vLLM.
    pub unreadable: Metric,
    /// Scrapes that Envoy would not send.
    pub unsent: Metric,
    /// Times a router took over from a dead collector.
    pub takeovers: Metric,
    /// Leaks that could not be taken out of the ledger, because routers always wrote first.
    pub contended_reconcile: Metric,
    /// Requests that the ledger counted and no pod had: they were taken out of it.
    pub leaked: Metric,
}

impl CollectorMetrics {
    /// Defines them for a pool.
    pub fn of(pool: &str) -> CollectorMetrics {
        let counter = |name: &str| Metric::counter(&format!("warmpath_{name}.pool={pool};"));
        let gauge = |name: &str| Metric::gauge(&format!("warmpath_{name}.pool={pool};"));
        CollectorMetrics {
            table_generation: table_generation(pool),
            pods: gauge("pods"),
            ready_pods: gauge("ready_pods"),
            in_flight: gauge("in_flight"),
            waiting: gauge("waiting"),
            outstanding_tokens: gauge("outstanding_tokens"),
            scraped: counter("scrapes_total.result=ok;"),
            unreachable: counter("scrapes_total.result=unreachable;"),
            unreadable: counter("scrapes_total.result=unreadable;"),
            unsent: counter("scrapes_total.result=unsent;"),
            takeovers: counter("takeovers_total"),
            contended_reconcile: counter("contended_total.during=reconcile;"),
            leaked: counter("leaked_total"),
        }
    }
}

fn table_generation(pool: &str) -> Metric {
    Metric::gauge(&format!("warmpath_table_generation.pool={pool};"))
}
