//! The module's metrics, one line each: its kind, its name as Prometheus shows it, and the text for `HELP`.
//!
//! Envoy has no `HELP` for metrics and no labels in the calls that define them, so docs/operations.md prints these texts, and a
//! label is a part of the name (`.by=prefix;`) that the bootstrap's `stats_tags` turn into one. Every metric has the label `pool`.

use crate::host::Metric;

macro_rules! metrics {
    ($(
        $(#[$docs:meta])*
        $table:ident {
            $($field:ident: $kind:ident $name:literal $({ $label:ident = $value:expr })?, $help:literal;)*
        }
    )*) => { $(
        $(#[$docs])*
        #[derive(Clone, Copy, Debug)]
        pub struct $table {
            $(#[doc = $help] pub $field: Metric,)*
        }

        impl $table {
            /// The metrics of a pool.
            pub fn of(pool: &str) -> $table {
                $table { $(
                    $field: Metric::$kind(&format!(
                        concat!("warmpath_", $name, $(".", stringify!($label), "={};",)? ".pool={};"),
                        $($value,)? pool
                    )),
                )* }
            }
        }
    )* };
}

metrics! {
    /// What a router counts: each way that a request can go has its counter.
    RouterMetrics {
        by_prefix: counter "requests_total" { by = "prefix" }, "Requests routed by load and by what each pod holds of the prompt.";
        by_load: counter "requests_total" { by = "load" }, "Requests routed by load alone.";
        prefix_hits: counter "prefix_hits_total", "Requests whose pod was believed to hold more than half of the prompt.";
        bad_body: counter "rejected_total" { reason = "bad_body" }, "Requests answered 400, because no pod could have read the body.";
        no_table: counter "unrouted_total" { reason = "no_table" }, "Requests that met no pod, because none is known: left to the fallback, or answered 503.";
        unknown_cluster: counter "unrouted_total" { reason = "unknown_cluster" }, "Requests to a cluster whose pods are not discovered yet: left to Envoy's own balancing.";
        all_cooling_down: counter "unrouted_total" { reason = "all_cooling_down" }, "Requests that met no pod, because all have failed a moment ago: left to the fallback, or answered 503.";
        contended: counter "unrouted_total" { reason = "contended" }, "Requests that met no pod, because other workers always wrote the ledger first: left to the fallback, or answered 503.";
        busy: counter "unrouted_total" { reason = "busy" }, "Requests left to the fallback, because Envoy called the module within one of the module's own calls. Always 0, unless there is a defect.";
        failovers: counter "failovers_total", "Requests that a runner-up answered, after the pod that was chosen had failed.";
        upstream_failures: counter "upstream_failures_total", "Requests that no pod answered, or the last one only with 503.";
        upstream_errors: counter "upstream_errors_total", "Requests that a pod answered with an error of its own: status 500, 502 or 504, or a stream without a token.";
        broken_by_client: counter "broken_total" { by = "client" }, "Requests that ended before their answer began, and no pod is to blame: the client went away.";
        broken_by_pod: counter "broken_total" { by = "pod" }, "Requests that a pod broke off, before their answer began or after it.";
        contended_decide: counter "contended_total" { during = "decide" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        contended_start: counter "contended_total" { during = "start" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        contended_failover: counter "contended_total" { during = "failover" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        contended_failure: counter "contended_total" { during = "failure" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        contended_close: counter "contended_total" { during = "close" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        pod_table_generation: gauge "pod_table_generation", "Number of the current pod table; routers fetch the table when it moves.";
        bad_pod_table: counter "bad_pod_table_total", "Pod tables that could not be read.";
    }

    /// What a collector counts.
    CollectorMetrics {
        pods: gauge "pods", "Pods of the pool.";
        ready_pods: gauge "ready_pods", "Pods whose last scrape brought their load.";
        in_flight: gauge "in_flight", "Requests that were sent to pods and have not ended.";
        waiting: gauge "waiting", "Requests in flight that wait for their first token.";
        outstanding_tokens: gauge "outstanding_tokens", "Prompt tokens that waiting requests have still to compute, as estimated.";
        scraped: counter "scrapes_total" { result = "ok" }, "Scrapes that brought a pod's load.";
        unreachable: counter "scrapes_total" { result = "unreachable" }, "Scrapes without a whole response: refused, cut off, or too slow.";
        unreadable: counter "scrapes_total" { result = "unreadable" }, "Scrapes whose response was not vLLM's metrics.";
        unsent: counter "scrapes_total" { result = "unsent" }, "Scrapes that Envoy did not send: it has no cluster of the name in `scrape.cluster`.";
        misrouted: counter "scrapes_total" { result = "misrouted" }, "Scrapes that another pod answered, because the pod has just left its cluster; they do not count.";
        takeovers: counter "collector_takeovers_total", "Times that a router took over from a collector that gave no sign of life.";
        contended_reconcile: counter "contended_total" { during = "reconcile" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        leaked_requests: counter "leaked_requests_total", "Requests that the ledger counted and no pod had; they were taken out of it.";
        pod_table_generation: gauge "pod_table_generation", "Number of the current pod table; routers fetch the table when it moves.";
    }

    /// What the filter counts that holds the headers of streams.
    AnswerMetrics {
        full: counter "early_errors_total" { reason = "full" }, "Attempts that a pod refused because it takes no more at the moment, with status 503 or in a stream; a stream is answered with the status of the refusal.";
        fault: counter "early_errors_total" { reason = "fault" }, "Streams that failed in the pod before their first token; answered with the status of the error.";
        bad_request: counter "early_errors_total" { reason = "request" }, "Streams that a pod refused for what they ask; answered with the status of the refusal.";
        empty: counter "early_errors_total" { reason = "empty" }, "Streams that ended in good order without a token; answered 502.";
        contended: counter "contended_total" { during = "refusal" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        broken: counter "early_errors_total" { reason = "broken" }, "Streams that broke off between their headers and their first token, by the pod or the client.";
    }

    /// What the watchdog counts for a filter that is configured without `allow_on_headers_stop_iteration`.
    StopIterationMetrics {
        unpatched: gauge "unpatched", "1 when the filter was found to lack allow_on_headers_stop_iteration: requests with a body are not routed.";
        unrouted: counter "unrouted_total" { reason = "unpatched" }, "Requests that were not routed, because the filter lacks allow_on_headers_stop_iteration.";
    }

    /// What every role says of itself.
    BuildMetrics {
        build_info: gauge "build_info" { version = env!("CARGO_PKG_VERSION") }, "1 for each version of the module that runs.";
    }
}
