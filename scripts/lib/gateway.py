"""An Envoy with Warmpath, or the same Envoy without, started by a script. The Rust tests have their own in tests/src/envoy.rs."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

from .client import ask, chat
from .common import ROOT, TARGET, Failure, output, run
from .processes import Process, free_ports, wait_for
from .template import Template

MODULE = TARGET / "warmpath.wasm"


class Envoy:
    """An Envoy in front of pods, ready for requests.

    `edit` changes the text of the configuration, `flags` go to scripts/envoy-config, `options` to Envoy; `ports` are the
    routed, the plain and the admin port. Files stay in `folder` if there is one, and are removed at the end otherwise.
    """

    def __init__(
        self,
        envoy,
        pods,
        *,
        name="Envoy",
        flags=(),
        edit=None,
        options=("--log-level", "warning"),
        workers=1,
        cpu=None,
        ports=None,
        folder=None,
    ):
        path, version = envoy
        self.port, self.plain_port, self.admin_port = ports or free_ports(3)
        self.temporary = None if folder else tempfile.TemporaryDirectory(prefix="warmpath-envoy-")
        self.folder = Path(folder or self.temporary.name)
        text = configuration(version, pods, (self.port, self.plain_port, self.admin_port), flags)
        self.configuration = self.folder / "envoy.yaml"
        self.configuration.write_text(edit(text) if edit else text)
        command = [path, "-c", self.configuration, "--concurrency", workers, *options]
        # No clash with another Envoy's shared memory.
        command += ["--disable-hot-restart"]
        self.process = Process(name, command, cpu, log=folder and self.folder / "envoy.log")

    def ready(self):
        """Waits until Envoy listens."""
        wait_for(f"{self.process.name} to be ready", lambda: ask(self.admin_port, path="/ready")[0] == 200)
        return self

    def answers(self, port=None):
        """Waits until a request is answered."""
        wait_for_an_answer(self.process, port or self.port)
        return self

    def sees(self, pods):
        """Waits until Warmpath knows the load of so many pods."""
        wait_for(f"Warmpath to see the load of all {pods} pods", lambda: self.stat("warmpath_ready_pods") == pods)
        return self

    def stat(self, name):
        """A counter or gauge of Warmpath, over all labels; None while Envoy does not have it."""
        page = ask(self.admin_port, path=f"/stats?filter={name}")[1].decode()
        values = re.findall(r": (\d+)$", page, re.MULTILINE)
        return sum(map(int, values)) if values else None

    def access_line(self, request):
        """The line of the access log for a request id, as soon as Envoy has written it."""

        def find():
            log = self.folder / "access.log"
            # What follows the last end of a line is a line that is not whole yet.
            lines = log.read_text(errors="replace").split("\n")[:-1] if log.exists() else []
            return next((line for line in map(json.loads, lines) if line["request"] == request), None)

        return wait_for("Envoy's access log", find)

    def end(self):
        self.process.end()
        if self.temporary:
            self.temporary.cleanup()


def record(line):
    """What a line of the access log says in its fields `decision` and `answer`, part by part, by name."""
    texts = [line["decision"] or "", line["answer"] or ""]
    return dict(part.split("=", 1) for text in texts for part in text.split())


def wait_for_an_answer(process, port):
    """Waits until a gateway answers a request, whichever program it is."""
    body = chat("warmpath-bench")
    wait_for(f"{process.name} to answer", lambda: ask(port, "POST", "/v1/chat/completions", body)[0] == 200)


def build(*flags):
    """Builds the module; cargo's progress goes to standard error."""
    run(["scripts/build", *flags], "building the module")


# The configuration -------------------------------------------------------------------------------------------------


def configuration(version, pods, ports, flags=()):
    """What scripts/envoy-config prints for these pods and ports, for an Envoy of this version."""
    port, plain_port, admin_port = ports
    flags = [
        f"--envoy-version={version}",
        f"--pods={','.join(pods)}",
        f"--port={port}",
        f"--plain-port={plain_port}",
        f"--admin-port={admin_port}",
        "--metrics-port=none",
        "--console-port=none",
        f"--wasm={MODULE}",
        *flags,
    ]
    done = subprocess.run(["scripts/envoy-config", *map(str, flags)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        # Its own words name the flag that the user has given.
        raise Failure(done.stderr.strip())
    return done.stdout


def without(text, first, until):
    """The configuration without the lines from the one that is `first` up to the one that is `until`."""
    lines = text.splitlines()
    start = lines.index(first)
    end = start + next(i for i, line in enumerate(lines[start:]) if line == until)
    return "\n".join(lines[:start] + lines[end:]) + "\n"


def without_collector(text):
    return without(text, "bootstrap_extensions:", "static_resources:")


def without_warmpath(text):
    """The plain listener alone: no collector, no module, no virtual machine."""
    template = Template(without_collector(text))
    template.drop("--no-answer-filter")
    text = "\n".join(template.lines) + "\n"
    first = next(line for line in text.splitlines() if line.startswith("    # ---") and line.endswith("8081, routed"))
    text = without(text, first, "  clusters:")
    if "filters.http.wasm" in text or "bootstrap.wasm" in text:
        raise Failure("envoy/envoy.yaml has changed: the plain part still names a Wasm module")
    return text


DISCOVERED = "vllm"
OVERRIDE_HOST = "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost"
LEAST_REQUEST = "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"


def listed(text):
    """The configuration that `--discover vllm` prints, in the form that Envoy Gateway gives to a route: one header names the
    pods, and the hosts of the route's own cluster are the candidates."""

    def policy(name, kind, **config):
        extension = {"name": f"envoy.load_balancing_policies.{name}", "typed_config": {"@type": kind, **config}}
        return {"policies": [{"typed_extension_config": extension}]}

    fallback = policy("least_request", LEAST_REQUEST)
    sources = [{"header": "x-warmpath-destination"}]
    chosen = policy("override_host", OVERRIDE_HOST, override_host_sources=sources, fallback_policy=fallback)
    template = Template(text)
    template.rename(f', "pods_of": "{DISCOVERED}"', "", 1)
    template.rename(r'"strategy": ', '"destination": "list", "strategy": ', 1)
    template.after(f"- name: {DISCOVERED}", "lb_policy: LEAST_REQUEST", f"load_balancing_policy: {json.dumps(chosen)}")
    return "\n".join(template.lines) + "\n"


def with_module(text, path):
    """The configuration with another module in Warmpath's place."""
    if str(MODULE) not in text:
        raise Failure("the configuration names no module that could be replaced")
    return text.replace(str(MODULE), str(path))


def imitation(name, headers=(), pods=()):
    """A module with Warmpath's callbacks that does nothing, or that only names pods in these headers."""
    path = TARGET / f"{name}.wasm"
    more = ["--headers", ",".join(headers), "--pods", ",".join(pods)] if headers else []
    output(["cargo", "xtask", "imitate", MODULE, path, *more])
    return path
