"""A real Prometheus for scripts: found, started on a configuration, and asked."""

import json
import shutil
import subprocess
import tempfile
import urllib.parse
from pathlib import Path

from .client import ask
from .common import ROOT, TARGET, Failure, say
from .processes import Process, free_ports, wait_for
from .tools import aside

MONITORING = ROOT / "manifests" / "monitoring"


def program(name):
    """The path of `prometheus` or `promtool`: the one on the PATH, else Debian's, unpacked under target/ without installing it."""
    if found := shutil.which(name):
        return found
    folder = TARGET / "tools" / "prometheus-debian"
    if not folder.exists():
        unpack(folder)
    return str(folder / "usr" / "bin" / name)


def unpack(folder):
    if not shutil.which("apt-get"):
        raise Failure("there is no prometheus on the PATH, and no apt-get to fetch Debian's. Install Prometheus.")
    say("fetching Debian's package prometheus (once) ...")
    with aside(folder) as fresh, tempfile.TemporaryDirectory() as here:
        download = ["apt-get", "download", "prometheus"]
        done = subprocess.run(download, cwd=here, capture_output=True, text=True)
        if done.returncode != 0:
            # A fresh machine has no lists of packages, or old ones.
            subprocess.run(["apt-get", "update"], capture_output=True, check=False)
            done = subprocess.run(download, cwd=here, capture_output=True, text=True)
        packages = list(Path(here).glob("prometheus_*.deb"))
        if done.returncode != 0 or not packages:
            raise Failure(f"apt-get download prometheus: {done.stderr.strip()[-300:]}. Install Prometheus.")
        subprocess.run(["dpkg-deb", "-x", packages[0], fresh], check=True)


class Prometheus:
    """A Prometheus on loopback that scrapes a metrics port, every few seconds, with the rules of manifests/monitoring."""

    def __init__(self, folder, metrics_port, pods, seconds=1, port=None):
        self.port = port or free_ports(1)[0]
        targets = json.dumps([f"127.0.0.1:{metrics_port}"])
        text = (MONITORING / "prometheus.yml").read_text()
        for old, new in (
            ("scrape_interval: 15s", f"scrape_interval: {seconds}s"),
            ("evaluation_interval: 15s", f"evaluation_interval: {seconds}s"),
            ("[rules.yml]", json.dumps([str(MONITORING / "rules.yml")])),
            ('["127.0.0.1:9902"]', targets),
            ('["127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002"]', json.dumps(pods)),
        ):
            if old not in text:
                raise Failure(f"manifests/monitoring/prometheus.yml has changed: it has no {old}")
            text = text.replace(old, new)
        folder = Path(folder)
        (folder / "prometheus.yml").write_text(text)
        data = tempfile.mkdtemp(prefix="prometheus-", dir=folder)
        command = [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        self.process = Process("Prometheus", command, log=folder / "prometheus.log")
        wait_for("Prometheus to be ready", lambda: ask(self.port, path="/-/ready")[0] == 200)

    def _get(self, path, **values):
        status, body = ask(self.port, path=f"{path}?{urllib.parse.urlencode(values)}", timeout=30)
        if status == 0:
            raise Failure(f"Prometheus does not answer:\n{self.process.last_words()}")
        answer = json.loads(body)
        if answer["status"] != "success":
            raise Failure(f"Prometheus says {answer.get('error')}: {values.get('query')}")
        return answer["data"]

    def query(self, expression):
        """Series of an expression as it is now: [(labels, number)]."""
        result = self._get("/api/v1/query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def range(self, expression, start, end, step=1):
        """Series of an expression over time: [(labels, [(seconds, number)])]."""
        result = self._get("/api/v1/query_range", query=expression, start=start, end=end, step=step)["result"]
        return [(series["metric"], [(at, float(number)) for at, number in series["values"]]) for series in result]

    def firing(self):
        """Names and pods of the alerts that fire."""
        alerts = self._get("/api/v1/alerts")["alerts"]
        return sorted(
            {
                (alert["labels"]["alertname"], alert["labels"].get("pod", ""))
                for alert in alerts
                if alert["state"] == "firing"
            }
        )

    def targets(self):
        """Health of each target: [(job, health, error)]."""
        active = self._get("/api/v1/targets")["activeTargets"]
        return [(target["labels"]["job"], target["health"], target["lastError"]) for target in active]
