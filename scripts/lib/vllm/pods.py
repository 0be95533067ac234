"""vLLM servers on this machine, one per CPU."""

import contextlib
import os
import signal
import time
from pathlib import Path

from ..client import ask_pod
from ..common import Failure, say
from ..processes import Process, wait_for

# What all servers answer to: a server has one model, and this one has two names.
MODEL, OTHER_NAME = "/model/qwen", "qwen-also"
# A server imports for 40 s on an idle machine, and takes several times as long beside others.
START_SECONDS = 1800
TELL_SECONDS = 30
LONGEST_PROMPT = 16384
FLAGS = [
    *("--load-format", "dummy", "--dtype", "bfloat16", "--enforce-eager", "--max-model-len", LONGEST_PROMPT),
    *("--enable-prefix-caching", "--enable-prompt-tokens-details"),
]
ENVIRONMENT = {
    "HF_HUB_OFFLINE": 1,
    "VLLM_NO_USAGE_STATS": 1,
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": 1,
}


class Pod(Process):
    """A vLLM server with its engine, which is a process of its own: signals go to the whole group."""

    def __init__(self, installed, model, name, port, cpu, folder, flags=(), environment=None):
        self.port = port
        self.address = f"127.0.0.1:{port}"
        variables = {
            **ENVIRONMENT,
            "PATH": f"{installed.python.parent}:{os.environ['PATH']}",
            # Nothing outside the installation.
            "HF_HOME": installed.folder / "cache",
            "VLLM_CACHE_ROOT": installed.folder / "cache",
            "VLLM_CONFIG_ROOT": installed.folder / "cache",
            "VLLM_CPU_OMP_THREADS_BIND": cpu,
            **(environment or {}),
        }
        command = [
            # Servers compute whenever they can. Envoy and clients must not wait for a CPU meanwhile: that would be measured.
            *("nice", "-n", "10", "env", *(f"{key}={value}" for key, value in variables.items())),
            *(installed.python, installed.python.parent / "vllm", "serve", installed.folder / model),
            *("--host", "127.0.0.1", "--port", port, "--served-model-name", MODEL, OTHER_NAME),
            *(*FLAGS, *flags),
        ]
        super().__init__(name, command, log=folder / f"{name}.log")

    def answers(self):
        return ask_pod(self.address, "/health")[0] == 200

    def ready(self):
        """Waits until it answers, and tells now and then how far it is."""
        told = time.monotonic()

        def up():
            nonlocal told
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                last = (self.said().strip().splitlines() or ["it has said nothing yet"])[-1]
                say(f"{self.name} is starting: {last[:160]}")
            return self.answers()

        wait_for(f"{self.name} to answer", up, START_SECONDS)
        return self

    def page(self):
        """Its metrics page, as {name with labels: value}."""
        status, text = ask_pod(self.address, "/metrics")
        if status != 200:
            raise Failure(f"the metrics page of {self.name} answered {status}")
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def metric(self, name):
        """The sum of a metric over its labels; None if the page does not have it."""
        values = [value for key, value in self.page().items() if key.partition("{")[0] == name]
        return sum(values) if values else None

    def load(self):
        """Requests that it says it has."""
        return (self.metric("vllm:num_requests_running") or 0) + (self.metric("vllm:num_requests_waiting") or 0)

    def engine(self):
        """The processes that compute: they have names of their own, and the server that answers clients is not among them."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            # A process may end meanwhile.
            with contextlib.suppress(OSError):
                _, _, after = stat.read_text().partition("(")
                name, _, fields = after.rpartition(")")
                if name.startswith("VLLM::") and int(fields.split()[2]) == self.pid:
                    found.append(int(stat.parent.name))
        if not found:
            raise Failure(f"{self.name} has no process named VLLM::")
        return found

    def signal_engine(self, number):
        for pid in self.engine():
            os.kill(pid, number)

    def signal(self, number):
        # It leads a session, so its id is that of its group: itself and its engine.
        os.killpg(self.pid, number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        """Ends it as a machine that fails does."""
        self.signal(signal.SIGKILL)
        self.child.wait()
        super().end()

    def end(self):
        if self.alive():
            self.signal(signal.SIGTERM)
            self.resume()
            end = time.monotonic() + 10
            while self.alive() and time.monotonic() < end:
                time.sleep(0.05)
        # Whatever is left of the group.
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        super().end()


def cpus():
    """The CPUs that this script may use."""
    return sorted(os.sched_getaffinity(0))
