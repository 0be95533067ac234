"""Finds and runs the workspace's tests: each in a process of its own, several at a time, those that measure time alone.

A test package says in its manifest what its tests need:

    [package.metadata.tests]
    envoy = true                       # they start an Envoy: once per version that is asked for
    alone = ["cooldown", "overload"]   # modules whose tests have the machine for themselves, and may be repeated

    [package.metadata.tests.without]   # once more with a runtime guard of Envoy off
    guard = "composite_cluster_skip_clusters_without_hosts"
    since = "1.40"                     # the oldest Envoy that has it
    modules = ["faults", "endings"]    # which ones
"""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from .common import ROOT, TARGET, Failure, output, say

# Most tests wait for an Envoy more than they compute: four at a time on two cores take less time than two.
JOBS_PER_CPU = 2
# A virtual machine sometimes stands still for a second between two lines of a test that measures time.
TRIES_OF_TIMED = 3
# No test takes a tenth of it; one that hangs must not keep the rest from being told.
LONGEST_SECONDS = 900
DURATIONS = TARGET / "test-durations.json"


@dataclass(frozen=True)
class Test:
    """One test function of one binary, in one setting."""

    package: str
    name: str
    command: tuple
    folder: str
    environment: tuple = ()
    # What tells it from the same function in another setting, like "Envoy 1.39.3" or "wasm".
    setting: str = ""
    alone: bool = False

    @property
    def title(self):
        return f"{self.package}{f' ({self.setting})' if self.setting else ''} {self.name}"


@dataclass
class Result:
    """How a test ended."""

    test: Test
    passed: bool
    seconds: float
    said: str
    tries: int = 1


@dataclass
class Tally:
    """What is told at the end."""

    passed: int = 0
    failed: list = field(default_factory=list)
    flaky: list = field(default_factory=list)
    skipped: list = field(default_factory=list)

    def add(self, result):
        if not result.passed:
            self.failed.append(result)
        else:
            self.passed += 1
            if result.tries > 1:
                self.flaky.append(result)


# Building and finding ----------------------------------------------------------------------------------------------


def packages():
    """What each package of the workspace says of its tests, by name."""
    metadata = json.loads(output(["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"]))
    return {each["name"]: (each["metadata"] or {}).get("tests", {}) for each in metadata["packages"]}


def build(chosen, *flags):
    """Builds the test binaries of packages, and shows cargo's progress; (package, binary, folder) of each."""
    selection = [word for name in chosen for word in ("--package", name)]
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json-render-diagnostics", *flags, *selection]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure("the tests do not build (see above)")
    found = []
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message.get("executable"):
            folder = str(Path(message["manifest_path"]).parent)
            package = re.search(r"([^/#@]+)(?:#([^@]+))?(?:@.*)?$", message["package_id"])
            name = next((each for each in chosen if each in package.groups()), None) or package[2] or package[1]
            found.append((name, message["executable"], folder))
    return found


def tests_of(package, command, folder, alone=(), environment=(), setting=""):
    """The tests in a binary, and the names of those that its source says to ignore."""

    def listed(*flags):
        said = subprocess.run(
            [*command, "--list", "--format", "terse", *flags], cwd=folder, capture_output=True, text=True
        )
        if said.returncode != 0:
            raise Failure(f"{' '.join(command)} does not list its tests:\n{said.stderr.strip()}")
        return [line[: -len(": test")] for line in said.stdout.splitlines() if line.endswith(": test")]

    ignored = set(listed("--ignored"))
    tests = [
        Test(
            package,
            name,
            (*command, name, "--exact", "--nocapture"),
            folder,
            environment,
            setting,
            name.split("::")[0] in alone,
        )
        for name in listed()
        if name not in ignored
    ]
    return tests, [f"{package} {name}" for name in sorted(ignored)]


# Running -----------------------------------------------------------------------------------------------------------


