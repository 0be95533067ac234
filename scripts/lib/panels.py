"""What the dashboard shows: rows of panels, each with its queries in PromQL, their legends and their unit.

`$pool` is the pool that is chosen, and `$rate` the window of rates; Grafana knows both as variables.
"""

from dataclasses import dataclass, field

POOL = 'pool=~"$pool"'


@dataclass
class Panel:
    title: str
    unit: str
    queries: list  # of (PromQL, legend)
    says: str  # what a reader learns from it
    kind: str = "timeseries"  # or "stat", "state-timeline", "table"
    width: int = 8  # of 24
    thresholds: list = field(default_factory=list)  # of (value or None, colour)
    least: float | None = 0
    most: float | None = None
    # Whether traffic of the demo gives it data: not so for what happens only when something fails.
    quiet: bool = False


def mean(metric, labels, by):
    """Mean of a histogram by some labels."""

    def part(end):
        return f"sum by ({by}) (rate(warmpath_{metric}_{end}{{{labels}}}[$rate]))"

    return f"{part('sum')} / {part('count')}"


def quantile(share, metric, labels, by):
    return f"histogram_quantile({share}, sum by ({by}, le) (rate(warmpath_{metric}_bucket{{{labels}}}[$rate])))"


def rate(metric, labels="", by="pool"):
    labels = f"{POOL},{labels}" if labels else POOL
    return f"sum by ({by}) (rate(warmpath_{metric}{{{labels}}}[$rate]))"


def of_pods(metric):
    return f"warmpath_pod_{metric}{{{POOL}}}"


TTFT = "time_to_first_token_seconds"
ROUTED = f'{POOL},route="warmpath"'
PLAIN = f'{POOL},route="plain"'
GAIN = f"({mean(TTFT, PLAIN, 'pool')}) / on (pool) ({mean(TTFT, ROUTED, 'pool')})"
CACHED = rate("reported_tokens_total", 'kind="cached"', "model")
REPORTED = rate("reported_tokens_total", 'kind="prompt"', "model")
# Standard deviation over mean: 0 is even, and 1 is as uneven as one pod of two with everything.
UNEVEN = (
    f"stddev by (pool) (rate(warmpath_pod_requests_total{{{POOL}}}[$rate])) "
    f"/ avg by (pool) (rate(warmpath_pod_requests_total{{{POOL}}}[$rate]))"
)

