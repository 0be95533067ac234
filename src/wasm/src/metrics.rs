//! The module's metrics, one line each: its kind, its name as Prometheus shows it, and the text for `HELP`.
//!
//! They are metrics of Envoy, so that all workers count the same ones and a reload loses none. Envoy has no
//! `HELP` for them and no labels in the calls that define them: a label is a part of the name (`.by=prefix;`)
//! that the bootstrap's `stats_tags` turn into one. The module's own page ([`crate::metrics_page`]) has both.
//! Every metric has the label `pool`.

use warmpath::monitor::histogram::{self, Buckets};

use crate::host::Metric;

/// What is said of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// The name, `warmpath_` included.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// Its labels besides `pool`.
    pub labels: &'static [(&'static str, &'static str)],
    /// The text for `HELP`.
    pub help: &'static str,
}

/// A metric with all that a page says of it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is said of it.
    pub of: &'static Definition,
    /// The metric.
    pub metric: Metric,
}

/// Defines the next metric of a table for a pool, or finds it.
fn define_next(table: &mut std::slice::Iter<'static, Definition>, pool: &str) -> Metric {
    let Some(Definition { name, kind, labels, .. }) = table.next() else { return Metric::default() };
    let mut name = (*name).to_owned();
    for (label, value) in labels.iter().chain(&[("pool", pool)]) {
        for part in [".", label, "=", value, ";"] {
            name.push_str(part);
        }
    }
    if *kind == "gauge" { Metric::gauge(&name) } else { Metric::counter(&name) }
}

fn rows(table: &'static [Definition], metrics: &[Metric]) -> Vec<Row> {
    table.iter().zip(metrics).map(|(of, &metric)| Row { of, metric }).collect()
}

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
            const ROWS: &[Definition] = &[$(Definition {
                name: concat!("warmpath_", $name),
                kind: stringify!($kind),
                labels: &[$((stringify!($label), $value))?],
                help: $help,
            },)*];

            /// The metrics of a pool.
            pub fn of(pool: &str) -> $table {
                let mut metrics = Self::ROWS.iter();
                $table { $($field: define_next(&mut metrics, pool),)* }
            }

            /// All of them, for a page.
            pub fn rows(&self) -> Vec<Row> {
                rows(Self::ROWS, &[$(self.$field,)*])
            }
        }
    )* };
}