class Runner:
    """Runs tests and tells of each as it ends."""

    def __init__(self, jobs):
        self.jobs = jobs
        self.tally = Tally()
        self.durations = read_durations()
        self.running = {}
        self.lock = threading.Lock()
        self.stopped = False

    def run(self, tests):
        """All tests: first those that share the machine, the longest ones first, then those that want it alone."""
        known = self.durations
        shared = sorted((test for test in tests if not test.alone), key=lambda test: -known.get(test.title, 0))
        width = len(str(len(tests)))
        try:
            with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
                for done in concurrent.futures.as_completed([pool.submit(self.attempt, test) for test in shared]):
                    self.tell(done.result(), len(tests), width)
            for test in tests:
                if test.alone:
                    result = self.attempt(test)
                    while not result.passed and result.tries < TRIES_OF_TIMED and not self.stopped:
                        result = replace_tries(self.attempt(test), result)
                    self.tell(result, len(tests), width)
        finally:
            self.end_all()
            write_durations(self.durations)
        return self.tally

    def attempt(self, test):
        """One try of one test."""
        if self.stopped:
            return Result(test, False, 0, "not run: interrupted")
        environment = {**os.environ, "CARGO_MANIFEST_DIR": test.folder, **dict(test.environment)}
        began = time.monotonic()
        child = subprocess.Popen(
            test.command,
            cwd=test.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own: whatever it started ends with it.
            start_new_session=True,
        )
        with self.lock:
            self.running[child.pid] = child
        try:
            said, _ = child.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            end_group(child)
            said = child.communicate()[0] + f"\n(ended: it ran for more than {LONGEST_SECONDS} s)"
        finally:
            with self.lock:
                del self.running[child.pid]
        # A binary that runs no test has not passed one.
        passed = child.returncode == 0 and re.search(r"test result: ok\. 1 passed", said) is not None
        if child.returncode < 0:
            said += f"\n(ended by {signal.Signals(-child.returncode).name})"
        return Result(test, passed, time.monotonic() - began, said)

    def tell(self, result, total, width):
        """A line for one test, and all that it said if it failed."""
        self.tally.add(result)
        nth = self.tally.passed + len(self.tally.failed)
        if result.passed:
            self.durations[result.test.title] = round(result.seconds, 3)
        word = "FAIL" if not result.passed else "ok   " if result.tries == 1 else "flaky"
        print(f"{nth:{width}}/{total} {word:<5} {result.seconds:8.3f} s  {result.test.title}", flush=True)
        if not result.passed:
            print(indented(result.said), flush=True)

    def end_all(self):
        self.stopped = True
        with self.lock:
            children = list(self.running.values())
        for child in children:
            end_group(child)


def replace_tries(result, before):
    return replace(result, tries=before.tries + 1, said=f"{before.said}\n--- try {before.tries + 1}\n{result.said}")


def end_group(child):
    """Ends a test and what it has started, by the process group that was made for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def indented(text):
    return "\n".join(f"      | {line}" for line in text.strip().splitlines())


def read_durations():
    try:
        return json.loads(DURATIONS.read_text())
    except (OSError, ValueError):
        return {}


def write_durations(durations):
    DURATIONS.parent.mkdir(parents=True, exist_ok=True)
    DURATIONS.write_text(json.dumps(durations, indent=0, sort_keys=True))


def doc_tests(chosen):
    """Runs the examples in doc comments, which rustdoc compiles and runs itself; a result for each."""
    selection = [word for name in chosen for word in ("--package", name)]
    began = time.monotonic()
    done = subprocess.run(
        ["cargo", "test", "--locked", "--quiet", "--doc", *selection, "--", "--format", "pretty"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    results = []
    for name, word in re.findall(r"^test (.+?) \.\.\. (ok|FAILED|ignored)", done.stdout, re.MULTILINE):
        if word != "ignored":
            test = Test("doc", name, (), str(ROOT))
            results.append(Result(test, word == "ok", 0, done.stdout))
    if done.returncode != 0 and all(result.passed for result in results):
        results.append(
            Result(Test("doc", "examples in doc comments", (), str(ROOT)), False, time.monotonic() - began, done.stdout)
        )
    return results


# Telling -----------------------------------------------------------------------------------------------------------


def conclude(tally, seconds):
    """The end of the output: what failed, what was flaky, and one line that counts; the exit status."""
    for result in tally.flaky:
        print(f"flaky: {result.test.title} passed at try {result.tries}. What it said before:\n{indented(result.said)}")
    if tally.skipped:
        print("skipped:")
        for name in tally.skipped:
            print(f"  {name}")
    if tally.failed:
        print("failed:")
        for result in tally.failed:
            print(f"  {result.test.title}")
    say(f"took {seconds:.0f} s")
    sys.stderr.flush()
    skipped = f", {len(tally.skipped)} skipped" if tally.skipped else ""
    print(f"{tally.passed} passed, {len(tally.failed)} failed{skipped}", flush=True)
    return 1 if tally.failed else 0
