"""Programs that a script starts: each is known by its process id, keeps a log, and ends with the script."""

import atexit
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from .common import ROOT, Failure, shown

# How long a program may take until it is up. The Python routers of the gateway benchmark import for some seconds.
START_SECONDS = 60

_running = []


class Process:
    """A program on one CPU, or on any if that is None. Its output goes into `log`, which is removed at the end unless the
    caller named it."""

    def __init__(self, name, command, cpu=None, log=None, stdout=None):
        self.name = name
        self.kept = log is not None
        self.log = Path(log) if log else Path(tempfile.mkstemp(prefix="warmpath-", suffix=".log")[1])
        self.log.write_bytes(b"")
        # Appending: what comes after `forget_words` begins at the new end.
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stdout or output,
                stderr=output,
                # Before the program runs, so that every thread it ever starts inherits it.
                preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
                # Ctrl-C reaches the script alone, which then ends its programs one by one.
                start_new_session=True,
            )
        self.pid = self.child.pid
        _running.append(self)

    @property
    def pids(self):
        """The processes whose time is its cost."""
        return [self.pid]

    def alive(self):
        return self.child.poll() is None

    def must_run(self):
        """Fails, with the end of the log, if the program has ended by itself."""
        if not self.alive():
            raise Failure(f"{self.name} ended by itself:\n{self.last_words()}")

    def said(self):
        """The log so far."""
        return self.log.read_text(errors="replace")

    def last_words(self, lines=8):
        """The end of the log, and where the rest is if it is kept."""
        end = "\n".join(f"  {line[:300]}" for line in self.said().strip().splitlines()[-lines:])
        return f"{end}\n({shown(self.log)} has all of it)" if self.kept else end

    def forget_words(self):
        """Empties the log; the program goes on writing at the new end."""
        os.truncate(self.log, 0)

    def cpu_seconds(self):
        """Processor time taken so far, of all threads, those that have ended included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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
        if not self.kept:
            self.log.unlink(missing_ok=True)
        if self in _running:
            _running.remove(self)


@atexit.register
def end_all():
    """Ends what is still running, in the opposite order in which it was started."""
    # Ctrl-C once more would leave the rest running.
    for ends in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, signal.SIG_IGN)
    for process in reversed(list(_running)):
        process.end()


def wait_for(what, condition, seconds=START_SECONDS):
    """Waits until `condition` gives something true, and returns it; fails as soon as a program has ended."""
    end = time.monotonic() + seconds
    while True:
        for process in _running:
            process.must_run()
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            last = f"\n{_running[-1].last_words()}" if _running else ""
            raise Failure(f"waited {seconds} s for {what}, in vain.{last}")
        time.sleep(0.05)


# Ports -------------------------------------------------------------------------------------------------------------


def obstacle(port):
    """What keeps this user from listening on the port; None if nothing does."""
    # No SO_REUSEPORT: Envoy sets it, and would silently share the port with an Envoy that already runs.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return "is privileged: only root may listen on it"
        except OSError:
            return "is taken by another program"
    return None


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