metrics! {
    /// What a router counts: each way that a request can go has its counter.
    RouterMetrics {
        by_prefix: counter "requests_total" { by = "prefix" }, "Requests routed by load and by what each pod holds of the prompt.";
        by_load: counter "requests_total" { by = "load" }, "Requests routed by load alone.";
        by_plain: counter "requests_total" { by = "plain" }, "Requests routed by load alone, though they have a prompt: the samples that `plain_percent` asks for.";
        for_load: counter "decisions_total" { reason = "load" }, "Routed requests by why they went to their pod, as in the access log.";
        for_prefix: counter "decisions_total" { reason = "prefix" }, "Routed requests by why they went to their pod, as in the access log.";
        for_copy: counter "decisions_total" { reason = "copy" }, "Routed requests by why they went to their pod, as in the access log.";
        for_busy: counter "decisions_total" { reason = "busy" }, "Routed requests by why they went to their pod, as in the access log.";
        for_away: counter "decisions_total" { reason = "away" }, "Routed requests by why they went to their pod, as in the access log.";
        for_plain: counter "decisions_total" { reason = "plain" }, "Routed requests by why they went to their pod, as in the access log.";
        prefix_hits: counter "prefix_hits_total", "Requests whose pod was believed to hold more than half of the prompt.";
        bad_body: counter "rejected_total" { reason = "bad_body" }, "Requests answered 400, because no pod could have read the body.";
        unknown_model: counter "rejected_total" { reason = "unknown_model" }, "Requests answered 404, because the settings do not know the model and refuse those that they do not know.";
        shed: counter "rejected_total" { reason = "saturated" }, "Requests answered 429, because the pool is saturated and they are of those that may be shed.";
        over_share: counter "rejected_total" { reason = "over_share" }, "Requests answered 429, because the pool is saturated and their tenant has more than its share of the work.";
        no_target: counter "rejected_total" { reason = "no_target" }, "Requests answered 404, because the name of the model is reserved and has no target.";
        no_table: counter "unrouted_total" { reason = "no_table" }, "Requests that met no pod, because none is known: left to the fallback, or answered 503.";
        unknown_cluster: counter "unrouted_total" { reason = "unknown_cluster" }, "Requests to a cluster whose pods are not discovered yet: left to Envoy's own balancing.";
        all_cooling_down: counter "unrouted_total" { reason = "all_cooling_down" }, "Requests that met no pod, because all have failed a moment ago: left to the fallback, or answered 503.";
        adapter_asleep: counter "unrouted_total" { reason = "adapter_asleep" }, "Requests answered 503, because every pod that has their LoRA adapter is asleep.";
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
        contended_response: counter "contended_total" { during = "response" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        index_holdings: gauge "index_holdings", "Entries of the prefix index of the worker that told it last: parts of prompts that a pod holds.";
        index_bytes: gauge "index_bytes", "Memory of the prefix index of the worker that told it last.";
        index_limit_bytes: gauge "index_limit_bytes", "Memory that the prefix index of a worker may take: `index.max_mib`.";
        index_limit_holdings: gauge "index_limit_holdings", "Entries that the prefix index of a worker may have: `index.max_holdings`.";
        evicted_by_pod: counter "index_evictions_total" { reason = "pod" }, "Times that an index, of all workers together, let go of what it could not keep: the pod is believed to have evicted it (`pod`), or the index is full (`limit`).";
        evicted_by_limit: counter "index_evictions_total" { reason = "limit" }, "Times that an index, of all workers together, let go of what it could not keep: the pod is believed to have evicted it (`pod`), or the index is full (`limit`).";
        lost_segments: counter "log_lost_segments_total", "Segments of the log that were overwritten before a worker had read them; what they told is learned again.";
        pod_table_generation: gauge "pod_table_generation", "Number of the current pod table; routers fetch the table when it moves.";
        bad_pod_table: counter "bad_pod_table_total", "Pod tables that could not be read.";
        bad_settings: gauge "bad_settings", "1 when the newest settings of a route, or of the page that is fetched, are refused, and those before are in force.";
        refused_settings: counter "refused_settings_total", "Documents of settings that were refused, once for each worker that met them.";
    }

    /// What a collector counts.
    CollectorMetrics {
        pods: gauge "pods", "Pods of the pool.";
        ready_pods: gauge "ready_pods", "Pods that requests may go to and whose last scrape brought their load.";
        in_flight: gauge "in_flight", "Requests that were sent to pods and have not ended.";
        waiting: gauge "waiting", "Requests in flight that wait for their first token.";
        outstanding_tokens: gauge "outstanding_tokens", "Prompt tokens that waiting requests have still to compute, as estimated.";
        scraped: counter "scrapes_total" { result = "ok" }, "Scrapes that brought a pod's load.";
        unreachable: counter "scrapes_total" { result = "unreachable" }, "Scrapes without a whole response: refused, cut off, or too slow.";
        unreadable: counter "scrapes_total" { result = "unreadable" }, "Scrapes whose response was not vLLM's metrics.";
        unsent: counter "scrapes_total" { result = "unsent" }, "Scrapes that Envoy did not send: it has no cluster of the name in `scrape.cluster`.";
        misrouted: counter "scrapes_total" { result = "misrouted" }, "Scrapes that tell another process than the pod's, until Envoy's clusters show that it is the pod's own; they do not count.";
        takeovers: counter "collector_takeovers_total", "Times that a router took over from a collector that gave no sign of life.";
        contended_reconcile: counter "contended_total" { during = "reconcile" }, "Changes of the ledger that were lost, because other workers always wrote first, by what was to be written.";
        leaked_requests: counter "leaked_requests_total", "Requests that the ledger counted and no pod had; they were taken out of it.";
        bad_settings: gauge "bad_settings", "1 when the newest settings of a route, or of the page that is fetched, are refused, and those before are in force.";
        refused_settings: counter "refused_settings_total", "Documents of settings that were refused, once for each worker that met them.";
        unfetched_settings: counter "unfetched_settings_total", "Times that the page with the settings could not be fetched; those before stay in force.";
        emptied_caches: counter "emptied_caches_total", "Times that a pod's page has shown that its cache does not hold what it was believed to hold; all of it was forgotten.";
        pod_table_generation: gauge "pod_table_generation", "Number of the current pod table; routers fetch the table when it moves.";
    }

    /// What the filter counts that holds the headers of streams.
    AnswerMetrics {
        full: counter "early_errors_total" { reason = "full" }, "Attempts that a pod refused because it takes no more at the moment, with status 503 or in a stream; a stream is answered with the status of the refusal.";
        fault: counter "early_errors_total" { reason = "fault" }, "Streams that failed in the pod before their first token; answered with the status of the error.";
        bad_request: counter "early_errors_total" { reason = "request" }, "Streams that a pod refused for what they ask; answered with the status of the refusal.";
        empty: counter "early_errors_total" { reason = "empty" }, "Streams that ended in good order without a token; answered 502.";
        declined: counter "early_errors_total" { reason = "declined" }, "Attempts that a pod refused with status 401, 403, 404, 429 or 502, or ended without a token, and for which another pod was asked.";
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

/// A histogram. Each bucket is a counter of Envoy, and so is the sum, in whole units: microseconds for a
/// time.
#[derive(Clone, Copy, Debug)]
pub struct HistogramFamily {
    /// The name, without `warmpath_`.
    pub name: &'static str,
    /// The name of the counter with the sum.
    pub sum: &'static str,
    /// The text for `HELP`.
    pub help: &'static str,
    /// Its buckets.
    pub buckets: Buckets,
}

macro_rules! histograms {
    ($($(#[$docs:meta])* $const:ident: histogram $name:literal { $($label:ident),* }, $help:literal, $buckets:ident as $sum:literal;)*) => {
        $($(#[$docs])* pub const $const: HistogramFamily =
            HistogramFamily { name: $name, sum: $sum, help: $help, buckets: histogram::$buckets };)*
    };
}

histograms! {
    /// From the whole request to the first token of its stream.
    FIRST_TOKEN: histogram "time_to_first_token_seconds" { route, matched, model }, "Time from the whole request to the first token of its answer, of streams. `matched`: the pod was believed to hold more than half of the prompt. `route`: warmpath, or plain for the samples that `plain_percent` asks for.", FIRST_TOKEN as "time_to_first_token_microseconds_sum";
    /// From the whole request to the headers that name its pods.
    DECISION: histogram "decision_seconds" { by }, "Time from the whole request to the choice of its pod: reading the body, choosing, and writing what the workers share.", DECISION as "decision_microseconds_sum";
    /// Of requests that a pod has answered.
    PROMPT_TOKENS: histogram "prompt_tokens" { model }, "Prompt tokens of answered requests, as estimated when they were routed.", TOKENS as "prompt_tokens_sum";
    /// Of requests that a pod has answered.
    MATCHED_TOKENS: histogram "matched_tokens" { model }, "Prompt tokens of answered requests that their pod was believed to hold.", TOKENS as "matched_tokens_sum";
}

/// Counters of one model.
#[derive(Clone, Copy, Debug)]
pub struct CounterFamily {
    /// The name, without `warmpath_`.
    pub name: &'static str,
    /// The text for `HELP`.
    pub help: &'static str,
}

macro_rules! counters_of_models {
    ($($(#[$docs:meta])* $const:ident: counter $name:literal { $($label:ident),* }, $help:literal;)*) => {
        $($(#[$docs])* pub const $const: CounterFamily = CounterFamily { name: $name, help: $help };)*
    };
}

counters_of_models! {
    /// What answers report, beside what was believed.
    REPORTED: counter "reported_tokens_total" { kind, model }, "Of answers that report how many prompt tokens came from the cache: their prompt tokens (`prompt`), those from the cache (`cached`), and those that were believed to be there (`believed`).";
}

/// The kinds of [`REPORTED`].
pub const REPORTED_KINDS: [&str; 3] = ["prompt", "cached", "believed"];
