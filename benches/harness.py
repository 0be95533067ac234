"""What the measuring scripts share: processes on a core of their own, an Envoy with and without Warmpath, load."""

import atexit
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SIM = TARGET / "release" / "warmpath-sim"
PODS = 3
# How long a gateway may take until it answers its first request. The Python routers import for some seconds.
START_SECONDS = 60

NAME = Path(sys.argv[0]).name


def say(text):
    print(f"{NAME}: {text}", file=sys.stderr, flush=True)


class Failure(Exception):
    """What the user must know, in one line or a few."""


# Processes ---------------------------------------------------------------------------------------------------------

_running = []


class Process:
    """A child on one CPU, or on any if that is None. It ends with this program, by its own process id."""

    def __init__(self, name, arguments, cpu, env=None, stdout=None):
        self.name = name
        self.log = tempfile.NamedTemporaryFile("ab", prefix="warmpath-bench-", suffix=".log", delete=False)
        self.child = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout or self.log,
            stderr=self.log,
            # Before the program runs, so that every thread it ever starts inherits it.
            preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
        )
        self.pid = self.child.pid
        _running.append(self)

    def alive(self):
        return self.child.poll() is None

    def last_words(self):
        lines = Path(self.log.name).read_text(errors="replace").splitlines()
        return "\n".join(f"  {line[:300]}" for line in lines[-15:])

    def forget_words(self):
        """Empties the log, which would grow by a line a request."""
        os.truncate(self.log.name, 0)

    def cpu_seconds(self):
        """CPU time taken so far, of all threads, those that have ended included."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """Resident memory in bytes: private pages and those shared with other processes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Failure(f"{self.name} has no VmRSS")

    def pause(self):
        """Lets it do nothing at all until it is resumed or ended."""
        self.child.send_signal(signal.SIGSTOP)

    def resume(self):
        self.child.send_signal(signal.SIGCONT)

    def end(self):
        if self.alive():
            self.child.send_signal(signal.SIGTERM)
            self.resume()
            try:
                self.child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.log.close()
        Path(self.log.name).unlink(missing_ok=True)
        if self in _running:
            _running.remove(self)


def end_all():
    for process in reversed(list(_running)):
        process.end()


atexit.register(end_all)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


# The machine -------------------------------------------------------------------------------------------------------


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
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        os.uname().machine,
    )
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": os.uname().release, "commit": commit or None}


def free_ports(count):
    """Ports on 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


# Programs ----------------------------------------------------------------------------------------------------------


def run(arguments, what):
    """Runs a program to its end; its output is this program's standard error."""
    done = subprocess.run([str(a) for a in arguments], cwd=ROOT, stdout=sys.stderr)
    if done.returncode != 0:
        raise Failure(f"{what} failed (see above)")


def build():
    say("building the module and warmpath-sim")
    run(["scripts/build"], "scripts/build")
    run(["cargo", "build", "--quiet", "--release", "--package", "warmpath-sim"], "cargo build")


def find_envoy():
    """Path and version of the Envoy to use."""
    found = subprocess.run(["scripts/envoy", "--which"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode != 0:
        raise Failure(found.stderr.strip())
    path = found.stdout.strip()
    line = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    return path, line.partition("version: ")[2].split("/")[1]


def envoy_configuration(pods, port, plain_port, admin_port, *flags):
    return subprocess.run(
        [
            "scripts/envoy-config",
            f"--pods={','.join(pods)}",
            f"--port={port}",
            f"--plain-port={plain_port}",
            f"--admin-port={admin_port}",
            *flags,
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def without(configuration, first, until):
    """The configuration without the lines from the one that is `first` up to the one that is `until`."""
    lines = configuration.splitlines()
    start = lines.index(first)
    end = start + next(i for i, line in enumerate(lines[start:]) if line == until)
    return "\n".join(lines[:start] + lines[end:]) + "\n"


def without_warmpath(configuration):
    """The plain listener alone: no collector, no module, no virtual machine."""
    text = without(configuration, "bootstrap_extensions:", "static_resources:")
    first = next(line for line in text.splitlines() if line.startswith("    # ---") and line.endswith("8081, routed"))
    text = without(text, first, "  clusters:")
    if "filters.http.wasm" in text or "bootstrap.wasm" in text:
        raise Failure("envoy/envoy.yaml has changed: the plain part still names a Wasm module")
    return text


def envoy_command(envoy, configuration, *flags):
    """Envoy on one worker, with files of its own nowhere."""
    return [
        envoy,
        "--config-yaml",
        configuration,
        "--disable-hot-restart",
        *(["--concurrency", "1"] if "--concurrency" not in flags else []),
        *flags,
    ]


# Requests ----------------------------------------------------------------------------------------------------------

ONE_REQUEST = json.dumps({"model": "warmpath-bench", "messages": [{"role": "user", "content": "Are you there?"}]})


def ask(port, method="POST", path="/v1/chat/completions", body=ONE_REQUEST, timeout=5):
    """Status and body of one request; None when nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wait_until_it_answers(process, port):
    began = time.monotonic()
    last = None
    while time.monotonic() - began < START_SECONDS:
        if not process.alive():
            raise Failure(f"{process.name} has ended at once:\n{process.last_words()}")
        last = ask(port)
        if last and last[0] == 200:
            return
        time.sleep(0.1)
    raise Failure(f"{process.name} does not answer after {START_SECONDS} s (last: {last}):\n{process.last_words()}")


class Backend:
    """Instant pods in one process."""

    def __init__(self, cpu, *flags, pods=PODS):
        read, write = os.pipe()
        with os.fdopen(read) as lines, os.fdopen(write, "w") as out:
            ports = ",".join(["0"] * pods)
            self.process = Process("the backend", [SIM, "instant", "--port", ports, *flags], cpu, stdout=out)
            out.close()
            self.pods = [lines.readline().strip() for _ in range(pods)]
        if not all(self.pods):
            raise Failure(f"the backend has not opened its ports:\n{self.process.last_words()}")


def load(cpu, port, *flags):
    """Runs the load to its end; its summary. A request that fails is a failure of the whole run."""
    done = subprocess.run(
        [str(SIM), "load", "--json", "--url", f"http://127.0.0.1:{port}", *map(str, flags)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    if done.returncode != 0:
        raise Failure(f"the load ended with: {done.stderr.strip()}")
    summary = json.loads(done.stdout)
    if summary["errors"] > 0:
        raise Failure(f"{summary['errors']} of {summary['requests']} requests failed; the first: {summary['first_error']}")
    return summary


def main(script):
    """Runs a script's work; says what went wrong in a line, and ends every child."""
    try:
        script()
    except Failure as failure:
        say(str(failure))
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    finally:
        end_all()
