"""The gateways that are measured against each other: Envoys, and routers that stand alone."""

import re

from . import epp
from . import gateway as envoys
from .common import TARGET, Failure, say
from .processes import Process, free_ports
from .tools import installed

# Releases of the peers, as on PyPI.
PEERS = {"vllm-router": "0.1.17", "sglang-router": "0.3.2"}
PLAIN, WARMPATH, PROFILE, LISTED, PICKER = "envoy", "warmpath", "warmpath-profile", "warmpath-list", "epp"
NOTHING, NAMING = LITTLE = ["envoy-nothing", "envoy-naming"]
ACCOUNT = [PLAIN, *LITTLE, WARMPATH, PROFILE]
GATEWAYS = [*ACCOUNT, LISTED, PICKER, *PEERS]
# Those that are measured unless others are asked for.
USUAL = [PLAIN, WARMPATH, *PEERS]
TITLES = {
    PLAIN: "Envoy, no filter",
    NOTHING: "Envoy, a module that does nothing",
    NAMING: "Envoy, a module that names pods",
    WARMPATH: "Envoy with Warmpath",
    PROFILE: "Envoy with Warmpath, its steps timed",
    LISTED: "Envoy with Warmpath, as Envoy Gateway configures it",
    PICKER: "Envoy with the endpoint picker of llm-d",
    **{name: f"{name} {version}" for name, version in PEERS.items()},
}
# The line of envoy/envoy.yaml that sends what the module has routed to the pod it has named.
ROUTED = "\n                            cluster: warmpath\n"
# The headers that name pods, and the laps of setting them.
DESTINATION = "x-warmpath-destination-"


class Gateway:
    """A gateway that runs: its process and its port. `files` is what must live as long as the process does."""

    def __init__(self, name, process, port, files=None):
        self.name, self.process, self.port, self.files = name, process, port, files


def start_picker(name, setup, pods):
    options = ["--log-level", setup.options.log_level]
    both = epp.EnvoyWithPicker(setup.envoy, setup.options.epp, pods, name=TITLES[name], options=options, cpu=setup.cpu)
    return Gateway(name, both.process, both.port, both.answers())


def start_envoy(name, setup, pods):
    def edit(text):
        if name == PLAIN:
            return envoys.without_warmpath(text)
        if name == PROFILE:
            return envoys.with_module(text, TARGET / "warmpath-profile.wasm")
        if name == LISTED:
            return envoys.listed(text)
        return with_little_module(text, name, pods) if name in LITTLE else text

    options = ["--log-level", setup.options.log_level]
    flags = [f"--discover={envoys.DISCOVERED}"] if name == LISTED else []
    envoy = envoys.Envoy(setup.envoy, pods, name=TITLES[name], flags=flags, edit=edit, options=options, cpu=setup.cpu)
    return Gateway(name, envoy.process, envoy.plain_port if name == PLAIN else envoy.port, envoy)


def with_little_module(text, name, pods):
    """The configuration with no collector, and a module that does next to nothing."""
    text = envoys.without_collector(text).replace("configuration: *warmpath", "")
    headers = []
    if name == NAMING:
        headers = re.findall(rf"http_header_name: ({DESTINATION}\d)", text)
        if not headers:
            raise Failure(f"envoy/envoy.yaml has changed: no cluster reads a header {DESTINATION}N")
    else:
        # Nobody names a pod, and looking for one in every cluster of the composite costs time.
        if text.count(ROUTED) != 1:
            raise Failure("envoy/envoy.yaml has changed: its route to the cluster warmpath is not found")
        text = text.replace(ROUTED, ROUTED.replace("warmpath", "plain"))
    return envoys.with_module(text, envoys.imitation(name, headers, pods))


def start_peer(name, setup, pods):
    port, prometheus = free_ports(2)
    level = setup.options.log_level
    command = [
        *setup.peers[name],
        *(["launch"] if name == "sglang-router" else []),
        *("--host", "127.0.0.1", "--port", port),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", prometheus),
        *("--policy", "cache_aware", "--worker-urls", *[f"http://{pod}" for pod in pods]),
        # It asks at once and then every so often; the default of 30 s would only lengthen the start.
        *("--worker-startup-check-interval", 1),
        *("--log-level", "warn" if (name, level) == ("sglang-router", "warning") else level),
    ]
    return Gateway(name, Process(TITLES[name], command, setup.cpu), port)


def install_peer(name):
    """The command of a peer, installed in a virtual environment of its own; None when that fails."""
    try:
        venv = installed(name, PEERS[name], dependencies=True)
    except Failure as failure:
        say(f"{name} is skipped: {failure}")
        return None
    return [venv / "bin" / "python", venv / "bin" / name]
