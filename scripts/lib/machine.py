"""The machine that a measurement runs on."""

import os
import subprocess
from pathlib import Path

from .common import ROOT, Failure


def two_cpus():
    """The CPU of the gateway, and the CPU of everything else."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise Failure("this machine lets it use one CPU only; a gateway and its load need one each. Use a larger one.")
    return cpus[0], cpus[1]


def busy_seconds(cpu):
    """Time that a CPU was not idle, the time a hypervisor kept from it included."""
    for line in Path("/proc/stat").read_text().splitlines():
        words = line.split()
        if words[0] == f"cpu{cpu}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[1:9])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    raise Failure(f"/proc/stat has no cpu{cpu}")


def machine():
    """Where numbers come from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    commit = described.stdout.strip() or None
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": os.uname().release, "commit": commit}
