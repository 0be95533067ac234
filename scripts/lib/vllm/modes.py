"""The modes in which vLLM is run, and the registry of checks, each of which belongs to one."""

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Mode:
    """Servers that serve several checks: flags and environment of each. `{adapter_a}` in a flag
    is the folder of an adapter."""

    name: str
    about: str
    pods: tuple
    # The model's folder in the installation.
    model: str = "model"
    # What vLLM says where its build cannot do it.
    cannot: str = ""


def alike(count, flags=(), environment=None):
    return tuple((flags, environment or {}) for _ in range(count))


PLAIN = Mode("plain", "two alike, as most people run them", alike(2))
ALL = [
    *("--enable-prompt-embeds", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--enable-lora", "--max-loras", 2, "--lora-modules", "a={adapter_a}"),
]
STORED = {"VLLM_ENABLE_RESPONSES_API_STORE": 1, "VLLM_SERVER_DEV_MODE": 1}
PAIR = Mode(
    "pair",
    "two with stored responses, prompt embeddings, tools, /reset_prefix_cache and the adapter a; one has the adapter b, too",
    (([*ALL, "b={adapter_b}"], STORED), (ALL, STORED)),
)
FEW = ["--max-num-seqs", 4, "--sse-keep-alive-interval", 1]
FULL = Mode(
    "full",
    "one that takes 4 requests beyond the 4 that run, and one that takes 130; both send keep-alive comments",
    (
        ([*FEW, "--max-num-queued-reqs", 4], {}),
        ([*FEW, "--max-num-queued-reqs", 130], {}),
    ),
)
PROCESSES = Mode(
    "processes",
    "one with --api-server-count 2, and one with --data-parallel-size 2",
    (
        (["--api-server-count", 2], {}),
        (["--data-parallel-size", 2], {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}),
    ),
)
SLEEP = Mode(
    "sleep",
    "two with --enable-sleep-mode",
    alike(2, ["--enable-sleep-mode"], {"VLLM_SERVER_DEV_MODE": 1}),
    cannot="Sleep mode is not supported",
)

OFFLOAD = Mode(
    "offload",
    "one with a small cache and KV offload to host memory",
    ((["--num-gpu-blocks-override", 40, "--max-model-len", 4096, "--kv-offloading-size", 1], {}),),
    cannot="CPU Offloading is currently only supported on",
)

HYBRID = Mode("hybrid", "two with a model that has two kinds of KV cache", alike(2), model="hybrid")

CHECKS = []


class CannotPlay(Exception):
    """What this build of vLLM cannot do."""


@dataclass(frozen=True)
class Check:
    name: str
    mode: Mode
    cases: tuple
    run: object

    @property
    def about(self):
        cases = f" ({', '.join(self.cases)})" if self.cases else ""
        return " ".join(self.run.__doc__.split()) + cases


def check(mode, *cases):
    """Registers a check: a function of a World that returns what was seen, or raises a Failure. `cases` are rows of
    docs/compatibility.md."""

    def register(function):
        CHECKS.append(Check(function.__name__.replace("_", "-"), mode, cases, function))
        return function

    return register