ROWS = {
    "Is it faster?": [
        Panel(
            "First token: times as fast as plain",
            "none",
            [(GAIN, "{{pool}}")],
            "Mean time to first token of the plain samples over that of routed requests. Needs plain_percent above 0.",
            kind="stat",
            width=6,
            thresholds=[(None, "red"), (1, "yellow"), (1.1, "green")],
        ),
        Panel(
            "Time to first token, routed and plain",
            "s",
            [(mean(TTFT, POOL, "route"), "{{route}}, mean"), (quantile(0.95, TTFT, POOL, "route"), "{{route}}, 95 %")],
            "The lines of one route against those of the other: that is the gain.",
            width=9,
        ),
        Panel(
            "Time to first token, by match",
            "s",
            [(mean(TTFT, ROUTED, "matched"), "matched {{matched}}")],
            "What a match is worth.",
            width=9,
        ),
    ],
    "What is cached, believed and real": [
        Panel(
            "Hit rate by model",
            "percentunit",
            [
                (
                    f"{rate('matched_tokens_sum', by='model')} / {rate('prompt_tokens_sum', by='model')}",
                    "{{model}}, believed",
                ),
                (f"{CACHED} / {REPORTED}", "{{model}}, real"),
            ],
            "Share of prompt tokens that the chosen pod was believed to hold, and of those that came from its cache by its own report.",
            width=12,
            most=1,
        ),
        Panel(
            "Tokens that pods are believed to hold",
            "percentunit",
            [(f"{of_pods('held_tokens')} / {of_pods('kv_capacity_tokens')}", "{{pod}}")],
            "How full the pods' prefix caches are believed to be.",
            width=12,
        ),
    ],
    "Why requests go where they go": [
        Panel(
            "Requests",
            "reqps",
            [(rate("requests_total", by="by"), "by {{by}}")],
            "By prefix, by load, and plain samples.",
        ),
        Panel(
            "Decisions by reason",
            "reqps",
            [(rate("decisions_total", by="reason"), "{{reason}}")],
            "copy, busy and away leave the pod that holds the prompt.",
        ),
        Panel(
            "Time of a decision",
            "s",
            [
                (quantile(0.5, "decision_seconds", POOL, "by"), "{{by}}, median"),
                (quantile(0.99, "decision_seconds", POOL, "by"), "{{by}}, 99 %"),
            ],
            "Reading the body, choosing, writing.",
        ),
    ],
    "The pods": [
        Panel(
            "State of each pod",
            "none",
            [(f"warmpath_pod_status{{{POOL}}} == 1", "{{pod}}: {{status}}")],
            "Which pod is sick, and why.",
            kind="state-timeline",
            width=12,
        ),
        Panel(
            "Requests by pod",
            "reqps",
            [(f"rate(warmpath_pod_requests_total{{{POOL}}}[$rate])", "{{pod}}")],
            "Who gets the traffic.",
            width=6,
        ),
        Panel(
            "Unevenness",
            "none",
            [(UNEVEN, "{{pool}}")],
            "Standard deviation of the pods' requests over their mean: 0 is even.",
            kind="stat",
            width=6,
            thresholds=[(None, "green"), (0.5, "yellow"), (1, "red")],
        ),
        Panel("In flight", "short", [(of_pods("in_flight"), "{{pod}}")], "Requests that each pod has."),
        Panel(
            "What waits where",
            "short",
            [
                (of_pods("waiting"), "{{pod}}, for a first token"),
                (of_pods("engine_waiting"), "{{pod}}, in the engine's queue"),
            ],
            "By the ledger of this gateway, and by the pods' own pages.",
        ),
        Panel(
            "Work outstanding", "short", [(of_pods("outstanding_tokens"), "{{pod}}")], "Prompt tokens still to compute."
        ),
        Panel(
            "KV cache in use",
            "percentunit",
            [(of_pods("kv_usage_ratio"), "{{pod}}")],
            "By running requests, as the pods say.",
            most=1,
        ),
        Panel(
            "Time to first token by pod",
            "s",
            [
                (
                    f"rate(warmpath_pod_first_token_seconds_total{{{POOL}}}[$rate]) "
                    f"/ rate(warmpath_pod_first_tokens_total{{{POOL}}}[$rate])",
                    "{{pod}}",
                )
            ],
            "Mean. A pod that is slow shows here.",
        ),
        Panel(
            "Prefill speed",
            "short",
            [(of_pods("prefill_tokens_per_second"), "{{pod}}")],
            "Tokens per second, as learned.",
        ),
        Panel(
            "Age of the pods' pages",
            "s",
            [(of_pods("page_age_seconds"), "{{pod}}")],
            "Above 10 s a pod's load counts for nothing.",
            thresholds=[(None, "green"), (2, "yellow"), (10, "red")],
        ),
    ],
    "What went wrong": [
        Panel(
            "Failures and errors by pod",
            "reqps",
            [
                (f"rate(warmpath_pod_failed_total{{{POOL}}}[$rate])", "{{pod}}, failed"),
                (f"rate(warmpath_pod_errors_total{{{POOL}}}[$rate])", "{{pod}}, errors"),
            ],
            "A pod that fails without an answer, and one that answers errors.",
        ),
        Panel(
            "Failed over, broken, lost",
            "reqps",
            [
                (rate("failovers_total"), "answered by a runner-up"),
                (rate("broken_total", by="by"), "broken by {{by}}"),
                (rate("upstream_failures_total"), "answered by no pod"),
            ],
            "What clients saw of it, and what they did not.",
        ),
        Panel(
            "Unrouted and rejected",
            "reqps",
            [
                (rate("unrouted_total", by="reason"), "unrouted, {{reason}}"),
                (rate("rejected_total", by="reason"), "rejected, {{reason}}"),
            ],
            "Requests without a pod.",
        ),
    ],
    "Index, log and collector": [
        Panel(
            "Prefix index",
            "percentunit",
            [
                (f"warmpath_index_bytes{{{POOL}}} / warmpath_index_limit_bytes{{{POOL}}}", "memory"),
                (f"warmpath_index_holdings{{{POOL}}} / warmpath_index_limit_holdings{{{POOL}}}", "entries"),
            ],
            "How full the index is.",
            most=1,
        ),
        Panel(
            "Evictions and lost segments",
            "ops",
            [
                (rate("index_evictions_total", by="reason"), "{{reason}}"),
                (rate("log_lost_segments_total"), "lost segments"),
            ],
            "limit: the index is full. pod: the pod is believed to have evicted.",
        ),
        Panel(
            "Scrapes and writes",
            "ops",
            [
                (rate("scrapes_total", by="result"), "scrape {{result}}"),
                (rate("contended_total"), "lost writes"),
                (f"rate(warmpath_pod_table_generation{{{POOL}}}[$rate])", "pod tables"),
            ],
            "The collector lives while pod tables come.",
        ),
    ],
}


def panels():
    return [panel for row in ROWS.values() for panel in row]
