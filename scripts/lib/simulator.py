"""warmpath-sim, started by a script: simulated pods, instant pods, and load."""

import json
import os
import subprocess
import time

from .common import ROOT, TARGET, Failure, run
from .processes import START_SECONDS, Process, obstacle

# Pods of an Envoy unless a script asks for another number.
PODS = 3
# What Warmpath reads loads with in real time; a pod whose time runs N times as fast is read N times as often.
SCRAPE_MS = 100
# The shortest interval that the configuration takes.
LEAST_SCRAPE_MS = 10
# Seconds of real time after which a command is given up: a full run of traffic takes minutes.
LONGEST = 3600


def build(profile="release"):
    """Builds warmpath-sim and returns its path; without optimizations in half the time, for scripts that only show."""
    run(["cargo", "build", "--locked", "--package", "warmpath-sim", "--profile", profile], "building the simulator")
    return TARGET / ("debug" if profile == "dev" else profile) / "warmpath-sim"


def start_pod(program, port, *flags, folder=None):
    """A simulated pod on this port, ready for requests; None when another program has taken the port meanwhile."""
    log = folder and folder / f"pod-{port}.log"
    pod = Process(f"the simulated pod on port {port}", [program, "pod", "--port", port, *flags], log=log)
    end = time.monotonic() + START_SECONDS
    # Its own words, for whoever has taken the port may answer like a pod.
    while f"http://127.0.0.1:{port}" not in pod.said():
        if not pod.alive() and obstacle(port):
            pod.end()
            return None
        pod.must_run()
        if time.monotonic() > end:
            raise Failure(f"waited {START_SECONDS} s for {pod.name}, in vain.")
        time.sleep(0.02)
    return pod


def start_pods(program, ports, *flags):
    """Simulated pods on these ports, ready for requests."""
    pods = []
    for port in ports:
        pods.append(start_pod(program, port, *flags))
        if pods[-1] is None:
            raise Failure(f"port {port} is taken by another program")
    return pods


class Backend:
    """Instant pods in one process."""

    def __init__(self, program, cpu, *flags, pods=PODS):
        read, write = os.pipe()
        with os.fdopen(read) as lines, os.fdopen(write, "w") as out:
            ports = ",".join(["0"] * pods)
            command = [program, "instant", "--port", ports, *flags]
            self.process = Process("the backend", command, cpu, stdout=out)
            out.close()
            self.pods = [lines.readline().strip() for _ in range(pods)]
        if not all(self.pods):
            raise Failure(f"the backend has not opened its ports:\n{self.process.last_words()}")


def scrape_ms(speed_up):
    """Milliseconds of real time between two scrapes of a pod whose time runs `speed_up` times as fast."""
    return max(LEAST_SCRAPE_MS, round(SCRAPE_MS / speed_up))


def command(program, *arguments):
    """Runs a command of the simulator to its end; what it printed."""
    words = [str(word) for word in (program, *arguments)]
    done = subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=LONGEST)
    if done.returncode != 0:
        raise Failure(f"warmpath-sim {arguments[0]} failed (see above)")
    return done.stdout


def load(program, cpu, port, *flags):
    """Runs the load to its end; its summary. A request that fails is a failure of the whole run."""
    done = subprocess.run(
        [str(program), "load", "--json", "--url", f"http://127.0.0.1:{port}", *map(str, flags)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    if done.returncode != 0:
        raise Failure(f"the load ended with: {done.stderr.strip()}")
    summary = json.loads(done.stdout)
    if summary["errors"] > 0:
        raise Failure(f"{summary['errors']} of {summary['requests']} requests failed; first: {summary['first_error']}")
    return summary
