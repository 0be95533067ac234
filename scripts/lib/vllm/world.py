"""vLLM servers in one mode, and Envoys with Warmpath in front of them."""

import json
import re
import time

from .. import gateway
from ..client import ask_pod
from ..common import Failure, say
from ..processes import free_ports, wait_for
from .pods import Pod, cpus


class World:
    """The servers of a mode. They serve several checks, each of which has an Envoy of its own that knows nothing yet."""

    def __init__(self, installed, envoy, mode, folder):
        self.installed, self.envoy_program, self.mode, self.folder = installed, envoy, mode, folder
        self.ports = free_ports(len(mode.pods))
        self.pods = [None] * len(mode.pods)
        self.envoys = []

    def start(self):
        say(f"starting {len(self.pods)} vLLM servers: {self.mode.about}")
        began = time.monotonic()
        for nth in range(len(self.pods)):
            self.start_pod(nth)
        for pod in self.pods:
            pod.ready()
        say(f"they are up after {time.monotonic() - began:.0f} s")
        return self

    def start_pod(self, nth):
        flags, environment = self.mode.pods[nth]
        all_cpus = cpus()
        cpu = all_cpus[nth % len(all_cpus)]
        known = {f"adapter_{key}": folder for key, folder in self.installed.adapters.items()}
        flags = [str(flag).format(**known) for flag in flags]
        name = f"{self.mode.name}-{nth + 1}"
        self.pods[nth] = Pod(
            self.installed, self.mode.model, name, self.ports[nth], cpu, self.folder, flags, environment
        )
        return self.pods[nth]

    def gateway(self, *flags, sees=None, pods=None, edit=None):
        """A fresh Envoy with Warmpath that sees all pods; `edit` changes the text of its configuration."""
        pods = pods or self.pods
        metrics, *ports = free_ports(4)
        folder = self.folder / f"envoy-{len(self.envoys)}"
        folder.mkdir(exist_ok=True)
        (folder / "access.log").unlink(missing_ok=True)
        envoy = Gateway(
            self.envoy_program,
            [pod.address for pod in pods],
            edit=edit,
            flags=[f"--access-log={folder / 'access.log'}", f"--metrics-port={metrics}", *flags],
            options=[
                "--log-level",
                "warning",
                "--component-log-level",
                "wasm:info",
                "--file-flush-interval-msec",
                "50",
            ],
            workers=2,
            ports=tuple(ports),
            folder=folder,
        )
        envoy.metrics_port = metrics
        self.envoys.append(envoy)
        return envoy.ready().sees(len(pods) if sees is None else sees)

    def file(self, name, value):
        """The path of a file with this JSON."""
        path = self.folder / name
        path.write_text(json.dumps(value))
        return path

    def said(self, words):
        """The line of a server's log with these words, from there on; None if there is none."""
        for pod in self.pods:
            if pod and (found := re.search(f"{re.escape(words)}.*", pod.said())):
                return found[0]
        return None

    def pod_at(self, address):
        return next(pod for pod in self.pods if pod.address == address)

    def other(self, pod):
        """The next pod after this one."""
        return self.pods[(self.pods.index(pod) + 1) % len(self.pods)]

    def end_check(self):
        """Ends the Envoys of a check, and starts again what it has killed."""
        for envoy in reversed(self.envoys):
            envoy.end()
        self.envoys = []
        for nth, pod in enumerate(self.pods):
            if not pod.alive():
                self.start_pod(nth).ready()

    def end(self):
        for each in [*reversed(self.envoys), *reversed(self.pods)]:
            if each:
                each.end()


class Gateway(gateway.Envoy):
    """An Envoy with what a check asks of it."""

    def chosen(self, answer):
        """The line of the access log about an answer."""
        return self.access_line(answer.id)

    def pod_of(self, answer):
        """The address of the pod that gave the answer."""
        return self.chosen(answer)["pod"]

    def believed(self, answer):
        """How many prompt tokens the pod was believed to hold, and of how many."""
        found = re.fullmatch(r"(\d+)/(\d+)", gateway.record(self.chosen(answer)).get("matched", ""))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def metric(self, name, **labels):
        """The sum of one of Warmpath's metrics over the series with these labels."""
        status, page = ask_pod(f"127.0.0.1:{self.metrics_port}", "/metrics")
        if status != 200:
            raise Failure(f"Warmpath's metrics page answered {status}")
        total = 0.0
        for line in page.splitlines():
            key, _, value = line.rpartition(" ")
            if key.partition("{")[0] == name and all(f'{k}="{v}"' in key for k, v in labels.items()):
                total += float(value)
        return total

    def wait_for_metric(self, name, wanted, what, seconds=30, **labels):
        return wait_for(what, lambda: wanted(self.metric(name, **labels)), seconds)

    def scrapes(self):
        """Pages that Warmpath has asked for."""
        name = "cluster.warmpath-scrape.upstream_rq_total"
        page = ask_pod(f"127.0.0.1:{self.admin_port}", f"/stats?filter=^{name}$")[1]
        return int(page.rpartition(": ")[2])

    def lines(self):
        """The whole access log so far."""
        log = self.folder / "access.log"
        return [json.loads(line) for line in log.read_text(errors="replace").split("\n")[:-1]] if log.exists() else []
