"""Simulated pods, an Envoy with its metrics port and console, a Prometheus, and clients that talk: to try what shows things."""

import json
import threading
import time

from . import gateway, simulator, talk
from .client import ask
from .common import Failure
from .envoy import find
from .processes import free_ports
from .prometheus import Prometheus

MODEL = "/model/qwen"
PODS = 5
# What each of them has once they are sick.
HEALTHY, ERRS, SLOW, SLEEPS, DIES = range(PODS)
# Percent of the prompts that are samples of plain routing.
PLAIN_PERCENT = 25
# Conversations side by side.
CLIENTS = 5


class World:
    """Pods, an Envoy, a Prometheus, and clients that talk until they are told to stop."""

    def __init__(self, folder, prometheus=True):
        program = simulator.build("dev")
        gateway.build()
        *ports, metrics, self.console_port = free_ports(PODS + 5)
        flags = ["--model", MODEL, "--faults"]
        self.pods = simulator.start_pods(program, ports[:PODS], *flags)
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:PODS]]
        self.envoy = gateway.Envoy(
            find(),
            self.addresses,
            flags=[
                f"--access-log={folder / 'access.log'}",
                f"--metrics-port={metrics}",
                f"--console-port={self.console_port}",
                f"--plain-percent={PLAIN_PERCENT}",
            ],
            options=["--log-level", "warning", "--component-log-level", "wasm:info"],
            workers=2,
            ports=tuple(ports[PODS:]),
            folder=folder,
        )
        self.envoy.ready().sees(len(self.addresses))
        self.prometheus = Prometheus(folder, metrics, self.addresses) if prometheus else None
        self.stopped = threading.Event()
        self.started = time.time()
        self.sent = self.failed = 0
        self.threads = [threading.Thread(target=self.talk, args=(nth,), daemon=True) for nth in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def talk(self, client):
        nth = 0
        while not self.stopped.is_set():
            nth += 1
            try:
                self.sent += len(talk.conversation(self.envoy.port, MODEL, f"client{client}-{nth}", words=900))
            except talk.Refused:
                self.failed += 1

    def wait(self, seconds):
        """Lets the clients talk for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.envoy.process.must_run()
            if self.prometheus:
                self.prometheus.process.must_run()
            time.sleep(0.5)

    def make_sick(self):
        """Lets one pod answer 500, one be ten times slower, one sleep and one die."""
        self._post(ERRS, "/sim/faults", {"fail": 1_000_000, "status": 500})
        self._post(SLOW, "/sim/faults", {"slow_down": 10})
        self._post(SLEEPS, "/sleep?level=1")
        self.pods[DIES].end()

    def _post(self, nth, path, body=None):
        port = int(self.addresses[nth].rpartition(":")[2])
        status, _ = ask(port, "POST", path, body and json.dumps(body))
        if status != 200:
            raise Failure(f"POST {path} to pod {nth + 1} was answered {status}")
